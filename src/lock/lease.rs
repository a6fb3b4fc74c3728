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

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cachelock_platform::{Access, File, GUEST, Monotonic};

use super::attempt::Attempt;
use super::claim::{Claim, Kind, RECORD_READ};
use super::expiry::{self, Observation};
use super::gate::GateGuard;
use super::queue::Place;
use super::turn::Turn;
use crate::context::TELLS;
use crate::control::{self, Control};
use crate::error::{Error, Result};
use crate::events::{Event, EventKind};
use crate::mutation::Mutation;
use crate::section::Section;
use crate::transfer;
use crate::wait::Waiter;

/// Why most leases are lost.
const OVERTAKEN: &str = "a later holder has taken over";

/// How a caller wants the lease.
pub(crate) struct Request<'a> {
    pub(crate) kind: Kind,
    /// The kernel lock, if the caller has it.
    pub(crate) gate: Option<&'a GateGuard>,
    /// Takes the last claim as expired at once: an operator's force.
    pub(crate) force: bool,
}

/// What keeps others of this process and of this machine behind a holder. Given up with the lease: whoever has lost that may be at
/// work for long, and must be in nobody's way.
pub(crate) struct Front {
    pub(crate) gate: Option<GateGuard>,
    pub(crate) place: Option<Place>,
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
    /// Why, once it is known.
    lost: Mutex<Option<String>>,
    front: Mutex<Option<Front>>,
    next_beat: Mutex<Monotonic>,
    /// The last beat has failed, and that was said.
    failing: AtomicBool,
}

impl Lease {
    pub(super) fn new(control: Control, claim: Claim) -> Self {
        let cx = &control.cx;
        Lease {
            epoch: claim.epoch,
            nonce: claim.nonce,
            section: Section::new(&cx.platform),
            stages: AtomicU64::new(0),
            released: AtomicBool::new(false),
            lost: Mutex::new(None),
            front: Mutex::new(None),
            next_beat: Mutex::new(cx.platform.monotonic() + cx.options.lease / 3),
            failing: AtomicBool::new(false),
            claim: Mutex::new(claim),
            control,
        }
    }

    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    /// Waits for the lease and takes it: steps 1 to 4.
    pub(crate) fn acquire(
        control: &Control,
        request: &Request<'_>,
        waiter: &mut Waiter<'_>,
        observation: &mut Observation,
    ) -> Result<Self> {
        let mut turn = Turn::new(control, request.kind);
        loop {
            waiter.check_cancelled()?;
            let (sight, overtakes) = turn.wait(waiter, observation, request)?;
            match Attempt::start(control, request.kind, &sight)? {
                Some(attempt) => match attempt.finish(waiter)? {
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
        let file = match self.control.create_stage(&name) {
            Err(error) if super::is_gone(&error) => {
                return Err(self.lose(self.gone("its control directory is gone")));
            }
            created => created?,
        };
        if !unchecked && let Err(error) = self.check() {
            let _ = self.control.unlink(&name);
            return Err(error);
        }
        Ok((name, file))
    }

    /// The check: fails if somebody has claimed a later epoch.
    pub(super) fn check(&self) -> Result<()> {
        match self.overtaken_by()? {
            None => Ok(()),
            Some(reason) => Err(self.lose(reason)),
        }
    }

    /// Why the lease is lost, if it is.
    pub(crate) fn overtaken_by(&self) -> Result<Option<String>> {
        let next_claim = || -> Result<Option<String>> {
            let claimed = self.control.exists(&control::claim(self.epoch + 1))?;
            Ok(claimed.then(|| OVERTAKEN.to_owned()))
        };
        let head_moved = || -> Result<Option<String>> {
            Ok(match self.control.head()? {
                head if head == self.epoch => None,
                head if head > self.epoch => Some(OVERTAKEN.to_owned()),
                // Nobody of ours does that.
                0 => Some(self.gone("its head file was deleted")),
                _ => Some("its head file was replaced by an older one".to_owned()),
            })
        };
        let looks: [&dyn Fn() -> Result<Option<String>>; 2] =
            match self.control.cx.mutated(Mutation::CheckReversed) {
                false => [&next_claim, &head_moved],
                true => [&head_moved, &next_claim],
            };
        for look in looks {
            if let Some(reason) = look()? {
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }

    /// Why something is not there: `otherwise`, if it is not for want of the directory.
    fn gone(&self, otherwise: &str) -> String {
        self.control.displaced().unwrap_or(otherwise).to_owned()
    }

    /// Notes that the lease is lost, says so once, and returns the error for it. The first reason is the one that counts.
    pub(crate) fn lose(&self, reason: impl Into<String>) -> Error {
        self.lose_for(reason.into())
    }

    fn lose_for(&self, reason: String) -> Error {
        let (reason, is_first) = {
            let mut lost = self.lost();
            let is_first = lost.is_none();
            (lost.get_or_insert(reason).clone(), is_first)
        };
        if is_first {
            self.give_up_front();
            self.control.cx.emit(&Event {
                epoch: Some(self.epoch),
                detail: Some(&reason),
                ..Event::new(EventKind::LeaseLost, &self.control.cx.path)
            });
        }
        Error::lease_lost(&self.control.cx.path, self.epoch, reason)
    }

    /// Fails if the lease is known to be lost, and says why it was. Looks at no file.
    pub(crate) fn check_known(&self) -> Result<()> {
        if self.is_lost() {
            return Err(self.lose_for(String::new()));
        }
        Ok(())
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost().is_some()
    }

    fn lost(&self) -> MutexGuard<'_, Option<String>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before anybody else knows of the lease.
    pub(crate) fn keep_front(&self, front: Front) {
        *self.front() = Some(front);
    }

    pub(crate) fn give_up_front(&self) {
        let front = self.front().take();
        // No guest has a gate.
        if !GUEST && self.is_lost() && front.as_ref().is_some_and(|front| front.gate.is_some()) {
            self.remove_mark();
        }
    }

    pub(crate) fn front(&self) -> MutexGuard<'_, Option<Front>> {
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Said outside of the section: whoever hears of it may drop the lock.
        let lost = match self.beat_alone() {
            // Since it was opened: where that is done by name for each call, it is not found at the next one.
            Err(error) if super::is_gone(&error) => Some(self.claim_is_gone()?),
            beaten => beaten?,
        };
        match lost {
            None => Ok(()),
            Some(lost) => Err(self.lose(lost)),
        }
    }

    fn claim_is_gone(&self) -> Result<String> {
        let reason = self.overtaken_by()?;
        Ok(reason.unwrap_or_else(|| "its claim was deleted".to_owned()))
    }

    /// Returns why the lease is lost, if it is.
    fn beat_alone(&self) -> Result<Option<String>> {
        let _alone = self.section.enter();
        self.check_known()?;
        if self.is_released() {
            return Ok(None);
        }
        let cx = &self.control.cx;
        if cx.mutated(Mutation::NoBeat) {
            self.put_off(cx.options.lease / 3);
            return Ok(None);
        }
        let name = control::claim(self.epoch);
        let Some((file, metadata)) = self.control.open(&name, Access::Write)? else {
            return self.claim_is_gone().map(Some);
        };
        let found = transfer::read_up_to(&*file, RECORD_READ)
            .map_err(|error| self.control.failed("read", &name, error))?;
        match Claim::decode(&found) {
            Ok(found) if found.nonce == self.nonce => {}
            Ok(_) => return Ok(Some("its claim is somebody else's".to_owned())),
            Err(_) => self.control.check_alone(&name, &metadata)?,
        }
        let record = {
            let mut claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
            claim.beat += 1;
            claim.encode()
        };
        self.control.write(&*file, &name, &record)?;
        file.touch()
            .map_err(|error| self.control.failed("touch", &name, error))?;
        self.put_off(cx.options.lease / 3);
        Ok(None)
    }

    /// The next beat is due after so much time.
    fn put_off(&self, time: Duration) {
        *self
            .next_beat
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = self.control.cx.platform.monotonic() + time;
    }

    /// A beat for whoever has other things to do. One that fails is tried again soon, for the disk may be full for a while;
    /// only that the lease is lost is an error.
    pub(crate) fn keep_alive(&self) -> Result<()> {
        let failed = match self.beat() {
            Err(error) if !error.is_lease_lost() => error,
            beaten => {
                self.failing.store(false, Ordering::Relaxed);
                return beaten;
            }
        };
        if !self.failing.swap(true, Ordering::Relaxed) {
            self.say_beat_failed(&failed);
        }
        // Before a record that was written half-way, which nobody can read, is taken for a dead holder's.
        let soon = (self.control.cx.options.lease / 12).min(expiry::UNREADABLE / 3);
        self.put_off(soon);
        Ok(())
    }

    pub(crate) fn say_beat_failed(&self, why: &dyn fmt::Display) {
        if !TELLS {
            return;
        }
        self.control.cx.emit(&Event {
            epoch: Some(self.epoch),
            detail: Some(&why.to_string()),
            ..Event::new(EventKind::HeartbeatFailed, &self.control.cx.path)
        });
    }

    /// Gives the lease back. What was not published must be gone by now.
    pub(crate) fn release(&self) -> Result<()> {
        let _alone = self.section.enter();
        if self.released.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        // Somebody deleted `head`, or it would not be lower: then the claim must keep its epoch from being claimed again.
        let reached = self.control.head().is_ok_and(|head| head >= self.epoch);
        if reached && self.control.unlink(&control::claim(self.epoch)).is_ok() {
            return Ok(());
        }
        self.mark_released()
    }

    /// As [`Lease::release`], but the claim stays, for others to read. The next holder removes it.
    pub(crate) fn release_in_place(&self) -> Result<()> {
        let _alone = self.section.enter();
        if self.released.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.mark_released()
    }

    /// For a lost holder that is about to give the gate back: what an operator has left for those who wait for that (see
    /// [`Lease::release_in_place`]) has served its purpose. The head has reached that claim, so it may go.
    fn remove_mark(&self) {
        let mark = |head| {
            let name = control::claim(head);
            let bytes = self.control.read(&name, RECORD_READ).ok()??;
            let claim = Claim::decode(&bytes).ok()?;
            (claim.released && claim.kind == Kind::Bypass).then_some(name)
        };
        if let Some(name) = self.control.head().ok().and_then(mark) {
            let _ = self.control.unlink(&name);
        }
    }

    fn mark_released(&self) -> Result<()> {
        let mut claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        expiry::mark_released(&self.control, &mut claim)
    }
}
