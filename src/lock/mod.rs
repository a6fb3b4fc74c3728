//! The writer lock: queue, gate, lease, in this order, and released in the reverse one.
//!
//! | part | keeps apart | lost when |
//! | --- | --- | --- |
//! | [`queue`] | threads of one process | the thread lets go, or has lost the lease |
//! | [`gate`] | native processes, by the kernel lock | the process ends, or has lost the lease |
//! | [`lease`] | everybody, guests included | it was not beaten for its length |
//!
//! The lease is the truth. The gate makes waiting cheap and shows at once that a native holder is dead. The claim is released
//! *before* the gate, so that whoever gets the gate and finds a gated claim knows that its holder died.

mod attempt;
mod claim;
mod expiry;
mod gate;
mod heartbeat;
mod helper;
mod lease;
mod local;
mod queue;
mod turn;
mod want;

use std::sync::Arc;
use std::time::Duration;

use cachelock_platform::{FileSystem, GUEST, Monotonic, failure};

use crate::builder::Locking;
use crate::context::{Context, TELLS};
use crate::control::{Control, dir_error, found};
use crate::error::{Error, ErrorKind, Result};
use crate::events::{self, Backend, Event, EventKind};
use crate::mutation::Mutation;
use crate::name::CONTROL_DIR;
use crate::root::Root;
use crate::section::Section;
use crate::wait::Waiter;

#[cfg(feature = "mutations")]
pub(crate) use claim::Claim;
pub use claim::Holder;
pub(crate) use claim::{Kind, LEASE_MAX};
pub(crate) use expiry::Sight;
pub(crate) use lease::Lease;
#[cfg(feature = "mutations")]
pub(crate) use want::{record, waited_for};

use expiry::Observation;
use gate::{GateGuard, Outcome};
use heartbeat::Heartbeat;
use lease::{Front, Request};
use local::{Local, LocalCache};

/// How a caller wants the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Within the cache's timeout.
    Wait,
    /// Only if it is free.
    Try,
    /// From whoever has it: an operator's force.
    Force,
}

/// How an attempt to acquire ended, apart from errors.
pub(crate) enum Acquired {
    Held(Arc<Hold>),
    /// While waiting, somebody else has done what the caller wanted to do.
    Satisfied {
        /// For how long; `None` if the lock was had before that was seen, and `lock_acquired` has said it.
        waited: Option<Duration>,
    },
}

/// What the caller asks, each time it gets closer to the lock: is there still something to do?
pub(crate) type Look<'a> = dyn FnMut(&Arc<Root>) -> Result<bool> + 'a;

/// The held lock. Dropping it releases it, except in a child made by `fork`: there it only closes.
pub(crate) struct Hold {
    cx: Arc<Context>,
    pub(crate) root: Arc<Root>,
    pub(crate) control: Control,
    pub(crate) lease: Arc<Lease>,
    backend: Backend,
    process: u32,
    since: Monotonic,
    /// How long the caller had to wait, and what of its budget is left for renames that must be repeated.
    pub(crate) waited: Duration,
    pub(crate) budget_left: Option<Duration>,
    heartbeat: Arc<Heartbeat>,
    /// Keeps the publishes under this lock apart: they come one after the other, whatever threads make them.
    pub(crate) publishing: Section,
}

impl Hold {
    pub(crate) fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether the cache's path still leads to what is held. The directory may have been deleted, renamed, replaced or
    /// mounted over since, and the lock of what is there now may be another's.
    pub(crate) fn is_current(&self) -> Result<bool> {
        let cx = &self.cx;
        let there = found(cx.platform.dir_id(&cx.path))
            .map_err(|error| dir_error("look at", &cx.path, error))?;
        if there != Some(self.root.id()) {
            return Ok(false);
        }
        // In the directory that is held, for it is the one that the path leads to.
        let there = found(self.root.dir.stat(CONTROL_DIR))
            .map_err(|error| self.control.failed("look at", "", error))?;
        Ok(there.is_some_and(|there| there.id == self.control.id))
    }

    /// Releases what an operator has taken by force. If somebody still has the gate, a record stays that lets others past it:
    /// they would wait for that holder's lease otherwise, and be no quicker for the operator's work.
    pub(crate) fn release_forced(&self) -> Result<()> {
        match gate::is_held(&self.control) {
            Ok(Some(true)) => self.lease.release_in_place(),
            // Whatever stands in the gate's place is no matter of whoever needs no gate.
            _ => self.lease.release(),
        }
    }

    /// For how long it has been held.
    pub(crate) fn held(&self) -> Duration {
        self.cx.platform.monotonic().saturating_sub(self.since)
    }

    /// In how long the holder's own calls must beat; `None` if a background task does.
    pub(crate) fn beat_due(&self) -> Option<Duration> {
        let left = || {
            self.lease
                .next_beat()
                .saturating_sub(self.cx.platform.monotonic())
        };
        (!self.heartbeat.runs()).then(left)
    }

    /// Whether the holder's own calls must beat, and a beat is due.
    pub(crate) fn must_beat(&self) -> bool {
        self.beat_due() == Some(Duration::ZERO)
    }

    /// Whether this is the copy in a child made by `fork`.
    pub(crate) fn is_copy(&self) -> bool {
        // No guest can fork.
        !GUEST && self.cx.platform.process_id() != self.process
    }

    /// Refuses to act on the parent's behalf: a copy that published would make the parent's own publish fail.
    pub(crate) fn refuse_copy(&self) -> Result<()> {
        if self.is_copy() {
            let reason = "it was taken before a fork and is the parent's; take the lock anew";
            let source = failure(std::io::ErrorKind::Other, reason);
            return Err(Error::io("use the lock of", &*self.cx.path, source));
        }
        Ok(())
    }

    /// Looks whether it was lost, and does not beat.
    pub(crate) fn check_held(&self) -> Result<()> {
        self.check_known()?;
        self.lease.check()
    }

    /// Fails for a copy, and if the lease is known to be lost. Looks at no file.
    pub(crate) fn check_known(&self) -> Result<()> {
        self.refuse_copy()?;
        self.lease.check_known()
    }

    fn release(&self) -> Result<()> {
        if self.cx.mutated(Mutation::GateReleasedFirst) {
            let gate = self.lease.front().as_mut().map(|front| front.gate.take());
            drop(gate);
        }
        let released = if self.lease.is_released() {
            Ok(())
        } else {
            self.lease.release()
        };
        self.lease.give_up_front();
        released
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.is_copy() {
            // The parent holds it, not this copy. Nothing of it may be touched, or the parent would lose it.
            std::mem::forget(self.lease.front().take().and_then(|front| front.place));
            return;
        }
        let backend = self.backend();
        // An error only costs the next caller a wait for the lease.
        let failed = self.release().err().filter(|_| TELLS);
        let failed = failed.map(|error| error.to_string());
        self.cx.emit(&Event {
            backend: Some(backend),
            held: Some(self.held()),
            epoch: Some(self.lease.epoch),
            detail: failed.as_deref(),
            ..Event::new(EventKind::LockReleased, &self.cx.path)
        });
    }
}

/// An acquire that has nobody to wait for is over by then. One that takes longer may have stood still anywhere.
const BRIEF: Duration = Duration::from_millis(1);

/// How often the caller's directory may vanish under it before that is an error.
const REOPENS: u32 = 3;

/// Acquires the lock of the cache `cx`, creating its directory if it is missing.
pub(crate) fn acquire(
    cx: &Arc<Context>,
    waiter: &mut Waiter<'_>,
    force: bool,
    look: &mut Look<'_>,
) -> Result<Acquired> {
    if events::is_telling() {
        let asks = "an observer asks for it, on a thread that may hold it or wait for it";
        let source = failure(std::io::ErrorKind::Unsupported, asks);
        return Err(Error::io("lock", &*cx.path, source));
    }
    let mut reopened = 0;
    loop {
        let acquired = acquire_in(cx, waiter, force, look);
        let moved = match &acquired {
            // Deleted or replaced while we waited: what we hold, if anything, is not what the path names now.
            Ok(Acquired::Held(hold)) => {
                (waiter.has_paused() || waiter.waited() >= BRIEF) && !hold.is_current()?
            }
            Ok(Acquired::Satisfied { .. }) => false,
            Err(error) => error.kind() == ErrorKind::Io && is_gone(error),
        };
        if !moved || reopened == REOPENS {
            return acquired;
        }
        reopened += 1;
    }
}

/// Whether the system said "not found".
pub(crate) fn is_gone(error: &Error) -> bool {
    error.io_kind() == std::io::ErrorKind::NotFound
}

fn acquire_in(
    cx: &Arc<Context>,
    waiter: &mut Waiter<'_>,
    force: bool,
    look: &mut Look<'_>,
) -> Result<Acquired> {
    let root = Root::open_for_writing(cx)?;
    let mut control = root.control(cx)?;
    let local = Local::of(&*cx.platform);
    let local_cache = local.cache(control.id);

    // An operator's force waits for nobody: it may be a thread of this process that is to be removed.
    let mut place = None;
    if !force {
        let (front, contended) = local_cache.queue.enter(waiter, |waiter| {
            // For people. A guest that waits for itself is told so.
            if !GUEST && let Ok(sight) = Sight::look(&control) {
                waiter.held_by(sight.holder());
            }
        })?;
        place = Some(front);
        if contended && look(&root)? {
            return Ok(satisfied_before(waiter));
        }
    }

    let file_system = file_system(&local_cache, &control)?;
    control.remote = file_system.remote;
    let mut observation = Observation::default();
    let (gate, kind) = match cx.options.locking {
        Locking::Lease => (None, Kind::LeaseOnly),
        // An operator's force must not wait for whom it is to remove.
        Locking::Auto if force => (None, Kind::Bypass),
        Locking::Auto => take_gate(
            cx,
            &local_cache,
            &control,
            file_system,
            waiter,
            &mut observation,
        )?,
    };
    if gate.is_some() && observation.has_looked() && look(&root)? {
        return Ok(satisfied_before(waiter));
    }

    let lease = Arc::new(Lease::acquire(
        &control,
        &Request {
            kind,
            gate: gate.as_ref(),
            force,
        },
        waiter,
        &mut observation,
    )?);
    let backend = match gate {
        Some(_) => Backend::Gate,
        None => Backend::Lease,
    };
    lease.keep_front(Front { gate, place });
    local_cache.heartbeat.keep(&cx.platform, &lease);
    let hold = Hold {
        cx: cx.clone(),
        root,
        control,
        lease,
        backend,
        process: cx.platform.process_id(),
        since: cx.platform.monotonic(),
        waited: waiter.waited(),
        budget_left: waiter.left_for_renames(),
        heartbeat: local_cache.heartbeat.clone(),
        publishing: Section::new(&cx.platform),
    };
    cx.emit(&Event {
        backend: Some(hold.backend()),
        waited: Some(hold.waited),
        epoch: Some(hold.lease.epoch),
        ..Event::new(EventKind::LockAcquired, &cx.path)
    });
    // Only now, with the lease: what was read before may be what the last holder has replaced since.
    if look(&hold.root)? {
        return Ok(Acquired::Satisfied { waited: None });
    }
    Ok(Acquired::Held(Arc::new(hold)))
}

fn satisfied_before(waiter: &Waiter<'_>) -> Acquired {
    Acquired::Satisfied {
        waited: Some(waiter.waited()),
    }
}

fn file_system<'a>(local: &'a LocalCache, control: &Control) -> Result<&'a FileSystem> {
    if let Some(known) = local.file_system.get() {
        return Ok(known);
    }
    let found = control
        .dir
        .file_system()
        .map_err(|error| control.failed("ask the file system of", "", error))?;
    Ok(local.file_system.get_or_init(|| found))
}

/// The gate where it counts; otherwise nothing, said once.
fn take_gate(
    cx: &Arc<Context>,
    local: &Arc<LocalCache>,
    control: &Control,
    file_system: &FileSystem,
    waiter: &mut Waiter<'_>,
    observation: &mut Observation,
) -> Result<(Option<GateGuard>, Kind)> {
    let reason = if file_system.kernel_locks && !GUEST {
        match gate::acquire(local, control, waiter, observation)? {
            Outcome::Held(guard) => {
                let kind = Kind::Gated(guard.id);
                return Ok((Some(guard), kind));
            }
            Outcome::Bypass(kind) => return Ok((None, kind)),
            Outcome::Unavailable(reason) => Some(reason),
        }
    } else {
        None
    };
    if TELLS && local.fallback_said.set(()).is_ok() {
        let reason = reason
            .unwrap_or_else(|| format!("kernel locks on {} cannot be relied on", file_system.name));
        cx.emit(&Event {
            backend: Some(Backend::Lease),
            detail: Some(&reason),
            ..Event::new(EventKind::FallbackToLease, &cx.path)
        });
    }
    Ok((None, Kind::LeaseOnly))
}

/// What can be told about a cache's lock without taking it.
pub(crate) struct LockView {
    pub(crate) holder: Option<Holder>,
    pub(crate) gate_held: Option<bool>,
    /// Whether this user may not read what says so.
    pub(crate) private: bool,
    pub(crate) head: u64,
    pub(crate) file_system: FileSystem,
}

pub(crate) fn view(control: &Control) -> Result<LockView> {
    let file_system = control
        .dir
        .file_system()
        .map_err(|error| control.failed("ask the file system of", "", error))?;
    let sight = unless_private(Sight::look(control))?;
    let gate_held = if file_system.kernel_locks && !GUEST {
        unless_private(gate::is_held(control))?
    } else {
        Some(None)
    };
    Ok(LockView {
        private: sight.is_none() || gate_held.is_none(),
        head: sight
            .as_ref()
            .map_or_else(|| control.head(), |sight| Ok(sight.head))?,
        holder: sight.and_then(|sight| sight.holder()),
        gate_held: gate_held.flatten(),
        file_system,
    })
}

/// The lock's files are private to who made them; others may be told what the rest of the cache is like.
fn unless_private<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Err(error) if error.is_permission() => Ok(None),
        found => found.map(Some),
    }
}
