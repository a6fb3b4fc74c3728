//! What is done, in which cache, and who else is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cachelock::platform::memory::{Keep, Op, Process, Task, World};
use cachelock::{Cache, CacheBuilder, Durability, Error, Published};

use super::case::Said;
use crate::Size;
use crate::sim::{Found, OLD, Work};
use crate::support::{ENTRY, LEASE, begin, builder, publish, sleep};

/// Short, for a guest polls until the lease of a dead one expires.
const SHORT: Duration = LEASE.checked_div(5).unwrap();

/// What the other one publishes, and for how long it has the lock before that.
pub(super) const OTHER: &[u8] = b"the other's payload";
const HOLD: Duration = Duration::from_millis(100);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    Publish(Work),
    /// Reads the entry.
    Read,
    /// Takes the lock and gives it back.
    Sweep,
    /// Takes the lock from somebody who was killed.
    Break,
    Status,
}

/// Who else wants the lock. No fault ever hits the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    Nobody,
    /// A live holder, native or guest: the work waits for it.
    Ahead(Kind),
    /// A waiter that comes once the work has the lock, or has failed.
    Behind(Kind),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Native,
    Guest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scenario {
    pub(super) job: Job,
    pub(super) guest: bool,
    /// Whether there is an entry before.
    pub(super) old: bool,
    /// Whether somebody was killed between the two renames of a publish, and all is to be cleaned up.
    pub(super) residue: bool,
    pub(super) durability: Durability,
    pub(super) company: Company,
}

pub(super) fn scenarios(size: Size) -> Vec<Scenario> {
    let mut all = Vec::new();
    let publishes = [Work::Value, Work::Absent, Work::NotModified].map(Job::Publish);
    let others = [Job::Read, Job::Sweep, Job::Break, Job::Status];
    for guest in [false, true] {
        let alone = |job, old, residue, durability| Scenario {
            job,
            guest,
            old,
            residue,
            durability,
            company: Company::Nobody,
        };
        for job in publishes.into_iter().chain(others) {
            for old in [false, true] {
                for residue in [false, true] {
                    for durability in [Durability::Full, Durability::Data, Durability::None] {
                        let publishes = matches!(job, Job::Publish(_));
                        // Nothing to keep; nobody to take it from; durability only matters for publishes.
                        let sense = (old || job != Job::Publish(Work::NotModified))
                            && (residue || job != Job::Break)
                            && (publishes || durability == Durability::Full)
                            && (size != Size::Short || (old && !guest));
                        if sense {
                            all.push(alone(job, old, residue, durability));
                        }
                    }
                }
            }
        }
        for kind in [Kind::Native, Kind::Guest] {
            for company in [Company::Ahead(kind), Company::Behind(kind)] {
                all.push(Scenario {
                    company,
                    ..alone(Job::Publish(Work::Value), true, false, Durability::None)
                });
            }
        }
    }
    all
}

/// The world before the work: the same for all cases of a scenario.
pub(super) fn before(scenario: Scenario) -> World {
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
        let cache = short(&process).open().expect("nothing is touched");
        let task = world.spawn(&process, "main", move || publish(&cache, b"never seen"));
        world.run_to(&task, |call| {
            call.renames_to("entry") && call.name.ends_with("-0")
        });
        world.kill(&process);
    }
    world.image(0, |_| Keep::Keep)
}

pub(super) fn work(job: Job, cache: &Cache) -> Said {
    let done = |result: Result<(), Error>| result.map_or_else(Said::Failed, |()| Said::Done);
    match job {
        Job::Publish(work) => match work.run(cache, ENTRY) {
            Ok(published) => Said::Published(published.generation),
            Err(error) => Said::Failed(error),
        },
        Job::Read => match cache.entry(ENTRY).and_then(|entry| entry.read()) {
            Ok(read) => Said::Read(Found::of(read)),
            Err(error) => Said::Failed(error),
        },
        Job::Sweep => done(cache.sweep()),
        Job::Break => done(cache.break_lock().map(drop)),
        Job::Status => done(cache.status().map(drop)),
    }
}

/// The cache as victims and those beside them have it.
pub(super) fn short(process: &Arc<Process>) -> CacheBuilder {
    builder(process).lease(SHORT)
}

/// Somebody else, who refreshes the entry, too.
struct Other {
    task: Task<Result<Published, Error>>,
}

impl Other {
    /// One that has the lock, and publishes after a while.
    fn holds(world: &World, kind: Kind) -> Self {
        let has_it = Arc::new(AtomicBool::new(false));
        let other = Self::comes(world, kind, Some(has_it.clone()));
        world.run_to(&other.task, move |call| {
            call.op == Op::Wait && has_it.load(Ordering::Relaxed)
        });
        other
    }

    /// One that has not begun. `has_it` is told when it has the lock; then it holds it for a while.
    fn comes(world: &World, kind: Kind, has_it: Option<Arc<AtomicBool>>) -> Self {
        let process = match kind {
            Kind::Native => world.process("other"),
            Kind::Guest => world.guest("other"),
        };
        let cache = short(&process)
            .durability(Durability::None)
            .open()
            .expect("nothing is touched");
        let task = world.spawn(&process.clone(), "main", move || {
            let refresh = begin(&cache, OTHER)?;
            if let Some(has_it) = has_it {
                has_it.store(true, Ordering::Relaxed);
                sleep(&process, HOLD);
            }
            Ok(refresh.publish()?)
        });
        Other { task }
    }
}

/// Lets the victim, which has not begun, do its work in this company: what it says, and the generation that the other one was told if there is one.
pub(super) fn together(
    world: &World,
    victim: Task<Said>,
    company: Company,
) -> Result<(Said, Option<u64>), String> {
    let other = match company {
        Company::Nobody => return Ok((world.finish(victim), None)),
        Company::Ahead(kind) => Other::holds(world, kind),
        Company::Behind(kind) => {
            // Its stage is the first thing that a holder makes. Or it fails before that.
            world.run_until(&victim, |call| {
                call.op == Op::CreateNew && call.name.starts_with("stage-")
            });
            Other::comes(world, kind, None)
        }
    };
    let mut turn = 0;
    let in_turns = move |options: &[_]| {
        turn += 1;
        turn % options.len()
    };
    let begun = world.now();
    world
        .run_together(&[&victim, &other.task], in_turns, 100_000)
        .map_err(|unfinished| unfinished.to_string())?;
    let (said, told) = (world.finish(victim), world.finish(other.task));
    let published = told.map_err(|error| format!("the other one fails: {error}"))?;
    // A victim that could not write its claim, or not take it back, is waited for as if it had died.
    let (took, limit) = (world.now() - begun, HOLD + LEASE + LEASE / 2);
    match took <= limit {
        true => Ok((said, Some(published.generation))),
        false => Err(format!("the two took {took:?}")),
    }
}
