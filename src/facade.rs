//! The cargo feature `metrics`: the same numbers as [`crate::Metrics`], for whatever recorder the program has installed for the
//! `metrics` crate. `docs/events.md` lists the names.
//!
//! No label has a path or an entry in it: each would be a series of its own.

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

use crate::events::{Backend, Event, EventKind};
use crate::metrics::{hold_of, wait_of};

const WAIT: &str = "cachelock_lock_wait_seconds";
const HOLD: &str = "cachelock_lock_hold_seconds";

/// The kinds with a counter: not what is said again and again, nor what the histogram of holds counts.
fn is_counted(kind: EventKind) -> bool {
    !matches!(kind, EventKind::LockWaiting | EventKind::LockReleased)
}

/// Says what there is, for exporters that show a help text, and begins each counter at 0: what cannot be seen has no rate.
pub(crate) fn describe() {
    for &kind in EventKind::ALL.iter().filter(|kind| is_counted(**kind)) {
        let (name, what) = kind.counter();
        describe_counter!(name, Unit::Count, what.trim());
        if kind == EventKind::LockAcquired {
            for backend in [Backend::Gate, Backend::Lease] {
                counter!(name, "backend" => backend.name()).increment(0);
            }
        } else {
            counter!(name).increment(0);
        }
    }
    describe_histogram!(
        WAIT,
        Unit::Seconds,
        "How long callers waited for the lock, however that ended."
    );
    describe_histogram!(HOLD, Unit::Seconds, "How long the lock was held.");
}

pub(crate) fn record(event: &Event<'_>) {
    let (name, _) = event.kind.counter();
    match (event.kind, event.backend) {
        (EventKind::LockAcquired, Some(backend)) => {
            counter!(name, "backend" => backend.name()).increment(1);
        }
        (kind, _) if is_counted(kind) => counter!(name).increment(1),
        _ => {}
    }
    if let Some(waited) = wait_of(event) {
        histogram!(WAIT).record(waited.as_secs_f64());
    }
    if let Some(held) = hold_of(event) {
        histogram!(HOLD).record(held.as_secs_f64());
    }
}
