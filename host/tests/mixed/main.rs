//! Natives and guests that share one entry, all at once: processes with the kernel lock, guests in programs of their own, and
//! guests in one host; writers, readers, and holders that are frozen. `cargo xtask test wasi` builds what these tests run, and
//! says where it is.
//!
//! What everybody did is recorded and judged afterwards: see `history.rs`. The tests at the end of this file plant defects,
//! which must be noticed.
#![cfg(target_os = "linux")]

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cachelock::Cache;
use serde_json::Value;

use history::Locks;
use run::{Freezing, Outcome, Run};
use support::given;

mod history;
#[path = "../../../component/guest/src/bin/stress/part.rs"]
mod part;
mod roles;
mod run;
#[path = "../support/mod.rs"]
mod support;

#[test]
#[ignore = "not a test of its own: what the processes of the other tests do"]
fn in_a_child_process() {
    roles::play(&given(roles::PART).into_string().expect("UTF-8"));
}

/// The program on the entry of a cache, as a native and as a guest.
#[derive(Clone)]
struct Program {
    cache: PathBuf,
}

impl Program {
    /// The first of `words` is a command that takes the entry.
    fn native(&self, words: &[&str]) -> Command {
        let mut command = Command::new(given("CACHELOCK_TEST_PROGRAM"));
        command.env("CACHELOCK_CONFIG", "").arg(words[0]);
        command.arg(self.cache.join("entry")).args(&words[1..]);
        command
    }

    fn guest(&self, words: &[&str]) -> Command {
        let mut grant = self.cache.clone().into_os_string();
        grant.push("::/cache");
        let mut command = Command::new(given("CACHELOCK_TEST_WASMTIME"));
        command.args(["run", "--allow-precompiled", "--dir"]);
        command.arg(grant).arg(given("CACHELOCK_TEST_GUEST"));
        command.args([words[0], "/cache/entry"]).args(&words[1..]);
        command
    }
}

/// Each writer publishes so often at least, in a minute.
const FAIR: usize = 50;

#[test]
fn natives_and_guests_that_share_an_entry_for_a_minute_lose_nothing_and_all_get_their_turn() {
    let time = Duration::from_secs(60);
    let mut run = Run::new(time, Duration::from_secs(5), Duration::ZERO);
    for name in ["native 1", "native 2", "native 3"] {
        run.native(name, "write");
    }
    for name in ["wasmtime 1", "wasmtime 2", "wasmtime 3"] {
        run.wasmtime(name, "write");
    }
    run.host(&[
        ("guest 1 in a host", Locks::Lease),
        ("guest 2 in a host", Locks::Lease),
    ]);
    readers(&mut run);
    let outcome = run.go("3 natives, 3 wasmtime, 2 guests in one host", None);
    assert_right(&outcome);
    for (writer, name) in outcome.writers() {
        let (published, _) = outcome.publishes(writer);
        assert!(published >= FAIR, "{name} has published {published} times");
    }
}

/// One of each kind.
fn readers(run: &mut Run) {
    run.native("native, library", "read");
    run.native("native, plain file", "plain");
    run.wasmtime("wasmtime, component", "read");
    let program = Program { cache: run.cache() };
    let guest = program.clone();
    run.series("native, program", "read", move || program.native(&["read"]));
    run.series("wasmtime, program", "read", move || guest.guest(&["read"]));
}

/// Nothing has gone wrong, and what is there is the last that was published.
#[track_caller]
fn assert_right(outcome: &Outcome) {
    // Not captured: the figures are what somebody wants to see.
    let _ = std::io::stdout().write_all(outcome.table().as_bytes());
    let violations = [outcome.wrong.clone(), outcome.history.violations()].concat();
    let few = &violations[..violations.len().min(20)];
    assert!(
        violations.is_empty(),
        "{} violations: {few:#?}",
        violations.len()
    );
    for (name, seen) in outcome.seen() {
        assert!(seen >= 10, "{name} has seen {seen} payloads");
    }

    let cache = outcome.dir.path().join("cache");
    let entry = Cache::open(&cache).and_then(|cache| cache.entry("entry"));
    let read = entry.and_then(|entry| entry.read());
    let last = read.expect("readable").expect("published");
    let (generation, hold) = outcome
        .history
        .published()
        .max_by_key(|(generation, _)| *generation)
        .expect("some");
    assert_eq!(last.meta().generation, Some(generation));
    assert_eq!(part::origin(&last), Ok((hold.writer, hold.number)));
    let mut left: Vec<_> = std::fs::read_dir(cache.join(".cachelock"))
        .expect("it is there")
        .map(|entry| {
            entry
                .expect("a name")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .filter(|name| !["cache.lock", "head", "tags"].contains(&&**name))
        .collect();
    left.sort();
    assert_eq!(left, [""; 0], "something stays behind");
}

#[test]
fn holders_that_are_frozen_are_overtaken_after_their_lease_and_publish_nothing() {
    let lease = Duration::from_secs(1);
    let mut run = Run::new(Duration::from_secs(30), lease, Duration::from_millis(100));
    let mut victims = vec![run.native("native 1", "write")];
    run.native("native 2", "write");
    victims.push(run.wasmtime("wasmtime 1", "write"));
    run.wasmtime("wasmtime 2", "write");
    // Two kinds in one process.
    let host = run.host(&[
        ("guest in a host, lease", Locks::Lease),
        ("guest in a host, kernel lock", Locks::Gate),
    ]);
    victims.push(host[0]);
    let native = Program { cache: run.cache() };
    let guest = native.clone();
    let words = ["refresh", "--json", "--lease", "1s", "--timeout", "60s"];
    run.series("native program, each time anew", "write", move || {
        native.native(&words)
    });
    run.series("wasmtime program, each time anew", "write", move || {
        guest.guest(&words)
    });
    readers(&mut run);
    let freezing = Freezing {
        victims: victims.clone(),
        pause: Duration::from_millis(2200),
        every: Duration::from_millis(300),
    };
    let outcome = run.go(
        "holders are frozen for longer than their lease of 1 s",
        Some(&freezing),
    );
    assert_right(&outcome);
    for victim in victims {
        let lost: usize = match host.contains(&victim) {
            true => host.iter().map(|id| outcome.publishes(*id).1).sum(),
            false => outcome.publishes(victim).1,
        };
        assert!(lost > 0, "writer {victim} was frozen and has lost nothing");
    }
}

/// Beside the other tests, which leave it little of the machine.
#[test]
fn a_guest_that_waits_for_its_input_for_a_minute_beats_and_is_not_overtaken() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let program = Program {
        cache: dir.path().to_owned(),
    };
    let start = |mut command: Command| {
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = pipes.stderr(Stdio::piped()).spawn();
        Killed(child.expect("it starts"))
    };
    let mut holder = start(program.guest(&["refresh", "--json", "--lease", "1s"]));
    let began = Instant::now();
    let holds = || {
        let out = program.native(&["status", "--json"]).output();
        let status: Value = serde_json::from_slice(&out.expect("it runs").stdout).expect("JSON");
        status["holder"]["epoch"].is_u64() && status["holder"]["epoch"] == status["epoch"]
    };
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never holds");
        std::thread::sleep(Duration::from_millis(20));
    }
    let words = ["refresh", "--json", "--lease", "1s", "--timeout", "60s"];
    let waiters = [program.native(&words), program.guest(&words)].map(start);
    for waiter in waiters {
        let out = waiter.output();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(
            said.contains("\"error\":\"timeout\""),
            "it was overtaken: {said}"
        );
    }
    assert!(began.elapsed() >= Duration::from_secs(60), "they waited");
    let stdin = holder.0.stdin.as_mut().expect("a pipe");
    stdin.write_all(b"at last").expect("it reads");
    let out = holder.output();
    let said = String::from_utf8_lossy(&out.stderr);
    let published: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{said}"));
    assert_eq!(published["generation"], 1, "{published}");
    let read = std::fs::read(dir.path().join("entry"));
    assert_eq!(read.expect("it was published"), b"at last");
}

/// A child that ends with the test.
struct Killed(Child);

impl Killed {
    /// All that it says, once its input has ended.
    fn output(mut self) -> Output {
        drop(self.0.stdin.take());
        let mut said = [Vec::new(), Vec::new()];
        if let Some(stdout) = &mut self.0.stdout {
            stdout.read_to_end(&mut said[0]).expect("a pipe");
        }
        if let Some(stderr) = &mut self.0.stderr {
            stderr.read_to_end(&mut said[1]).expect("a pipe");
        }
        let [stdout, stderr] = said;
        let status = self.0.wait().expect("our child");
        Output {
            status,
            stdout,
            stderr,
        }
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only for a child that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is said of two natives and somebody who does as `verb` says.
fn complaints_about(verb: &str) -> String {
    let mut run = Run::new(
        Duration::from_secs(2),
        Duration::from_secs(5),
        Duration::ZERO,
    );
    run.native("native 1", "write");
    run.native("native 2", "write");
    run.native("a writer without the lock", verb);
    run.native("native, plain file", "plain");
    run.native("native, library", "read");
    let outcome = run.go(verb, None);
    [outcome.wrong.clone(), outcome.history.violations()]
        .concat()
        .join("\n")
}

#[test]
fn a_writer_without_the_lock_that_renames_is_noticed() {
    let said = complaints_about("rename");
    assert!(said.contains("which was never published"), "{said}");
}

#[test]
fn a_writer_without_the_lock_that_overwrites_is_noticed() {
    let said = complaints_about("overwrite");
    assert!(said.contains("a mix: at"), "{said}");
}
