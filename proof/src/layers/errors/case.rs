//! One case: the work with its faults, and what must hold then.

use std::io::ErrorKind as Io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachelock::platform::memory::{Call, Fault, Keep, Op, World};
use cachelock::{Durability, Error, ErrorKind, Mutation};

use super::faults::is_clear;
use super::scenario::{Company, Job, OTHER, Scenario, short, together, work};
use crate::Broken;
use crate::sim::{Found, NEW, OLD, Work, find, last_calls, next_refresh};
use crate::support::{ENTRY, LEASE};
use crate::threads::{locked, unpanicked};

/// A fault at the call of this number.
pub(super) type Hit = (usize, Fault);

/// What the victim says.
#[derive(Debug)]
pub(super) enum Said {
    Published(u64),
    Read(Found),
    Done,
    Failed(Error),
}

/// One case, with a planted defect or without.
pub(super) struct Case<'a> {
    pub(super) scenario: Scenario,
    pub(super) before: &'a World,
    pub(super) hits: Vec<Hit>,
    pub(super) mutation: Option<Mutation>,
}

/// Calls, each with the directory it works in.
pub(super) type Calls = Vec<(Op, Arc<str>)>;

/// What the victim called, and the number of hits that came to it.
pub(super) struct Seen {
    pub(super) calls: Calls,
    pub(super) hits: usize,
}

impl Case<'_> {
    pub(super) fn run(&self) -> Result<Seen, Broken> {
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
        let mut builder = short(&process).durability(durability);
        if let Some(mutation) = self.mutation {
            builder = builder.mutation(mutation);
        }
        let cache = builder.open().map_err(|error| error.to_string())?;
        let task = world.spawn(&process, "main", move || work(job, &cache));
        let (said, other) = together(world, task, self.scenario.company)?;
        world.clear_faults();
        let seen = Seen {
            calls: locked(&calls).clone(),
            hits: met.load(Ordering::Relaxed),
        };
        let found =
            find(world, ENTRY).map_err(|error| format!("the entry cannot be read: {error}"))?;
        match (self.scenario.company, other) {
            (Company::Behind(_), Some(other)) => self.is_followed(&said, &found, other)?,
            _ => self.is_true(&said, &found, &seen)?,
        }
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
        let Scenario {
            job, old, company, ..
        } = self.scenario;
        let (before, generation) = match (old, company) {
            (true, Company::Ahead(_)) => (Found::Value(OTHER.to_vec(), Some(2)), 2),
            (true, _) => (Found::Value(OLD.to_vec(), Some(1)), 1),
            (false, _) => (Found::Missing, 0),
        };
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

    /// Whether the one that came after the victim, and was told this generation, has published after it.
    fn is_followed(&self, said: &Said, found: &Found, other: u64) -> Result<(), String> {
        let before = match said {
            Said::Published(generation) => *generation,
            Said::Failed(error) => {
                self.clear(error)?;
                1 + u64::from(error.kind() == ErrorKind::NotDurable)
            }
            _ => return Err(format!("it says {said:?}")),
        };
        match *found == Found::Value(OTHER.to_vec(), Some(other)) && other == before + 1 {
            true => Ok(()),
            false => Err(format!(
                "it says {said:?}, the next one published generation {other}, and {found:?} is read"
            )),
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
