//! Layer 4: every error of the system at every call, alone and two together.
//!
//! A case is some work of the library, in which one or two calls meet a fault each: an error that such a call can answer, or
//! a read or write that does less than asked for. Afterwards: what the work said is clear and true, the entry is whole, an
//! acknowledged publish outlives a power cut, and the next refresh succeeds and leaves nothing.

use std::collections::HashSet;
use std::io::ErrorKind as Io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachelock::platform::memory::{Call, Fault, Keep, Op, World};
use cachelock::{Cache, Durability, Error, ErrorKind, Mutation};

use crate::random::Random;
use crate::sim::{Found, NEW, OLD, Work, find, last_calls, next_refresh};
use crate::support::{ENTRY, LEASE, builder, publish};
use crate::threads::{each, locked, unpanicked};
use crate::{Broken, Control, Count, Layer, Outcome, Plan, Size};

/// The layer.
#[derive(Debug)]
pub(super) struct Errors;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Publish(Work),
    /// Reads the entry.
    Read,
    /// Takes the lock and gives it back.
    Sweep,
    /// Takes the lock from somebody who was killed.
    Break,
    Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scenario {
    job: Job,
    guest: bool,
    /// Whether there is an entry before.
    old: bool,
    /// Whether somebody was killed between the two renames of a publish, and all is to be cleaned up.
    residue: bool,
    durability: Durability,
}

/// A fault at the call of this number.
type Hit = (usize, Fault);

/// What the victim says.
#[derive(Debug)]
enum Said {
    Published(u64),
    Read(Found),
    Done,
    Failed(Error),
}

/// What a call may answer, besides what it should.
fn faults(op: Op) -> Vec<Fault> {
    let errors = |kinds: &[Io]| kinds.iter().copied().map(Fault::Error).collect::<Vec<_>>();
    // EIO, and no more descriptors: errors that only have a number.
    let any = [
        Fault::Raw(5),
        Fault::Error(Io::PermissionDenied),
        Fault::Error(Io::TimedOut),
    ];
    let opens = [Fault::Raw(24), Fault::Raw(12)];
    let full = [Io::StorageFull, Io::QuotaExceeded, Io::ReadOnlyFilesystem];
    let mut all = any.to_vec();
    match op {
        Op::Start | Op::Wait => return Vec::new(),
        Op::OpenDir | Op::OpenRead | Op::Reopen => all.extend(opens),
        Op::OpenWrite => {
            all.extend(opens);
            all.extend(errors(&[Io::ReadOnlyFilesystem]));
        }
        Op::CreateNew => {
            all.extend(opens);
            all.extend(errors(&full));
        }
        Op::CreateDir | Op::CreateDirAll | Op::SetMode | Op::Touch | Op::Close => {
            all.extend(errors(&full));
        }
        Op::Write | Op::SetLen => {
            all.extend(errors(&full));
            all.extend(errors(&[Io::FileTooLarge]));
            all.push(Fault::Short(1));
        }
        Op::Rename => {
            all.extend(errors(&full));
            all.extend(errors(&[Io::CrossesDevices]));
        }
        Op::Unlink => all.extend(errors(&[Io::ReadOnlyFilesystem])),
        Op::Read => all.push(Fault::Short(1)),
        Op::SyncFile => all.extend(errors(&[Io::StorageFull, Io::QuotaExceeded])),
        Op::SyncDir => all.extend(errors(&[Io::StorageFull, Io::Unsupported])),
        Op::Watch => all.extend(errors(&[Io::Unsupported])),
        Op::TryLock | Op::Lock | Op::Unlock => all.extend(errors(&[Io::Unsupported])),
        Op::Spawn => all.extend(errors(&[Io::WouldBlock, Io::Unsupported])),
        _ => {}
    }
    all
}

/// Whether an error of this kind tells what happened when the system said `fault`.
fn is_clear(found: ErrorKind, fault: Fault) -> bool {
    let Fault::Error(kind) = fault else {
        return matches!(fault, Fault::Raw(_)) && found == ErrorKind::Io;
    };
    match kind {
        Io::StorageFull | Io::QuotaExceeded => found == ErrorKind::StorageFull,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => found == ErrorKind::Permission,
        Io::Unsupported => found == ErrorKind::NoLock,
        _ => found == ErrorKind::Io,
    }
}

fn scenarios(size: Size) -> Vec<Scenario> {
    let mut all = Vec::new();
    let publishes = [Work::Value, Work::Absent, Work::NotModified].map(Job::Publish);
    let others = [Job::Read, Job::Sweep, Job::Break, Job::Status];
    for job in publishes.into_iter().chain(others) {
        for old in [false, true] {
            for residue in [false, true] {
                for guest in [false, true] {
                    for durability in [Durability::Full, Durability::Data] {
                        let scenario = Scenario {
                            job,
                            guest,
                            old,
                            residue,
                            durability,
                        };
                        let publishes = matches!(job, Job::Publish(_));
                        // Nothing to keep; nobody to take it from; durability only matters for publishes.
                        let sense = (old || job != Job::Publish(Work::NotModified))
                            && (residue || job != Job::Break)
                            && (publishes || durability == Durability::Full)
                            && (size != Size::Short || (old && !guest));
                        if sense {
                            all.push(scenario);
                        }
                    }
                }
            }
        }
    }
    all
}

/// The world before the work: the same for all cases of a scenario.
fn begin(scenario: Scenario) -> World {
    let world = World::simulated();
    if scenario.old {
        let process = world.process("first");
        let cache = builder(&process)
            .durability(Durability::Full)
            .open()
            .expect("nothing is touched");
        let task = world.spawn(&process, "main", move || publish(&cache, OLD));
        world.finish(task).expect("nothing disturbs it");
    }
    if scenario.residue {
        let process = world.process("killed");
        let cache = builder(&process).open().expect("nothing is touched");
        let task = world.spawn(&process, "main", move || publish(&cache, b"never seen"));
        world.run_to(&task, |call| {
            call.renames_to("entry") && call.name.ends_with("-0")
        });
        world.kill(&process);
    }
    world.image(0, |_| Keep::Keep)
}

fn work(job: Job, cache: &Cache) -> Said {
    let done = |result: Result<(), Error>| result.map_or_else(Said::Failed, |()| Said::Done);
    match job {
        Job::Publish(work) => match work.run(cache, ENTRY) {
            Ok(published) => Said::Published(published.generation),
            Err(error) => Said::Failed(error),
        },
        Job::Read => match cache.entry("entry").and_then(|entry| entry.read()) {
            Ok(None) => Said::Read(Found::Missing),
            Ok(Some(read)) => Said::Read(Found::Value(read.to_vec(), read.meta().generation)),
            Err(error) => Said::Failed(error),
        },
        Job::Sweep => done(cache.sweep()),
        Job::Break => done(cache.break_lock().map(drop)),
        Job::Status => done(cache.status().map(drop)),
    }
}

/// One case, with a planted defect or without.
struct Case<'a> {
    scenario: Scenario,
    before: &'a World,
    hits: Vec<Hit>,
    mutation: Option<Mutation>,
}

/// Calls, each with the directory it works in.
type Calls = Vec<(Op, Arc<str>)>;

/// What the victim called, and the number of hits that came to it.
struct Seen {
    calls: Calls,
    hits: usize,
}

impl Case<'_> {
    fn run(&self) -> Result<Seen, Broken> {
        let world = self.before.image(0, |_| Keep::Keep);
        let result = unpanicked(|| self.run_in(&world).map_err(Broken));
        result.map_err(|broken| {
            let (scenario, hits) = (self.scenario, &self.hits);
            Broken(format!(
                "{broken}\n{scenario:?}, faults at calls {hits:?}, {:?}\n{}",
                self.mutation,
                last_calls(&world)
            ))
        })
    }

    fn run_in(&self, world: &World) -> Result<Seen, String> {
        let Scenario {
            job, durability, ..
        } = self.scenario;
        let calls = Arc::new(Mutex::new(Vec::new()));
        let met = Arc::new(AtomicUsize::new(0));
        self.inject(world, &calls, &met);
        let process = match self.scenario.guest {
            true => world.guest("victim"),
            false => world.process("victim"),
        };
        let mut builder = builder(&process).durability(durability);
        if let Some(mutation) = self.mutation {
            builder = builder.mutation(mutation);
        }
        let cache = builder.open().map_err(|error| error.to_string())?;
        let task = world.spawn(&process, "main", move || work(job, &cache));
        let said = world.finish(task);
        world.clear_faults();
        let seen = Seen {
            calls: locked(&calls).clone(),
            hits: met.load(Ordering::Relaxed),
        };
        let found =
            find(world, ENTRY).map_err(|error| format!("the entry cannot be read: {error}"))?;
        self.is_true(&said, &found, &seen)?;
        if let (Said::Published(_), Durability::Full) = (&said, durability)
            && !self.is_excused(&seen)
        {
            let image = world.image(1, |_| Keep::Lose);
            let after = find(&image, ENTRY).map_err(|error| error.to_string())?;
            if after != found {
                return Err(format!(
                    "acknowledged, and after a power cut {after:?} is read and not {found:?}"
                ));
            }
        }
        // Two errors may keep whoever has the lease alone from giving it back: then that has to expire.
        let lease_only = self.scenario.guest || job == Job::Break;
        let limit = match lease_only && self.hits.len() > 1 {
            true => LEASE + LEASE / 2,
            false => Duration::from_millis(600),
        };
        next_refresh(world, ENTRY, &found, limit)?;
        Ok(seen)
    }

    /// Faults at the victim's calls, counted from 0.
    fn inject(&self, world: &World, calls: &Arc<Mutex<Calls>>, met: &Arc<AtomicUsize>) {
        let note = calls.clone();
        let counted = move |call: &Call| {
            if &*call.process == "victim" {
                let mut calls = locked(&note);
                let place = match call.dir.is_empty() {
                    true => call.name.as_str().into(),
                    false => call.dir.clone(),
                };
                calls.push((call.op, place));
            }
            false
        };
        // First, so that it sees each call.
        world.inject(counted, Fault::Short(1), 1);
        for &(number, fault) in &self.hits {
            let (calls, met) = (calls.clone(), met.clone());
            let matches = move |call: &Call| {
                let at = locked(&calls).len();
                let matches = &*call.process == "victim" && at == number + 1;
                met.fetch_add(usize::from(matches), Ordering::Relaxed);
                matches
            };
            world.inject(matches, fault, 1);
        }
    }

    /// Whether a fault hit a sync that is as good as it gets: where directories cannot be synced, and above the cache's own.
    fn is_excused(&self, seen: &Seen) -> bool {
        self.hits.iter().any(|(number, fault)| {
            let above = |dir: &str| !dir.starts_with("/cache");
            let unsupported = *fault == Fault::Error(Io::Unsupported);
            match seen.calls.get(*number) {
                Some((Op::SyncDir, dir)) => unsupported || above(dir),
                Some((Op::OpenDir, dir)) => above(dir),
                _ => false,
            }
        })
    }

    /// Whether what was said goes with what is there.
    fn is_true(&self, said: &Said, found: &Found, seen: &Seen) -> Result<(), String> {
        let Scenario { job, old, .. } = self.scenario;
        let before = match old {
            true => Found::Value(OLD.to_vec(), Some(1)),
            false => Found::Missing,
        };
        let generation = u64::from(old);
        let after = match job {
            Job::Publish(Work::Value) => Found::Value(NEW.to_vec(), Some(generation + 1)),
            Job::Publish(Work::Absent) => Found::Missing,
            _ => before.clone(),
        };
        let only = |allowed: &Found| match found == allowed {
            true => Ok(()),
            false => Err(format!("it says {said:?}, and {found:?} is read")),
        };
        match said {
            Said::Published(now) => {
                let moved = u64::from(job != Job::Publish(Work::NotModified));
                match *now == generation + moved {
                    true => only(&after),
                    false => Err(format!("it is generation {now}")),
                }
            }
            Said::Done => only(&before),
            Said::Read(read) if *read == before => only(&before),
            // Whoever may not read the tag gets the payload unverified.
            Said::Read(Found::Value(bytes, None)) if bytes == OLD && self.is_denied() => {
                only(&before)
            }
            Said::Read(read) => Err(format!("{read:?} was read")),
            Said::Failed(error) if seen.hits == 0 => Err(format!("without a fault: {error}")),
            Said::Failed(error) => {
                self.clear(error)?;
                only(match error.kind() {
                    ErrorKind::NotDurable => &after,
                    _ => &before,
                })
            }
        }
    }

    fn is_denied(&self) -> bool {
        let denied = Fault::Error(Io::PermissionDenied);
        self.hits.iter().any(|(_, fault)| *fault == denied)
    }

    fn clear(&self, error: &Error) -> Result<(), String> {
        let text = error.to_string();
        if !text.contains("/cache") || error.path().is_none() {
            return Err(format!("it does not say where: {text}"));
        }
        let mut faults = self.hits.iter().map(|(_, fault)| *fault);
        if error.kind() != ErrorKind::NotDurable
            && !faults.any(|fault| is_clear(error.kind(), fault))
        {
            return Err(format!(
                "{:?} does not say what happened: {text}",
                error.kind()
            ));
        }
        Ok(())
    }
}

/// All cases with one fault.
fn singles(scenario: Scenario, mutation: Option<Mutation>) -> Result<(u64, Calls), Broken> {
    let before = &begin(scenario);
    let case = |hits| Case {
        scenario,
        before,
        hits,
        mutation,
    };
    let calls = case(Vec::new()).run()?.calls;
    let mut count = 0;
    for (number, (op, _)) in calls.iter().enumerate() {
        for fault in faults(*op) {
            let seen = case(vec![(number, fault)]).run()?;
            if seen.hits != 1 {
                return Err(Broken(format!(
                    "{scenario:?}: call {number} was never made"
                )));
            }
            count += 1;
        }
    }
    Ok((count, calls))
}

/// `count` different pairs of faults, drawn by seed. The second is at a call that the first has led to.
fn pairs(scenario: Scenario, calls: &Calls, count: u64, mut random: Random) -> Result<u64, Broken> {
    let before = &begin(scenario);
    let mut tried = HashSet::new();
    let mut done = 0;
    let mut draws = 0;
    while done < count && draws < 20 * count {
        draws += 1;
        let first = random.pick(calls.len());
        let second = first + 1 + random.pick((calls.len() - first).min(24) + 4);
        let (one, other) = (faults(calls[first].0), calls.get(second));
        // Beyond the calls of an undisturbed run nobody knows what comes: an error that any call may answer.
        let two = other.map_or_else(|| faults(Op::Stat), |(op, _)| faults(*op));
        if one.is_empty() || two.is_empty() {
            continue;
        }
        let (a, b) = (random.pick(one.len()), random.pick(two.len()));
        if !tried.insert((first, second, a, b)) {
            continue;
        }
        let case = Case {
            scenario,
            before,
            hits: vec![(first, one[a]), (second, two[b])],
            mutation: None,
        };
        done += u64::from(case.run()?.hits == 2);
    }
    Ok(done)
}

impl Layer for Errors {
    fn number(&self) -> u32 {
        4
    }

    fn name(&self) -> &'static str {
        "errors"
    }

    fn run(&self, plan: &Plan) -> Result<Outcome, Broken> {
        let scenarios = scenarios(plan.size);
        let ran = each(plan.jobs, &scenarios, |scenario| {
            singles(*scenario, None).map(|(count, calls)| (*scenario, count, calls))
        })?;
        let single: u64 = ran.iter().map(|(_, count, _)| count).sum();
        let target = plan.size.pick(1_000, 50_000, 500_000);
        // The longer the work, the more pairs there are.
        let weight: u64 = ran.iter().map(|(_, count, _)| count).sum();
        let numbered: Vec<_> = ran.iter().enumerate().collect();
        let drawn = each(
            plan.jobs,
            &numbered,
            |(number, (scenario, count, calls))| {
                let share = target * 11 / 10 * count / weight + 1;
                pairs(*scenario, calls, share, Random::at(plan.seed, &[*number]))
                    .map_err(|broken| Broken(format!("{broken}\nseed {}", plan.seed)))
            },
        )?;
        let caught = singles(
            Scenario {
                job: Job::Publish(Work::Value),
                guest: false,
                old: true,
                residue: false,
                durability: Durability::Full,
            },
            Some(Mutation::SyncErrorSwallowed),
        );
        let all = plan.size.pick(1_000, 10_000, 10_000);
        Ok(Outcome {
            counts: vec![
                Count::new("single errors, all of them", single, all),
                Count::new("pairs of errors", drawn.iter().sum(), target),
            ],
            controls: vec![Control::new("SyncErrorSwallowed", caught.is_err())],
        })
    }
}
