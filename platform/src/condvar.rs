//! Events made of a flag and a condition variable, for targets whose threads are the system's.

use std::sync::{Condvar, Mutex, MutexGuard};

use crate::{Event, Monotonic};

/// A flag with a condition variable, waited for against the clock that it is made with.
pub(crate) struct Flag {
    set: Mutex<bool>,
    changed: Condvar,
    now: fn() -> Monotonic,
}

impl Flag {
    /// A flag that is not set.
    pub(crate) fn new(now: fn() -> Monotonic) -> Self {
        Self {
            set: Mutex::default(),
            changed: Condvar::default(),
            now,
        }
    }

    /// The flag is one word and cannot be left half changed, so a panic elsewhere does not matter.
    fn flag(&self) -> MutexGuard<'_, bool> {
        self.set
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Event for Flag {
    fn set(&self) {
        *self.flag() = true;
        self.changed.notify_all();
    }

    fn wait_until(&self, deadline: Option<Monotonic>) -> bool {
        let mut set = self.flag();
        loop {
            if std::mem::take(&mut *set) {
                return true;
            }
            set = match deadline {
                None => self
                    .changed
                    .wait(set)
                    .unwrap_or_else(|poisoned| poisoned.into_inner()),
                // Computed anew each time, so that neither a wake-up without cause nor the rounding of a timeout ends
                // the wait before the clock has reached the deadline.
                Some(deadline) => match deadline.saturating_sub((self.now)()) {
                    Monotonic::ZERO => return false,
                    left => {
                        let waited = self.changed.wait_timeout(set, left);
                        waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0
                    }
                },
            };
        }
    }
}
