//! Heartbeats: in each process one background task for each file system beats all leases that the process holds there.
//!
//! The task lives as long as the process. It sleeps for ever when there was nothing to beat the last time it looked; but a
//! process that holds for a moment, again and again, does not wake it each time: the wake-up would be a part of each
//! hand-off. So it looks when it had planned to, even if what it had planned that for was released long ago.
//!
//! Where there are no threads the holder's own calls beat; see [`crate::Refresh`].

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cachelock_platform::{Event, GUEST, Monotonic, Platform};

use super::lease::Lease;

#[derive(Default)]
pub(crate) struct Heartbeat {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    leases: Vec<Weak<Lease>>,
    /// What wakes the task, once there is one.
    task: Option<Arc<dyn Event>>,
    /// When the task looks next by itself; `None`: never.
    looks_at: Option<Monotonic>,
}

/// What the task does next.
enum Next {
    /// Beats these leases and asks again. That ends: a beat puts off the next one, unless it finds the lease released or lost.
    Beat(Vec<Arc<Lease>>),
    /// Waits until then, or for ever.
    Sleep(Option<Monotonic>),
}

impl Heartbeat {
    /// Beats `lease` until it is released, lost or dropped, if there is a thread to do it: see [`Heartbeat::runs`].
    pub(crate) fn keep(self: &Arc<Self>, platform: &Arc<dyn Platform>, lease: &Arc<Lease>) {
        if GUEST {
            return;
        }
        let due = lease.next_beat();
        let mut state = self.state();
        state.leases.retain(|lease| lease.strong_count() > 0);
        state.leases.push(Arc::downgrade(lease));
        let early_enough = state.looks_at.is_some_and(|looks_at| looks_at <= due);
        if !early_enough {
            state.looks_at = Some(due);
        }
        if let Some(task) = &state.task {
            if !early_enough {
                task.set();
            }
            return;
        }
        // Noted before it runs, so that another thread's lease does not start a second one.
        let wake = platform.event();
        state.task = Some(wake.clone());
        drop(state);
        let heartbeat = self.clone();
        let clock = platform.clone();
        let started = platform.spawn(
            "cachelock-beat",
            Box::new(move || heartbeat.run(&*clock, &*wake)),
        );
        if let Err(error) = started {
            // Others that relied on it meanwhile find out when they ask.
            self.state().task = None;
            if error.kind() != io::ErrorKind::Unsupported {
                let without = "no thread to beat leases from, so holders must beat themselves";
                lease.say_beat_failed(&format_args!("{without}: {error}"));
            }
        }
    }

    /// Whether the task beats. Otherwise the holder's own calls must, as long as nobody has succeeded in starting it.
    pub(crate) fn runs(&self) -> bool {
        !GUEST && self.state().task.is_some()
    }

    fn run(&self, clock: &dyn Platform, wake: &dyn Event) {
        loop {
            match self.next(clock.monotonic()) {
                Next::Beat(due) => {
                    for lease in due {
                        // A lost lease says so itself, and is not beaten again.
                        let _ = lease.keep_alive();
                    }
                }
                Next::Sleep(until) => {
                    wake.wait_until(until);
                }
            }
        }
    }

    /// What to do at `now`, for the leases that still need beats.
    fn next(&self, now: Monotonic) -> Next {
        let mut state = self.state();
        let mut leases: Vec<_> = state.leases.iter().filter_map(Weak::upgrade).collect();
        leases.retain(|lease| !lease.is_released() && !lease.is_lost());
        state.leases = leases.iter().map(Arc::downgrade).collect();
        let earliest = leases.iter().map(|lease| lease.next_beat()).min();
        if earliest.is_some_and(|earliest| earliest <= now) {
            leases.retain(|lease| lease.next_beat() <= now);
            return Next::Beat(leases);
        }
        // Announced under the lock under which the leases were looked at: one that comes now sees the announcement.
        let until = earliest.or(state.looks_at.filter(|looks_at| *looks_at > now));
        state.looks_at = until;
        Next::Sleep(until)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
