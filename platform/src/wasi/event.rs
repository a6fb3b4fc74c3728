//! The monotonic clock, and events that are waited for against it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wasi::clocks::monotonic_clock::{now, subscribe_instant};

use crate::{Event, Monotonic};

/// For how long a wait without a deadline sleeps in one go. It may end early.
const LONG: Duration = Duration::from_secs(3600);

/// Now, since an origin that each instance may have for itself.
pub(super) fn monotonic() -> Monotonic {
    Duration::from_nanos(now())
}

/// Nanoseconds, as the clock counts them.
pub(super) fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(duration.subsec_nanos().into())
}

/// A flag. Nobody else runs while this instance waits, so what is not set before the wait is not set during it.
#[derive(Default)]
pub(super) struct WasiEvent(AtomicBool);

impl Event for WasiEvent {
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn wait_until(&self, deadline: Option<Monotonic>) -> bool {
        if self.0.swap(false, Ordering::Relaxed) {
            return true;
        }
        let deadline = deadline.map_or(now().saturating_add(nanos(LONG)), nanos);
        if deadline > now() {
            subscribe_instant(deadline).block();
        }
        false
    }
}
