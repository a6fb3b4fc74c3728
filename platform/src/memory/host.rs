//! What a live world takes from its host: the clocks, waiting and randomness. Everything else in [`memory`](super) is
//! the same on every target, so this is the one file to swap where `std` has no clock and no threads.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Condvar, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Time since the first call.
pub(super) fn monotonic() -> Duration {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    ORIGIN.get_or_init(Instant::now).elapsed()
}

/// Now, on the wall clock.
pub(super) fn wall() -> SystemTime {
    SystemTime::now()
}

/// 64 random bits. The keys of a [`RandomState`] come from the system once for each thread, so they do for names that
/// only live in this memory, and for nothing secret.
pub(super) fn entropy() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u128(monotonic().as_nanos());
    hasher.finish()
}

/// Waits until `changed` is notified, or for so long, or for a moment without cause.
pub(super) fn wait<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    timeout: Option<Duration>,
) -> MutexGuard<'a, T> {
    match timeout {
        None => changed.wait(guard).unwrap_or_else(PoisonError::into_inner),
        Some(timeout) => {
            changed
                .wait_timeout(guard, timeout)
                .unwrap_or_else(PoisonError::into_inner)
                .0
        }
    }
}
