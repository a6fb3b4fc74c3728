//! Waiting for the lease: step 1 of acquiring, looked at again until the last claim may be overtaken.

use std::time::Duration;

use cachelock_platform::{GUEST, Monotonic, Watch};

use super::claim::Kind;
use super::expiry::{self, Observation, Sight};
use super::gate::GateGuard;
use super::lease::Request;
use super::want::{self, Courtesy, Want};
use crate::control::Control;
use crate::error::{Result, WaitingFor};
use crate::mutation::Mutation;
use crate::time;
use crate::wait::Waiter;

/// The shortest and the longest pause between two looks of a caller that can only poll. After a release it looks again half of
/// the longest later in the median, and a look is a few calls.
const POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(12));
/// The same where each look is a server's work.
const POLL_REMOTE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// The same for the one caller that has the gate: there is only one, so it may look more often.
const POLL_GATED: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// One caller's wait for the lease: what wakes it, how often it looks, and its courtesy towards others.
pub(super) struct Turn<'a> {
    control: &'a Control,
    kind: Kind,
    watch: Option<Box<dyn Watch>>,
    watch_tried: bool,
    poll: Duration,
    want: Option<Want>,
    courtesy: Courtesy,
    /// The epochs that were found taken by others, counted.
    taken: u32,
    last_taken: u64,
    shows_patience: Monotonic,
    probed: Option<Sight>,
    jitter: u64,
}

impl<'a> Turn<'a> {
    pub(super) fn new(control: &'a Control, kind: Kind) -> Self {
        Turn {
            control,
            kind,
            watch: None,
            watch_tried: false,
            poll: Duration::ZERO,
            want: None,
            courtesy: Courtesy::default(),
            taken: 0,
            last_taken: 0,
            shows_patience: Monotonic::ZERO,
            probed: None,
            jitter: 0,
        }
    }

    /// Step 1: waits until the last claim is free, released, expired or known to be dead. Returns what was seen then, and
    /// for how long the holder had stood still if it is overtaken.
    pub(super) fn wait(
        &mut self,
        waiter: &mut Waiter<'_>,
        observation: &mut Observation,
        request: &Request<'_>,
    ) -> Result<(Sight, Option<Duration>)> {
        waiter.waits_for(WaitingFor::Lease);
        loop {
            let sight = Sight::look(self.control)?;
            if sight.is_free() {
                if request.force || !self.gives_way(waiter)? {
                    return Ok((sight, None));
                }
                continue;
            }
            self.courtesy.taken();
            let patience = sight.patience(self.control);
            let unchanged = observation.update(waiter.now(), &sight, patience);
            if request.force || self.is_dead(&sight) || unchanged >= patience {
                return Ok((sight, Some(unchanged)));
            }
            waiter.held_by(sight.holder());
            if self.probed.as_ref() != Some(&sight) {
                if expiry::expired_by_file_clock(self.control, waiter, &sight, patience) {
                    return Ok((sight, Some(patience)));
                }
                self.probed = Some(sight.clone());
            }
            if !GUEST && !self.watch_tried {
                // Registered before the look that it is to save.
                self.watch_tried = true;
                self.watch = self.control.dir.watch(waiter.event().clone()).ok();
                continue;
            }
            self.note_taken(sight.last, waiter, request.gate)?;
            let sleep = self
                .sleep()
                .min(patience - unchanged)
                .max(Duration::from_millis(1));
            self.pause(waiter, observation.plan(sleep))?;
        }
    }

    /// The lease is free: leaves it for a moment to somebody who has waited longer, if there is one.
    fn gives_way(&mut self, waiter: &mut Waiter<'_>) -> Result<bool> {
        let due = self
            .courtesy
            .is_due(self.control, waiter, self.want.as_ref())?;
        if due {
            waiter.held_by(None);
            self.pause(waiter, want::LOOK)?;
        }
        Ok(due)
    }

    fn pause(&self, waiter: &mut Waiter<'_>, sleep: Duration) -> Result<()> {
        waiter.pause(waiter.now() + sleep)?;
        if let Some(want) = &self.want {
            want.beat(waiter.waited());
        }
        Ok(())
    }

    /// A gated holder is dead if the gate that it held is ours now, or its machine was started anew since.
    fn is_dead(&self, sight: &Sight) -> bool {
        let (Kind::Gated(ours), false) = (self.kind, GUEST) else {
            return false;
        };
        let Some(record) = sight.record() else {
            // Killed between creating and writing: it had the gate that is ours now. Should it have had another gate, one
            // that lost its name, a living holder is overtaken, which costs it a retry.
            return sight.unwritten_gated;
        };
        let Kind::Gated(theirs) = record.kind else {
            return false;
        };
        let boot = self.control.cx.platform.identity().boot;
        let other_boot = boot.is_some() && record.boot.is_some() && boot != record.boot;
        other_boot || theirs == ours || self.control.cx.mutated(Mutation::GateNotCompared)
    }

    /// Whoever has found the lease taken twice asks for its turn. Whoever has the gate shows those behind it that it lives: each
    /// time that somebody else has been quicker, and from time to time.
    fn note_taken(
        &mut self,
        epoch: u64,
        waiter: &Waiter<'_>,
        gate: Option<&GateGuard>,
    ) -> Result<()> {
        let now = waiter.now();
        let others = epoch != self.last_taken;
        if others {
            self.last_taken = epoch;
            self.taken += 1;
        }
        if let Some(gate) = gate
            && (others || now >= self.shows_patience)
        {
            gate.show_patience();
            self.shows_patience = now + self.control.cx.options.lease / 8;
        }
        if self.taken >= 2 && self.want.is_none() {
            self.want = Some(Want::put_up(self.control, waiter.waited())?);
        }
        Ok(())
    }

    fn sleep(&mut self) -> Duration {
        let (shortest, longest) = match self.kind {
            Kind::Gated(_) => POLL_GATED,
            _ if self.control.is_remote() => POLL_REMOTE,
            _ => POLL,
        };
        let sleep = if self.watch.is_some() && !self.control.is_remote() {
            self.control.cx.options.lease / 8
        } else if self.want.is_some() {
            shortest
        } else {
            let poll = self.poll.max(shortest);
            self.poll = (poll * 3 / 2).min(longest);
            poll - self.jittered(poll / 4)
        };
        if self.want.is_some() {
            sleep.min(want::BEAT * 3 / 4)
        } else {
            sleep
        }
    }

    /// Somebody else was quicker: not all losers should come back in the same moment.
    pub(super) fn lost_race(&mut self, waiter: &mut Waiter<'_>) -> Result<()> {
        let pause = self.jittered(Duration::from_millis(2));
        self.poll = Duration::ZERO;
        waiter.pause(waiter.now() + pause)
    }

    /// A duration below `most`. SplitMix64, seeded once: it need not be unpredictable, only different in each process.
    fn jittered(&mut self, most: Duration) -> Duration {
        if self.jitter == 0 {
            self.jitter = self
                .control
                .cx
                .platform
                .random()
                .map_or(1, |random| random as u64 | 1);
        }
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.jitter;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = mixed ^ (mixed >> 31);
        let nanos = time::nanos(most).max(1);
        Duration::from_nanos(mixed % nanos)
    }
}
