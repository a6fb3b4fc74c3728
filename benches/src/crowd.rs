//! Many processes: a line of waiters, a herd, growth, and one waiter that has nothing to do.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use cachelock::{Durability, WriteLock};
use cachelock_bench::cache;

use crate::child::{self, Worker, now};
use crate::peers::peers;
use crate::report::{Goal, Row, time};
use crate::run::{Dirs, Run};
use crate::sample::{Ratio, median, sums, timed};
use crate::waiter::plain;

/// How many wait in a line.
const LINES: [usize; 4] = [2, 8, 32, 64];

/// What a line of waiters took: the median of its hand-offs, and all of them together.
#[derive(Default)]
struct Line {
    medians: Vec<Duration>,
    totals: Vec<Duration>,
    /// The same steps of the same processes, one after the other, when nobody holds.
    bare: Vec<Duration>,
}

pub(crate) fn waiters(run: &Run) -> Vec<Row> {
    let dirs = run.dirs(&run.disk, ["line"]);
    let [dir] = dirs.paths();
    let cache = cache(&dir.join("cache"), Durability::None);
    let file = plain(dir);
    let mut workers: Vec<_> = (0..LINES[3])
        .map(|_| Worker::start(child::copy("crowd", dir, None)))
        .collect();
    let mut flock = LINES.map(|_| Line::default());
    let mut ours = LINES.map(|_| Line::default());
    let mut gate = Line::default();
    let rounds = run.rounds(20);
    for round in 0..=rounds {
        // The first one warms up: threads are started.
        if round == 1 {
            (flock, ours, gate) = (
                LINES.map(|_| Line::default()),
                LINES.map(|_| Line::default()),
                Line::default(),
            );
        }
        for (index, waiters) in LINES.into_iter().enumerate() {
            let line = &mut workers[..waiters];
            file.lock().unwrap();
            hand_on(line, "flock", &mut flock[index], || file.unlock().unwrap());
            let lock = cache.lock().unwrap();
            hand_on(line, "lock", &mut ours[index], || drop(lock));
            ours[index].bare.push(bare_steps(line));
            if waiters == 2 {
                file.lock().unwrap();
                hand_on(line, "gate", &mut gate, || file.unlock().unwrap());
            }
        }
    }
    let mut rows = Vec::new();
    for (index, waiters) in LINES.into_iter().enumerate() {
        if waiters > 2 {
            let goal = match waiters {
                64 => Goal::AtMost(3.0),
                _ => Goal::None,
            };
            let of = |line: &[Line; 4]| line[index].medians.clone();
            let two = ("with 2", &ours[0].medians[..]);
            let what = format!("hand-off with {waiters} waiters");
            rows.push(Row::of(what, &of(&ours), two, goal));
        }
        let limit = sums(&[(1.0, &flock[index].totals), (1.0, &ours[index].bare)]);
        rows.push(Row::of(
            format!("{waiters} waiters, until the last has had the lock"),
            &ours[index].totals,
            ("flock and bare steps", &limit),
            Goal::AtMost(1.1),
        ));
        if waiters == 2 {
            let with_thread = sums(&[(1.0, &gate.totals), (1.0, &ours[index].bare)]);
            let what = "2 waiters, the gate and bare steps";
            let other = ("flock and bare steps", &limit[..]);
            rows.push(Row::of(what, &with_thread, other, Goal::None));
        }
    }
    rows
}

/// In so long they all wait.
fn line_up(workers: usize) {
    std::thread::sleep(Duration::from_millis(30) + Duration::from_millis(2) * workers as u32);
}

/// Has each of `workers`, after as long a rest, take the lock when the one before has released it. A process that has rested
/// takes longer than one that was at it, so what a hand-off adds shows only beside this.
fn bare_steps(workers: &mut [Worker]) -> Duration {
    line_up(workers.len());
    let mut each = |worker: &mut Worker| {
        worker.order("bare");
        let began = worker.answer();
        worker.answer().saturating_sub(began)
    };
    workers.iter_mut().map(&mut each).sum()
}

/// Lets `workers` line up that way, releases, and waits until each has had the lock.
fn hand_on(workers: &mut [Worker], way: &str, line: &mut Line, release: impl FnOnce()) {
    workers.iter_mut().for_each(|worker| worker.order(way));
    line_up(workers.len());
    let began = now();
    release();
    let mut had: Vec<_> = workers
        .iter_mut()
        .map(|worker| (worker.answer(), worker.answer()))
        .collect();
    had.sort();
    let mut before = began;
    let mut hand_offs = Vec::new();
    for (acquired, released) in had {
        hand_offs.push(acquired.saturating_sub(before));
        before = released;
    }
    line.medians.push(median(&hand_offs));
    line.totals.push(before.saturating_sub(began));
}

const HERD: usize = 64;

/// All want an entry that is missing; one produces it. Beside one process alone, and what it takes to start the others.
pub(crate) fn herd(run: &Run) -> Vec<Row> {
    let mut rows = vec![herd_of(
        run,
        "64 processes miss one entry; one producer ran",
        run.rounds(8),
        Goal::AtMost(1.3),
        &|role, dir| child::copy(role, dir, None),
    )];
    for peer in peers(run) {
        let what = format!("the same with {}", peer.name);
        let command = |role: &str, dir: &Path| peer.command(role, &dir.join("lock"));
        rows.push(herd_of(run, &what, run.rounds(3), Goal::None, &command));
    }
    rows
}

fn herd_of(
    run: &Run,
    what: &str,
    rounds: usize,
    goal: Goal,
    command: &dyn Fn(&str, &Path) -> Command,
) -> Row {
    let all = |role: &str, count: usize| {
        let dirs = run.dirs(&run.disk, ["herd"]);
        let [dir] = dirs.paths();
        let time = timed(|| {
            let start = |_| command(role, dir).spawn().unwrap();
            let children: Vec<Child> = (0..count).map(start).collect();
            for mut child in children {
                assert!(child.wait().unwrap().success());
            }
        });
        if role == "herd" {
            let runs = fs::read(dir.join("runs")).or_else(|_| fs::read(dir.join("lock.runs")));
            assert_eq!(runs.unwrap().len(), 1, "{what}: one producer must run");
        }
        time
    };
    let (mut herds, mut parts) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let alone = all("herd", 1);
        let starts = all("start", HERD);
        herds.push(all("herd", HERD));
        parts.push(alone + starts);
    }
    Row::of(what, &herds, ("one alone, and 64 starts", &parts), goal)
}

/// As many refreshes by few processes and by very many.
pub(crate) fn processes(run: &Run) -> Row {
    const REFRESHES: usize = 512;
    let (few, many) = (2, if run.quick { 64 } else { 256 });
    let dirs = run.dirs(&run.disk, ["processes"]);
    let [dir] = dirs.paths();
    let mut workers: Vec<_> = (0..many)
        .map(|_| Worker::start(child::copy("refresh", dir, None)))
        .collect();
    let mut one_each = |count: usize| {
        let workers = &mut workers[..count];
        let began = now();
        let times = (REFRESHES / count).to_string();
        workers.iter_mut().for_each(|worker| worker.order(&times));
        let ends = workers.iter_mut().map(Worker::answer);
        ends.max().unwrap().saturating_sub(began) / REFRESHES as u32
    };
    let (mut by_few, mut by_many) = (Vec::new(), Vec::new());
    for round in 0..=run.rounds(6) {
        let (few, many) = (one_each(few), one_each(many));
        if round > 0 {
            by_few.push(few);
            by_many.push(many);
        }
    }
    Row::of(
        format!("a refresh by one of {many} processes at once"),
        &by_many,
        (&format!("of {few}"), &by_few),
        Goal::AtMost(2.0),
    )
}

/// One process that waits for the lock all the while that other things are measured.
pub(crate) struct Idle {
    lock: WriteLock,
    worker: Worker,
    began: Instant,
    cpu: Duration,
    least: Duration,
    _dirs: Dirs<1>,
}

impl Idle {
    pub(crate) fn start(run: &Run) -> Self {
        let dirs = run.dirs(&run.disk, ["idle"]);
        let [dir] = dirs.paths();
        let lock = cache(&dir.join("cache"), Durability::None).lock().unwrap();
        let mut worker = Worker::start(child::copy("wait", dir, None));
        worker.order("lock");
        std::thread::sleep(Duration::from_millis(500));
        Idle {
            lock,
            cpu: worker.cpu(),
            worker,
            began: Instant::now(),
            least: Duration::from_secs(if run.quick { 5 } else { 60 }),
            _dirs: dirs,
        }
    }

    pub(crate) fn finish(mut self) -> Row {
        std::thread::sleep(self.least.saturating_sub(self.began.elapsed()));
        let (cpu, elapsed) = (self.worker.cpu() - self.cpu, self.began.elapsed());
        drop(self.lock);
        self.worker.answer();
        Row {
            what: "processor time of a waiter".to_owned(),
            ours: time(cpu),
            other: format!("one processor: {}", time(elapsed)),
            ratio: Ratio::of(&[cpu], &[elapsed]),
            goal: Goal::AtMost(0.0005),
        }
    }
}
