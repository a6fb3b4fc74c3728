//! Which directories a publish syncs before its tag: what leads to the entry, unless this process knows that it lasts.

use cachelock::platform::memory::{Process, World};
use cachelock::{Cache, Durability};
use std::sync::Arc;

use support::{builder, publish};

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
    let synced = to_tag
        .lines()
        .filter_map(|line| line.split_once("SyncDir "));
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
