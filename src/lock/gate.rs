//! The gate: the kernel's exclusive lock on `cache.lock`.
//!
//! The gate is an accelerator, not the truth. It lets natives queue up in the kernel, wakes exactly when it is free, and
//! tells whoever has it that a gated holder before it is dead. Safety rests on the lease alone; so a caller that finds the
//! gate stuck may go on without it.
//!
//! # Waiting
//!
//! A kernel lock cannot be waited for with a deadline. So a thread of its own waits in the kernel ([`helper`](super::helper)),
//! and the caller waits for that thread, for its deadline, and for its cancellation. Meanwhile it looks at `head` and at the
//! last claim from time to time: the lock's holder may be frozen ([`Stall`]).
//!
//! Whoever has found that the gate's holder stands still makes its file as long as the last epoch and one byte: all others,
//! those that come later included, then need not find that out again. Whoever gets the kernel lock next empties it. So of a gate
//! that is held the length says: its holder stood still at that epoch. Once there is a later claim by a holder of the gate that is
//! no news any more. Nothing rests on it but how long others wait.
//!
//! The file's identity is compared after locking: somebody may have deleted the name meanwhile, and two processes with locks
//! on two files would both believe that the other is dead. For the same reason the claim's record names the gate.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use cachelock_platform::{Access, Event, File, FileId, Metadata, Monotonic, Platform};

use super::claim::{Claim, Kind};
use super::expiry::{Observation, Sight};
use super::helper::{Client, Helper, Lock};
use super::local::LocalCache;
use crate::control::{Control, GATE, PRIVATE};
use crate::error::{Result, WaitingFor};
use crate::mutation::Mutation;
use crate::wait::Waiter;

/// How an attempt at the gate ended.
pub(crate) enum Outcome {
    /// The kernel lock is ours.
    Held(GateGuard),
    /// Somebody has it and stands still: go on with the lease alone, as a holder of this kind.
    Bypass(Kind),
    /// Kernel locks are not to be had here.
    Unavailable(String),
}

/// The kernel lock. Unlocked when dropped, except in a child made by `fork`, where it is only closed.
pub(crate) struct GateGuard {
    file: Arc<dyn File>,
    pub(crate) id: FileId,
}

impl GateGuard {
    /// For those who wait for the gate: its holder waits for the lease, and lives. Should it fail, they go past it too early.
    pub(crate) fn show_patience(&self) {
        let _ = self.file.touch();
    }
}

impl Drop for GateGuard {
    fn drop(&mut self) {
        // Explicitly: a copy of the descriptor in a forked child would keep the lock alive beyond our close.
        let _ = self.file.unlock();
    }
}

/// How one process waits for the gate of one cache.
#[derive(Default)]
pub(crate) struct Gate {
    /// The last one that was started, if it may be of use still.
    helper: Mutex<Option<Arc<Helper>>>,
}

impl Gate {
    /// Waits for an answer of the kernel that somebody waited for before and gave up.
    fn join(&self, id: FileId, event: &Arc<dyn Event>) -> Option<Client> {
        let helper = self.helper().clone()?;
        helper.join(id, event)
    }

    /// Has the helper wait for `lock`: the one that there is, or a new one.
    fn employ(
        &self,
        platform: &Arc<dyn Platform>,
        lock: Lock,
        event: &Arc<dyn Event>,
    ) -> io::Result<Client> {
        // Taken out for as long as it takes: no mutex is held while a thread is started.
        let helper = self.helper().take();
        let employed = helper.and_then(|helper| helper.employ(&lock, event));
        let client = match employed {
            Some(client) => client,
            None => Helper::start(platform, lock, event)?,
        };
        *self.helper() = Some(client.helper().clone());
        Ok(client)
    }

    fn helper(&self) -> std::sync::MutexGuard<'_, Option<Arc<Helper>>> {
        self.helper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the gate, within the waiter's budget. `observation` is what the caller has seen of the lease meanwhile, so that a
/// claim that stood still before the gate need not do so again after it.
pub(crate) fn acquire(
    local: &LocalCache,
    control: &Control,
    waiter: &mut Waiter<'_>,
    observation: &mut Observation,
) -> Result<Outcome> {
    let platform = &control.cx.platform;
    let mut glances = 0;
    loop {
        let Opened { file, id, stuck } = open(control)?;
        let client = match local.gate.join(id, waiter.event()) {
            Some(client) => client,
            None => match file.try_lock() {
                Ok(true) => match confirm(control, file, id)? {
                    Some(guard) => return Ok(Outcome::Held(guard)),
                    None => continue,
                },
                // Looked at once more: another caller may have got the lock and emptied the file since it was opened.
                Ok(false) if stuck && is_still_stuck(control, id)? => {
                    return Ok(Outcome::Bypass(Kind::LeaseOnly));
                }
                Ok(false) if waiter.is_out_of_time() => {
                    let passes = glances < GLANCES && is_glance(control)?;
                    if !passes {
                        return pass_or_fail(control, id, waiter, observation);
                    }
                    glances += 1;
                    continue;
                }
                Ok(false) => local
                    .gate
                    .employ(platform, Lock { file, id }, waiter.event())
                    .map_err(|error| {
                        control.failed("start a thread that waits for", GATE, error)
                    })?,
                Err(error) => return unavailable(control, error),
            },
        };
        waiter.waits_for(WaitingFor::Gate);
        match wait(&client, control, waiter, observation, id)? {
            Some(outcome) => return Ok(outcome),
            // The name stands for another file now.
            None => continue,
        }
    }
}

/// How often whoever has no time to wait looks again when a lock is held without a lease, and how long apart.
const GLANCES: u32 = 5;
const GLANCE: Duration = Duration::from_millis(1);

/// Whether nobody has the lease although somebody has the gate: it is asked for ([`is_held`]), or just taken or given back. That
/// tells nobody anything, so this lets it pass.
fn is_glance(control: &Control) -> Result<bool> {
    let is_free = Sight::look(control)?.is_free();
    if is_free {
        let platform = &control.cx.platform;
        let until = platform.monotonic() + GLANCE;
        platform.event().wait_until(Some(until));
    }
    Ok(is_free)
}

/// For a caller that has no time to wait: there is no need for a thread to learn that. Only a holder that has stood still
/// for long, by the file system's clock, is passed all the same.
fn pass_or_fail(
    control: &Control,
    id: FileId,
    waiter: &mut Waiter<'_>,
    observation: &mut Observation,
) -> Result<Outcome> {
    waiter.check_cancelled()?;
    waiter.waits_for(WaitingFor::Gate);
    let sight = Sight::look(control)?;
    waiter.held_by(sight.holder());
    match Stall::default().judge(control, waiter, observation, &sight) {
        Some(kind) => {
            say_stuck(control, id, &sight);
            Ok(Outcome::Bypass(kind))
        }
        None => Err(waiter.time_out()),
    }
}

/// Waits for the client's answer; `None` if it would be about a file that has lost its name.
fn wait(
    client: &Client,
    control: &Control,
    waiter: &mut Waiter<'_>,
    observation: &mut Observation,
    id: FileId,
) -> Result<Option<Outcome>> {
    let every = control.cx.options.lease / 8;
    let mut stall = Stall::default();
    let mut next_look = Monotonic::ZERO;
    loop {
        match client.answer() {
            None => {}
            Some(Ok(file)) => return Ok(confirm(control, file, id)?.map(Outcome::Held)),
            Some(Err(error)) => return unavailable(control, error).map(Some),
        }
        let now = waiter.now();
        if now >= next_look && !control.cx.mutated(Mutation::GateWaitBlind) {
            let Some(gate) = control.stat(GATE)?.filter(|gate| gate.id == id) else {
                return Ok(None);
            };
            stall.sees_gate(gate.modified);
            let sight = Sight::look(control)?;
            if is_stuck(&gate, &sight) {
                return Ok(Some(Outcome::Bypass(Kind::LeaseOnly)));
            }
            if let Some(kind) = stall.judge(control, waiter, observation, &sight) {
                say_stuck(control, id, &sight);
                return Ok(Some(Outcome::Bypass(kind)));
            }
            waiter.held_by(sight.holder());
            next_look = now + observation.plan(stall.next_look(every));
        }
        waiter.pause(if next_look.is_zero() {
            Monotonic::MAX
        } else {
            next_look
        })?;
    }
}

/// Whether the gate's holder stands still.
///
/// Two clocks run while somebody waits. The first is expiry itself: nothing at all has changed for the claim's lease (or
/// for ours, if there is no claim). The second runs while all that changes are leases of holders *without* the gate:
/// they may keep coming and going for ever, past a gate whose holder is frozen, and say nothing about it. It starts anew with
/// each sign of life from a holder of the gate: its claim has changed, or it waits for such a lease and touches the gate, as it
/// does from time to time.
#[derive(Default)]
struct Stall {
    /// When the second clock is up, and which claim was the last when it began.
    second: Option<(Monotonic, u64)>,
    gate_touched: Option<SystemTime>,
    unchanged_for: Duration,
    patience: Duration,
}

impl Stall {
    fn sees_gate(&mut self, touched: SystemTime) {
        if self.gate_touched.replace(touched) != Some(touched) {
            self.second = None;
        }
    }

    fn judge(
        &mut self,
        control: &Control,
        waiter: &Waiter<'_>,
        observation: &mut Observation,
        sight: &Sight,
    ) -> Option<Kind> {
        let own = control.cx.options.lease;
        let now = waiter.now();
        // Whoever has made a claim with the gate and not yet written it is most likely alive, for the gate is held.
        self.patience = if sight.is_free() || sight.unwritten_gated {
            own
        } else {
            sight.patience(control)
        };
        self.unchanged_for = observation.update(now, sight, self.patience);
        if self.unchanged_for >= self.patience {
            return Some(Kind::Bypass);
        }
        if super::expiry::expired_by_file_clock(control, waiter, sight, self.patience) {
            return Some(Kind::LeaseOnly);
        }
        let record = sight.record();
        // Somebody has waited out the gate's holder, or an operator has judged it, and says so: no need to do it again.
        if record
            .as_ref()
            .is_some_and(|record| record.kind == Kind::Bypass)
        {
            return Some(Kind::LeaseOnly);
        }
        // A free lease says nothing: it is seen between two turns of others, too.
        match record.filter(|record| !record.released)?.kind {
            Kind::Gated(_) => {
                let changed = now.saturating_sub(self.unchanged_for);
                self.second = Some((changed + self.patience, sight.last));
            }
            Kind::LeaseOnly | Kind::Bypass => {
                let (up, first) = *self.second.get_or_insert((now + own, sight.last));
                // A gate holder that waits for *this* guest is patient, not frozen; two turns later it is.
                if sight.last > first + 1 && now >= up {
                    return Some(Kind::Bypass);
                }
            }
        }
        None
    }

    fn next_look(&self, every: Duration) -> Duration {
        every
            .min(self.patience.saturating_sub(self.unchanged_for))
            .max(Duration::from_millis(1))
    }
}

/// The gate's file, as it was when it was opened.
struct Opened {
    file: Arc<dyn File>,
    id: FileId,
    /// Whether somebody has said so, and nobody has had the lock since.
    stuck: bool,
}

/// Opens the gate file, creates it if it is missing or is another cache's as well, and makes it unreadable for others: even a
/// read-only descriptor is enough to hold a kernel lock.
fn open(control: &Control) -> Result<Opened> {
    let mut replaced = false;
    loop {
        if let Some((file, metadata)) = control.open(GATE, Access::Write)? {
            if !metadata.is_alone() && !std::mem::replace(&mut replaced, true) {
                // Its length and mode are set, and another cache has a lock of its own. Should it be held now, its holder
                // keeps the lease.
                control.unlink(GATE)?;
                continue;
            }
            if metadata.is_alone() && metadata.mode.is_some_and(|mode| mode & 0o177 != 0) {
                file.set_mode(PRIVATE)
                    .map_err(|error| control.failed("set the mode of", GATE, error))?;
            }
            return Ok(Opened {
                file: Arc::from(file),
                id: metadata.id,
                stuck: metadata.len > 0,
            });
        }
        control.create_new(GATE, PRIVATE)?;
    }
}

/// Whether somebody has waited out whoever has the gate, who has not acquired since.
fn is_stuck(gate: &Metadata, sight: &Sight) -> bool {
    let acquired =
        |record: Claim| matches!(record.kind, Kind::Gated(_)) && record.epoch >= gate.len;
    gate.len > 0 && !sight.record().is_some_and(acquired)
}

fn is_still_stuck(control: &Control, id: FileId) -> Result<bool> {
    let gate = control.stat(GATE)?.filter(|gate| gate.id == id);
    Ok(match gate {
        Some(gate) => is_stuck(&gate, &Sight::look(control)?),
        None => false,
    })
}

/// For all others; should it fail, they wait as long.
fn say_stuck(control: &Control, id: FileId, sight: &Sight) {
    let gate = control.open(GATE, Access::Write).ok().flatten();
    if let Some((file, _)) = gate.filter(|(_, gate)| gate.id == id && gate.is_alone()) {
        let _ = file.set_len(sight.last.saturating_add(1));
    }
}

/// After locking, descriptor and name must be one file.
fn confirm(control: &Control, file: Arc<dyn File>, id: FileId) -> Result<Option<GateGuard>> {
    let guard = GateGuard { file, id };
    let named = control.stat(GATE)?;
    if named.is_some_and(|named| named.len > 0 && named.is_alone()) {
        // Not stuck any more. Should it fail, others do without the gate until the next one.
        let _ = guard.file.set_len(0);
    }
    let is_named = named.is_some_and(|named| named.id == id);
    Ok((is_named || control.cx.mutated(Mutation::GateNotCompared)).then_some(guard))
}

fn unavailable(control: &Control, error: io::Error) -> Result<Outcome> {
    match error.kind() {
        io::ErrorKind::Unsupported => Ok(Outcome::Unavailable(error.to_string())),
        _ => Err(control.failed("lock", GATE, error)),
    }
}

/// Whether somebody has the kernel lock now; for the status page. Takes it for an instant if nobody has.
pub(crate) fn is_held(control: &Control) -> Result<Option<bool>> {
    // For reading: on a read-only file system nothing else can be had, and it is enough for a lock.
    let Some((file, _)) = control.open(GATE, Access::Read)? else {
        return Ok(Some(false));
    };
    let mut glances = 0;
    loop {
        match file.try_lock() {
            Ok(true) => {
                let _ = file.unlock();
                return Ok(Some(false));
            }
            Ok(false) if glances < GLANCES && is_glance(control)? => glances += 1,
            Ok(false) => return Ok(Some(true)),
            Err(_) => return Ok(None),
        }
    }
}
