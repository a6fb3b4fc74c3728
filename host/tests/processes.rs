//! The component in programs wasmtime that are killed and frozen, beside natives.
#![cfg(target_os = "linux")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use cachelock::{Cache, Timeout};
use rustix::process::{Pid, Signal, kill_process};

use support::given;

/// For processes on a machine that has better things to do.
const SLOW: Duration = Duration::from_secs(10);

/// The guest of the other tests, joined with the component.
static GUEST: LazyLock<std::path::PathBuf> =
    LazyLock::new(|| support::compiled("steps-guest.wasm"));

/// A program wasmtime; killed when it is dropped.
struct Guest {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Guest {
    /// It finds `dir` at `/d`.
    fn start(dir: &Path, steps: &str) -> Self {
        let mut grant = dir.as_os_str().to_owned();
        grant.push("::/d");
        let mut child = Command::new(given("CACHELOCK_TEST_WASMTIME"))
            .args(["run", "--allow-precompiled", "--dir"])
            .arg(grant)
            .arg(&*GUEST)
            .args(steps.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("wasmtime runs");
        let stdout = child.stdout.take().expect("a pipe");
        let lines = BufReader::new(stdout).lines();
        Guest { child, lines }
    }

    #[track_caller]
    fn assert_says(&mut self, expected: &[&str]) {
        for expected in expected {
            let line = self.lines.next().and_then(Result::ok);
            let line = line.unwrap_or_else(|| panic!("it ends before {expected:?}"));
            assert_eq!(support::short(&line), *expected, "{line}");
        }
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("a process number");
        kill_process(Pid::from_raw(id).expect("not 0"), signal).expect("it is ours");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn native(dir: &Path) -> Cache {
    let cache = Cache::builder(dir).timeout(Timeout::After(Duration::from_secs(60)));
    cache.open().expect("opening touches nothing")
}

fn publish(cache: &Cache, name: &str, text: &str) -> u64 {
    let entry = cache.entry(name).expect("a name");
    let mut refresh = entry.refresh().expect("the lock");
    refresh.write_all(text.as_bytes()).expect("written");
    refresh.publish().expect("published").generation
}

#[track_caller]
fn assert_holds(cache: &Cache, entry: &str, expected: &str, generation: u64) {
    let snapshot = cache.entry(entry).and_then(|entry| entry.read());
    let snapshot = snapshot.expect("readable").expect("published");
    assert_eq!(&snapshot[..], expected.as_bytes());
    assert_eq!(snapshot.meta().generation, Some(generation));
    let mut left: Vec<_> = fs::read_dir(cache.path().join(".cachelock"))
        .expect("it is there")
        .map(|entry| entry.expect("a name").file_name())
        .filter(|name| {
            !["cache.lock", "head", "tags"]
                .iter()
                .any(|stays| name == stays)
        })
        .collect();
    left.sort();
    assert_eq!(left, [""; 0], "something stays behind");
}

#[test]
fn after_a_component_was_killed_natives_and_guests_wait_for_its_lease_and_nothing_stays_behind() {
    for (steps, lease) in [("", 5000), ("lease=1500", 1500)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let cache = native(dir.path());
        let lease = Duration::from_millis(lease);
        // Its claim is younger than that.
        let began = Instant::now();
        let steps = format!("{steps} open=/d begin=e write=half await=never");
        let mut holder = Guest::start(dir.path(), steps.trim());
        if steps.starts_with("lease") {
            holder.assert_says(&["ok"]);
        }
        holder.assert_says(&["ok", "ok refresh", "ok"]);

        let waiters = "lease=1500 open=/d,60000 refresh=e write=after publish";
        let mut guest = Guest::start(dir.path(), waiters);
        guest.assert_says(&["ok", "ok"]);
        thread::scope(|scope| {
            let native = scope.spawn(|| (publish(&cache, "e", "after"), Instant::now()));
            drop(holder);
            let killed = Instant::now();
            let guest = scope.spawn(move || {
                guest.assert_says(&["ok refresh", "ok"]);
                let published = guest.lines.next().and_then(Result::ok);
                (published.expect("it publishes"), Instant::now())
            });
            let (native, native_at) = native.join().expect("it publishes");
            let (guest, guest_at) = guest.join().expect("it publishes");
            let mut generations = [format!("ok {native} 5"), guest];
            generations.sort();
            assert_eq!(generations, ["ok 1 5", "ok 2 5"]);
            for at in [native_at, guest_at] {
                let (since, took) = (at - began, at - killed);
                assert!(since >= lease, "it had its lease still, after {since:?}");
                assert!(took < lease + SLOW, "{took:?} after the kill");
            }
        });
        assert_holds(&cache, "e", "after", 2);
    }
}

#[test]
fn a_component_that_stood_still_for_longer_than_its_lease_is_told_lease_lost() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [a, b] = ["a", "b"].map(|name| native(&dir.path().join(name)));
    let steps = "lease=1000 open=/d/a begin=e write=old open=/d/b await=go write=late publish publish read=go";
    let mut guest = Guest::start(dir.path(), steps);
    guest.assert_says(&["ok", "ok", "ok refresh", "ok", "ok"]);
    guest.signal(Signal::STOP);
    // Both have waited for the lease.
    assert_eq!(publish(&a, "e", "newer"), 1);
    let mut next = Guest::start(dir.path(), "open=/d/a,60000 refresh=e write=newest publish");
    next.assert_says(&["ok", "ok refresh", "ok", "ok 2 6"]);
    publish(&b, "go", "");
    guest.signal(Signal::CONT);
    guest.assert_says(&["ok"]);
    // A write beats, however few its bytes are, and so learns it first.
    guest.assert_says(&["LeaseLost", "LeaseLost", "Poisoned", "ok 1"]);
    assert_holds(&a, "e", "newest", 2);
}
