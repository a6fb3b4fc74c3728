//! Errors of the real system, at each call that a refresh and a read make: what fails is said, a payload is never wrong or
//! more public than it was, an interrupted call is made again, and the next refresh tidies up.
//!
//! `tests/faults.rs` does the same on the simulated disk. Here the calls are the system's, and `strace` makes them fail.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use support::{Ground, LIMIT, NEW, OLD, Ran, Running, lacks_root, lacks_tool};

mod support;

/// The calls that reach a file system.
const CALLS: [&str; 25] = [
    "open",
    "openat",
    "mkdir",
    "mkdirat",
    "pread64",
    "pwrite64",
    "ftruncate",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "rename",
    "renameat",
    "renameat2",
    "unlinkat",
    "fchmod",
    "chmod",
    "flock",
    "newfstatat",
    "fstat",
    "statx",
    "fstatfs",
    "getdents64",
    "utimensat",
    "fchown",
    "close",
];

/// Those that a signal can interrupt.
const INTERRUPTIBLE: [&str; 6] = ["open", "openat", "pread64", "pwrite64", "fsync", "flock"];

/// One call of the main thread: its name, and how many of that name it makes until then.
type Point = (String, usize);

struct Place {
    ground: Ground,
}

impl Place {
    fn new() -> Self {
        let place = Place {
            ground: Ground::of(0),
        };
        fs::write(place.ground.path().join("new"), NEW).expect("a file");
        place.reset();
        place
    }

    fn reset(&self) {
        self.ground.publish(OLD);
        fs::set_permissions(self.ground.entry(), Permissions::from_mode(0o600)).expect("ours");
    }

    /// Runs it under `strace`, with the new payload on its standard input.
    fn run(&self, strace: &[&str], words: &[&str]) -> Ran {
        let mut command = self.ground.wrapped(&[&["strace"], strace].concat(), words);
        let input = File::open(self.ground.path().join("new")).expect("a file");
        Running::start(command.stdin(input)).finish_within(LIMIT)
    }

    /// The calls of a run in which nothing fails, from the first that names the cache.
    fn points(&self, words: &[&str]) -> Vec<Point> {
        let log = self.ground.path().join("log");
        let log = log.to_str().expect("a path of UTF-8");
        let ran = self.run(&["-o", log, "-s", "200"], words);
        assert_eq!(ran.code(), 0, "{ran}");
        let cache = self.ground.cache();
        let cache = cache.to_str().expect("a path of UTF-8");
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut reached = false;
        let mut points = Vec::new();
        for line in fs::read_to_string(log).expect("a log").lines() {
            let Some((name, rest)) = line.split_once('(') else {
                continue;
            };
            reached |= name.starts_with("open") && rest.contains(cache);
            let count = counts.entry(name.to_owned()).or_default();
            *count += 1;
            if reached && CALLS.contains(&name) {
                points.push((name.to_owned(), *count));
            }
        }
        points
    }

    /// A run in which this call fails.
    fn run_with(&self, error: &str, (name, nth): &Point, words: &[&str]) -> Ran {
        let inject = format!("inject={name}:error={error}:when={nth}");
        self.run(&["-o", "/dev/null", "-e", &inject], words)
    }

    #[track_caller]
    fn assert_whole(&self, ran: &Ran, why: &str) {
        let published = ran.code() == 0 || ran.stderr.contains("was published, but");
        let payload = fs::read_to_string(self.ground.entry()).expect("it is there");
        assert_eq!(payload, if published { NEW } else { OLD }, "{why}: {ran}");
        let read = self.ground.run(&["read", "FILE"]);
        assert_eq!(
            (read.code(), &read.stdout),
            (0, &payload),
            "{why}: {ran}, then {read}"
        );
        let metadata = fs::metadata(self.ground.entry()).expect("it is there");
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(
            mode, 0o600,
            "{why}: the payload is not private any more: {ran}"
        );
    }
}

const REFRESH: &[&str] = &["refresh", "FILE", "--durability", "full"];
const READ: &[&str] = &["read", "FILE"];

#[test]
fn an_error_at_any_call_of_a_refresh_is_said_and_spoils_nothing() {
    if lacks_root() || lacks_tool("strace") {
        return;
    }
    let place = Place::new();
    let points = place.points(REFRESH);
    assert!(
        points.len() > 40,
        "so few calls cannot be a refresh: {points:?}"
    );
    let mut failed = 0;
    for (error, says) in [
        ("EIO", "Input/output error"),
        ("EDQUOT", "free some of your quota"),
        ("EACCES", "check who owns it"),
    ] {
        for point in &points {
            let why = format!("{error} at {point:?}");
            place.reset();
            let ran = place.run_with(error, point, REFRESH);
            ran.assert_clear(&place.ground.cache());
            if ran.code() != 0 {
                failed += 1;
                let expected = if error == "EACCES" {
                    [77, 74]
                } else {
                    [74, 74]
                };
                assert!(expected.contains(&ran.code()), "{why}: {ran}");
                let not_durable = ran.stderr.contains("was published, but");
                assert!(ran.stderr.contains(says) || not_durable, "{why}: {ran}");
            }
            place.assert_whole(&ran, &why);
            place.ground.assert_next_refresh_works(&why);
        }
    }
    println!(
        "{failed} of {} injected errors failed a refresh",
        3 * points.len()
    );
    assert!(
        failed > points.len(),
        "only {failed} injected errors were noticed"
    );
}

#[test]
fn an_interrupted_call_of_a_refresh_is_made_again() {
    if lacks_root() || lacks_tool("strace") {
        return;
    }
    let place = Place::new();
    for point in place.points(REFRESH) {
        if !INTERRUPTIBLE.contains(&&*point.0) {
            continue;
        }
        let why = format!("EINTR at {point:?}");
        place.reset();
        let ran = place.run_with("EINTR", &point, REFRESH);
        assert_eq!(ran.code(), 0, "{why}: {ran}");
        place.assert_whole(&ran, &why);
    }
    place.ground.assert_next_refresh_works(&"after all of them");
}

/// As on NFS, when another machine publishes meanwhile.
#[test]
fn a_file_that_is_lost_while_it_is_read_is_opened_again() {
    if lacks_root() || lacks_tool("strace") {
        return;
    }
    let place = Place::new();
    let points = place.points(READ);
    let reads = points.iter().filter(|(name, _)| name == "pread64");
    let reads: Vec<_> = reads.collect();
    assert!(reads.len() >= 2, "of tag and payload: {points:?}");
    for point in reads {
        let ran = place.run_with("ESTALE", point, READ);
        assert_eq!((ran.code(), &*ran.stdout), (0, OLD), "{point:?}: {ran}");
    }
}

#[test]
fn an_error_at_any_call_of_a_read_gives_no_wrong_payload() {
    if lacks_root() || lacks_tool("strace") {
        return;
    }
    let place = Place::new();
    let points = place.points(READ);
    assert!(
        points.len() > 5,
        "so few calls cannot be a read: {points:?}"
    );
    for error in ["EIO", "EACCES", "ENOMEM", "EINTR", "ESTALE"] {
        for point in &points {
            let why = format!("{error} at {point:?}");
            let ran = place.run_with(error, point, READ);
            ran.assert_clear(&place.ground.cache());
            match ran.code() {
                0 => assert_eq!(ran.stdout, OLD, "{why}: {ran}"),
                code => {
                    assert!([74, 77].contains(&code), "{why}: {ran}");
                    assert_eq!(ran.stdout, "", "{why}: {ran}");
                }
            }
        }
    }
}
