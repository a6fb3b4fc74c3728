//! The lease: numbered claims, a fence, a register, and a check. This is what makes an overtaken holder harmless.
//!
//! A directory offers create-new, rename, unlink and stat, and nothing that excludes a process that fell asleep between
//! two of them. So the lease does not try to. Each holder has an *epoch*, one above the last; whoever becomes holder first
//! removes the files that all earlier epochs could still rename into place (the fence). An overtaken holder may wake up at
//! any instruction and run on: the rename that would publish its work finds nothing to rename.
//!
//! # Acquire
//!
//! 1. Look: `head` is the highest epoch that ever acquired; after it, by name, the claims. The last one is free, or must go
//!    away, be released, or expire.
//! 2. Create-new `claim-E`, E one above the last. Exactly one caller can.
//! 3. Fence: list, then unlink every stage and next head of an epoch below E; repeat until a listing shows none.
//! 4. Create `head-E-nonce`, and *check*: no `claim-(E+1)`, and then: `head` below E. Rename it to `head`. That is the moment
//!    of acquiring. Now older claims may go.
//!
//! The same check, with `head` equal to E, follows the creation of each stage. Why it is enough: the holder creates a file and
//! then looks for `claim-(E+1)`; the taker creates `claim-(E+1)` and then lists. One of them sees the other. The order of
//! the two looks matters, too: a `claim-(E+1)` that came and went has left `head` above E.
//!
//! # What must not be done
//!
//! - A claim is unlinked only by somebody who has seen `head` reach its epoch. Earlier it is marked `released` and stays:
//!   otherwise its epoch could be claimed twice.
//! - A stage's name is never used twice.
//! - `head` never goes back, so it is renamed only after the fence and the check.
//!
//! Each of these rules has an entry in [`Mutation`], and a test that fails without it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cachelock_platform::{Access, File, Monotonic, Watch};

use super::claim::{Claim, Kind, RECORD_READ};
use super::expiry::{self, Observation, Sight};
use super::want::{self, Want};
use crate::control::{self, Control, HEAD};
use crate::error::{Error, Result, WaitingFor};
use crate::events::{Event, EventKind};
use crate::mutation::Mutation;
use crate::section::Section;
use crate::wait::Waiter;

/// The shortest and the longest pause between two looks of a caller that can only poll.
const POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// The same for the one caller that has the gate: there is only one, so it may look more often.
const POLL_GATED: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// Epochs are lengths of a file, so they end where file offsets do.
const EPOCH_MAX: u64 = i64::MAX as u64;

/// How a caller wants the lease.
pub(crate) struct Request {
    pub(crate) kind: Kind,
    /// Takes the last claim as expired at once: an operator's force.
    pub(crate) force: bool,
}

/// A held lease. [`Lease::release`] gives it back; without that it must expire.
pub(crate) struct Lease {
    control: Control,
    pub(crate) epoch: u64,
    nonce: u128,
    claim: Mutex<Claim>,
    /// Excludes a beat from the release and from another beat; not a mutex, for a beat makes platform calls.
    section: Section,
    stages: AtomicU64,
    released: AtomicBool,
    lost: AtomicBool,
    next_beat: Mutex<Monotonic>,
}

impl Lease {
    /// Waits for the lease and takes it: steps 1 to 4.
    pub(crate) fn acquire(
        control: &Control,
        request: &Request,
        waiter: &mut Waiter<'_>,
        observation: &mut Observation,
    ) -> Result<Self> {
        let mut turn = Turn::new(control, request.kind);
        loop {
            waiter.check_cancelled()?;
            let (sight, overtakes) = turn.wait(waiter, observation, request)?;
            match Attempt::start(control, request.kind, &sight)? {
                Some(attempt) => match attempt.finish()? {
                    Some(acquired) => {
                        acquired.announce(overtakes);
                        return Ok(acquired.lease);
                    }
                    None => turn.lost_race(waiter)?,
                },
                None => turn.lost_race(waiter)?,
            }
        }
    }

    /// Creates a stage of this epoch and checks that the lease still stands. The name is never used again.
    pub(crate) fn create_stage(&self) -> Result<(String, Box<dyn File>)> {
        let number = self.stages.fetch_add(1, Ordering::Relaxed);
        let name = control::stage(self.epoch, self.nonce, number);
        let unchecked = self.control.cx.mutated(Mutation::StageNotChecked);
        if unchecked {
            self.check()?;
        }
        let file = self.control.create_unique(&name)?;
        if !unchecked && let Err(error) = self.check() {
            let _ = self.control.unlink(&name);
            return Err(error);
        }
        Ok((name, file))
    }

    /// The check: fails if somebody has claimed a later epoch.
    fn check(&self) -> Result<()> {
        match self.overtaken_by()? {
            None => Ok(()),
            Some(reason) => Err(self.lose(reason)),
        }
    }

    pub(crate) fn overtaken_by(&self) -> Result<Option<String>> {
        let next_claim =
            || -> Result<bool> { self.control.exists(&control::claim(self.epoch + 1)) };
        let head_moved = || -> Result<bool> { Ok(self.control.head()? != self.epoch) };
        let looks: [&dyn Fn() -> Result<bool>; 2] =
            match self.control.cx.mutated(Mutation::CheckReversed) {
                false => [&next_claim, &head_moved],
                true => [&head_moved, &next_claim],
            };
        for look in looks {
            if look()? {
                return Ok(Some("a later holder has taken over".to_owned()));
            }
        }
        Ok(None)
    }

    /// Notes that the lease is lost, says so once, and returns the error for it.
    pub(crate) fn lose(&self, reason: impl Into<String>) -> Error {
        let reason = reason.into();
        if !self.lost.swap(true, Ordering::SeqCst) {
            self.control.cx.emit(&Event {
                epoch: Some(self.epoch),
                detail: Some(&reason),
                ..Event::new(EventKind::LeaseLost, &self.control.cx.path)
            });
        }
        Error::lease_lost(&self.control.cx.path, self.epoch, reason)
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    pub(crate) fn is_released(&self) -> bool {
        self.released.load(Ordering::SeqCst)
    }

    /// When the next beat is due.
    pub(crate) fn next_beat(&self) -> Monotonic {
        *self
            .next_beat
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows others that the holder is alive. Rewrites the record in place and never creates it: what is gone is lost.
    pub(crate) fn beat(&self) -> Result<()> {
        let _alone = self.section.enter();
        if self.is_lost() {
            return Err(self.lose("it was lost before"));
        }
        if self.is_released() {
            return Ok(());
        }
        let cx = &self.control.cx;
        let name = control::claim(self.epoch);
        let Some((file, _)) = self.control.open(&name, Access::Write)? else {
            return Err(self.lose("its claim is gone"));
        };
        let found = control::read_up_to(&*file, RECORD_READ)
            .map_err(|error| Error::io("read", self.control.path(&name), error))?;
        if Claim::decode(&found).is_ok_and(|found| found.nonce != self.nonce) {
            return Err(self.lose("its claim is somebody else's"));
        }
        let record = {
            let mut claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
            claim.beat += 1;
            claim.encode()
        };
        self.control.write(&*file, &name, &record)?;
        file.touch()
            .map_err(|error| Error::io("touch", self.control.path(&name), error))?;
        *self
            .next_beat
            .lock()
            .unwrap_or_else(PoisonError::into_inner) =
            cx.platform.monotonic() + cx.options.lease / 3;
        Ok(())
    }

    /// After a beat that failed: the next one is due as if it had not.
    pub(crate) fn postpone_beat(&self) {
        let cx = &self.control.cx;
        *self
            .next_beat
            .lock()
            .unwrap_or_else(PoisonError::into_inner) =
            cx.platform.monotonic() + cx.options.lease / 12;
    }

    /// Gives the lease back. What was not published must be gone by now.
    pub(crate) fn release(&self) -> Result<()> {
        let _alone = self.section.enter();
        if self.released.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        // Somebody deleted `head`, or it would not be lower: then the claim must keep its epoch from being claimed again.
        if self.control.head()? >= self.epoch
            && self.control.unlink(&control::claim(self.epoch)).is_ok()
        {
            return Ok(());
        }
        expiry::mark_released(
            &self.control,
            &self
                .claim
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        )
    }
}

/// A claim of ours that is not the holder's yet.
struct Attempt<'a> {
    control: &'a Control,
    claim: Claim,
}

struct Acquired {
    lease: Lease,
    waited_out: Option<Claim>,
    removed: usize,
}

impl<'a> Attempt<'a> {
    /// Step 2: claims the epoch after the last one; `None` if somebody else did.
    fn start(control: &'a Control, kind: Kind, sight: &Sight) -> Result<Option<Self>> {
        let cx = &control.cx;
        let epoch = sight.last + 1;
        if epoch >= EPOCH_MAX {
            let reason =
                "its epochs are used up; delete the control directory while nobody uses the cache";
            return Err(Error::limit(&control.path(HEAD), reason));
        }
        let name = control::claim(epoch);
        let Some(file) = control.create_new(&name)? else {
            return Ok(None);
        };
        let identity = cx.platform.identity();
        let nonce = cx
            .platform
            .random()
            .map_err(|error| Error::io("draw a random name for", control.path(&name), error));
        let claim = Claim {
            epoch,
            nonce: *nonce.as_ref().unwrap_or(&0),
            kind,
            released: false,
            beat: 0,
            lease: cx.options.lease,
            since: cx.platform.wall(),
            pid: identity.pid,
            boot: identity.boot,
            host: identity.host,
        };
        let attempt = Attempt { control, claim };
        let written = nonce.and_then(|_| control.write(&*file, &name, &attempt.claim.encode()));
        drop(file);
        match written {
            Ok(()) => Ok(Some(attempt)),
            Err(error) => {
                attempt.give_up();
                Err(error)
            }
        }
    }

    /// Steps 3 and 4; `None` if overtaken meanwhile.
    fn finish(self) -> Result<Option<Acquired>> {
        match self.become_holder() {
            Ok(Some(names)) => {
                let (removed, waited_out) = self.collect(&names);
                let cx = &self.control.cx;
                let lease = Lease {
                    control: self.control.clone(),
                    epoch: self.claim.epoch,
                    nonce: self.claim.nonce,
                    section: Section::new(&cx.platform),
                    stages: AtomicU64::new(0),
                    released: AtomicBool::new(false),
                    lost: AtomicBool::new(false),
                    next_beat: Mutex::new(cx.platform.monotonic() + cx.options.lease / 3),
                    claim: Mutex::new(self.claim),
                };
                Ok(Some(Acquired {
                    lease,
                    waited_out,
                    removed,
                }))
            }
            Ok(None) => {
                self.give_up();
                Ok(None)
            }
            Err(error) => {
                self.give_up();
                Err(error)
            }
        }
    }

    /// The fence, the next head, the check, the rename. Returns the last listing, or `None` if overtaken.
    fn become_holder(&self) -> Result<Option<Vec<String>>> {
        let control = self.control;
        let cx = &control.cx;
        let late_fence = cx.mutated(Mutation::HeadBeforeFence);
        let mut names = if late_fence {
            Vec::new()
        } else {
            self.fence()?
        };
        let name = control::next_head(self.claim.epoch, self.claim.nonce);
        let file = control.create_unique(&name)?;
        file.set_len(self.claim.epoch)
            .map_err(|error| Error::io("set the length of", control.path(&name), error))?;
        if control.remote {
            file.sync()
                .map_err(|error| Error::io("sync", control.path(&name), error))?;
        }
        drop(file);
        if !cx.mutated(Mutation::HeadNotChecked)
            && (control.exists(&control::claim(self.claim.epoch + 1))?
                || control.head()? >= self.claim.epoch)
        {
            return Ok(None);
        }
        match control.dir.rename(&name, &*control.dir, HEAD) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Error::io(
                    "rename the next head to",
                    control.path(HEAD),
                    error,
                ));
            }
        }
        if late_fence {
            names = self.fence()?;
        }
        Ok(Some(names))
    }

    /// Step 3: removes what earlier epochs could still rename. Returns the listing that showed none of it, the names that
    /// were removed added at its end.
    fn fence(&self) -> Result<Vec<String>> {
        let one_epoch = self.control.cx.mutated(Mutation::FenceOneEpoch);
        let is_stale = |name: &str| match control::kind_of(name) {
            control::Kind::Fenced(epoch) if one_epoch => epoch + 1 == self.claim.epoch,
            control::Kind::Fenced(epoch) => epoch < self.claim.epoch,
            _ => false,
        };
        let mut removed = Vec::new();
        loop {
            let mut names = self.control.list()?;
            let stale: Vec<_> = names
                .iter()
                .filter(|name| is_stale(name))
                .cloned()
                .collect();
            if stale.is_empty() {
                names.append(&mut removed);
                return Ok(names);
            }
            for name in stale {
                self.control.unlink(&name)?;
                removed.push(name);
            }
        }
    }

    /// After acquiring: the claims of earlier epochs and abandoned wants. Best effort; the next holder tries again.
    fn collect(&self, names: &[String]) -> (usize, Option<Claim>) {
        let control = self.control;
        let mut removed = 0;
        let mut last: Option<Claim> = None;
        for name in names {
            match control::kind_of(name) {
                control::Kind::Claim(epoch) if epoch < self.claim.epoch => {
                    let bytes = control.read(name, RECORD_READ).ok().flatten();
                    let claim = bytes.and_then(|bytes| Claim::decode(&bytes).ok());
                    if claim.as_ref().is_some_and(|claim| {
                        last.as_ref().is_none_or(|last| claim.epoch > last.epoch)
                    }) {
                        last = claim;
                    }
                    removed += usize::from(control.unlink(name).unwrap_or(false));
                }
                control::Kind::Fenced(epoch) if epoch < self.claim.epoch => removed += 1,
                _ => {}
            }
        }
        want::sweep(control, self.claim.epoch, control.cx.options.lease, names);
        (removed, last)
    }

    /// Leaves no file that could be renamed, and no epoch that could be claimed again.
    fn give_up(&self) {
        let control = self.control;
        let _ = control.unlink(&control::next_head(self.claim.epoch, self.claim.nonce));
        let reached = control.head().is_ok_and(|head| head >= self.claim.epoch);
        // An error here leaves a claim that expires: nobody is blocked for longer than that.
        if reached || control.cx.mutated(Mutation::LoserUnlinks) {
            let _ = control.unlink(&control::claim(self.claim.epoch));
        } else {
            let _ = expiry::mark_released(control, &self.claim);
        }
    }
}

impl Acquired {
    fn announce(&self, overtakes: Option<Duration>) {
        let control = &self.lease.control;
        let event = |kind| Event {
            epoch: Some(self.lease.epoch),
            ..Event::new(kind, &control.cx.path)
        };
        let holder = self.waited_out.as_ref().map(Claim::holder);
        if let Some(stood_still) = overtakes {
            control.cx.emit(&Event {
                held: Some(stood_still),
                holder: holder.as_ref(),
                ..event(EventKind::LeaseTakenOver)
            });
        }
        if self.removed > 0 {
            let detail = format!("removed {} stray files", self.removed);
            control.cx.emit(&Event {
                detail: Some(&detail),
                ..event(EventKind::Recovered)
            });
        }
    }
}

/// One caller's wait for the lease: what wakes it, how often it looks, and its courtesy towards others.
struct Turn<'a> {
    control: &'a Control,
    kind: Kind,
    watch: Option<Box<dyn Watch>>,
    watch_tried: bool,
    poll: Duration,
    want: Option<Want>,
    /// The epochs that were found taken by others, counted.
    taken: u32,
    last_taken: u64,
    probed: Option<Sight>,
    jitter: u64,
}

impl<'a> Turn<'a> {
    fn new(control: &'a Control, kind: Kind) -> Self {
        Turn {
            control,
            kind,
            watch: None,
            watch_tried: false,
            poll: Duration::ZERO,
            want: None,
            taken: 0,
            last_taken: 0,
            probed: None,
            jitter: 0,
        }
    }

    /// Step 1: waits until the last claim is free, released, expired or known to be dead. Returns what was seen then, and
    /// for how long the holder had stood still if it is overtaken.
    fn wait(
        &mut self,
        waiter: &mut Waiter<'_>,
        observation: &mut Observation,
        request: &Request,
    ) -> Result<(Sight, Option<Duration>)> {
        waiter.waits_for(WaitingFor::Lease);
        loop {
            let sight = Sight::look(self.control)?;
            if sight.is_free() {
                return Ok((sight, None));
            }
            let patience = sight.patience(self.control);
            let unchanged = observation.update(waiter.now(), &sight, patience);
            if request.force || self.is_dead(&sight) || unchanged >= patience {
                return Ok((sight, Some(unchanged)));
            }
            waiter.held_by(sight.record().map(|record| record.holder()));
            if !waiter.outlasts(patience - unchanged) && self.probed.as_ref() != Some(&sight) {
                if expiry::expired_by_file_clock(self.control, &sight, patience) {
                    return Ok((sight, Some(patience)));
                }
                self.probed = Some(sight.clone());
            }
            if !self.watch_tried {
                // Registered before the look that it is to save.
                self.watch_tried = true;
                self.watch = self.control.dir.watch(waiter.event().clone()).ok();
                continue;
            }
            self.note_taken(sight.last, waiter)?;
            let sleep = self
                .sleep(patience)
                .min(patience - unchanged)
                .max(Duration::from_millis(1));
            waiter.pause(waiter.now() + observation.plan(sleep))?;
            if let Some(want) = &self.want {
                want.beat(waiter.waited());
            }
        }
    }

    /// A gated holder is dead if the gate that it held is ours now, or its machine was started anew since.
    fn is_dead(&self, sight: &Sight) -> bool {
        let Kind::Gated(ours) = self.kind else {
            return false;
        };
        let Some(record) = sight.record() else {
            return false;
        };
        let Kind::Gated(theirs) = record.kind else {
            return false;
        };
        let boot = self.control.cx.platform.identity().boot;
        let other_boot = boot.is_some() && record.boot.is_some() && boot != record.boot;
        other_boot || theirs == ours || self.control.cx.mutated(Mutation::GateNotCompared)
    }

    /// Whoever is not in the gate's queue and has found the lease taken twice asks for its turn.
    fn note_taken(&mut self, epoch: u64, waiter: &Waiter<'_>) -> Result<()> {
        if epoch != self.last_taken {
            self.last_taken = epoch;
            self.taken += 1;
        }
        if self.taken >= 2 && self.want.is_none() && !matches!(self.kind, Kind::Gated(_)) {
            self.want = Some(Want::put_up(self.control, waiter.waited())?);
        }
        Ok(())
    }

    fn sleep(&mut self, patience: Duration) -> Duration {
        let (shortest, longest) = if matches!(self.kind, Kind::Gated(_)) {
            POLL_GATED
        } else {
            POLL
        };
        let sleep = if self.watch.is_some() && !self.control.remote {
            patience / 8
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
    fn lost_race(&mut self, waiter: &mut Waiter<'_>) -> Result<()> {
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
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(mixed % nanos)
    }
}
