//! Which directories a publish syncs before its tag: what leads to the entry, unless this process knows that it lasts.

use std::io::ErrorKind;
use std::sync::Arc;

use cachelock::platform::memory::{Call, Fault, Op, Process, World};
use cachelock::{Cache, Durability};

use support::{builder, make_remote, publish};

mod support;

fn cache(process: &Arc<Process>, durability: Durability) -> Cache {
    let builder = builder(process).durability(durability);
    builder.open().expect("nothing is touched")
}

/// Publishes, and returns the directories that are synced before the tag is renamed.
fn synced_before(world: &World, process: &Arc<Process>, cache: &Cache) -> Vec<String> {
    let before = world.trace();
    let cache = cache.clone();
    let task = world.spawn(process, "main", move || publish(&cache, b"payload"));
    world.finish(task).expect("nothing disturbs it");
    let after = world.trace();
    let new = after
        .strip_prefix(&before)
        .expect("the trace has room for all");
    let to_tag = new
        .split_once("-> entry")
        .expect("a tag is renamed into place")
        .0;
    synced_in(to_tag)
}

fn synced_in(trace: &str) -> Vec<String> {
    let synced = trace.lines().filter_map(|line| line.split_once("SyncDir "));
    synced.map(|(_, dir)| dir.to_owned()).collect()
}

const WAY: [&str; 2] = ["/cache", "/cache/.cachelock"];

#[test]
fn what_leads_to_an_entry_is_synced_once_by_a_process_that_publishes_it_again_and_again() {
    let world = World::simulated();
    let process = world.process("own");
    let cache = cache(&process, Durability::Full);
    let first = synced_before(&world, &process, &cache);
    assert!(first.ends_with(&WAY.map(str::to_owned)), "{first:?}");
    for _ in 0..2 {
        let later = synced_before(&world, &process, &cache);
        assert!(later.is_empty(), "it lasts already: {later:?}");
    }
}

#[test]
fn what_another_has_published_meanwhile_is_synced_again() {
    for theirs in [Durability::None, Durability::Data, Durability::Full] {
        let world = World::simulated();
        let process = world.process("own");
        let own = cache(&process, Durability::Full);
        synced_before(&world, &process, &own);
        let other = world.process("other");
        synced_before(&world, &other, &cache(&other, theirs));
        assert_eq!(synced_before(&world, &process, &own), WAY, "{theirs:?}");
    }
}

#[test]
fn what_leads_to_a_cache_that_was_made_anew_is_synced_again() {
    let world = World::simulated();
    let process = world.process("own");
    let own = cache(&process, Durability::Full);
    synced_before(&world, &process, &own);
    for away in ["/aside", "/aside-too"] {
        world.rename("/cache", away);
        let again = synced_before(&world, &process, &own);
        assert!(again.ends_with(&WAY.map(str::to_owned)), "{again:?}");
    }
}

#[test]
fn each_folder_that_leads_to_an_entry_and_to_its_tag_is_synced_and_after_the_renames_where_they_went()
 {
    for (durability, synced) in [
        (Durability::None, &[][..]),
        (Durability::Data, &[]),
        (
            Durability::Full,
            &[
                "/cache",
                "/cache/a",
                "/cache/.cachelock",
                "/cache/.cachelock/tags",
                "/cache/.cachelock/tags/a",
                "/cache/a",
            ],
        ),
    ] {
        let world = World::simulated();
        let process = world.process("own");
        let own = cache(&process, durability);
        let task = world.spawn(&process, "main", move || {
            own.entry("a/b")?.refresh()?.publish().map_err(Into::into)
        });
        let published: Result<_, cachelock::Error> = world.finish(task);
        published.expect("nothing disturbs it");
        let mut found = synced_in(&world.trace());
        // Of what is above the cache it is told once, and by another test.
        found.retain(|dir| dir.starts_with("/cache"));
        assert_eq!(found, synced, "{durability}");
    }
}

/// Of what leads there nothing is kept.
#[test]
fn what_leads_to_an_entry_in_a_folder_is_synced_each_time() {
    let world = World::simulated();
    let process = world.process("own");
    let own = cache(&process, Durability::Full);
    let synced = || {
        let before = world.trace().len();
        let entry = own.entry("a/b").expect("a name");
        let task = world.spawn(&process, "main", move || {
            entry.refresh()?.publish().map_err(cachelock::Error::from)
        });
        world.finish(task).expect("nothing disturbs it");
        let mut synced = synced_in(&world.trace()[before..]);
        synced.retain(|dir| dir.starts_with("/cache"));
        synced
    };
    let first = synced();
    assert_eq!(synced(), first);
}

#[test]
fn a_directory_that_cannot_be_synced_is_no_failure_and_one_that_fails_is_told() {
    // The way to the entry, and where the renames went.
    for (failing, how, expected) in [
        (0, ErrorKind::Unsupported, None),
        (0, ErrorKind::Other, Some(cachelock::ErrorKind::Io)),
        (2, ErrorKind::Other, Some(cachelock::ErrorKind::NotDurable)),
        (3, ErrorKind::Other, Some(cachelock::ErrorKind::NotDurable)),
    ] {
        let world = World::simulated();
        let process = world.process("own");
        let own = cache(&process, Durability::Full);
        let mut count = 0;
        let hit = move |call: &Call| {
            let ours = call.op == Op::SyncDir && call.dir.starts_with("/cache");
            count += usize::from(ours);
            // What cannot be synced at all cannot be synced anywhere.
            ours && (count == failing + 1 || how == ErrorKind::Unsupported)
        };
        world.inject(hit, Fault::Error(how), usize::MAX);
        let task = world.spawn(&process, "main", move || publish(&own, b"payload"));
        let kind = world.finish(task).err().map(|error| error.kind());
        assert_eq!(kind, expected, "sync {failing}: {how:?}");
        let is_there = expected != Some(cachelock::ErrorKind::Io);
        assert_eq!(
            world.exists("/cache/entry"),
            is_there,
            "sync {failing}: {how:?}"
        );
    }
}

#[test]
fn files_change_places_only_where_nothing_is_to_last_and_no_answer_is_lost() {
    for (durability, remote, expected) in [
        (Durability::None, false, 2),
        (Durability::None, true, 0),
        (Durability::Data, false, 0),
        (Durability::Full, false, 0),
    ] {
        let world = World::simulated();
        if remote {
            make_remote(&world);
        }
        let process = world.process("own");
        let own = cache(&process, durability);
        let mut removed = Vec::new();
        for _ in 0..2 {
            let (before, cache) = (world.trace(), own.clone());
            let task = world.spawn(&process, "main", move || publish(&cache, b"payload"));
            world.finish(task).expect("nothing disturbs it");
            let new = world.trace();
            removed.push(
                new[before.len()..]
                    .matches("Unlink /cache/.cachelock/stage-")
                    .count(),
            );
        }
        assert_eq!(removed, [0, expected], "{durability}, remote: {remote}");
    }
}
