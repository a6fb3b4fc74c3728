//! The program as a guest in wasmtime, alone and beside natives on the same directory. `cargo xtask test wasi` builds what
//! these tests run, and says where it is; see `guest` below.
#![cfg(target_os = "linux")]

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use support::{Ran, Running, eventually, names};

mod alone;
mod beside;
#[path = "../support/mod.rs"]
mod support;

/// A guest starts in a tenth of a second, and several do at once.
const LIMIT: Duration = Duration::from_secs(60);

/// What `cargo xtask test wasi` puts into the environment.
#[track_caller]
fn given(name: &str) -> OsString {
    std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set: run `cargo xtask test wasi`"))
}

/// A cache that the program reaches as a native and as a guest, in a directory of its own.
struct Ground {
    dir: TempDir,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("cache")).expect("it is ours");
        Ground { dir }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn entry(&self) -> PathBuf {
        self.cache().join("entry")
    }

    /// The program in wasmtime, with FILE and DIR for the entry and the cache as the guest sees them.
    fn guest(&self, words: &[&str]) -> Command {
        let mut command = Command::new(given("CACHELOCK_TEST_WASMTIME"));
        let mut grant = self.cache().into_os_string();
        grant.push("::/cache");
        command.args(["run", "--allow-precompiled", "--dir"]);
        command.arg(grant).arg(given("CACHELOCK_TEST_GUEST"));
        arguments(&mut command, words, "/cache/entry".into(), "/cache".into());
        command
    }

    fn native(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cachelock"));
        command.env("CACHELOCK_CONFIG", "");
        arguments(&mut command, words, self.entry(), self.cache());
        command
    }

    /// Whether somebody has the lock, and not only a claim to it.
    fn is_held(&self) -> bool {
        let status = finish(&mut self.native(&["status", "DIR", "--json"]), "");
        let status: Value = serde_json::from_str(&status.stdout).expect("JSON");
        status["holder"]["epoch"] == status["epoch"]
    }

    /// A guest that has begun a refresh and waits for its input.
    #[track_caller]
    fn guest_that_holds(&self, words: &[&str]) -> Running {
        let words = [&["refresh", "FILE", "--json"], words].concat();
        let guest = Running::start(self.guest(&words).stdin(Stdio::piped()));
        eventually("the guest holds", || self.is_held());
        guest
    }

    /// A native that holds until its input ends.
    #[track_caller]
    fn native_that_holds(&self, words: &[&str]) -> Running {
        let words = [&["lock", "DIR"], words, &["--", "cat"]].concat();
        let mut command = self.native(&words);
        let native = Running::start(command.stdin(Stdio::piped()));
        eventually("the native holds", || self.is_held());
        native
    }

    #[track_caller]
    fn assert_reads(&self, payload: &str) {
        for mut reader in [
            self.native(&["read", "FILE"]),
            self.guest(&["read", "FILE"]),
        ] {
            let out = reader.output().expect("it runs");
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{reader:?}: {said}");
            // Not shown: it may be large.
            assert!(out.stdout == payload.as_bytes(), "{reader:?}: another");
        }
    }

    /// Nothing but what stays.
    #[track_caller]
    fn assert_clean(&self) {
        let mut left = names(&self.cache().join(".cachelock"));
        left.retain(|name| !["cache.lock", "head", "tags"].contains(&&**name));
        assert_eq!(left, [""; 0], "something stays behind");
    }
}

fn arguments(command: &mut Command, words: &[&str], file: PathBuf, dir: PathBuf) {
    for word in words {
        match *word {
            "FILE" => command.arg(&file),
            "DIR" => command.arg(&dir),
            word => command.arg(word),
        };
    }
}

/// Runs it to its end with `input`.
#[track_caller]
fn finish(command: &mut Command, input: &str) -> Ran {
    let mut running = Running::start(command.stdin(Stdio::piped()));
    feed(&mut running, input);
    running.finish_within(LIMIT)
}

/// Gives it its whole input. Whoever needs none may have closed it.
fn feed(running: &mut Running, input: &str) {
    if let Some(mut stdin) = running.child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
}

/// The name of the error that a run with `--json` has failed with.
#[track_caller]
fn error_of(ran: &Ran) -> String {
    let lines = ran.stderr.lines();
    let mut objects = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let error = objects.find_map(|object| Some(object["error"].as_str()?.to_owned()));
    error.unwrap_or_else(|| panic!("no error: {ran}"))
}

/// The generation that a refresh with `--json` has published.
#[track_caller]
fn generation_of(ran: &Ran) -> u64 {
    let printed: Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran}"));
    assert_eq!(ran.code(), 0, "{ran}");
    printed["generation"].as_u64().expect("a number")
}
