//! Who holds the lease, and whether that holder has stood still for too long.
//!
//! Expiry is a guess about who is alive, and a wrong one costs the holder a retry and never data: safety comes from the
//! fence. Still it should be a good guess. So it is made on the *observer's* monotonic clock, from the raw bytes of the
//! claim, and an observer that was itself suspended gets no credit for the time it slept.

use std::time::{Duration, SystemTime};

use cachelock_platform::{Access, Metadata, Monotonic};

use super::claim::{Claim, Holder, RECORD_READ};
use crate::control::{self, Control, GATE, HEAD};
use crate::error::Result;
use crate::mutation::Mutation;
use crate::transfer;
use crate::wait::Waiter;

/// How long a claim without a readable record is respected: its holder died, or is about to write it.
pub(crate) const UNREADABLE: Duration = Duration::from_millis(250);

/// By the file system's own clock a holder must have stood still for this many leases.
pub(crate) const CLOCK_LEASES: u32 = 3;

/// What can be seen of the lease at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sight {
    /// The highest epoch that ever acquired.
    pub(crate) head: u64,
    /// The last epoch that has a claim; `head` if none has.
    pub(crate) last: u64,
    /// The bytes of that claim.
    pub(crate) claim: Option<Vec<u8>>,
    /// Whether that claim is empty and was created by somebody who had the gate.
    pub(crate) unwritten_gated: bool,
}

impl Sight {
    /// Looks: the head, the claims after it *by name* (a listing may miss one), the bytes of the last.
    pub(crate) fn look(control: &Control) -> Result<Self> {
        loop {
            let head = control.head()?;
            let mut last = head;
            while last < u64::MAX && control.exists(&control::claim(last + 1))? {
                last += 1;
            }
            let claim = control.read(&control::claim(last), RECORD_READ)?;
            // A claim above the head is not removed before the head moves: if it is gone, the head has moved.
            if claim.is_some() || last == head {
                let empty = claim.as_ref().is_some_and(Vec::is_empty);
                let unwritten_gated = empty && is_marked(control.stat(&control::claim(last))?);
                return Ok(Sight {
                    head,
                    last,
                    claim,
                    unwritten_gated,
                });
            }
        }
    }

    /// The record, if there is a readable one.
    pub(crate) fn record(&self) -> Option<Claim> {
        self.claim
            .as_deref()
            .and_then(|bytes| Claim::decode(bytes).ok())
    }

    /// Who holds the lease, as the record says.
    pub(crate) fn holder(&self) -> Option<Holder> {
        self.record()
            .filter(|record| !record.released)
            .map(|record| record.holder())
    }

    /// Whether nobody holds the lease or wants to be seen as its holder.
    pub(crate) fn is_free(&self) -> bool {
        self.claim.is_none() || self.record().is_some_and(|record| record.released)
    }

    /// For how long this claim must stand still before it counts as expired.
    pub(crate) fn patience(&self, control: &Control) -> Duration {
        let own = control.cx.options.lease;
        match self.record() {
            Some(record) => own.max(record.lease),
            None if self.claim.is_some() && !control.cx.mutated(Mutation::EmptyWaitsLease) => {
                UNREADABLE
            }
            None => own,
        }
    }
}

fn is_marked(claim: Option<Metadata>) -> bool {
    claim.and_then(|metadata| metadata.mode) == Some(control::UNWRITTEN_GATED)
}

/// What one observer has seen, and for how long it has not changed.
#[derive(Default)]
pub(crate) struct Observation {
    seen: Option<Sight>,
    unchanged: Duration,
    last_look: Monotonic,
    /// How long the observer meant to sleep before the next look.
    planned: Duration,
}

impl Observation {
    /// Takes in what is seen now, and tells for how long it has stood still.
    pub(crate) fn update(&mut self, now: Monotonic, sight: &Sight, patience: Duration) -> Duration {
        if self.seen.as_ref() == Some(sight) {
            // A suspended machine makes a sample late: no sample is worth more than it was planned to take, doubled,
            // or an eighth of the lease.
            let most = (self.planned * 2).max(patience / 8);
            self.unchanged += now.saturating_sub(self.last_look).min(most);
        } else {
            self.seen = Some(sight.clone());
            self.unchanged = Duration::ZERO;
        }
        self.last_look = now;
        self.unchanged
    }

    /// Whether its owner had to wait at all.
    pub(crate) fn has_looked(&self) -> bool {
        self.seen.is_some()
    }

    /// Announces the sleep until the next look, so that it is credited in full.
    pub(crate) fn plan(&mut self, sleep: Duration) -> Duration {
        self.planned = sleep;
        sleep
    }
}

/// For callers that did not come to stay for as long as it takes to see things stand still: whether they have stood still for
/// three times `patience` by the file system's own clock, which is read from the modification time of a file created now.
///
/// What counts is the last claim, which is beaten; where there is none (somebody has the gate and nothing else), the last
/// acquire. A time in the future is as good as one long past: a clock was set.
///
/// For all others it would be the worse guess, and they do not ask: after the machine has slept, or its clock was set, every
/// live claim looks dead until its next beat.
pub(crate) fn expired_by_file_clock(
    control: &Control,
    waiter: &Waiter<'_>,
    sight: &Sight,
    patience: Duration,
) -> bool {
    // A quarter more, for looks that come late.
    if waiter.came_for(patience + patience / 4) {
        return false;
    }
    let moved = || {
        let names = [&*control::claim(sight.last), HEAD, GATE];
        names
            .iter()
            .find_map(|name| control.stat(name).ok().flatten())
    };
    let probe = || -> Option<(SystemTime, SystemTime)> {
        let moved = moved()?.modified;
        let name = control::want(control.cx.platform.random().ok()?);
        let file = control.create_unique(&name).ok()?;
        let now = file.metadata().ok().map(|metadata| metadata.modified);
        drop(file);
        let _ = control.unlink(&name);
        Some((now?, moved))
    };
    let Some((now, moved)) = probe() else {
        return false;
    };
    let apart = now
        .duration_since(moved)
        .unwrap_or_else(|future| future.duration());
    apart > patience * CLOCK_LEASES
}

/// Marks our own claim as released without removing it: for whoever gives up before the head has moved.
pub(crate) fn mark_released(control: &Control, claim: &mut Claim) -> Result<()> {
    let name = control::claim(claim.epoch);
    if let Some((file, metadata)) = control.open(&name, Access::Write)? {
        let found = transfer::read_up_to(&*file, RECORD_READ).ok();
        match found.and_then(|bytes| Claim::decode(&bytes).ok()) {
            Some(found) if found.nonce == claim.nonce => {}
            Some(_) => return Ok(()),
            None => control.check_alone(&name, &metadata)?,
        }
        claim.released = true;
        control.write(&*file, &name, &claim.encode())?;
    }
    Ok(())
}
