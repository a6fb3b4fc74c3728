//! A cache directory that is deleted, replaced or mounted over while somebody holds its lock and somebody else waits for it.
//! Nobody says that it has published what the path does not show, and the next refresh works as if nothing had happened.
//!
//! Some of it needs a mount, so these tests need root.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use support::disk::{Disk, alone};
use support::{Ground, LIMIT, NEW, OLD, Ran, Running, USER, eventually};

mod support;

/// What the waiter publishes.
const WAITED: &str = "what the waiter has";
/// What is in the cache that takes the old one's place.
const OTHER: &str = "the other cache's";

/// What happens to the directory.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Deleted,
    /// Renamed away.
    Gone,
    /// Renamed away, and an empty one made.
    Emptied,
    /// Renamed away, and another cache there.
    Replaced,
    MountedOver,
    /// Only the control directory is deleted.
    ControlDeleted,
    /// Only the control directory is renamed away, and an empty one made.
    ControlReplaced,
}

use Change::*;

impl Change {
    const ALL: [Change; 7] = [
        Deleted,
        Gone,
        Emptied,
        Replaced,
        MountedOver,
        ControlDeleted,
        ControlReplaced,
    ];

    /// Makes it, and returns what must live until the end.
    fn make(self, ground: &Ground) -> Option<Disk> {
        let moves = |from: PathBuf| {
            fs::rename(&from, aside(ground)).expect("it moves");
            from
        };
        let makes = |dir: PathBuf| {
            fs::create_dir(&dir).expect("a directory");
            ground.own(&dir);
        };
        match self {
            Deleted => delete(ground.cache()),
            ControlDeleted => delete(ground.control()),
            Gone => drop(moves(ground.cache())),
            Emptied => makes(moves(ground.cache())),
            ControlReplaced => makes(moves(ground.control())),
            Replaced => {
                moves(ground.cache());
                ground.publish(OTHER);
            }
            MountedOver => return Some(Disk::in_memory(&ground.cache(), "size=1m", USER)),
        }
        None
    }

    /// What the path shows after it.
    fn leaves(self) -> Option<&'static str> {
        match self {
            Deleted | Gone | Emptied | MountedOver => None,
            Replaced => Some(OTHER),
            ControlDeleted | ControlReplaced => Some(OLD),
        }
    }
}

fn aside(ground: &Ground) -> PathBuf {
    ground.path().join("aside")
}

/// Waiters come and go in it, so that it may take a second attempt.
fn delete(dir: PathBuf) {
    eventually("it can go", || fs::remove_dir_all(&dir).is_ok());
}

/// What the path shows now, by a reader that has not been there before.
#[track_caller]
fn shown(ground: &Ground) -> Option<String> {
    let read = ground.run(&["read", "FILE"]);
    match read.code() {
        0 => Some(read.stdout),
        66 => None,
        _ => panic!("{read}"),
    }
}

/// A process that holds the lock until its standard input ends. Its COMMAND runs, so it is done with acquiring.
fn hold(ground: &Ground, locking: &str, verb: &[&str]) -> Running {
    let running = ground.path().join("running");
    let script = format!("touch {}; cat; printf '%s' '{NEW}'", running.display());
    let locking = ["--locking", locking, "--lease", "1s"];
    let words = [verb, &locking, &["--", "sh", "-c", &script]].concat();
    let holder = Running::start(ground.command(&words).stdin(Stdio::piped()));
    eventually("COMMAND runs", || running.exists());
    holder
}

/// Success means that the path shows it.
#[track_caller]
fn assert_honest(ground: &Ground, ran: &Ran, payload: &str, before: Option<&str>, why: &str) {
    let shown = shown(ground);
    if ran.code() == 0 {
        assert_eq!(
            shown.as_deref(),
            Some(payload),
            "{why}: it claims to have published: {ran}"
        );
    } else {
        ran.assert_clear(&ground.cache());
        assert_eq!(shown.as_deref(), before, "{why}: {ran}");
    }
}

#[test]
fn who_holds_the_lock_of_a_directory_that_moves_claims_nothing_that_is_not_there() {
    if !alone("who_holds_the_lock_of_a_directory_that_moves_claims_nothing_that_is_not_there") {
        return;
    }
    for locking in ["auto", "lease"] {
        for change in Change::ALL {
            let why = format!("{change:?} under a holder, {locking}");
            let ground = Ground::of(USER);
            ground.publish(OLD);
            let mut holder = hold(&ground, locking, &["refresh", "FILE"]);
            let disk = change.make(&ground);
            drop(holder.child.stdin.take());
            let ran = holder.finish_within(LIMIT);
            assert_honest(&ground, &ran, NEW, change.leaves(), &why);
            ground.assert_next_refresh_works(&why);
            drop(disk);
        }
    }
}

#[test]
fn who_waits_for_the_lock_of_a_directory_that_moves_gets_the_lock_of_the_one_that_is_there() {
    if !alone(
        "who_waits_for_the_lock_of_a_directory_that_moves_gets_the_lock_of_the_one_that_is_there",
    ) {
        return;
    }
    for locking in ["auto", "lease"] {
        for change in Change::ALL {
            let why = format!("{change:?} under a waiter, {locking}");
            let ground = Ground::of(USER);
            ground.publish(OLD);
            let mut holder = hold(&ground, locking, &["lock", "DIR"]);
            let words = [
                "refresh",
                "FILE",
                "--locking",
                locking,
                "--",
                "printf",
                "%s",
                WAITED,
            ];
            let waiter = Running::start(ground.command(&words).stdin(Stdio::null()));
            // Who waits for a lease watches the directory.
            eventually("it waits", || waiter.is_blocked() || waiter.watches());
            let disk = change.make(&ground);
            drop(holder.child.stdin.take());
            let ran = holder.finish_within(LIMIT);
            assert!([0, 76].contains(&ran.code()), "{why}: {ran}");
            let ran = waiter.finish_within(LIMIT);
            if matches!(change, Deleted | ControlDeleted) {
                // One file after the other goes. The waiter may have become the holder in between, may even have published.
                assert!([0, 74, 76].contains(&ran.code()), "{why}: {ran}");
                ran.assert_clear(&ground.cache());
                let shown = shown(&ground);
                let possible = [Some(WAITED), change.leaves()];
                assert!(
                    possible.contains(&shown.as_deref()),
                    "{why}: {ran}, {shown:?}"
                );
            } else {
                assert_eq!(ran.code(), 0, "{why}: {ran}");
                assert_honest(&ground, &ran, WAITED, None, &why);
            }
            ground.assert_next_refresh_works(&why);
            drop(disk);
        }
    }
}
