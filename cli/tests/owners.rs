//! Caches, files and directories of other users: whose cache may be refreshed, what can be read by whom, and what a run by
//! root leaves behind. The program runs as several users, so these tests need root.
#![cfg(target_os = "linux")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use support::{Ground, NEW, OLD, Ran, STRANGER, USER, lacks_root, names, run};

mod support;

const WRITERS: [&[&str]; 5] = [
    &["get", "FILE", "--fresh-for", "0", "--", "printf", NEW],
    &["refresh", "FILE", "--", "printf", NEW],
    &["sweep", "DIR"],
    &["break", "DIR"],
    &["lock", "DIR", "--", "true"],
];

fn own(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).expect("root may do that");
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("root may do that");
}

fn run_as(ground: &Ground, user: u32, words: &[&str]) -> Ran {
    run(&mut ground.command_of(user, words))
}

fn with<'a>(words: &[&'a str], flag: &'a str) -> Vec<&'a str> {
    let mut words = words.to_vec();
    words.insert(1, flag);
    words
}

#[test]
fn an_entry_of_another_user_is_read_and_replaced() {
    if lacks_root() {
        return;
    }
    for other in [0, STRANGER] {
        let ground = Ground::of(USER);
        ground.publish(OLD);
        own(&ground.entry(), other);
        let read = ground.run(&["read", "FILE"]);
        assert_eq!((read.code(), &*read.stdout), (0, OLD), "{read}");
        ground.assert_next_refresh_works(&format!("an entry of {other}"));
        let owner = fs::metadata(ground.entry()).expect("it is there").uid();
        assert_eq!(owner, USER, "what is published is the publisher's");
    }
}

#[test]
fn a_private_entry_of_another_user_is_no_permission_and_stays_as_it_is() {
    if lacks_root() {
        return;
    }
    let ground = Ground::of(USER);
    ground.publish(OLD);
    own(&ground.entry(), STRANGER);
    set_mode(&ground.entry(), 0o600);
    for words in [
        &["read", "FILE"][..],
        &["status", "FILE"],
        &["get", "FILE", "--", "printf", NEW],
        &["refresh", "FILE", "--", "printf", NEW],
    ] {
        for words in [words.to_vec(), with(words, "--allow-shared")] {
            let ran = ground.run(&words);
            assert_eq!(ran.code(), 77, "{ran}");
            ran.assert_clear(&ground.entry());
        }
    }
    assert_eq!(
        fs::read_to_string(ground.entry()).expect("root may read it"),
        OLD
    );
    fs::remove_file(ground.entry()).expect("root may do that");
    ground.assert_next_refresh_works(&"after it is gone");
}

#[test]
fn a_directory_that_others_may_write_to_is_refused_unless_allowed() {
    if lacks_root() {
        return;
    }
    for (mode, group) in [(0o777, USER), (0o1777, USER), (0o775, STRANGER)] {
        let ground = Ground::of(USER);
        ground.publish(OLD);
        for path in [ground.cache(), ground.control()] {
            chown(&path, None, Some(group)).expect("root may do that");
            set_mode(&path, mode);
            for words in WRITERS {
                let ran = ground.run(words);
                assert_eq!(ran.code(), 77, "{mode:o} at {path:?}: {ran}");
                ran.assert_clear(&path);
                assert!(ran.stderr.contains("other users may write to it"), "{ran}");
            }
            let read = ground.run(&["read", "FILE"]);
            assert_eq!(
                (read.code(), &*read.stdout),
                (0, OLD),
                "reading is always allowed: {read}"
            );
            for words in WRITERS {
                let ran = ground.run(&with(words, "--allow-shared"));
                assert_eq!(ran.code(), 0, "{mode:o} at {path:?}: {ran}");
            }
            set_mode(&path, 0o755);
            ground.publish(OLD);
        }
    }
}

#[test]
fn the_cache_of_another_user_is_refused_and_can_be_read() {
    if lacks_root() {
        return;
    }
    for (owner, user) in [(USER, 0), (0, USER), (STRANGER, USER)] {
        let ground = Ground::of(owner);
        ground.publish(OLD);
        for words in WRITERS {
            let ran = run_as(&ground, user, words);
            assert_eq!(ran.code(), 77, "{user} in a cache of {owner}: {ran}");
            ran.assert_clear(&ground.cache());
            let belongs = format!("it belongs to the user with the number {owner}");
            assert!(ran.stderr.contains(&belongs), "{ran}");
        }
        for words in [&["read", "FILE"][..], &["get", "FILE", "--", "printf", NEW]] {
            let ran = run_as(&ground, user, words);
            assert_eq!(
                (ran.code(), &*ran.stdout),
                (0, OLD),
                "{user} in a cache of {owner}: {ran}"
            );
        }
        let status = run_as(&ground, user, &["status", "FILE"]);
        assert_eq!(status.code(), 0, "{status}");
        let is_private = status.stdout.contains("private to another user");
        assert_eq!(
            is_private,
            user != 0,
            "root may look at everything: {status}"
        );
        // Allowed by the caller, but not by the system.
        if user != 0 {
            for words in WRITERS {
                let ran = run_as(&ground, user, &with(words, "--allow-shared"));
                assert_eq!(ran.code(), 77, "{user} in a cache of {owner}: {ran}");
                ran.assert_clear(&ground.control());
            }
        }
        ground.assert_next_refresh_works(&format!("after {user} tried"));
    }
}

/// Everything below `dir`, itself included.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    for name in names(dir) {
        let path = dir.join(name);
        if path.is_dir() {
            all.extend(tree(&path));
        } else {
            all.push(path);
        }
    }
    all
}

#[test]
fn the_status_of_another_users_lock_is_unknown_and_that_of_an_entry_is_not() {
    if lacks_root() {
        return;
    }
    let ground = Ground::of(0);
    ground.publish(OLD);
    set_mode(&ground.cache(), 0o755);
    let ran = run_as(&ground, STRANGER, &["status", "FILE"]);
    assert_eq!(ran.code(), 0, "{ran}");
    for row in [
        "entry        verified",
        "holder       unknown",
        "kernel lock  unknown",
    ] {
        assert!(ran.stdout.contains(row), "{row}: {ran}");
    }
    let ran = run_as(&ground, STRANGER, &["status", "FILE", "--json"]);
    assert_eq!(ran.code(), 0, "{ran}");
    for field in ["\"holder\":null", "\"locked\":null"] {
        assert!(ran.stdout.contains(field), "{field}: {ran}");
    }
}

#[test]
fn root_that_is_allowed_into_a_cache_shuts_its_owner_not_out() {
    if lacks_root() {
        return;
    }
    let ground = Ground::of(USER);
    ground.publish(OLD);
    // Its owner has lost some of it, so root makes these files.
    fs::remove_file(ground.control().join("cache.lock")).expect("root may do that");
    for words in WRITERS {
        let ran = run_as(&ground, 0, &with(words, "--allow-shared"));
        assert_eq!(ran.code(), 0, "{ran}");
    }
    for path in tree(&ground.cache()) {
        let owner = fs::metadata(&path).expect("it is there").uid();
        assert_eq!(owner, USER, "{} is root's", path.display());
    }
    ground.assert_next_refresh_works(&"after root");
}

#[test]
fn a_file_of_another_user_in_the_locks_place_is_refused_even_by_root() {
    if lacks_root() {
        return;
    }
    let ground = Ground::of(0);
    for name in [
        "cache.lock",
        "head",
        "claim-00000000000000000001",
        "claim-00000000000000000002",
    ] {
        ground.publish(OLD);
        let path = ground.control().join(name);
        if !path.exists() {
            fs::write(&path, "").expect("a file");
        }
        own(&path, STRANGER);
        let before = fs::metadata(&path).expect("it is there");
        for words in WRITERS {
            let ran = ground.run(words);
            if (name, words[0]) == ("cache.lock", "break") {
                assert_eq!(ran.code(), 0, "a break needs no gate: {ran}");
                continue;
            }
            assert_eq!(ran.code(), 74, "{name}: {ran}");
            ran.assert_clear(&path);
            let belongs = format!("belongs to the user with the number {STRANGER}");
            assert!(ran.stderr.contains(&belongs), "{name}: {ran}");
        }
        let after = fs::metadata(&path).expect("it is still there");
        let seen = |metadata: &fs::Metadata| {
            (
                metadata.ino(),
                metadata.len(),
                metadata.mode(),
                metadata.mtime_nsec(),
            )
        };
        assert_eq!(seen(&after), seen(&before), "{name}: it was touched");
        for words in WRITERS {
            let ran = ground.run(&with(words, "--allow-shared"));
            assert_eq!(ran.code(), 0, "{name}: {ran}");
        }
        fs::remove_dir_all(ground.cache()).expect("it is ours");
    }
}

#[test]
fn a_link_to_the_cache_directory_is_followed_for_the_user_has_named_it() {
    if lacks_root() {
        return;
    }
    let ground = Ground::of(USER);
    let real = ground.path().join("real");
    fs::create_dir(&real).expect("a directory");
    ground.own(&real);
    symlink(&real, ground.cache()).expect("a link");
    ground.publish(OLD);
    assert_eq!(
        fs::read_to_string(real.join("entry")).expect("it is there"),
        OLD
    );
    ground.assert_next_refresh_works(&"through a link");
}
