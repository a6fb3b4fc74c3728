//! What a guest takes, beside the bare calls of the same guest; and how large what it loads is.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cachelock::Durability;
use cachelock_bench::cache;

use crate::child::{Worker, now};
use crate::report::{Goal, Row, time};
use crate::run::Run;
use crate::sample::{Ratio, median};

pub(crate) fn compare(run: &Run) -> Vec<Row> {
    let mut rows = Vec::new();
    match (&run.tools.wasmtime, &run.tools.guest) {
        (Some(wasmtime), Some(guest)) => {
            let command = |dir: &Path, words: &[&str]| {
                let mut command = Command::new(wasmtime);
                command.arg("run").arg("--dir");
                command.arg(format!("{}::/cache", dir.display()));
                command.arg(guest).args(words);
                command
            };
            rows.extend(calls(run, &command));
            rows.push(wake_up(run, &command));
        }
        _ => println!("no wasmtime or no guest: the guest's lines are left out"),
    }
    for (what, path, limit) in [
        ("size of the component", &run.tools.component, 180),
        ("size of the program for guests", &run.tools.program, 900),
    ] {
        let Some(path) = path else { continue };
        let len = std::fs::metadata(path).unwrap().len();
        rows.push(Row {
            what: what.to_owned(),
            ours: format!("{} KB", len / 1000),
            other: format!("{limit} KB"),
            ratio: Ratio::exact(len as f64 / (limit * 1000) as f64),
            goal: Goal::AtMost(1.0),
        });
    }
    rows
}

type Start<'a> = dyn Fn(&Path, &[&str]) -> Command + 'a;

fn calls(run: &Run, command: &Start<'_>) -> Vec<Row> {
    let dirs = run.dirs(&run.disk, ["cache"]);
    let [dir] = dirs.paths();
    let rounds = run.rounds(1000).to_string();
    let mut command = command(dir, &["compare", &rounds]);
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    let samples = parse(&String::from_utf8(output.stdout).unwrap());
    let of = |what: &str, bare: &str, limit: f64| {
        let (ours, theirs) = &samples[what];
        let theirs = (bare, &theirs[..]);
        Row::of(format!("guest: {what}"), ours, theirs, Goal::AtMost(limit))
    };
    vec![
        of("verified read of 4 KiB", "open, read, close", 1.5),
        of("verified read of 1 MiB", "open, read, close", 1.5),
        Row {
            goal: Goal::None,
            ..of("payload of 4 KiB and tag, bare", "open, read, close", 0.0)
        },
        of("refresh of 4 KiB, no sync", "create, write, rename", 3.0),
        Row {
            goal: Goal::None,
            ..of("its files alone, no sync", "create, write, rename", 0.0)
        },
    ]
}

type Samples = BTreeMap<String, (Vec<Duration>, Vec<Duration>)>;

/// Lines of a name and two times in nanoseconds.
fn parse(text: &str) -> Samples {
    let mut samples = Samples::new();
    for line in text.lines() {
        let words: Vec<_> = line.split('\t').collect();
        let time = |index: usize| Duration::from_nanos(words[index].parse().unwrap());
        let (ours, bare) = samples.entry(words[0].to_owned()).or_default();
        ours.push(time(1));
        bare.push(time(2));
    }
    samples
}

/// From a native's release to a guest that waits, as the native sees it.
fn wake_up(run: &Run, command: &Start<'_>) -> Row {
    let dirs = run.dirs(&run.disk, ["cache"]);
    let [dir] = dirs.paths();
    let cache = cache(dir, Durability::None);
    let mut guest = Worker::start(command(dir, &["wait"]));
    let mut times = Vec::new();
    for round in 0..=run.rounds(60) {
        let lock = cache.lock().unwrap();
        guest.order("lock");
        // Not in step with the guest's pauses.
        std::thread::sleep(Duration::from_millis(250) + Duration::from_millis(7) * (round as u32));
        let released = now();
        drop(lock);
        guest.line();
        // The first one began while the guest was compiled.
        if round > 0 {
            times.push(now() - released);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let most = Duration::from_millis(10);
    Row {
        what: "guest: wake-up after a native's release".to_owned(),
        ours: time(median(&times)),
        other: time(most),
        ratio: Ratio::of(&times, &vec![most; times.len()]),
        goal: Goal::AtMost(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_guest_are_kept_by_name() {
        let samples = parse("read\t1\t2\nread\t3\t4\n");
        let (ours, bare) = &samples["read"];
        assert_eq!(ours[..], [1, 3].map(Duration::from_nanos));
        assert_eq!(bare[..], [2, 4].map(Duration::from_nanos));
    }
}
