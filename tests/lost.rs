//! A holder whose files are changed by somebody who asks nobody is told what has happened to them.

use std::time::Duration;

use cachelock::platform::memory::{Call, Fault, Op, Task, World};
use cachelock::{Error, ErrorKind, Refresh, WriteLock};

use support::{LEASE, begin, builder, make_remote, publish, sleep};

mod support;

const CONTROL: &str = "/cache/.cachelock";
const HEAD: &str = "/cache/.cachelock/head";
const CLAIM: &str = "/cache/.cachelock/claim-00000000000000000003";
const NEXT_CLAIM: &str = "/cache/.cachelock/claim-00000000000000000004";

/// Does `damage` to a holder of the third epoch, which then does what notices it.
#[track_caller]
fn assert_told(
    damage: impl FnOnce(&World),
    notices: impl FnOnce(&mut Refresh) -> Result<(), Error>,
    reason: &str,
) {
    let world = World::simulated();
    let process = world.guest("holder");
    let cache = builder(&process).open().expect("nothing is touched");
    let mut refresh = world.finish(world.spawn(&process, "main", move || {
        publish(&cache, b"first")?;
        publish(&cache, b"second")?;
        begin(&cache, b"third")
    }));
    let refresh = refresh.as_mut().expect("nobody is in the way");
    assert_eq!(refresh.epoch(), 3);
    damage(&world);
    let error = notices(refresh).expect_err("it has lost its lease");
    assert!(error.is_lease_lost(), "{error}");
    assert!(error.to_string().contains(reason), "{error}");
    let again = refresh.add(&[0; 1 << 20]).expect_err("it stays lost");
    assert!(again.is_lease_lost(), "{again}");
    assert!(again.to_string().contains(reason), "{again}");
}

#[test]
fn a_look_tells_what_became_of_the_head() {
    let look = |refresh: &mut Refresh| refresh.check_held();
    assert_told(
        |world| world.remove(HEAD),
        look,
        "its head file was deleted",
    );
    let older = "its head file was replaced by an older one";
    assert_told(|world| world.plant_file(HEAD, &[0; 2]), look, older);
    let taken = "a later holder has taken over";
    assert_told(|world| world.plant_file(HEAD, &[0; 4]), look, taken);
    assert_told(|world| world.plant_file(NEXT_CLAIM, b""), look, taken);
}

#[test]
fn a_beat_tells_what_became_of_the_claim() {
    let beat = |world: &World| world.advance(LEASE / 2);
    let heartbeat = |refresh: &mut Refresh| refresh.heartbeat();
    let deleted = |world: &World| {
        world.remove(CLAIM);
        beat(world);
    };
    assert_told(deleted, heartbeat, "its claim was deleted");
    let overtaken = |world: &World| {
        world.remove(CLAIM);
        world.plant_file(HEAD, &[0; 4]);
        beat(world);
    };
    assert_told(overtaken, heartbeat, "a later holder has taken over");
}

#[test]
fn a_new_stage_tells_what_became_of_its_directory() {
    let restart = |refresh: &mut Refresh| refresh.restart();
    let deleted = "its control directory was deleted or moved";
    assert_told(|world| world.remove(CONTROL), restart, deleted);
    let replaced = |world: &World| {
        world.remove(CONTROL);
        world.plant_dir(CONTROL);
    };
    let by_another = "its control directory was replaced by another";
    assert_told(replaced, restart, by_another);
    let moved = "the cache directory was deleted or moved";
    assert_told(|world| world.remove("/cache"), restart, moved);
    assert_told(
        |world| world.remove("/cache"),
        |refresh| refresh.check_held(),
        moved,
    );
}

/// A thread that works on what it has lost, for hours perhaps, is in nobody's way: other processes pass it, and so do the other
/// threads of its own.
#[test]
fn whoever_has_lost_the_lock_holds_up_no_thread_of_its_own_process() {
    for trusted in [true, false] {
        for by_force in [true, false] {
            let world = World::simulated();
            if !trusted {
                make_remote(&world);
            }
            let process = world.process("tool");
            let (own, cache) = (process.clone(), builder(&process).open().unwrap());
            let works = world.spawn(&process, "main", move || {
                let refresh = begin(&cache, b"late")?;
                sleep(&own, 100 * LEASE);
                refresh.publish().map(drop).map_err(Error::from)
            });
            // It has its lock, and says that it lives.
            world.run_to(&works, |call| {
                call.is(Op::Write, "claim-") && &*call.thread == "cachelock-beat"
            });
            let other = world.process("other");
            let force = builder(&other).open().unwrap();
            if by_force {
                let broken = world.spawn(&other, "main", move || force.break_lock().map(drop));
                world.finish(broken).expect("it waits for nobody");
            } else {
                // It stands still meanwhile.
                let takes = world.spawn(&other, "main", move || publish(&force, b"newer"));
                world.finish(takes).expect("the lease has expired");
            }
            let before = world.now();
            let cache = builder(&process).open().unwrap();
            let second = world.spawn(&process, "second", move || publish(&cache, b"newest"));
            world.finish(second).expect("nobody has the lock");
            let took = world.now() - before;
            assert!(took <= LEASE, "{took:?}");
            let late = world.finish(works).expect_err("it has lost the lock");
            assert!(late.is_lease_lost(), "{late}");
        }
    }
}

/// The claim is replaced by a second name of a file that is somebody's, or by the claim of another holder: neither is written.
#[test]
fn what_stands_in_the_claims_place_and_is_not_its_holders_is_not_written() {
    let mut other = None;
    for (seed, plants) in [(1, false), (2, true), (3, false)] {
        let world = World::simulated_from(seed);
        let process = world.guest("holder");
        let cache = builder(&process).open().expect("nothing is touched");
        let begun = world.spawn(&process, "main", move || begin(&cache, b"mine"));
        let refresh = world.finish(begun).expect("nobody is in the way");
        let claim = CLAIM.replace('3', "1");
        let bytes = match &other {
            Some(other) if plants => Vec::clone(other),
            _ => b"somebody's".to_vec(),
        };
        other = other.or_else(|| world.read_file(&claim));
        world.plant_file("/somebodys", &bytes);
        match plants {
            true => world.plant_file(&claim, &bytes),
            false => world.link("/somebodys", &claim),
        }
        world.advance(LEASE / 2);
        let error = refresh.heartbeat().expect_err("it is not its own");
        assert_eq!(error.is_lease_lost(), plants, "{error}");
        // Then its epoch must not be claimed again, and the claim is marked.
        world.remove(HEAD);
        drop(refresh);
        assert_eq!(world.read_file(&claim).as_ref(), Some(&bytes));
    }
}

/// Somebody who takes the lock and keeps it.
fn locks(world: &World) -> Task<Result<WriteLock, Error>> {
    let process = world.process("caller");
    let cache = builder(&process).open().expect("nothing is touched");
    world.spawn(&process, "main", move || cache.lock())
}

fn claims(call: &Call) -> bool {
    call.is(Op::CreateNew, "claim-")
}

#[test]
fn whoever_gets_the_lock_of_a_directory_that_was_replaced_meanwhile_takes_the_other_one() {
    // Before there is a claim, and when it is the holder.
    for then in [claims, |call: &Call| call.renames_to("head")] {
        let world = World::simulated();
        let task = locks(&world);
        world.run_to(&task, then);
        // It had nobody to wait for, and stood still for longer than it takes.
        world.advance(Duration::from_millis(1));
        world.rename("/cache", "/aside");
        let lock = world.finish(task).expect("nobody is in the way");
        assert!(world.exists("/cache/.cachelock/claim-00000000000000000001"));
        assert!(lock.check_held().is_ok());
        let left = world.list("/aside/.cachelock");
        assert!(
            !left.iter().any(|name| name.starts_with("claim-")),
            "{left:?}"
        );
    }
}

#[test]
fn a_refresh_sees_the_directory_that_is_locked_whatever_its_entry_was_read_from() {
    let world = World::simulated();
    let process = world.process("tool");
    let cache = |bytes: &'static [u8]| {
        let cache = builder(&process).open().expect("nothing is touched");
        let (published, reads) = (cache.clone(), cache.entry("entry").expect("a good name"));
        let task = world.spawn(&process, "main", move || publish(&published, bytes));
        world.finish(task).expect("nobody is in the way");
        assert_eq!(reads.read().expect("whole").as_deref(), Some(bytes));
        (cache, reads)
    };
    let (_, before) = cache(b"before");
    world.rename("/cache", "/aside");
    let (there, _) = cache(b"there");
    let task = world.spawn(&process, "main", move || {
        let lock = there.lock()?;
        let previous = lock.refresh(&before)?.previous()?;
        previous.expect("published").into_snapshot()
    });
    let previous = world.finish(task).expect("nobody is in the way");
    assert_eq!(&previous[..], b"there");
}

/// On NFS an open directory that another client has removed answers `ESTALE` to everything, and on FUSE `ENOTCONN` once its server has
/// gone.
#[test]
fn a_reader_whose_directory_answers_no_more_reads_the_one_that_is_there() {
    let world = World::simulated();
    let process = world.process("tool");
    let reads = builder(&process).open().expect("nothing is touched");
    let reads = reads.entry("entry").expect("a good name");
    let publishes = |bytes: &'static [u8]| {
        let cache = builder(&process).open().expect("nothing is touched");
        let task = world.spawn(&process, "main", move || publish(&cache, bytes));
        world.finish(task).expect("nobody is in the way");
    };
    publishes(b"before");
    assert_eq!(
        reads.read().expect("whole").as_deref(),
        Some(&b"before"[..])
    );
    let dead = || {
        let opens = |call: &Call| call.op == Op::OpenRead && &*call.dir == "/cache";
        world.inject(opens, Fault::Error(std::io::ErrorKind::Other), 1);
    };
    dead();
    let error = reads.read().expect_err("there is no other directory");
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    world.rename("/cache", "/aside");
    publishes(b"there");
    dead();
    assert_eq!(reads.read().expect("whole").as_deref(), Some(&b"there"[..]));
}

#[test]
fn a_directory_that_vanishes_under_a_caller_is_made_anew_three_times() {
    for (times, succeeds) in [(3, true), (4, false)] {
        let world = World::simulated();
        let task = locks(&world);
        for _ in 0..times {
            world.run_to(&task, claims);
            world.remove("/cache");
        }
        match world.finish(task) {
            Ok(lock) => assert!(succeeds && lock.check_held().is_ok(), "{times} times"),
            Err(error) => {
                assert!(!succeeds, "{times} times: {error}");
                assert!(error.to_string().contains("deleted meanwhile"), "{error}");
            }
        }
    }
}
