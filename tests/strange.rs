//! What somebody else has put in the place of the cache's files: it is refused, and the error names it.

use std::io::ErrorKind as IoError;
use std::sync::Arc;

use cachelock::platform::Owner;
use cachelock::platform::memory::{Call, Fault, Op, Process, World};
use cachelock::{CacheBuilder, Error, ErrorKind};

use support::{LEASE, builder, publish, read, sleep};

mod support;

const CONTROL: &str = "/cache/.cachelock";
const GATE: &str = "/cache/.cachelock/cache.lock";
const HEAD: &str = "/cache/.cachelock/head";
const CLAIM: &str = "/cache/.cachelock/claim-00000000000000000002";
const STAGE: &str = "/cache/.cachelock/stage-00000000000000000001-x-0";
const PAYLOAD: &str = "/cache/entry";
const TAG: &str = "/cache/.cachelock/tags/entry";

/// A cache of which somebody has published the entry.
fn published() -> (World, Arc<Process>) {
    let world = World::simulated();
    let process = world.process("writer");
    publishes(&world, &process, builder(&process)).expect("nobody is in the way");
    (world, process)
}

fn publishes(world: &World, process: &Arc<Process>, builder: CacheBuilder) -> Result<(), Error> {
    let cache = builder.open().expect("nothing is touched");
    let task = world.spawn(process, "main", move || publish(&cache, b"new").map(drop));
    world.finish(task)
}

/// What `error` says of `path`.
#[track_caller]
fn assert_says(error: &Error, path: &str, what: &str) {
    assert_eq!(error.path(), Some(path.as_ref()), "{error}");
    assert!(error.to_string().contains(what), "{path}: {error}");
}

/// Whoever may not do `op` with `path` is told so when it publishes.
#[track_caller]
fn assert_denied(world: &World, process: &Arc<Process>, op: Op, path: &'static str) {
    let (dir, name) = path.rsplit_once('/').expect("absolute");
    let is_it = move |call: &Call| call.op == op && &*call.dir == dir && call.name == name;
    world.inject(is_it, Fault::Error(IoError::PermissionDenied), usize::MAX);
    let refused = publishes(world, process, builder(process));
    let error = refused.expect_err("it is in the way");
    assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    assert_says(&error, path, "permission denied");
}

/// Puts something at a path.
type Plant = fn(&World, &str);

const DIRECTORY: Plant = |world, path| world.plant_dir(path);
const LINK: Plant = |world, path| world.plant_symlink(path, "/elsewhere");
const OTHER: Plant = |world, path| world.plant_other(path);

#[test]
fn what_is_no_file_is_refused() {
    let no_file = "is not an ordinary file";
    for (path, plant, what) in [
        (GATE, DIRECTORY, no_file),
        (GATE, LINK, no_file),
        (GATE, OTHER, no_file),
        (HEAD, DIRECTORY, no_file),
        (HEAD, LINK, no_file),
        (HEAD, OTHER, no_file),
        (PAYLOAD, DIRECTORY, "is a directory"),
        (PAYLOAD, LINK, "is a symbolic link"),
        (PAYLOAD, OTHER, "is not an ordinary file"),
        (TAG, DIRECTORY, "is a directory"),
    ] {
        let (world, process) = published();
        world.remove(path);
        plant(&world, path);
        let refused = publishes(&world, &process, builder(&process));
        assert_says(&refused.expect_err("it is in the way"), path, what);
        if [PAYLOAD, TAG].contains(&path) {
            let read = read(&world, "reader");
            assert_says(&read.expect_err("it is in the way"), path, what);
        }
    }
    // A directory that is no file of an epoch is moved out of the way, with what is in it.
    let (world, process) = published();
    world.plant_dir(&format!("{STAGE}/somebody's"));
    publishes(&world, &process, builder(&process)).expect("it is in nobody's way");
    assert!(!world.exists(STAGE));
    let aside = STAGE.replace("/stage-", "/stray-stage-");
    assert!(world.exists(&format!("{aside}/somebody's")));
    publishes(&world, &process, builder(&process)).expect("it is in nobody's way");
    // A tag that is no file is replaced as a file would be.
    for plant in [LINK, OTHER] {
        let (world, process) = published();
        plant(&world, TAG);
        let error = read(&world, "reader").expect_err("it says nothing");
        assert!(error.is_corrupt(), "{error}");
        assert!(error.to_string().contains(TAG), "{error}");
        publishes(&world, &process, builder(&process)).expect("it is in nobody's way");
    }
}

#[test]
fn what_cannot_be_opened_or_removed_is_an_error_with_its_reason() {
    for (path, op) in [
        (GATE, Op::OpenWrite),
        (CLAIM, Op::CreateNew),
        (STAGE, Op::Unlink),
        (PAYLOAD, Op::OpenRead),
        (TAG, Op::OpenRead),
    ] {
        let (world, process) = published();
        if path == STAGE {
            world.plant_file(path, b"");
        }
        assert_denied(&world, &process, op, path);
    }
}

/// A claim that is taken for none would be a lock for two.
#[test]
fn a_claim_that_cannot_be_read_is_an_error_unless_it_has_gone() {
    let (world, holder) = published();
    let holds = |world: &World| {
        let cache = builder(&holder).open().expect("nothing is touched");
        let held = world.spawn(&holder, "main", move || cache.lock().map(drop));
        world.run_to(&held, |call| call.is(Op::Unlink, "claim-"));
        held
    };
    let held = holds(&world);
    let guest = world.guest("guest");
    let fault = Fault::Error(IoError::Other);
    world.inject(|call| call.is(Op::Read, "claim-"), fault, 1);
    let refused = publishes(&world, &guest, builder(&guest));
    assert_says(&refused.expect_err("who has it?"), CLAIM, "cannot read");
    world.finish(held).expect("nobody has overtaken it");
    // Where a file system loses what has no name any more.
    let held = holds(&world);
    let cache = builder(&guest).open().expect("nothing is touched");
    let asks = world.spawn(&guest, "main", move || cache.status());
    world.run_to(&asks, |call| call.is(Op::Read, "claim-"));
    world.finish(held).expect("nobody has overtaken it");
    let gone = Fault::Error(IoError::NotFound);
    world.inject(|call| call.is(Op::Read, "claim-"), gone, 1);
    let status = world.finish(asks).expect("it is free");
    assert_eq!(status.expect("a cache").holder, None);
}

#[test]
fn a_control_directory_that_cannot_be_made_is_an_error() {
    let world = World::simulated();
    world.plant_dir("/cache");
    let process = world.process("writer");
    assert_denied(&world, &process, Op::CreateDir, CONTROL);
}

#[test]
fn files_and_directories_of_others_are_refused_unless_the_cache_is_shared() {
    for (path, mode, what) in [
        ("/cache", None, "it belongs to the user with the number 7"),
        (
            "/cache",
            Some(0o777),
            "other users may write to it (mode 0777)",
        ),
        (CONTROL, None, "it belongs to the user with the number 7"),
        (
            CONTROL,
            Some(0o775),
            "other users may write to it (mode 0775)",
        ),
        (GATE, None, "belongs to the user with the number 7"),
        (HEAD, None, "belongs to the user with the number 7"),
    ] {
        let (world, process) = published();
        match mode {
            None => world.set_owner(path, Owner::Other(7)),
            Some(mode) => world.set_mode(path, mode),
        }
        let refused = publishes(&world, &process, builder(&process));
        assert_says(&refused.expect_err("not trusted"), path, what);
        let cache = builder(&process).open().expect("nothing is touched");
        let status = world.spawn(&process, "main", move || cache.status());
        let status = world.finish(status).expect("a look changes nothing");
        assert!(status.is_some(), "{path}");
        let shared = builder(&process).allow_shared(true);
        publishes(&world, &process, shared).expect("it may be shared");
    }
}

#[test]
fn a_folder_that_others_may_write_to_is_refused_unless_the_cache_is_shared() {
    for mode in [None, Some(0o775), Some(0o757)] {
        let (world, process) = published();
        world.plant_dir("/cache/folder");
        match mode {
            None => world.set_owner("/cache/folder", Owner::Other(7)),
            Some(mode) => world.set_mode("/cache/folder", mode),
        }
        let refreshes = |builder: CacheBuilder| {
            let cache = builder.open().expect("nothing is touched");
            let task = world.spawn(&process, "main", move || {
                let refresh = cache.entry("folder/entry")?.refresh()?;
                refresh.publish().map(drop).map_err(Error::from)
            });
            world.finish(task)
        };
        let error = refreshes(builder(&process)).expect_err("somebody could replace it");
        assert_eq!(error.kind(), ErrorKind::Untrusted, "{error}");
        assert_eq!(error.path(), Some("/cache/folder".as_ref()), "{error}");
        refreshes(builder(&process).allow_shared(true)).expect("it may be shared");
    }
}

/// Of a copy that shares its files with the cache (`cp -al`), say; or what another user can do who may only look.
#[test]
fn second_names_of_the_locks_files_are_in_nobodys_way() {
    let (world, process) = published();
    let guest = world.guest("guest");
    for holder in [&process, &guest] {
        let (own, disk) = (holder.clone(), world.clone());
        let cache = builder(holder).open().expect("nothing is touched");
        let held = world.spawn(holder, "main", move || {
            let mut refresh = cache.entry("entry")?.refresh()?;
            disk.plant_dir("/copy");
            let names = disk.list(CONTROL).into_iter();
            for name in names.filter(|name| name != "tags") {
                disk.link(&format!("{CONTROL}/{name}"), &format!("/copy/{name}"));
            }
            for _ in 0..30 {
                sleep(&own, LEASE / 10);
                refresh.heartbeat()?;
            }
            std::io::Write::write_all(&mut refresh, b"long").expect("there is room");
            refresh.publish().map(drop).map_err(Error::from)
        });
        let waiter = world.process("waiter");
        let waits = builder(&waiter).open().expect("nothing is touched");
        let waits = world.spawn(&waiter, "main", move || waits.lock().map(drop));
        world.finish(held).expect("it was beaten");
        world.finish(waits).expect("nobody has it any more");
        publishes(&world, &process, builder(&process)).expect("nobody is in the way");
        for path in [GATE, HEAD] {
            let links = world.metadata(path).map(|found| found.links);
            assert_eq!(links, Some(1), "{path} is the cache's alone again");
        }
    }
}

/// The gate and the claim are private to who made them. Whoever may not read them is told all else.
#[test]
fn what_another_user_may_not_read_of_the_lock_is_unknown_and_no_error() {
    let (world, process) = published();
    let (asked, reads) = (process.clone(), |path: &'static str| {
        let (dir, name) = path.rsplit_once('/').expect("absolute");
        move |call: &Call| call.op == Op::OpenRead && &*call.dir == dir && call.name == name
    });
    let status = |world: &World| {
        let cache = builder(&asked).open().expect("nothing is touched");
        world.finish(world.spawn(&asked, "main", move || cache.status()))
    };
    let holder = world.process("holder");
    let cache = builder(&holder).open().expect("nothing is touched");
    let held = world.spawn(&holder, "main", move || cache.lock().map(drop));
    world.run_to(&held, |call| call.is(Op::Unlink, "claim-"));
    let denied = || Fault::Error(IoError::PermissionDenied);
    for (refused, expected) in [
        (&[][..], (true, Some(true), false)),
        // Without the claim a hold for an instant looks like any other.
        (&[CLAIM], (false, None, true)),
        (&[GATE], (true, None, true)),
        (&[CLAIM, GATE], (false, None, true)),
    ] {
        for path in refused {
            world.inject(reads(path), denied(), usize::MAX);
        }
        let found = status(&world).expect("that is no error").expect("a cache");
        let said = (found.holder.is_some(), found.locked, found.private);
        assert_eq!(said, expected, "without {refused:?}");
        assert_eq!(found.epoch, 2, "without {refused:?}");
        world.clear_faults();
    }
    for path in [CLAIM, GATE] {
        world.inject(reads(path), Fault::Error(IoError::Other), usize::MAX);
        assert_says(
            &status(&world).expect_err("it is broken"),
            path,
            "cannot open",
        );
        world.clear_faults();
    }
    world.finish(held).expect("nobody has overtaken it");
}

#[test]
fn the_control_directory_is_as_open_as_the_cache_and_no_more_than_that() {
    for (mode, expected) in [(0o700, 0o700), (0o751, 0o751), (0o777, 0o755)] {
        let world = World::simulated();
        world.plant_dir("/cache");
        world.set_mode("/cache", mode);
        let process = world.process("writer");
        let shared = builder(&process).allow_shared(true);
        publishes(&world, &process, shared).expect("nobody is in the way");
        let made = world.metadata(CONTROL).expect("it is there");
        assert_eq!(made.mode, Some(expected), "{mode:o}");
    }
}
