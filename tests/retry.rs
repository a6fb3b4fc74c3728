//! What a refresh is good for after something of it has failed.

use std::io::{ErrorKind as IoError, Write};
use std::path::Path;

use cachelock::platform::memory::{Call, Fault, Op, World};
use cachelock::{Cache, Error, ErrorKind};

use support::{begin, builder, read};

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
