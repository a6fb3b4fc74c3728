//! The monotonic clock.
//!
//! It is the system's own `CLOCK_MONOTONIC`, so its values mean the same in every process of one boot. Nobody may rely on
//! that but tests.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::Monotonic;

/// Now.
#[allow(
    clippy::unnecessary_cast,
    reason = "the types of the fields differ from system to system"
)]
pub(super) fn monotonic() -> Monotonic {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
