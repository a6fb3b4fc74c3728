//! From one process's release to another's acquire, all ways alternating in one run:
//!
//! - `flock`: a blocking `flock` of the standard library; the limit. `fs4`, `fd-lock` and `fslock` are the same call
//! - `gate`: the same lock blocked for by a kept helper thread that wakes the caller, which is what allows a deadline
//! - `lock`: [`cachelock::Cache::lock`], which is the gate, the lease, and what keeps them together
//! - `bare`: the steps of `lock` without the hand-off: one process releases while nobody waits, and after that the other
//!   one acquires while nobody holds
//!
//! Where the scheduler puts the threads makes more of a difference than the way of waiting, and it puts a process that waits
//! in `flock` elsewhere than a helper thread. So the goals are judged in two placements that are the same for all ways: both
//! processes on one processor, and each on a processor of its own. What the scheduler does by itself is shown beside them.
//! Placing takes `taskset`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cachelock::Durability;
use cachelock_bench::cache;

use crate::child::{self, Worker, now};
use crate::report::{Goal, Row};
use crate::run::Run;
use crate::sample::sums;
use crate::waiter::plain;

const HOLD: Duration = Duration::from_millis(2);
const WAYS: [&str; 6] = ["flock", "gate", "lock", "fs4", "fd-lock", "fslock"];

/// The processor of the measuring copy's child.
const CHILD_ON: &str = "CACHELOCK_BENCH_CHILD_ON";
const ROUNDS: &str = "CACHELOCK_BENCH_ROUNDS";

type Samples = BTreeMap<String, Vec<Duration>>;

/// The most that the hand-off of the gate may take, in blocking `flock`s.
const GATE: f64 = 1.3;

/// Measures in each placement.
pub(crate) fn compare(run: &Run) -> Vec<Row> {
    let mut placements = Vec::new();
    match child::processors()[..] {
        [] => println!("taskset is missing or says nothing: no placement, so no goal is judged"),
        [only] => placements.push(("one processor", Some([only; 2]))),
        [first, second, ..] => {
            placements.push(("one processor", Some([first; 2])));
            placements.push(("two processors", Some([first, second])));
        }
    }
    placements.push(("not placed", None));
    let mut rows = Vec::new();
    for (place, processors) in placements {
        let samples = measured(run, processors);
        let of = |way: &str| &samples[way][..];
        let goal = |limit| match processors {
            Some(_) => Goal::AtMost(limit),
            None => Goal::None,
        };
        let flock = ("flock", of("flock"));
        let what = format!("hand-off of the gate, {place}");
        rows.push(Row::of(what, of("gate"), flock, goal(GATE)));
        let limit = sums(&[(GATE, of("flock")), (1.0, of("bare"))]);
        let what = format!("hand-off of the whole lock, {place}");
        let most = "1.3 flock and bare steps";
        rows.push(Row::of(&what, of("lock"), (most, &limit), goal(1.0)));
        if processors.is_none() {
            for peer in ["fs4", "fd-lock", "fslock"] {
                let theirs = (peer, of(peer));
                rows.push(Row::of(&what, of("lock"), theirs, Goal::None));
            }
        }
    }
    rows
}

/// Measured by a copy of this program on the first of these processors, with its child on the second.
fn measured(run: &Run, processors: Option<[usize; 2]>) -> Samples {
    let dirs = run.dirs(&run.disk, ["handoff"]);
    let [dir] = dirs.paths();
    let mut command = child::copy("measure", dir, processors.map(|[first, _]| first));
    command.env(ROUNDS, run.rounds(400).to_string());
    if let Some([_, second]) = processors {
        command.env(CHILD_ON, second.to_string());
    }
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    parse(&String::from_utf8(output.stdout).unwrap())
}

/// Lines of a name and nanoseconds.
fn parse(text: &str) -> Samples {
    let mut samples = Samples::new();
    for line in text.lines() {
        let (way, nanos) = line.split_once('\t').expect("a name and a time");
        let time = Duration::from_nanos(nanos.parse().unwrap());
        samples.entry(way.to_owned()).or_default().push(time);
    }
    samples
}

/// Alternates the ways and prints each sample.
pub(crate) fn measure(dir: &Path) {
    let rounds: usize = std::env::var(ROUNDS).unwrap().parse().unwrap();
    let processor = std::env::var(CHILD_ON).ok();
    let processor = processor.map(|number| number.parse().unwrap());
    let file = plain(dir);
    let cache = cache(&dir.join("cache"), Durability::None);
    let mut other = Worker::start(child::copy("wait", dir, processor));
    let warm_up = rounds.div_ceil(10);
    for round in 0..warm_up + rounds {
        let say = |way: &str, time: Duration| {
            if round >= warm_up {
                println!("{way}\t{}", time.as_nanos());
            }
        };
        for turn in 0..WAYS.len() {
            let way = WAYS[(round + turn) % WAYS.len()];
            let time = if way == "lock" {
                let lock = cache.lock().unwrap();
                other.hand_off(way, HOLD, || drop(lock))
            } else {
                file.lock().unwrap();
                other.hand_off(way, HOLD, || file.unlock().unwrap())
            };
            say(way, time);
        }
        let lock = cache.lock().unwrap();
        std::thread::sleep(HOLD);
        let began = now();
        drop(lock);
        let released = now() - began;
        other.order("bare");
        say("bare", released + other.answer());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_kept_by_their_way_and_in_their_order() {
        let samples = parse("a\t1\nb\t2\na\t3\n");
        assert_eq!(samples["a"], [1, 3].map(Duration::from_nanos));
        assert_eq!(samples["b"], [2].map(Duration::from_nanos));
    }
}
