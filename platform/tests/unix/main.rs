//! What the unix backend promises, tried on the real file system.
//!
//! What is a matter of the whole process (umask, user, signals, death) is tried in a child process: this binary again,
//! running `in_a_child_process` alone with the name of a role in its environment.

#![cfg(unix)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cachelock_platform::process::{self, Termination};
use cachelock_platform::{Access, Dir, File, FileKind, Filling, Owner, native};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

mod directories;
mod files;
mod identity;
mod locks;
mod names;
mod permissions;
mod process_module;
mod waiting;

/// Long enough for anything that must happen, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

/// Long enough for something that must not happen to show itself.
const QUIET: Duration = Duration::from_millis(150);

#[track_caller]
fn temp_dir() -> (TempDir, Arc<dyn Dir>) {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let dir = native().open_dir(temp.path()).expect("it can be opened");
    (temp, dir)
}

#[track_caller]
fn create(dir: &dyn Dir, name: &str) -> Box<dyn File> {
    dir.open(name, Access::CreateNew(0o600))
        .expect("a new file")
}

/// The kind of a call's error, for calls whose success cannot be printed.
#[track_caller]
fn kind_of<T>(result: io::Result<T>) -> ErrorKind {
    result.err().expect("an error").kind()
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never came true: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path)
        .expect("it is there")
        .permissions()
        .mode()
        & 0o7777
}

// ---- child processes

const ROLE: &str = "CACHELOCK_TEST_ROLE";
const PLACE: &str = "CACHELOCK_TEST_PLACE";

/// A child process that plays a role; killed when dropped.
struct Player {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Player {
    fn start(role: &str, place: &Path) -> Self {
        Self::start_with(Command::new(std::env::current_exe().unwrap()), role, place)
    }

    /// `command` is this binary, or something that executes it with the arguments it gets.
    fn start_with(mut command: Command, role: &str, place: &Path) -> Self {
        command
            .args(["--exact", "in_a_child_process", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(PLACE, place)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("this binary starts");
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// What follows `word` on the first line of output that starts with it.
    #[track_caller]
    fn expect(&mut self, word: &str) -> String {
        for line in self.output.by_ref().lines() {
            if let Some(rest) = line.expect("text").strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
        panic!("the child ended without a word of {word:?}");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the child is there");
    }

    /// Lets the role play to its end, which must be a good one.
    #[track_caller]
    fn play_to_the_end(role: &str, place: &Path) {
        let mut player = Self::start(role, place);
        let output: Vec<_> = player
            .output
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .collect();
        let status = player.child.wait().unwrap();
        assert!(
            status.success(),
            "{role} failed, {status}:\n{}",
            output.join("\n")
        );
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says something to the test that started this process, on a line of its own.
fn say(line: &str) {
    println!("\n{line}");
}

#[test]
#[ignore = "the other tests run it, with a role to play"]
fn in_a_child_process() {
    let (Ok(role), Some(place)) = (std::env::var(ROLE), std::env::var_os(PLACE)) else {
        return;
    };
    let place = PathBuf::from(place);
    match role.as_str() {
        "create under a strange umask" => permissions::create_under_a_strange_umask(&place),
        "use a directory that can only be searched" => {
            permissions::use_a_directory_that_can_only_be_searched(&place)
        }
        "hold the lock" => locks::hold_the_lock(&place),
        "start a child that dies with me" => process_module::start_a_child_that_dies_with_me(),
        "exit on request" => process_module::exit_on_request(),
        "close a descriptor that is gone" => files::close_a_descriptor_that_is_gone(&place),
        "watch many times" => waiting::watch_many_times(&place),
        unknown => panic!("no such role: {unknown}"),
    }
}

/// Gives up root, so that permissions count.
#[allow(
    unsafe_code,
    reason = "no safe call changes the user of the whole process"
)]
fn become_nobody() {
    if geteuid().is_root() {
        // SAFETY: both calls take a number and touch no memory of ours.
        let done = unsafe { libc::setgid(65534) == 0 && libc::setuid(65534) == 0 };
        assert!(done, "root may become nobody");
    }
}

/// Whether `check` holds in a child made by `fork`, which ends right after.
#[allow(unsafe_code, reason = "this is about fork itself")]
#[track_caller]
fn holds_in_forked_child(check: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs `check` and ends without running any destructor or exit handler. The checks call nothing
    // but the backend, which takes no lock that another thread of this process could hold, and the allocator, which the
    // C library keeps usable after a fork.
    unsafe {
        match libc::fork() {
            -1 => panic!("no fork: {}", io::Error::last_os_error()),
            0 => libc::_exit(if check() { 0 } else { 1 }),
            child => {
                let mut status = 0;
                assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
                status == 0
            }
        }
    }
}
