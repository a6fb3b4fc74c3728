//! Timeouts and cancellation while another process holds the lock, on the library's own clock; and what a waiter costs.
//!
//! One test function, for figures that need the machine for themselves.
#![cfg(any(target_os = "linux", windows))]

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cachelock::{Cache, CancelToken, Locking, Timeout};
use tempfile::TempDir;

const HOLD: &str = "CACHELOCK_TEST_HOLD";
/// Under Wine each call takes longer.
const LIMIT: Duration = Duration::from_millis(if cfg!(windows) { 100 } else { 50 });

/// Not a test of its own: what the holding copy of this binary does.
#[test]
fn role() {
    let Ok(dir) = std::env::var(HOLD) else { return };
    let lock = Cache::open(dir).unwrap().lock().unwrap();
    println!("held");
    // Until the parent closes its end.
    let _ = std::io::stdin().read(&mut [0]);
    drop(lock);
}

fn hold(dir: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "role", "--nocapture"])
        .env(HOLD, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let output = child.stdout.as_mut().unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"held\n") {
        let mut byte = [0];
        assert_eq!(
            output.read(&mut byte).unwrap(),
            1,
            "the holder ended: {}",
            String::from_utf8_lossy(&said)
        );
        said.push(byte[0]);
    }
    child
}

/// Where no disk makes anybody wait who creates or removes a file, if there is such a place.
fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

/// User and system time of this process.
#[cfg(target_os = "linux")]
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // The kernel's USER_HZ, 100 on every architecture that Rust supports on Linux but Alpha.
    Duration::from_millis(ticks * 10)
}

#[track_caller]
fn check(what: &str, mut late: Vec<Duration>) {
    late.sort();
    let worst = late[(late.len() * 99).div_ceil(100) - 1];
    println!(
        "{what}: late by {:?} (median), {worst:?} (99th percentile of {})",
        late[late.len() / 2],
        late.len()
    );
    assert!(worst <= LIMIT, "{what}: {worst:?} late");
}

#[cfg(target_os = "linux")]
#[track_caller]
fn waiting_is_cheap(held: &Path) {
    let cache = Cache::builder(held)
        .timeout(Duration::from_secs(20))
        .open()
        .unwrap();
    let before = cpu_time();
    assert!(
        cache
            .lock()
            .expect_err("somebody else holds it")
            .is_timeout()
    );
    let used = cpu_time() - before;
    println!("a waiter used {used:?} of processor time in 20 s");
    // 0.1 % of a core, and the clock's grain.
    assert!(
        used <= Duration::from_millis(20 + 10),
        "a waiter used {used:?} in 20 s"
    );
}

#[test]
fn timeouts_and_cancellation_are_exact_and_waiting_is_cheap() {
    if std::env::var_os(HOLD).is_some() {
        return;
    }
    let dir = in_memory();
    let mut holder = hold(dir.path());
    for locking in [Locking::Auto, Locking::Lease] {
        for (timeout, times) in [
            (Duration::ZERO, 100),
            (Duration::from_secs(1), 8),
            (Duration::from_secs(3), 2),
        ] {
            let cache = Cache::builder(dir.path())
                .timeout(timeout)
                .locking(locking)
                .open()
                .unwrap();
            let late = (0..times).map(|_| {
                let began = Instant::now();
                let error = cache.lock().expect_err("somebody else holds it");
                let took = began.elapsed();
                assert!(error.is_timeout(), "{error}");
                assert_eq!(
                    error.holder().and_then(|holder| holder.pid),
                    Some(holder.id()),
                    "{error}"
                );
                assert!(took >= timeout, "{took:?} is too early");
                took - timeout
            });
            check(
                &format!("timeout of {timeout:?}, {locking}"),
                late.collect(),
            );
        }
        let late = (0..50).map(|n| {
            let token = CancelToken::new();
            let cache = Cache::builder(dir.path())
                .timeout(Timeout::Infinite)
                .locking(locking)
                .cancel(token.clone());
            let cache = cache.open().unwrap();
            let waiter = std::thread::spawn(move || {
                let error = cache.lock().expect_err("somebody else holds it");
                assert!(error.is_cancelled(), "{error}");
                Instant::now()
            });
            std::thread::sleep(Duration::from_millis(n));
            let cancelled = Instant::now();
            token.cancel();
            waiter.join().unwrap().saturating_duration_since(cancelled)
        });
        check(&format!("cancellation, {locking}"), late.collect());
    }

    #[cfg(target_os = "linux")]
    waiting_is_cheap(dir.path());
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    let mut names: Vec<_> = std::fs::read_dir(dir.path().join(".cachelock"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["cache.lock", "head"],
        "the waiters left nothing behind"
    );
}
