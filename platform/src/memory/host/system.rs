//! The operating system, through `std`.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::{Condvar, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Whether others run while a thread waits.
pub(in super::super) const CAN_WAIT: bool = true;

/// Time since the first call.
pub(in super::super) fn monotonic() -> Duration {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    ORIGIN.get_or_init(Instant::now).elapsed()
}

/// Now, on the wall clock.
pub(in super::super) fn wall() -> SystemTime {
    SystemTime::now()
}

/// 128 random bits. The keys of a [`RandomState`] come from the system once for each thread, so they do for names that
/// only live in this memory, and for nothing secret.
pub(in super::super) fn random() -> io::Result<u128> {
    let half = || {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u128(monotonic().as_nanos());
        u128::from(hasher.finish())
    };
    Ok((half() << 64) | half())
}

/// Waits until `changed` is notified, or for so long, or for a moment without cause.
pub(in super::super) fn wait<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    timeout: Option<Duration>,
) -> io::Result<MutexGuard<'a, T>> {
    Ok(match timeout {
        None => changed.wait(guard).unwrap_or_else(PoisonError::into_inner),
        Some(timeout) => {
            changed
                .wait_timeout(guard, timeout)
                .unwrap_or_else(PoisonError::into_inner)
                .0
        }
    })
}
