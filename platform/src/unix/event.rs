//! The monotonic clock, and events that are waited for against it.
//!
//! The clock is the system's own `CLOCK_MONOTONIC`, so its values mean the same in every process of one boot. Nobody
//! may rely on that but tests.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::{Event, Monotonic};

/// Now.
#[allow(
    clippy::unnecessary_cast,
    reason = "the types of the fields differ from system to system"
)]
pub(super) fn monotonic() -> Monotonic {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// A flag with a condition variable.
#[derive(Default)]
pub(super) struct UnixEvent {
    set: Mutex<bool>,
    changed: Condvar,
}

impl UnixEvent {
    /// The flag is one word and cannot be left half changed, so a panic elsewhere does not matter.
    fn flag(&self) -> MutexGuard<'_, bool> {
        self.set
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Event for UnixEvent {
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
                Some(deadline) => match deadline.checked_sub(monotonic()) {
                    None | Some(Duration::ZERO) => return false,
                    Some(left) => {
                        let waited = self.changed.wait_timeout(set, left);
                        waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0
                    }
                },
            };
        }
    }
}
