//! Layer 8: histories of processes that refresh and read one entry, while some of them are frozen.
//!
//! Eight processes use one cache: natives, processes that have the lease alone, guests in wasmtime, and a mix of them. Several
//! caches are used at the same time. Leases are as short as they can be. Whoever holds the lock is stopped over and over, most
//! often for longer than its lease, so that it is overtaken, and then wakes up. Everybody writes down what it did and
//! when, on one clock; a guest's times are those of the process that starts it. `check.rs` then looks for what ought not to be.

mod check;
mod guest;
mod history;
mod planted;
mod worker;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::thread;
use std::time::Duration;

use cachelock::Cache;
use rustix::process::Signal;

use crate::layer::{Broken, Control, Count, Guest, Layer, Outcome, Plan, Size};
use crate::layers;
use crate::payload::{Origin, make};
use crate::place::{Kind, Place};
use crate::process::{last_claimer, signal};
use crate::random::Random;
use crate::threads::joined;

use check::{check, commits, takeovers};
use guest::Driver;
use history::{End, History, Hold, now};
use planted::{SPOILT, Spoil};
use worker::{ENTRY, Orders, Role, cache_in, log_in, other};

/// The name of a process among the parts of `prove`.
pub(crate) const PART: &str = "history";

/// See [`worker::run`].
pub(crate) fn part(words: &[String]) -> ExitCode {
    worker::run(words)
}

/// The least there is, so that many can be overtaken.
const LEASE: Duration = Duration::from_millis(100);

/// Who takes part in a history.
#[derive(Debug, Clone, Copy)]
struct Cast {
    name: &'static str,
    natives: &'static [(Role, usize)],
    guests: usize,
}

const NATIVE: Cast = Cast {
    name: "native",
    natives: &[(Role::Native, 4), (Role::Reader, 4)],
    guests: 0,
};

const GUESTS: Cast = Cast {
    name: "guests",
    natives: &[(Role::Lease, 2), (Role::Reader, 3)],
    guests: 3,
};

const MIXED: Cast = Cast {
    name: "mixed",
    natives: &[(Role::Native, 2), (Role::Lease, 1), (Role::Reader, 3)],
    guests: 2,
};

/// What runs at the same time.
const ROUND: [Cast; 5] = [NATIVE, GUESTS, MIXED, NATIVE, MIXED];

/// See the module.
#[derive(Debug)]
pub struct Histories;

impl Layer for Histories {
    fn number(&self) -> u32 {
        8
    }

    fn waits(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        "histories"
    }

    fn run(&self, plan: &Plan) -> Result<Outcome, Broken> {
        let guest = plan.guest.as_ref();
        let guest = guest.ok_or_else(|| {
            Broken("some of its processes are guests: --wasmtime FILE --guest FILE".to_owned())
        })?;
        let targets = [
            plan.size.pick(5_000, 200_000, 2_000_000),
            plan.size.pick(200, 5_000, 50_000),
            plan.size.pick(5, 300, 3_000),
        ];
        let (seconds, most) = match plan.size {
            Size::Short => (2, 10),
            Size::Standard => (8, 30),
            Size::Long => (8, 300),
        };
        let mut counts = [0; 3];
        let mut example = None;
        for round in 0..most {
            let histories = one_round(plan, round, Duration::from_secs(seconds), guest)?;
            for (cast, history) in ROUND.iter().zip(&histories) {
                let found = check(history);
                if let Some(first) = found.first() {
                    let text = format!(
                        "seed {}, round {round}, {}: {} anomalies, the first: {first}",
                        plan.seed,
                        cast.name,
                        found.len()
                    );
                    println!("{text}");
                    return Err(Broken(text));
                }
                show(round, cast, history);
                let reads = history.reads.len() as u64;
                let new = [reads, commits(history).len() as u64, takeovers(history)];
                for (count, new) in counts.iter_mut().zip(new) {
                    *count += new;
                }
            }
            // Of natives.
            example = example.or(histories.into_iter().next());
            if counts
                .iter()
                .zip(targets)
                .all(|(count, target)| *count >= target)
            {
                break;
            }
        }
        let names = ["reads", "commits", "takeovers"];
        let count = |((what, counted), target)| Count::new(what, counted, target);
        let counts = names
            .into_iter()
            .zip(counts)
            .zip(targets)
            .map(count)
            .collect();
        let mut controls = spoilt(&example.unwrap_or_default());
        controls.extend(wrong_writers(plan)?);
        Ok(Outcome { counts, controls })
    }
}

fn show(round: u64, cast: &Cast, history: &History) {
    let natives: usize = cast.natives.iter().map(|(_, how_many)| how_many).sum();
    let commits = commits(history);
    let by = |wanted: &dyn Fn(&Hold) -> bool| {
        let by = commits.iter().filter(|(_, hold)| wanted(hold));
        by.count()
    };
    println!(
        "round {round}, {}: {} reads, {} commits ({} by guests, {} by natives with the lease alone), {} leases lost, {} taken over",
        cast.name,
        history.reads.len(),
        commits.len(),
        by(&|hold| hold.owner > natives as u64),
        by(&|hold| hold.owner <= natives as u64 && !hold.native),
        history.holds.len() - commits.len(),
        takeovers(history)
    );
}

fn broken(error: io::Error) -> Broken {
    Broken(format!("a history: {error}"))
}

/// All casts at once.
fn one_round(
    plan: &Plan,
    round: u64,
    time: Duration,
    guest: &Guest,
) -> Result<Vec<History>, Broken> {
    thread::scope(|scope| {
        let run = |(index, cast): (usize, &Cast)| {
            let mut random = Random::new(plan.seed ^ (round << 32) ^ ((index as u64) << 56));
            let (cast, seed) = (*cast, random.draw());
            scope.spawn(move || record(cast, seed, time, guest))
        };
        let running: Vec<_> = ROUND.iter().enumerate().map(run).collect();
        let ended = running.into_iter().map(|running| joined(running.join()));
        ended.collect()
    })
}

/// A process; it ends when this is dropped.
struct Worker {
    child: Child,
}

impl Worker {
    fn start(orders: &Orders) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([layers::PART, PART]).args(orders.words());
        let child = command.spawn()?;
        Ok(Self { child })
    }

    /// Until it has written down what it did.
    fn end(mut self) -> io::Result<()> {
        signal(&self.child, Signal::CONT)?;
        let status = self.child.wait()?;
        match status.success() {
            true => Ok(()),
            false => Err(other(format!("a process ended with {status}"))),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Both fail only for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `cast` does in `time`.
fn record(cast: Cast, seed: u64, time: Duration, guest: &Guest) -> Result<History, Broken> {
    let place = Place::on(Kind::Tmpfs)?;
    let dir = place.path();
    let mut random = Random::new(seed);
    let mut history = History {
        lease: LEASE.as_nanos() as u64,
        ..History::default()
    };
    history.holds.push(publish(dir, 1).map_err(broken)?);
    let until = now() + time.as_nanos() as u64;
    let mut owner = 0;
    let mut workers = Vec::new();
    for (role, how_many) in cast.natives {
        for _ in 0..*how_many {
            owner += 1;
            let orders = Orders {
                dir: dir.to_owned(),
                owner,
                role: *role,
                lease: LEASE,
                until,
                seed: random.draw(),
            };
            workers.push(Worker::start(&orders).map_err(broken)?);
        }
    }
    thread::scope(|scope| -> io::Result<()> {
        let guests = (0..cast.guests).map(|_| {
            owner += 1;
            let driver = Driver {
                guest,
                dir,
                owner,
                lease: LEASE,
                until,
                seed: random.draw(),
            };
            scope.spawn(move || driver.run())
        });
        let guests: Vec<_> = guests.collect();
        let mut random = Random::new(random.draw());
        let frozen = freeze(dir, &workers, until, &mut random);
        for worker in workers {
            worker.end()?;
        }
        for guest in guests {
            guest.join().map_err(|_| other("a driver panicked"))??;
        }
        frozen
    })
    .map_err(broken)?;
    // Whatever was lost, was lost to somebody.
    history.holds.push(publish(dir, 2).map_err(broken)?);
    for owner in 1..=owner {
        history.add(&log_in(dir, owner)).map_err(broken)?;
    }
    Ok(history)
}

/// Stops one or two processes after the other: the holder if it is one of them.
fn freeze(dir: &Path, workers: &[Worker], until: u64, random: &mut Random) -> io::Result<()> {
    while now() < until {
        thread::sleep(Duration::from_micros(random.below(20_000)));
        let mut victims = vec![random.below(workers.len() as u64) as usize];
        match holder(dir, workers) {
            Some(holder) if random.one_in(4) => victims.push(holder),
            Some(holder) => victims = vec![holder],
            None => {}
        }
        for victim in &victims {
            signal(&workers[*victim].child, Signal::STOP)?;
        }
        let lease = LEASE.as_nanos() as u64;
        // Now and then it wakes up in time.
        let least = if random.one_in(5) { 0 } else { lease };
        thread::sleep(Duration::from_nanos(least + random.below(lease)));
        for victim in &victims {
            signal(&workers[*victim].child, Signal::CONT)?;
        }
    }
    Ok(())
}

/// The lock's holder, as far as its record tells.
fn holder(dir: &Path, workers: &[Worker]) -> Option<usize> {
    let pid = last_claimer(&cache_in(dir).join(".cachelock"))?;
    workers.iter().position(|worker| worker.child.id() == pid)
}

/// Publishes from begin to end, with nobody else there.
fn publish(dir: &Path, number: u64) -> io::Result<Hold> {
    let entry = Cache::open(cache_in(dir))?.entry(ENTRY)?;
    let origin = Origin { writer: 0, number };
    let asked = now();
    let mut refresh = entry.refresh()?;
    let acquired = now();
    let epoch = refresh.epoch();
    refresh.write_all(&make(origin))?;
    let publishing = now();
    let generation = refresh.publish()?.generation;
    Ok(Hold {
        owner: 0,
        native: true,
        asked,
        acquired,
        publishing,
        ended: now(),
        epoch: Some(epoch),
        // Whoever was frozen to the end.
        overtook: None,
        origin,
        end: End::Committed { generation },
    })
}

/// Planted defects: a right history made wrong.
fn spoilt(history: &History) -> Vec<Control> {
    let spoil = |(kind, defect, spoil): (check::Kind, &str, Spoil)| {
        let mut spoilt = history.clone();
        let is_spoilt = spoil(&mut spoilt).is_some();
        let found = check(&spoilt);
        let caught = found.iter().any(|anomaly| anomaly.kind == kind);
        if !(is_spoilt && caught) {
            println!(
                "planted: {defect}: {is_spoilt}, found {} others",
                found.len()
            );
        }
        Control::new(defect, is_spoilt && caught)
    };
    SPOILT.into_iter().map(spoil).collect()
}

/// Planted defects: writers that are wrong.
fn wrong_writers(plan: &Plan) -> Result<Vec<Control>, Broken> {
    /// Of two seconds.
    const TRIES: u64 = 5;
    const EARLY: Cast = Cast {
        name: "with Mutation::StateReadEarly",
        natives: &[(Role::StateReadEarly, 5), (Role::Reader, 3)],
        guests: 0,
    };
    const RESTORER: Cast = Cast {
        name: "with one that puts old files back without the lock",
        natives: &[(Role::Restorer, 1), (Role::Native, 3), (Role::Reader, 4)],
        guests: 0,
    };
    let guest = plan.guest.as_ref();
    let guest = guest.ok_or_else(|| Broken("no guest".to_owned()))?;
    let mut controls = Vec::new();
    for (cast, kind) in [
        (EARLY, check::Kind::Generation),
        (RESTORER, check::Kind::Stale),
    ] {
        let name = cast.name;
        let mut caught = false;
        for one in 0..TRIES {
            let history = record(cast, !plan.seed ^ one, Duration::from_secs(2), guest)?;
            let found = check(&history);
            if let Some(first) = found.iter().find(|anomaly| anomaly.kind == kind) {
                let anomalies = found.len();
                println!("planted: writers {name}: {anomalies} anomalies, among them {first}");
                caught = true;
                break;
            }
        }
        controls.push(Control::new(format!("writers {name}"), caught));
    }
    Ok(controls)
}
