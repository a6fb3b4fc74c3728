//! What must hold after a run, whatever its schedule was.

use std::collections::HashSet;
use std::time::Duration;

use cachelock::Mutation;
use cachelock::platform::memory::Outcome;

use super::actor::{Content, Does, Log, Said};
use super::scene::{Running, Scene};
use crate::sim::{Found, NEXT, OLD, find, next_refresh_with};
use crate::support::{ENTRY, LEASE, residue};
use crate::threads::locked;

/// What the actors have told.
#[derive(Default)]
struct Heard {
    /// Each with its generation, in order.
    published: Vec<(u64, Content)>,
    /// What somebody was told is not published.
    refused: Vec<Content>,
    read: Vec<Found>,
    killed: usize,
    /// The most publishes whose generation nobody was told.
    unheard: usize,
}

impl Heard {
    fn of(scene: &Scene, running: &Running, stood_still: &HashSet<usize>) -> Result<Self, String> {
        let mut heard = Heard::default();
        if scene.old {
            heard.published.push((1, Some(OLD.to_vec())));
        }
        for (who, task) in &running.tasks {
            match task.outcome() {
                Some(Outcome::Returned(said)) => {
                    heard.take(*who, said, stood_still.contains(who))?;
                }
                Some(Outcome::Killed) => {
                    heard.killed += 1;
                    heard.unheard += 2;
                }
                Some(Outcome::Panicked(why)) => return Err(format!("{who} panicked: {why}")),
                None => return Err(format!("{who} has not ended")),
            }
        }
        heard.published.sort();
        for pair in heard.published.windows(2) {
            if pair[0].0 == pair[1].0 {
                return Err(format!("generation {} was given twice", pair[0].0));
            }
        }
        Ok(heard)
    }

    fn take(&mut self, who: usize, said: Vec<Said>, stood_still: bool) -> Result<(), String> {
        let mut seen = 0;
        for said in said {
            match said {
                Said::Published(generation, content) => self.published.push((generation, content)),
                // Whoever goes on all the time is never overtaken, and waits for no dead one for so long.
                Said::Gave(why, _) if !stood_still => {
                    return Err(format!("{who} never stood still, and: {why}"));
                }
                // The same bytes are published with the first rename, that of the tag, whatever becomes of the second.
                Said::Gave(_, content) if content.as_deref() == Some(OLD) => self.unheard += 1,
                Said::Gave(_, content) => self.refused.push(content),
                Said::Read(found) => {
                    if let Found::Value(_, Some(generation)) = found {
                        if generation < seen {
                            return Err(format!("{who} read {generation} after {seen}"));
                        }
                        seen = generation;
                    }
                    self.read.push(found);
                }
                Said::Surpassed(found) => {
                    self.unheard += 1;
                    self.read.push(found);
                }
                Said::Wrong(why) => return Err(format!("{who}: {why}")),
            }
        }
        Ok(())
    }

    /// The generation of what is there in the end, which must be the last that was published.
    fn last_is(&self, found: &Found, absents: bool) -> Result<u64, String> {
        let last = self.published.last();
        let generation = last.map_or(0, |last| last.0);
        let fits = match (found, last) {
            (Found::Missing, None | Some((_, None))) => Some(generation),
            (Found::Value(bytes, found), Some((_, Some(last))))
                if *found == Some(generation) && bytes == last =>
            {
                *found
            }
            // Somebody was killed who had published and not heard of it.
            (Found::Value(_, Some(found)), _) if self.killed > 0 && *found > generation => {
                Some(*found)
            }
            (Found::Missing, _) if self.killed > 0 && absents => Some(generation + 1),
            _ => None,
        };
        fits.ok_or_else(|| format!("the last publish is {last:?}, and {found:?} is read"))
    }

    /// Whether a reader may find this at some time.
    fn may_be_read(&self, found: &Found, old: bool, absents: bool) -> bool {
        match found {
            Found::Missing => {
                let absent = |(_, content): &(u64, Content)| content.is_none();
                !old || self.published.iter().any(absent) || (absents && self.unheard > 0)
            }
            Found::Value(bytes, Some(generation)) => {
                let content = Some(bytes.clone());
                let unheard = self.unheard > 0 && !self.refused.contains(&content);
                unheard || self.published.contains(&(*generation, content))
            }
            _ => false,
        }
    }
}

impl Scene {
    /// What must hold whatever the schedule was.
    pub(super) fn check(
        &self,
        running: &Running,
        mutation: Option<Mutation>,
    ) -> Result<(), String> {
        let Log {
            stood_still,
            overlap,
            produced,
            ungated,
            ..
        } = std::mem::take(&mut *locked(&running.log));
        if let Some(overlap) = overlap {
            return Err(overlap);
        }
        let does = |what| self.actors.iter().any(|actor| actor.does == what);
        let absents = does(Does::Absent);
        let heard = Heard::of(self, running, &stood_still)?;
        // Who finds an empty claim takes its maker for dead if that had the gate, and guesses wrong if that was another gate.
        if heard.killed == 0 && stood_still.is_empty() && !ungated {
            let takeovers = |cache: &cachelock::Cache| cache.metrics().takeovers;
            if running.caches.iter().map(takeovers).sum::<u64>() > 0 {
                return Err("nobody stood still, and somebody was taken over".to_owned());
            }
        }
        let found =
            find(&running.world, ENTRY).map_err(|error| format!("it cannot be read: {error}"))?;
        let generation = heard.last_is(&found, absents)?;
        let published = &heard.published;
        if usize::try_from(generation).unwrap_or(0) > published.len() + heard.unheard {
            return Err(format!("generation {generation} after {published:?}"));
        }
        for found in heard.read.iter().chain([&found]) {
            if !heard.may_be_read(found, self.old, absents) {
                return Err(format!("{found:?} was read, where {published:?}"));
            }
        }
        let missing = usize::from(!self.old);
        if does(Does::Get) && stood_still.is_empty() && produced > heard.killed + missing {
            return Err(format!("it was fetched {produced} times"));
        }
        let (killed, stood_still) = (heard.killed > 0, !stood_still.is_empty());
        self.recover(running, &found, killed, stood_still, mutation)
    }

    /// The next one gets the lock in time, and nothing is left after it.
    fn recover(
        &self,
        running: &Running,
        found: &Found,
        killed: bool,
        stood_still: bool,
        mutation: Option<Mutation>,
    ) -> Result<(), String> {
        let left = residue(&running.world);
        if left.is_empty() && !killed {
            return Ok(());
        }
        let is_claim = |name: &&String| name.starts_with("claim-");
        if !killed && !stood_still && !left.iter().all(|name| is_claim(&name)) {
            return Err(format!("{left:?} was left"));
        }
        let is_written = |name: &String| {
            let path = format!("/cache/.cachelock/{name}");
            running
                .world
                .metadata(&path)
                .is_some_and(|claim| claim.len > 0)
        };
        // A guest's claim is waited for if it was written; the last one decides. And whoever has gone past a frozen gate may have
        // a thread that was granted the kernel lock since, and that stands still now like everybody but the next.
        let guests = self.actors.iter().any(|actor| actor.guest);
        let limit = match left.iter().rfind(is_claim) {
            _ if stood_still => LEASE + LEASE / 2,
            Some(last) if guests && is_written(last) => LEASE + LEASE / 2,
            _ => Duration::from_millis(300),
        };
        debug_assert_ne!(OLD, NEXT);
        next_refresh_with(&running.world, ENTRY, found, limit, mutation)
    }
}
