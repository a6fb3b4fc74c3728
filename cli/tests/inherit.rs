//! What COMMAND inherits: nothing of the cache. What it leaves running holds no lock.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_cachelock");

/// How COMMAND is run: by each verb, and with and without the kernel lock.
const VERBS: [&[&str]; 6] = [
    &["lock", "DIR"],
    &["refresh", "FILE"],
    &["get", "FILE", "--fresh-for", "0"],
    &["lock", "DIR", "--locking", "lease"],
    &["refresh", "FILE", "--locking", "lease"],
    &["get", "FILE", "--fresh-for", "0", "--locking", "lease"],
];

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Place { dir }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        for word in words {
            match *word {
                "FILE" => command.arg(self.cache().join("entry")),
                "DIR" => command.arg(self.cache()),
                word => command.arg(word),
            };
        }
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command.output().expect("the program runs")
    }
}

#[track_caller]
fn assert_ok(out: &Output, what: &[&str]) {
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{what:?}: {}: {said}", out.status);
}

/// The numbers in a listing of `/proc/self/fd`.
fn descriptors(out: &Output) -> BTreeSet<u32> {
    let listed = String::from_utf8_lossy(&out.stderr);
    assert!(!listed.contains(".cachelock"), "{listed}");
    let numbers = listed.lines().filter_map(|line| {
        let (entry, _) = line.split_once(" -> ")?;
        entry.rsplit(' ').next()?.parse().ok()
    });
    numbers.collect()
}

#[test]
fn command_inherits_the_descriptors_that_the_program_has_inherited_and_no_other() {
    let place = Place::new();
    // `exec`, so that the shell has none of its own open.
    let list = ["sh", "-c", "exec ls -l /proc/self/fd >&2"];
    let mut directly = Command::new(list[0]);
    directly.args(&list[1..]).stdin(Stdio::null());
    let expected = descriptors(&directly.output().expect("sh runs"));
    assert!(expected.is_superset(&BTreeSet::from([0, 1, 2])));
    for verb in VERBS {
        let out = place.run(&[verb, &["--"], &list[..]].concat());
        assert_ok(&out, verb);
        assert_eq!(descriptors(&out), expected, "{verb:?}");
    }
}

/// A process that a COMMAND has left running; killed when dropped.
struct Left(String);

impl Left {
    #[track_caller]
    fn by(pid_file: &Path) -> Self {
        let left = Left(fs::read_to_string(pid_file).expect("COMMAND wrote it"));
        assert!(
            Path::new("/proc").join(left.0.trim()).exists(),
            "it is there"
        );
        left
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", self.0.trim()]).status();
    }
}

#[test]
fn what_command_leaves_running_holds_no_lock() {
    let place = Place::new();
    let pid = place.dir.path().join("pid");
    let script = "sleep 60 </dev/null >/dev/null 2>&1 & echo $! > pid";
    for verb in VERBS {
        let out = place.run(&[verb, &["--", "sh", "-c", script]].concat());
        assert_ok(&out, verb);
        let left = Left::by(&pid);
        // Tried once, it is free at once.
        let next = ["lock", "DIR", "--timeout", "0", "--", "true"];
        assert_ok(&place.run(&next), verb);
        drop(left);
    }
}

#[test]
fn what_command_leaves_running_holds_no_lock_of_a_killed_holder() {
    let place = Place::new();
    let pid = place.dir.path().join("pid");
    // COMMAND itself dies with its holder; what it has started does not.
    let script =
        "sleep 60 </dev/null >/dev/null 2>&1 & echo $! > pid; kill -KILL $PPID; exec sleep 60";
    for verb in [&["lock", "DIR"][..], &["refresh", "FILE"]] {
        let out = place.run(&[verb, &["--", "sh", "-c", script]].concat());
        assert!(!out.status.success(), "the holder was killed");
        let left = Left::by(&pid);
        let next = ["lock", "DIR", "--timeout", "0", "--", "true"];
        assert_ok(&place.run(&next), verb);
        drop(left);
    }
}
