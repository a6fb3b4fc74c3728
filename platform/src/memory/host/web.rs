//! The JavaScript around `wasm32-unknown-unknown`: a page, a worker or Node.js.
//!
//! There is one thread, and JavaScript runs only when it has returned. So a wait is in vain here: whatever it waits for
//! cannot happen before it ends. It ends at once, with an error.

use std::io;
use std::sync::{Condvar, MutexGuard};
use std::time::{Duration, SystemTime};

use wasm_bindgen::prelude::wasm_bindgen;

#[wasm_bindgen]
extern "C" {
    /// Milliseconds since an origin that is the page's or the worker's own.
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn performance_now() -> f64;

    /// Milliseconds since 1970.
    #[wasm_bindgen(js_namespace = Date, js_name = now)]
    fn date_now() -> f64;
}

/// Whether others run while a thread waits.
pub(in super::super) const CAN_WAIT: bool = false;

/// Time since the origin that the host has chosen. Browsers round it, some to a millisecond.
pub(in super::super) fn monotonic() -> Duration {
    millis(performance_now())
}

/// Now, on the wall clock.
pub(in super::super) fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + millis(date_now())
}

fn millis(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis / 1000.0).unwrap_or_default()
}

/// 128 random bits, from `crypto.getRandomValues`.
pub(in super::super) fn random() -> io::Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u128::from_ne_bytes(bytes))
}

/// Fails: nobody is there who could change anything.
pub(in super::super) fn wait<'a, T>(
    _changed: &Condvar,
    _guard: MutexGuard<'a, T>,
    _timeout: Option<Duration>,
) -> io::Result<MutexGuard<'a, T>> {
    Err(io::Error::new(
        io::ErrorKind::Deadlock,
        "nobody else runs while the only thread waits",
    ))
}
