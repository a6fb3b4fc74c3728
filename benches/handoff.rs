//! From one process's release to another's acquire, all ways alternating in one run:
//!
//! - `flock`: a blocking `flock` of the standard library; the limit
//! - `gate`: the same lock blocked for by a helper thread that wakes the caller, which is what allows a deadline
//! - `lock`: [`Cache::lock`], the gate and the lease
//! - `poll`: a lock file tried after 10 ms, doubled up to 1 s, under holds of 1 s; what many tools do
//!
//! `cargo bench --bench handoff` prints medians and ratios, and fails if a goal is missed.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cachelock::Cache;
use cachelock::platform::{self, Access};

const WAYS: [&str; 3] = ["flock", "gate", "lock"];
const ROUNDS: usize = 300;
const POLLS: usize = 8;
const DIR: &str = "CACHELOCK_BENCH_DIR";

/// The clock that all processes of a machine share.
fn now() -> Duration {
    platform::native().monotonic()
}

fn plain(dir: &Path) -> File {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("plain.lock"))
        .unwrap()
}

/// Waits by a helper thread, as the library does; returns when the caller goes on.
fn gate(dir: &Path) -> Arc<dyn platform::File> {
    let native = platform::native();
    let opened = native
        .open_dir(dir)
        .unwrap()
        .open("plain.lock", Access::Write)
        .unwrap();
    let file: Arc<dyn platform::File> = Arc::from(opened);
    if !file.try_lock().unwrap() {
        let event = native.event();
        let (helper, wake) = (file.clone(), event.clone());
        let task = move || {
            helper.lock().unwrap();
            wake.set();
        };
        native.spawn("gate", Box::new(task)).unwrap();
        while !event.wait_until(Some(native.monotonic() + Duration::from_secs(10))) {}
    }
    file
}

fn cache(dir: &Path) -> Cache {
    Cache::builder(dir.join("cache"))
        .timeout(Duration::from_secs(60))
        .open()
        .unwrap()
}

/// The other process: for each line, waits that way, says when it had the lock, and releases it.
fn wait_for_orders(dir: &Path) {
    let cache = cache(dir);
    for way in std::io::stdin().lines() {
        match way.unwrap().as_str() {
            "flock" => {
                let file = plain(dir);
                file.lock().unwrap();
                say(now());
                file.unlock().unwrap();
            }
            "gate" => {
                let file = gate(dir);
                say(now());
                file.unlock().unwrap();
            }
            "lock" => {
                let lock = cache.lock().unwrap();
                say(now());
                drop(lock);
            }
            _ => {
                let file = plain(dir);
                let mut pause = Duration::from_millis(10);
                while file.try_lock().is_err() {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                say(now());
                file.unlock().unwrap();
            }
        }
    }
}

fn say(at: Duration) {
    println!("{}", at.as_nanos());
}

struct Other {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Other {
    fn start(dir: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child = command
            .env(DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Other {
            child,
            orders,
            answers,
        }
    }

    /// Holds that way while the other waits, for `hold`; from the beginning of the release to the other's acquire.
    fn hand_off(&mut self, dir: &Path, way: &str, hold: Duration) -> Duration {
        let release: Box<dyn FnOnce()> = match way {
            "gate" => {
                let file = gate(dir);
                Box::new(move || file.unlock().unwrap())
            }
            "lock" => {
                let lock = cache(dir).lock().unwrap();
                Box::new(move || drop(lock))
            }
            _ => {
                let file = plain(dir);
                file.lock().unwrap();
                Box::new(move || file.unlock().unwrap())
            }
        };
        writeln!(self.orders, "{way}").unwrap();
        std::thread::sleep(hold);
        let released = now();
        release();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        Duration::from_nanos(answer.trim().parse().unwrap()).saturating_sub(released)
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn main() {
    if let Some(dir) = std::env::var_os(DIR) {
        return wait_for_orders(&PathBuf::from(dir));
    }
    // A failed system call would pay for a backtrace.
    assert!(
        std::env::var_os("RUST_BACKTRACE").is_none(),
        "unset RUST_BACKTRACE: it makes failed calls slow"
    );
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = dir.path();
    drop(plain(dir));
    let mut other = Other::start(dir);
    let mut times = vec![Vec::new(); WAYS.len()];
    let mut lease = Vec::new();
    let idle = cache(dir);
    for round in 0..ROUNDS + 20 {
        for (way, times) in WAYS.iter().zip(&mut times) {
            let took = other.hand_off(dir, way, Duration::from_millis(2));
            // The first rounds warm up.
            if round >= 20 {
                times.push(took);
            }
        }
        let began = now();
        drop(idle.lock().unwrap());
        lease.push(now() - began);
    }
    let mut polls: Vec<_> = (0..POLLS)
        .map(|n| other.hand_off(dir, "poll", Duration::from_millis(1000 + 37 * n as u64)))
        .collect();
    drop(other.orders);
    other.child.wait().unwrap();

    let [flock, gate, lock] = [0, 1, 2].map(|way| median(&mut times[way]));
    let (lease, poll) = (median(&mut lease), median(&mut polls));
    println!(
        "flock {flock:?}, gate {gate:?}, lock {lock:?}, an acquire and release without waiting {lease:?}, poll {poll:?}"
    );
    let goals = [
        ("gate at most twice a blocking flock", gate <= flock * 2),
        (
            "lock at most that and the bare lease steps",
            lock <= flock * 2 + lease,
        ),
        ("lock at most a hundredth of polling", lock * 100 <= poll),
    ];
    for (goal, met) in goals {
        println!("{}: {goal}", if met { "met" } else { "MISSED" });
    }
    std::process::exit(i32::from(goals.iter().any(|(_, met)| !met)));
}
