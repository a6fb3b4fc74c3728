//! Guests that are slow. They open what they write by name for each call, and look at what they read before they open it, so they
//! find files gone, or others in their place, where natives find the files that they have opened.
//!
//! A caller that is slow between its look and its claim claims an epoch that others have had and left behind meanwhile. They
//! remove its files, and it must try again, as often as it takes. A holder that is slow is overtaken, and must say just that.

use std::path::Path;

use cachelock::platform::Platform;
use cachelock::platform::memory::{Call, Op, Process, Task, World};
use cachelock::{Cache, Durability, Error, Timeout};

use support::{LEASE, begin, builder, on_payload, publish, read, residue};

mod support;

/// More than a caller's directory may vanish under it, which looks much the same.
const TIMES: usize = 10;

/// A guest, which opens its files by name for each call, stands still before its claim and then again before `then`. Others
/// come and go both times.
#[track_caller]
fn assert_tries_again(then: fn(&Call) -> bool) {
    let world = World::simulated();
    let others = |number: usize| {
        let other = world.process(&format!("other {number}"));
        let cache = builder(&other).open().expect("nothing is touched");
        let task = world.spawn(&other, "main", move || publish(&cache, b"another's"));
        world.finish(task).expect("nobody disturbs it");
    };
    let late = guest(&world, "guest", |_, cache| publish(cache, b"the guest's"));
    for time in 0..TIMES {
        world.run_to(&late, |call| call.is(Op::CreateNew, "claim-"));
        // Beyond its epoch, so that nobody waits for its claim.
        others(3 * time);
        others(3 * time + 1);
        world.run_to(&late, then);
        others(3 * time + 2);
    }
    let published = world.finish(late);
    let published = published.unwrap_or_else(|error| panic!("{error}\n{}", world.trace()));
    assert_eq!(published.generation, 3 * TIMES as u64 + 1);
    let found = read(&world, "reader").expect("whole");
    assert_eq!(
        found,
        Some((b"the guest's".to_vec(), Some(published.generation)))
    );
    assert_eq!(residue(&world), [""; 0], "something is left behind");
}

#[test]
fn a_guest_whose_claim_is_removed_before_it_has_written_it_tries_again() {
    assert_tries_again(|call| call.is(Op::Write, "claim-"));
}

#[test]
fn a_guest_whose_next_head_is_removed_before_it_has_its_length_tries_again() {
    assert_tries_again(|call| call.is(Op::SetLen, "head-"));
}

#[test]
fn who_is_overtaken_before_it_becomes_the_holder_tries_again() {
    let world = World::simulated();
    let process = world.guest("slow");
    let cache = builder(&process).timeout(Timeout::Infinite).open();
    let cache = cache.expect("good settings");
    let late = world.spawn(&process, "main", move || publish(&cache, b"late"));
    for _ in 0..TIMES {
        world.run_to(&late, |call| call.renames_to("head"));
        overtake(&world, b"another's");
    }
    let published = world.finish(late).expect("it is left alone at last");
    assert_eq!(published.generation, TIMES as u64 + 1);
    assert_eq!(residue(&world), [""; 0], "something is left behind");
}

/// A guest that does `work` with its cache.
fn guest<T: Send + 'static>(
    world: &World,
    name: &str,
    work: impl FnOnce(&Process, &Cache) -> Result<T, Error> + Send + 'static,
) -> Task<Result<T, Error>> {
    let guest = world.guest(name);
    let cache = builder(&guest).open().expect("nothing is touched");
    world.spawn(&guest.clone(), "main", move || work(&guest, &cache))
}

/// Somebody overtakes whoever has the lock, in no time, and publishes.
fn overtake(world: &World, bytes: &'static [u8]) {
    let next = guest(world, "next", move |_, cache| {
        cache.break_lock()?;
        publish(cache, bytes)
    });
    world.finish(next).expect("it overtakes");
}

#[test]
fn a_guest_that_is_overtaken_while_it_reads_what_it_replaces_says_that_its_lease_is_lost() {
    let world = World::simulated();
    // Of one length: which of them is there is known only by reading it.
    for bytes in [b"one", b"two"] {
        let first = guest(&world, "first", move |_, cache| publish(cache, bytes));
        world.finish(first).expect("nobody disturbs it");
    }
    let late = guest(&world, "slow", |_, cache| publish(cache, b"old"));
    world.run_to(&late, |call| on_payload(call, Op::Read));
    overtake(&world, b"new");
    let error = world.finish(late).expect_err("it was overtaken");
    assert!(error.is_lease_lost(), "{error}");
    assert_eq!(
        read(&world, "reader").expect("whole"),
        Some((b"new".to_vec(), Some(3)))
    );
}

#[test]
fn a_guest_that_is_overtaken_in_the_middle_of_a_beat_says_that_its_lease_is_lost() {
    for op in [Op::Read, Op::Write, Op::Touch] {
        let world = World::simulated();
        let late = guest(&world, "slow", |slow, cache| {
            let refresh = begin(cache, b"old")?;
            slow.event().wait_until(Some(slow.monotonic() + LEASE / 2));
            refresh.heartbeat()
        });
        world.run_to(&late, |call| call.is(Op::OpenWrite, "claim-"));
        world.run_to(&late, move |call| call.is(op, "claim-"));
        overtake(&world, b"new");
        let error = world.finish(late).expect_err("it was overtaken");
        assert!(error.is_lease_lost(), "before {op:?}: {error}");
    }
}

/// It has seen how long the file was before it opened another.
#[test]
fn a_guest_reads_all_of_a_file_that_has_replaced_the_one_that_it_looked_at() {
    for (before, after) in [("short", "and now longer"), ("and longer", "short")] {
        let world = World::simulated();
        let maker = world.guest("maker");
        maker
            .create_dir_all(Path::new("/cache"))
            .expect("there is room");
        world.plant_file("/cache/entry", before.as_bytes());
        let late = guest(&world, "slow", |_, cache| cache.entry("entry")?.read());
        world.run_to(&late, |call| on_payload(call, Op::OpenRead));
        world.plant_file("/cache/entry", after.as_bytes());
        let snapshot = world.finish(late).expect("readable").expect("there");
        assert_eq!(&snapshot[..], after.as_bytes(), "no part of it");
    }
}

#[test]
fn a_guest_that_reads_while_others_publish_gets_one_payload_whole() {
    for stops in [Op::OpenRead, Op::Read] {
        let world = World::simulated();
        let first = guest(&world, "first", |_, cache| publish(cache, b"old"));
        world.finish(first).expect("nobody disturbs it");
        let late = guest(&world, "slow", |_, cache| cache.entry("entry")?.read());
        for (who, bytes) in [
            ("second", b"newer, and longer"),
            ("third", b"as long as second"),
        ] {
            if !late.has_ended() {
                world.run_until(&late, move |call| on_payload(call, stops));
            }
            let next = guest(&world, who, move |_, cache| publish(cache, bytes));
            world.finish(next).expect("readers are in nobody's way");
        }
        let snapshot = world.finish(late).expect("no corruption").expect("there");
        let payloads = [&b"old"[..], b"newer, and longer", b"as long as second"];
        assert!(payloads.contains(&&snapshot[..]), "before {stops:?}: a mix");
    }
}

#[test]
fn a_guest_whose_stage_is_removed_at_any_of_its_calls_says_that_its_lease_is_lost() {
    // The payload's stage, and then the tag's, which is synced with this durability, too.
    for (op, times) in [(Op::Write, 2), (Op::SyncFile, 2)] {
        for nth in 0..times {
            let world = World::simulated();
            let process = world.guest("slow");
            let cache = builder(&process).durability(Durability::Full).open();
            let cache = cache.expect("good settings");
            let late = world.spawn(&process, "main", move || publish(&cache, b"old"));
            let mut seen = 0;
            world.run_to(&late, move |call| {
                seen += usize::from(call.is(op, "stage-"));
                seen > nth
            });
            overtake(&world, b"new");
            let error = world.finish(late).expect_err("it was overtaken");
            assert!(error.is_lease_lost(), "{op:?} {nth}: {error}");
            let found = read(&world, "reader").expect("whole");
            assert_eq!(found, Some((b"new".to_vec(), Some(1))), "{op:?} {nth}");
            assert_eq!(residue(&world), [""; 0], "{op:?} {nth}");
        }
    }
}
