//! File systems that are full, read-only or broken: what fails says why, the old entry stays whole, and as soon as the cause
//! is gone the next refresh works and tidies up.
//!
//! Each test has a small file system of its own, so these tests need root.
#![cfg(target_os = "linux")]

use std::fmt;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use support::disk::{Disk, alone, lacks_ext4, tool};
use support::{Ground, LIMIT, NEW, OLD, Ran, Running, USER, eventually, lacks_root, names};

mod support;

const OPERATIONS: [&[&str]; 6] = [
    &[
        "get",
        "FILE",
        "--fresh-for",
        "0",
        "--",
        "printf",
        "%09000d",
        "7",
    ],
    &["refresh", "FILE", "--", "printf", "%09000d", "7"],
    &[
        "refresh",
        "FILE",
        "--durability",
        "full",
        "--",
        "printf",
        "%09000d",
        "7",
    ],
    &["sweep", "DIR"],
    &["break", "DIR"],
    &["lock", "DIR", "--", "true"],
];

/// More than one block of anything.
fn new_payload() -> String {
    format!("{:09000}", 7)
}

/// What is there before the operation.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Entry,
}

impl Before {
    const ALL: [Before; 2] = [Before::Nothing, Before::Entry];

    fn set_up(self, ground: &Ground, disk: &Disk) {
        disk.empty();
        if self == Before::Entry {
            ground.publish(OLD);
        }
    }
}

/// What must be true after an operation on a system that lacks something: it did all or nothing.
#[track_caller]
fn assert_all_or_nothing(ground: &Ground, before: Before, ran: &Ran, why: &dyn fmt::Display) {
    let publishes = ran.code() == 0 && ran.command().contains("%09000d");
    let read = ground.run(&["read", "FILE"]);
    let expected = match before {
        _ if publishes => (0, new_payload()),
        Before::Entry => (0, OLD.to_owned()),
        Before::Nothing => (66, String::new()),
    };
    assert!(
        (read.code(), &read.stdout) == (expected.0, &expected.1),
        "{why}: {ran}, and then {read}"
    );
    let payload = fs::read_to_string(ground.entry()).unwrap_or_default();
    assert!(
        payload == expected.1,
        "{why}: {ran}, and the file is {payload:?}"
    );
}

/// Runs all operations with the disk as `starve` leaves it, more and more of what it takes left, until all of them work.
fn starved(what: &str, ground: &Ground, disk: &Disk, starve: impl Fn(u64)) {
    const MOST: u64 = 64;
    let mut failed = 0;
    for before in Before::ALL {
        for left in 0.. {
            assert!(left < MOST, "{what}: {left} are not enough for a refresh");
            let mut all_work = true;
            for operation in OPERATIONS {
                let why = format!("{left} {what} left, {before:?}, {operation:?}");
                before.set_up(ground, disk);
                starve(left);
                let ran = ground.run(operation);
                ran.assert_clear(&ground.cache());
                if ran.code() != 0 {
                    all_work = false;
                    failed += 1;
                    assert_eq!(ran.code(), 74, "{why}: {ran}");
                    assert!(
                        ran.stderr.contains("No space left on device"),
                        "{why}: {ran}"
                    );
                    assert!(ran.stderr.contains("free some space"), "{why}: {ran}");
                }
                assert_all_or_nothing(ground, before, &ran, &why);
                disk.make_room();
                ground.assert_next_refresh_works(&why);
            }
            if all_work {
                break;
            }
        }
    }
    assert!(
        failed > 10,
        "{what}: only {failed} operations failed, so nothing was tested"
    );
}

#[test]
fn a_full_memory_disk_is_said_and_spoils_nothing() {
    if !alone("a_full_memory_disk_is_said_and_spoils_nothing") {
        return;
    }
    let ground = Ground::of(USER);
    let disk = Disk::in_memory(&ground.cache(), "size=256k", USER);
    starved("pages", &ground, &disk, |left| disk.fill(left, 4096));
}

#[test]
fn a_full_disk_is_said_and_spoils_nothing() {
    if lacks_ext4() || !alone("a_full_disk_is_said_and_spoils_nothing") {
        return;
    }
    let ground = Ground::of(USER);
    let disk = Disk::ext4(
        &ground.cache(),
        512 << 10,
        &["-b", "1024", "-m", "0", "-O", "^has_journal"],
        USER,
    );
    starved("blocks", &ground, &disk, |left| disk.fill(left, 1024));
}

#[test]
fn a_memory_disk_without_inodes_is_said_and_spoils_nothing() {
    if !alone("a_memory_disk_without_inodes_is_said_and_spoils_nothing") {
        return;
    }
    let ground = Ground::of(USER);
    let disk = Disk::in_memory(&ground.cache(), "nr_inodes=32", USER);
    starved("inodes", &ground, &disk, |left| {
        disk.fill_inodes(left as usize)
    });
}

#[test]
fn a_disk_without_inodes_is_said_and_spoils_nothing() {
    if lacks_ext4() || !alone("a_disk_without_inodes_is_said_and_spoils_nothing") {
        return;
    }
    let ground = Ground::of(USER);
    let disk = Disk::ext4(
        &ground.cache(),
        1 << 20,
        &["-N", "32", "-m", "0", "-O", "^has_journal"],
        USER,
    );
    starved("inodes", &ground, &disk, |left| {
        disk.fill_inodes(left as usize)
    });
}

#[test]
fn a_disk_that_stays_full_for_long_is_usable_at_once_when_there_is_room() {
    if !alone("a_disk_that_stays_full_for_long_is_usable_at_once_when_there_is_room") {
        return;
    }
    let ground = Ground::of(USER);
    let disk = Disk::in_memory(&ground.cache(), "size=256k", USER);
    for left in [0, 1, 2] {
        disk.empty();
        ground.publish(OLD);
        disk.fill(left, 4096);
        for attempt in 0..40 {
            let ran = ground.run(OPERATIONS[attempt % 3]);
            assert_eq!(
                ran.code(),
                74,
                "{left} pages left, attempt {attempt}: {ran}"
            );
        }
        disk.make_room();
        ground.assert_next_refresh_works(&format!("{left} pages were left for long"));
    }
}

#[test]
fn a_read_only_disk_can_be_read_and_everything_else_is_77() {
    if !alone("a_read_only_disk_can_be_read_and_everything_else_is_77") {
        return;
    }
    let ground = Ground::of(USER);
    let disk = Disk::in_memory(&ground.cache(), "size=1m", USER);
    for before in Before::ALL {
        before.set_up(&ground, &disk);
        disk.remount("ro");
        for operation in OPERATIONS {
            let ran = ground.run(operation);
            if before == Before::Nothing && ["sweep", "break"].contains(&operation[0]) {
                assert_eq!(ran.code(), 0, "there is nothing to do: {ran}");
                continue;
            }
            assert_eq!(ran.code(), 77, "{before:?}: {ran}");
            ran.assert_clear(&ground.cache());
            assert!(
                ran.stderr.contains("a read-only cache can be read"),
                "{ran}"
            );
            assert_all_or_nothing(&ground, before, &ran, &operation[0]);
        }
        let status = ground.run(&["status", "FILE"]);
        assert_eq!(status.code(), 0, "{status}");
        disk.remount("rw");
        ground.assert_next_refresh_works(&"writable again");
    }
}

/// The kernel makes a disk read-only when it finds it broken, whoever writes to it at that moment.
#[test]
fn a_disk_that_becomes_read_only_ends_holder_and_waiter_with_77() {
    if lacks_ext4() || !alone("a_disk_that_becomes_read_only_ends_holder_and_waiter_with_77") {
        return;
    }
    let ground = Ground::of(USER);
    let disk = Disk::ext4(&ground.cache(), 4 << 20, &["-m", "0"], USER);
    ground.publish(OLD);
    let words = [
        "refresh",
        "FILE",
        "--lease",
        "1s",
        "--",
        "sh",
        "-c",
        "cat; printf new",
    ];
    let mut holder = Running::start(ground.command(&words).stdin(Stdio::piped()));
    eventually("it holds the lock", || {
        names(&ground.control())
            .iter()
            .any(|name| name.starts_with("stage-"))
    });
    let words = ["refresh", "FILE", "--", "printf", NEW];
    let waiter = Running::start(ground.command(&words).stdin(Stdio::null()));
    eventually("it waits", || waiter.is_blocked());
    // What `errors=remount-ro` does, and only root may ask for.
    let _ = std::process::Command::new("mount")
        .args(["-o", "remount,abort"])
        .arg(ground.cache())
        .output();
    let write = fs::write(ground.cache().join("probe"), "");
    assert!(write.is_err(), "the disk is read-only now");

    drop(holder.child.stdin.take());
    for (who, running) in [("holder", holder), ("waiter", waiter)] {
        let ran = running.finish_within(LIMIT);
        assert_eq!(ran.code(), 77, "{who}: {ran}");
        ran.assert_clear(&ground.cache());
    }
    let read = ground.run(&["read", "FILE"]);
    assert_eq!((read.code(), &*read.stdout), (0, OLD), "{read}");

    let at = ground.cache();
    let at = at.to_str().expect("a path of UTF-8");
    tool(&["umount", at]);
    tool(&["mount", "-o", "loop", &format!("{at}.image"), at]);
    ground.assert_next_refresh_works(&"repaired");
    drop(disk);
}

/// `head` is as long as the highest epoch, and each file system has its own longest file.
#[test]
fn a_head_as_long_as_the_file_system_takes_is_said_to_be_the_last() {
    if lacks_ext4() || !alone("a_head_as_long_as_the_file_system_takes_is_said_to_be_the_last") {
        return;
    }
    let ground = Ground::of(USER);
    for kind in ["ext4", "tmpfs"] {
        let disk = match kind {
            "ext4" => Disk::ext4(&ground.cache(), 4 << 20, &["-m", "0"], USER),
            _ => Disk::in_memory(&ground.cache(), "size=1m", USER),
        };
        ground.publish(OLD);
        let head = fs::File::options()
            .write(true)
            .open(ground.control().join("head"));
        let head = head.expect("root may do that");
        // The longest that there can be, bit by bit.
        let mut longest = 0;
        for bit in (0..63).rev() {
            if head.set_len(longest | 1 << bit).is_ok() {
                longest |= 1 << bit;
            }
        }
        assert!(longest > 1 << 40, "{kind}: {longest} bytes");
        head.set_len(longest).expect("it was that long before");
        drop(head);
        for operation in OPERATIONS {
            let ran = ground.run(operation);
            assert!([1, 74].contains(&ran.code()), "{kind}: {ran}");
            ran.assert_clear(&ground.control());
            let said = ["epochs are used up", "the file system cannot"];
            assert!(
                said.iter().any(|said| ran.stderr.contains(said)),
                "{kind}: {ran}"
            );
            assert_all_or_nothing(&ground, Before::Entry, &ran, &kind);
        }
        let status = ground.run(&["status", "FILE", "--json"]);
        assert!(
            status.stdout.contains(&format!("\"epoch\":{longest}")),
            "{kind}: {status}"
        );
        // What the message says, while nobody uses the cache.
        fs::remove_dir_all(ground.control()).expect("it can go");
        ground.assert_next_refresh_works(&kind);
        drop(disk);
    }
}

#[test]
fn a_directory_that_its_owner_may_not_write_to_is_77_until_its_mode_is_mended() {
    if lacks_root() {
        return;
    }
    let ground = Ground::of(USER);
    let tags = ground.control().join("tags");
    // What the lock needs, what only a publish needs, and what only a sync needs: that is asked for before anything is
    // replaced.
    const ALL: usize = 6;
    const PUBLISHES: usize = 3;
    for (dir, mode, expected, fails) in [
        (ground.path().to_owned(), 0o000, 77, 0..ALL),
        (ground.cache(), 0o555, 77, 0..PUBLISHES),
        (ground.cache(), 0o311, 77, 2..PUBLISHES),
        (ground.control(), 0o555, 77, 0..ALL),
        (ground.control(), 0o311, 77, 0..ALL),
        (tags, 0o555, 77, 0..PUBLISHES),
    ] {
        ground.publish(OLD);
        fs::set_permissions(&dir, Permissions::from_mode(mode)).expect("root may do that");
        for (n, operation) in OPERATIONS.iter().enumerate() {
            let why = format!("{mode:o} at {}, {}", dir.display(), operation[0]);
            let ran = ground.run(operation);
            ran.assert_clear(&dir);
            let code = if fails.contains(&n) { expected } else { 0 };
            assert_eq!(ran.code(), code, "{why}: {ran}");
            let payload = fs::read_to_string(ground.entry()).expect("root may read it");
            let whole = payload == new_payload() || (payload == OLD && fails.contains(&0));
            assert!(whole, "{why}: the payload is {payload:?}");
        }
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("root may do that");
        ground.assert_next_refresh_works(&format!("{} was {mode:o}", dir.display()));
    }
}
