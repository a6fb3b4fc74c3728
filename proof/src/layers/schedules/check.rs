//! What must hold after a run, whatever its schedule was.

use std::time::Duration;

use cachelock::platform::memory::Outcome;

use super::actor::{Does, Said};
use super::scene::{Running, Scene};
use crate::sim::{Found, NEXT, OLD, find, next_refresh};
use crate::support::{LEASE, residue};
use crate::threads::locked;

impl Scene {
    /// What must hold whatever the schedule was.
    pub(super) fn check(&self, running: &mut Running) -> Result<(), String> {
        let stood_still = locked(&running.log).stood_still.clone();
        if let Some(overlap) = locked(&running.log).overlap.take() {
            return Err(overlap);
        }
        let mut published: Vec<(u64, Vec<u8>)> = Vec::new();
        let (mut refused, mut read) = (Vec::new(), Vec::new());
        let mut killed = 0;
        // Publishes whose generation nobody was told.
        let mut unheard = 0;
        if self.old {
            published.push((1, OLD.to_vec()));
        }
        for (who, task) in &running.tasks {
            match task.outcome() {
                Some(Outcome::Returned(said)) => {
                    let mut seen = 0;
                    for said in said {
                        match said {
                            Said::Published(generation, bytes) => {
                                published.push((generation, bytes))
                            }
                            // Whoever goes on all the time is never overtaken, and waits for no dead one for so long.
                            Said::Gave(why, _) if !stood_still.contains(who) => {
                                return Err(format!("{who} never stood still, and: {why}"));
                            }
                            Said::Gave(_, bytes) => refused.push(bytes),
                            Said::Read(found) => {
                                if let Found::Value(_, Some(generation)) = found {
                                    if generation < seen {
                                        return Err(format!(
                                            "{who} read {generation} after {seen}"
                                        ));
                                    }
                                    seen = generation;
                                }
                                read.push(found);
                            }
                            Said::Surpassed(found) => {
                                unheard += 1;
                                read.push(found);
                            }
                            Said::Wrong(why) => return Err(format!("{who}: {why}")),
                        }
                    }
                }
                Some(Outcome::Killed) => {
                    killed += 1;
                    unheard += 2;
                }
                Some(Outcome::Panicked(why)) => return Err(format!("{who} panicked: {why}")),
                None => return Err(format!("{who} has not ended")),
            }
        }
        published.sort();
        for pair in published.windows(2) {
            if pair[0].0 == pair[1].0 {
                return Err(format!("generation {} was given twice", pair[0].0));
            }
        }
        let last = published.last().cloned();
        let found = find(&running.world).map_err(|error| format!("it cannot be read: {error}"))?;
        let generation = match (&found, &last) {
            (Found::Missing, None) => 0,
            (Found::Value(bytes, Some(generation)), _)
                if last.as_ref() == Some(&(*generation, bytes.clone())) =>
            {
                *generation
            }
            // Somebody was killed who had published and not heard of it.
            (Found::Value(_, Some(generation)), _)
                if killed > 0 && *generation > last.as_ref().map_or(0, |last| last.0) =>
            {
                *generation
            }
            _ => {
                return Err(format!(
                    "the last publish is {last:?}, and {found:?} is read"
                ));
            }
        };
        if usize::try_from(generation).unwrap_or(0) > published.len() + unheard {
            return Err(format!("generation {generation} after {published:?}"));
        }
        for found in read.into_iter().chain([found.clone()]) {
            let fine = match &found {
                Found::Missing => !self.old,
                Found::Value(bytes, Some(generation)) => {
                    !refused.contains(bytes)
                        && (published.contains(&(*generation, bytes.clone())) || unheard > 0)
                }
                _ => false,
            };
            if !fine {
                return Err(format!("{found:?} was read, where {published:?}"));
            }
        }
        let gets = self.actors.iter().any(|actor| actor.does == Does::Get);
        let produced = locked(&running.log).produced;
        if gets && stood_still.is_empty() && produced > killed + usize::from(!self.old) {
            return Err(format!("it was fetched {produced} times"));
        }
        self.recover(running, &found, killed > 0, !stood_still.is_empty())
    }

    /// The next one gets the lock in time, and nothing is left after it.
    fn recover(
        &self,
        running: &Running,
        found: &Found,
        killed: bool,
        stood_still: bool,
    ) -> Result<(), String> {
        let left = residue(&running.world);
        if left.is_empty() && !killed {
            return Ok(());
        }
        if !killed && !stood_still && left.iter().any(|name| !name.starts_with("claim-")) {
            return Err(format!("{left:?} was left"));
        }
        let guests = self.actors.iter().any(|actor| actor.guest);
        let limit = match guests || stood_still {
            true => LEASE + LEASE / 2,
            false => Duration::from_millis(300),
        };
        debug_assert_ne!(OLD, NEXT);
        next_refresh(&running.world, found, limit)
    }
}
