//! Heartbeats: one background task for each process beats all leases that the process holds.
//!
//! The task lives as long as the process and sleeps for ever while there is nothing to beat. Where there are no threads
//! the holder's own calls beat; see [`crate::Refresh`].

use std::sync::{Arc, Mutex, PoisonError, Weak};

use cachelock_platform::{Event, Monotonic, Platform};

use super::lease::Lease;

#[derive(Default)]
pub(crate) struct Heartbeat {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    leases: Vec<Weak<Lease>>,
    task: Option<Task>,
}

struct Task {
    wake: Arc<dyn Event>,
    /// When the task looks next by itself.
    looks_at: Monotonic,
}

impl Heartbeat {
    /// Beats `lease` until it is released, lost or dropped. `false` where there are no threads to do it.
    pub(crate) fn keep(self: &Arc<Self>, platform: &Arc<dyn Platform>, lease: &Arc<Lease>) -> bool {
        let due = lease.next_beat();
        let wake = {
            let mut state = self.state();
            state.leases.push(Arc::downgrade(lease));
            match &state.task {
                // It looks early enough anyway: no need to wake it for each short hold.
                Some(task) if task.looks_at <= due => return true,
                Some(task) => Some(task.wake.clone()),
                None => None,
            }
        };
        match wake {
            Some(wake) => {
                wake.set();
                true
            }
            None => self.start(platform, due),
        }
    }

    fn start(self: &Arc<Self>, platform: &Arc<dyn Platform>, due: Monotonic) -> bool {
        let wake = platform.event();
        self.state().task = Some(Task {
            wake: wake.clone(),
            looks_at: due,
        });
        let heartbeat = self.clone();
        let clock = platform.clone();
        let started = platform.spawn(
            "cachelock-beat",
            Box::new(move || heartbeat.run(&*clock, &*wake)),
        );
        if started.is_err() {
            self.state().task = None;
        }
        started.is_ok()
    }

    fn run(&self, clock: &dyn Platform, wake: &dyn Event) {
        loop {
            let now = clock.monotonic();
            for lease in self
                .leases()
                .iter()
                .filter(|lease| lease.next_beat() <= now)
            {
                // A beat that fails for another reason than a lost lease is tried again: the disk may be full for a while.
                if let Err(error) = lease.beat()
                    && !error.is_lease_lost()
                {
                    tracing::warn!("a heartbeat failed: {error}");
                    lease.postpone_beat();
                }
            }
            let leases = self.leases();
            let next = {
                let mut state = self.state();
                // Under one lock with the announcement: a lease that comes now either is counted here or sees it.
                let next = state
                    .leases
                    .iter()
                    .filter_map(Weak::upgrade)
                    .map(|lease| lease.next_beat())
                    .min();
                if let Some(task) = &mut state.task {
                    task.looks_at = next.unwrap_or(Monotonic::MAX);
                }
                next
            };
            drop(leases);
            wake.wait_until(next);
        }
    }

    /// The leases that still need beats.
    fn leases(&self) -> Vec<Arc<Lease>> {
        let mut state = self.state();
        state.leases.retain(|lease| {
            lease
                .upgrade()
                .is_some_and(|lease| !lease.is_released() && !lease.is_lost())
        });
        state.leases.iter().filter_map(Weak::upgrade).collect()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
