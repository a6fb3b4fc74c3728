//! From one process's release to another's acquire, all ways alternating in one run:
//!
//! - `flock`: a blocking `flock` of the standard library; the limit
//! - `gate`: the same lock blocked for by a kept helper thread that wakes the caller, which is what allows a deadline
//! - `lock`: [`Cache::lock`], which is the gate, the lease, and what keeps them together
//! - `bare`: the steps of `lock` without the hand-off: one process releases while nobody waits, and after that the other
//!   one acquires while nobody holds
//! - `poll`: a lock file tried after 10 ms, doubled up to 1 s, under holds of 1 s; what many tools do
//!
//! Where the scheduler puts the threads makes more of a difference than the way of waiting, and it puts a process that waits
//! in `flock` elsewhere than a helper thread. So the goals are judged in two placements that are the same for all ways: both
//! processes on one processor, and each on a processor of its own. What the scheduler does by itself is shown beside them.
//!
//! `cargo bench --bench handoff` prints medians and ratios, and fails if a goal is missed. Placing takes `taskset`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachelock::Cache;
use cachelock::platform::{self, Access, Event};

const ROUNDS: usize = 500;
const WARM_UP: usize = 20;
const POLLS: usize = 8;
const HOLD: Duration = Duration::from_millis(2);

/// What a copy of this program is to do, in its environment.
const ROLE: &str = "CACHELOCK_BENCH_ROLE";
const DIR: &str = "CACHELOCK_BENCH_DIR";
/// The processor of the measuring copy's child.
const CHILD_ON: &str = "CACHELOCK_BENCH_CHILD_ON";

/// The clock that all processes of a machine share.
fn now() -> Duration {
    platform::native().monotonic()
}

fn main() {
    // A failed system call would pay for a backtrace.
    assert!(
        std::env::var_os("RUST_BACKTRACE").is_none(),
        "unset RUST_BACKTRACE: it makes failed calls slow"
    );
    let dir = || PathBuf::from(std::env::var_os(DIR).expect("set with the role"));
    match std::env::var(ROLE).as_deref() {
        Ok("measure") => measure(&dir()),
        Ok(_) => wait_for_orders(&dir()),
        Err(_) => compare(),
    }
}

// ---- placements and goals

/// Measures in each placement, prints a table, and judges.
fn compare() {
    let mut placements = Vec::new();
    match processors()[..] {
        [] => println!("taskset is missing or says nothing: no placement, so no goal is judged"),
        [only] => {
            println!("only one processor: no goal is judged for two");
            placements.push(("one processor", Some([only; 2])));
        }
        [first, second, ..] => {
            placements.push(("one processor", Some([first; 2])));
            placements.push(("two processors", Some([first, second])));
        }
    }
    placements.push(("not pinned", None));
    println!("median of a hand-off in us, and how many times a blocking flock it is");
    println!("                   flock          gate           lock     bare           poll");
    let mut verdicts = Vec::new();
    for (name, processors) in placements {
        let medians = Medians::measured(processors);
        println!("{name:<15} {medians}");
        if processors.is_some() {
            verdicts.extend(medians.goals().map(|(goal, met)| (name, goal, met)));
        }
    }
    for (name, goal, met) in &verdicts {
        println!("{}, {name}: {goal}", if *met { "met" } else { "MISSED" });
    }
    std::process::exit(i32::from(verdicts.iter().any(|(.., met)| !met)));
}

/// The processors that this process may run on, by their numbers, as far as `taskset` can tell.
fn processors() -> Vec<usize> {
    let own = std::process::id().to_string();
    let output = Command::new("taskset").args(["-cp", &own]).output();
    let Ok(output) = output else {
        return Vec::new();
    };
    // "pid 1234's current affinity list: 0,2-5"
    let text = String::from_utf8_lossy(&output.stdout);
    let list = text.rsplit(' ').next().unwrap_or_default().trim();
    let ends = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.split(',').filter_map(ends).flatten().collect()
}

/// This program again, on that processor.
fn copy(role: &str, dir: &Path, processor: Option<usize>) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = match processor {
        None => Command::new(program),
        Some(processor) => {
            let mut command = Command::new("taskset");
            command.args(["-c", &processor.to_string()]).arg(program);
            command
        }
    };
    command.env(ROLE, role).env(DIR, dir);
    command
}

/// Of the ways, in the order of [`WAYS`], and then of `bare` and `poll`.
struct Medians([Duration; 5]);

impl Medians {
    /// Measured by a copy of this program on the first of these processors, with its child on the second.
    fn measured(processors: Option<[usize; 2]>) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut command = copy("measure", dir.path(), processors.map(|[first, _]| first));
        if let Some([_, second]) = processors {
            command.env(CHILD_ON, second.to_string());
        }
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        assert!(
            output.status.success(),
            "measuring ended with {}",
            output.status
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let nanos = text.split_whitespace().map(|nanos| nanos.parse().unwrap());
        let medians: Vec<_> = nanos.map(Duration::from_nanos).collect();
        Medians(medians.try_into().expect("five figures"))
    }

    fn goals(&self) -> [(&'static str, bool); 3] {
        let [flock, gate, lock, bare, poll] = self.0;
        [
            ("gate at most twice a blocking flock", gate <= flock * 2),
            (
                "lock at most that and its bare steps",
                lock <= flock * 2 + bare,
            ),
            ("lock at most a hundredth of polling", lock * 100 <= poll),
        ]
    }
}

impl std::fmt::Display for Medians {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let us = self.0.map(|time| time.as_secs_f64() * 1e6);
        let times = us.map(|time| time / us[0]);
        write!(
            f,
            "{:>8.1} {:>8.1} {:3.1}x {:>8.1} {:4.1}x {:>8.1} {:>8.0} {:>6.0}x",
            us[0], us[1], times[1], us[2], times[2], us[3], us[4], times[4]
        )
    }
}

// ---- the ways of waiting

const WAYS: [&str; 3] = ["flock", "gate", "lock"];

fn plain(dir: &Path) -> File {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("plain.lock"))
        .unwrap()
}

/// What the library's `gate` and `helper` do about a taken lock, and nothing that they do beside it: the time that the
/// mechanism takes by itself.
#[derive(Clone)]
struct Helper {
    /// The file to lock, for the thread; it sleeps while there is none.
    order: Arc<Mutex<Option<Arc<dyn platform::File>>>>,
    ordered: Arc<dyn Event>,
    locked: Arc<dyn Event>,
}

impl Helper {
    fn start() -> Self {
        let native = platform::native();
        let helper = Helper {
            order: Arc::default(),
            ordered: native.event(),
            locked: native.event(),
        };
        let thread = helper.clone();
        let task = move || {
            loop {
                let order = thread.order.lock().unwrap().take();
                match order {
                    Some(file) => {
                        file.lock().unwrap();
                        thread.locked.set();
                    }
                    None => sleep(&*thread.ordered),
                }
            }
        };
        native.spawn("gate", Box::new(task)).unwrap();
        helper
    }

    fn lock(&self, dir: &Path) -> Arc<dyn platform::File> {
        let opened = platform::native()
            .open_dir(dir)
            .unwrap()
            .open("plain.lock", Access::Write);
        let file: Arc<dyn platform::File> = Arc::from(opened.unwrap());
        if !file.try_lock().unwrap() {
            *self.order.lock().unwrap() = Some(file.clone());
            self.ordered.set();
            sleep(&*self.locked);
        }
        file
    }
}

/// Until the event is set. With a deadline, as all of the library's waits at the gate.
fn sleep(event: &dyn Event) {
    while !event.wait_until(Some(now() + Duration::from_secs(10))) {}
}

fn cache(dir: &Path) -> Cache {
    Cache::builder(dir.join("cache"))
        .timeout(Duration::from_secs(60))
        .open()
        .unwrap()
}

/// The other process: for each line, waits that way, says when it had the lock (or how long it took to get what nobody held), and releases
/// it.
fn wait_for_orders(dir: &Path) {
    let cache = cache(dir);
    let helper = Helper::start();
    for way in std::io::stdin().lines() {
        match way.unwrap().as_str() {
            "flock" => {
                let file = plain(dir);
                file.lock().unwrap();
                say(now());
                file.unlock().unwrap();
            }
            "gate" => {
                let file = helper.lock(dir);
                say(now());
                file.unlock().unwrap();
            }
            "lock" => {
                let lock = cache.lock().unwrap();
                say(now());
                drop(lock);
            }
            "bare" => {
                let began = now();
                let lock = cache.lock().unwrap();
                say(now() - began);
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

fn say(time: Duration) {
    println!("{}", time.as_nanos());
}

// ---- measuring

struct Other {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Other {
    fn start(dir: &Path) -> Self {
        let processor = std::env::var(CHILD_ON).ok();
        let mut command = copy("wait", dir, processor.map(|number| number.parse().unwrap()));
        let mut child = command
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

    /// Has the other wait that way for `hold`, then releases; from the beginning of that to the other's acquire.
    fn hand_off(&mut self, way: &str, hold: Duration, release: impl FnOnce()) -> Duration {
        self.order(way);
        std::thread::sleep(hold);
        let released = now();
        release();
        self.answer().saturating_sub(released)
    }

    fn order(&mut self, way: &str) -> &mut Self {
        writeln!(self.orders, "{way}").unwrap();
        self
    }

    fn answer(&mut self) -> Duration {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        Duration::from_nanos(answer.trim().parse().unwrap())
    }
}

/// Alternates the ways and prints their medians in nanoseconds.
fn measure(dir: &Path) {
    let file = plain(dir);
    let cache = cache(dir);
    let mut other = Other::start(dir);
    let mut times = [(); 5].map(|()| Vec::new());
    for _ in 0..WARM_UP + ROUNDS {
        for (way, times) in WAYS.iter().zip(&mut times) {
            times.push(match *way {
                "lock" => {
                    let lock = cache.lock().unwrap();
                    other.hand_off(way, HOLD, || drop(lock))
                }
                _ => {
                    file.lock().unwrap();
                    other.hand_off(way, HOLD, || file.unlock().unwrap())
                }
            });
        }
        let lock = cache.lock().unwrap();
        std::thread::sleep(HOLD);
        let began = now();
        drop(lock);
        let released = now() - began;
        times[3].push(released + other.order("bare").answer());
    }
    for n in 0..POLLS {
        file.lock().unwrap();
        let hold = Duration::from_millis(1000 + 37 * n as u64);
        times[4].push(other.hand_off("poll", hold, || file.unlock().unwrap()));
    }
    drop(other.orders);
    other.child.wait().unwrap();
    for (times, warm_up) in times.iter_mut().zip([WARM_UP; 4].into_iter().chain([0])) {
        let times = &mut times[warm_up..];
        times.sort();
        println!("{}", times[times.len() / 2].as_nanos());
    }
}
