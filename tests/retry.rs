//! What a refresh is good for after something of it has failed.

use std::io::{ErrorKind as IoError, Write};
use std::path::Path;

use cachelock::platform::memory::{Call, Fault, Op, World};
use cachelock::{Cache, Error, ErrorKind};

use support::{LEASE, begin, builder, on_payload, publish, read};

mod support;

/// Too much for the buffer of a stage.
const LARGE: usize = 1024 * 1024;

/// Does it in a world where the first call that `fails` says meets a full disk.
fn with_failing(
    fails: impl FnMut(&Call) -> bool + Send + 'static,
    work: impl FnOnce(&Cache) + Send + 'static,
) -> World {
    let world = World::simulated();
    let process = world.process("a");
    world.inject(fails, Fault::Error(IoError::StorageFull), 1);
    let cache = builder(&process).open().expect("nothing is touched");
    world.finish(world.spawn(&process, "main", move || work(&cache)));
    world
}

fn writes_stage(call: &Call) -> bool {
    call.is(Op::Write, "stage-")
}

#[track_caller]
fn assert_poisoned(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
    assert_eq!(error.path(), Some(Path::new("/cache/entry")), "{error}");
    assert!(error.to_string().contains("restart"), "{error}");
}

#[test]
fn after_a_failed_write_nothing_is_published_and_a_restart_is_a_way_on() {
    let world = with_failing(writes_stage, |cache| {
        let mut refresh = begin(cache, b"").expect("it is free");
        let failed = refresh
            .write_all(&[1; LARGE])
            .expect_err("the disk is full");
        assert_eq!(failed.kind(), IoError::StorageFull, "{failed}");
        let again = refresh.write_all(b"more").expect_err("some bytes are lost");
        let again = again.downcast::<Error>().expect("this library's");
        assert_poisoned(&again);
        refresh.restart().expect("the lock is still held");
        refresh.write_all(b"whole").expect("a new stage");
        refresh.publish().expect("the disk has room again");
    });
    let found = read(&world, "b").expect("no error");
    assert_eq!(found, Some((b"whole".to_vec(), Some(1))));
}

#[test]
fn a_publish_that_cannot_succeed_gives_no_refresh_back() {
    let world = with_failing(writes_stage, |cache| {
        let mut refresh = begin(cache, b"").expect("it is free");
        refresh
            .write_all(&[1; LARGE])
            .expect_err("the disk is full");
        let failed = refresh.publish().expect_err("some bytes are lost");
        assert_poisoned(&failed.error);
        assert!(failed.refresh.is_none(), "another publish could only fail");
    });
    assert_eq!(read(&world, "b").expect("no error"), None);
    // The same, when the failure is that of the publish itself.
    with_failing(
        |call| call.is(Op::SyncFile, "stage-"),
        |cache| {
            let refresh = begin(cache, b"payload").expect("it is free");
            let failed = refresh.publish().expect_err("the disk is full");
            assert_eq!(failed.error.kind(), ErrorKind::StorageFull, "{failed}");
            assert!(failed.refresh.is_none(), "a failed sync is final");
        },
    );
}

#[test]
fn what_a_failed_publish_gives_back_is_published_as_it_is() {
    // The tag is renamed first, to a name like the payload's.
    for fails_at in [1, 2] {
        let mut renames = 0;
        let fails = move |call: &Call| {
            renames += u32::from(call.renames_to("entry"));
            call.renames_to("entry") && renames == fails_at
        };
        let world = with_failing(fails, |cache| {
            let refresh = begin(cache, b"payload").expect("it is free");
            let failed = refresh.publish().expect_err("the disk is full");
            let mut refresh = *failed.refresh.expect("the stage is whole");
            refresh
                .write_all(b" and more")
                .expect_err("the stage is complete, so this would be lost");
            refresh.publish().expect("the disk has room again");
        });
        let found = read(&world, "b").expect("no error");
        assert_eq!(found, Some((b"payload".to_vec(), Some(1))), "{fails_at}");
    }
}

#[test]
fn an_abandoned_refresh_says_if_its_stage_could_not_be_removed() {
    with_failing(
        |call| call.is(Op::Unlink, "stage-"),
        |cache| {
            let refresh = begin(cache, b"payload").expect("it is free");
            let error = refresh.abandon().expect_err("it is still there");
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
            let refresh = begin(cache, b"payload").expect("the lock was given back");
            refresh.abandon().expect("nothing is in the way");
        },
    );
    // Whoever overtakes it removes its stage.
    let world = World::simulated();
    let process = world.process("a");
    let cache = builder(&process).open().expect("nothing is touched");
    let task = world.spawn(&process, "main", move || begin(&cache, b"payload"));
    let refresh = world.finish(task).expect("it is free");
    for name in world.list("/cache/.cachelock") {
        if name.starts_with("stage-") {
            world.remove(&format!("/cache/.cachelock/{name}"));
        }
    }
    refresh.abandon().expect("it is there no more");
}

#[test]
fn a_flush_hands_all_bytes_over_and_says_if_it_cannot() {
    let world = World::simulated();
    let process = world.process("a");
    let cache = builder(&process).open().expect("nothing is touched");
    let refresh = world.finish(world.spawn(&process, "main", move || begin(&cache, b"few")));
    let mut refresh = refresh.expect("it is free");
    let staged = || {
        let mut names = world.list("/cache/.cachelock").into_iter();
        let name = names.find(|name| name.starts_with("stage-"));
        let path = format!("/cache/.cachelock/{}", name.expect("one is under way"));
        world.read_file(&path).expect("it was listed")
    };
    assert_eq!(staged(), b"", "so few bytes stay in the buffer");
    refresh.flush().expect("the disk has room");
    assert_eq!(staged(), b"few");
    refresh.add(b" more").expect("they stay in the buffer");
    world.inject(writes_stage, Fault::Error(IoError::StorageFull), 1);
    let error = refresh.flush().expect_err("the disk is full");
    assert_eq!(error.kind(), IoError::StorageFull, "{error}");
    assert_poisoned(&refresh.add(b"").expect_err("some bytes are lost"));
}

#[test]
fn a_refresh_tells_how_long_it_waited_and_when_it_must_beat() {
    for guest in [false, true] {
        let world = World::simulated();
        let dead = world.guest("dead");
        let cache = builder(&dead).open().expect("nothing is touched");
        let dies = world.spawn(&dead, "main", move || begin(&cache, b"").map(drop));
        world.run_to(&dies, |call| call.is(Op::Unlink, "stage-"));
        world.kill(&dead);
        let process = match guest {
            false => world.process("a"),
            true => world.guest("a"),
        };
        let cache = builder(&process).open().expect("nothing is touched");
        let refresh = world.finish(world.spawn(&process, "main", move || begin(&cache, b"")));
        let refresh = refresh.expect("the dead one's lease expires");
        assert_eq!(refresh.waited(), LEASE, "guest: {guest}");
        let due = refresh.heartbeat_due();
        assert_eq!(due, guest.then_some(LEASE / 3), "a native has a thread");
        world.advance(LEASE / 4);
        let before = world.read_file("/cache/.cachelock/claim-00000000000000000002");
        refresh.heartbeat().expect("nobody has overtaken it");
        world.advance(LEASE / 4);
        let due = refresh.heartbeat_due();
        assert_eq!(due, guest.then_some(std::time::Duration::ZERO));
        refresh.heartbeat().expect("nobody has overtaken it");
        let after = world.read_file("/cache/.cachelock/claim-00000000000000000002");
        assert_eq!(before != after, guest, "a beat is written when it is due");
    }
}

#[test]
fn an_old_payload_that_cannot_be_read_is_an_error_and_a_corrupt_one_is_none() {
    let world = with_failing(
        |_| false,
        |cache| {
            let refresh = begin(cache, b"old").expect("it is free");
            refresh.publish().expect("nothing is in the way");
        },
    );
    let process = world.process("b");
    let cache = builder(&process).open().expect("nothing is touched");
    let refresh = world.finish(world.spawn(&process, "main", move || begin(&cache, b"new")));
    let mut refresh = refresh.expect("it is free");
    let reads = |call: &Call| call.op == Op::OpenRead && call.name == "entry";
    world.clear_faults();
    world.inject(reads, Fault::Error(IoError::PermissionDenied), 1);
    let error = refresh.previous().expect_err("it may not be read");
    assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    let old = refresh.previous().expect("it may be read again");
    assert_eq!(old.expect("it is there").meta().generation, Some(1));
    world.plant_file("/cache/entry", b"damaged");
    let none = refresh.previous().expect("a corrupt one is as none");
    assert!(none.is_none());
}

/// As where a file system loses what has no name any more. Somebody else replaces the payload and asks nobody.
#[test]
fn a_payload_that_vanishes_while_its_successor_is_published_is_looked_at_again() {
    let world = World::simulated();
    world.plant_file("/cache/entry", b"foreign");
    let process = world.process("a");
    let cache = builder(&process).open().expect("nothing is touched");
    world.inject(
        |call| on_payload(call, Op::Read),
        Fault::Error(IoError::NotFound),
        1,
    );
    let published = world.finish(world.spawn(&process, "main", move || publish(&cache, b"new")));
    assert_eq!(published.expect("it is there again").generation, 2);
}
