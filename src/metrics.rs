//! What has happened, added up: counters and histograms that a program reads whenever it likes.
//!
//! [`Counters::count`] is called by [`Context::emit`](crate::context::Context::emit) and by nobody else, so counters cannot
//! disagree with what observers and `tracing` are told, but for what these cause themselves: that is counted alone. Each event costs a few additions to atomics. A read that finds
//! what it should is no event and costs nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::cache::Cache;
use crate::events::{Backend, Event, EventKind, WaitingFor};

const BOUNDS: [Duration; 19] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(300),
];

/// One for each bound, and one for what is above all of them.
const BUCKETS: usize = BOUNDS.len() + 1;

/// What has happened to a cache in this process, added up since it was opened; see [`Cache::metrics`].
///
/// Each counter is the number of [events](crate::EventKind) of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Acquired with the kernel lock and the lease: `lock_acquired` with the backend `gate`.
    pub acquired_by_gate: u64,
    /// Acquired with the lease alone: `lock_acquired` with the backend `lease`.
    pub acquired_by_lease: u64,
    /// The lock was not free at the first look: `lock_contended`.
    pub contended: u64,
    /// Waits that ended with the timeout: `lock_timeout`.
    pub timeouts: u64,
    /// Waits that were cancelled: `lock_cancelled`.
    pub cancelled: u64,
    /// Leases of dead or frozen holders that this process took over: `lease_taken_over`.
    pub takeovers: u64,
    /// Leases that this process lost: `lease_lost`.
    pub leases_lost: u64,
    /// Background beats that failed: `heartbeat_failed`.
    pub heartbeats_failed: u64,
    /// Refreshes that were published: `refresh_published`.
    pub published: u64,
    /// Refreshes that somebody else had done meanwhile: `refresh_skipped`.
    pub skipped: u64,
    /// Stale entries that were returned: `served_stale`.
    pub served_stale: u64,
    /// Reads that found a corrupt entry: `entry_corrupt`.
    pub corrupt: u64,
    /// Acquires that removed what a dead holder had left: `recovered`.
    pub recovered: u64,
    /// Times that the lease had to do without the kernel lock, said once for each cache and process: `fallback_to_lease`.
    pub fallbacks: u64,
    /// Calls of observers, of `tracing` subscribers and of `metrics` recorders that panicked.
    pub observer_panics: u64,
    /// For how long callers waited for the lock, however that ended: with the lock, with a timeout, cancelled, or with
    /// somebody else's refresh. A lock that was free counts, too, with the time that acquiring it took.
    pub wait: Histogram,
    /// For how long the lock was held, whatever for: one for each `lock_released`.
    pub hold: Histogram,
}

/// How many durations were how long: counts below fixed bounds, as Prometheus has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    /// Not cumulative.
    counts: [u64; BUCKETS],
    sum: Duration,
}

impl Histogram {
    /// The upper bounds of the buckets: 100, 250 and 500 µs; 1, 2.5, 5, 10, 25, 50, 100, 250 and 500 ms; 1, 2.5, 5, 10, 30,
    /// 60 and 300 s. A duration that is equal to a bound is below it.
    pub const BOUNDS: &'static [Duration] = &BOUNDS;

    /// How many durations there were, those above all bounds included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All durations added.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Each bound, and how many durations were at most that: cumulative, each count includes the ones before it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let mut below = 0;
        BOUNDS.iter().zip(&self.counts).map(move |(bound, count)| {
            below += count;
            (*bound, below)
        })
    }

    /// The duration that the share `quantile` of all durations does not exceed: 0.5 for the median, 0.99 for all but the
    /// longest hundredth. `None` if there were none, or for a share that is not between 0 and 1.
    ///
    /// An estimate: within a bucket durations are taken to be spread evenly, and one above all bounds for the last bound.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 || !(0.0..=1.0).contains(&quantile) {
            return None;
        }
        let rank = quantile * count as f64;
        let mut lower = (Duration::ZERO, 0);
        for (bound, below) in self.buckets() {
            let within = below - lower.1;
            if within > 0 && below as f64 >= rank {
                let share = (rank - lower.1 as f64) / within as f64;
                return Some(lower.0 + (bound - lower.0).mul_f64(share));
            }
            lower = (bound, below);
        }
        Some(lower.0)
    }
}

impl Cache {
    /// What has happened to this cache, added up since it was opened. Clones, entries and locks of one `Cache` count
    /// together; another `Cache` on the same directory, or another process, counts for itself.
    ///
    /// Costs a few loads. What happens meanwhile may be in one counter and not yet in another.
    ///
    /// ```
    /// use cachelock::Cache;
    /// use std::time::Duration;
    ///
    /// let dir = std::env::temp_dir().join("cachelock-doc-metrics");
    /// let cache = Cache::open(&dir)?;
    /// cache.entry("index.json")?.refresh()?.publish()?;
    ///
    /// let metrics = cache.metrics();
    /// assert_eq!(metrics.published, 1);
    /// assert_eq!(metrics.acquired_by_gate + metrics.acquired_by_lease, 1);
    /// assert_eq!(metrics.hold.count(), 1);
    /// if metrics.wait.quantile(0.99) > Some(Duration::from_secs(5)) {
    ///     println!("callers are close to their timeout, {} passed it", metrics.timeouts);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.cx.counters.snapshot()
    }
}

/// The wait for the lock that `event` is the end of.
pub(crate) fn wait_of(event: &Event<'_>) -> Option<Duration> {
    match event.kind {
        EventKind::LockAcquired
        | EventKind::LockTimeout
        | EventKind::LockCancelled
        | EventKind::RefreshSkipped => event
            .waited
            // A wait of a publish, with the lock held.
            .filter(|_| event.waiting_for != Some(WaitingFor::Replace)),
        _ => None,
    }
}

/// For how long the lock was held that `event` is the end of.
pub(crate) fn hold_of(event: &Event<'_>) -> Option<Duration> {
    match event.kind {
        EventKind::LockReleased => event.held,
        _ => None,
    }
}

/// The counters of one cache.
#[derive(Default)]
pub(crate) struct Counters {
    /// By kind; of the acquires only those with the gate.
    events: [AtomicU64; EventKind::ALL.len()],
    acquired_by_lease: AtomicU64,
    observer_panics: AtomicU64,
    wait: Buckets,
    hold: Buckets,
}

#[derive(Default)]
struct Buckets {
    counts: [AtomicU64; BUCKETS],
    /// 500 years fit.
    sum_ns: AtomicU64,
}

impl Counters {
    pub(crate) fn count(&self, event: &Event<'_>) {
        let counter = match (event.kind, event.backend) {
            (EventKind::LockAcquired, Some(Backend::Lease)) => &self.acquired_by_lease,
            (kind, _) => &self.events[kind as usize],
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Some(waited) = wait_of(event) {
            self.wait.add(waited);
        }
        if let Some(held) = hold_of(event) {
            self.hold.add(held);
        }
    }

    pub(crate) fn count_panics(&self, panics: u64) {
        if panics > 0 {
            self.observer_panics.fetch_add(panics, Ordering::Relaxed);
        }
    }

    fn snapshot(&self) -> Metrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let of = |kind: EventKind| read(&self.events[kind as usize]);
        Metrics {
            acquired_by_gate: of(EventKind::LockAcquired),
            acquired_by_lease: read(&self.acquired_by_lease),
            contended: of(EventKind::LockContended),
            timeouts: of(EventKind::LockTimeout),
            cancelled: of(EventKind::LockCancelled),
            takeovers: of(EventKind::LeaseTakenOver),
            leases_lost: of(EventKind::LeaseLost),
            heartbeats_failed: of(EventKind::HeartbeatFailed),
            published: of(EventKind::RefreshPublished),
            skipped: of(EventKind::RefreshSkipped),
            served_stale: of(EventKind::ServedStale),
            corrupt: of(EventKind::EntryCorrupt),
            recovered: of(EventKind::Recovered),
            fallbacks: of(EventKind::FallbackToLease),
            observer_panics: read(&self.observer_panics),
            wait: self.wait.snapshot(),
            hold: self.hold.snapshot(),
        }
    }
}

impl Buckets {
    fn add(&self, duration: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < duration);
        let ns = crate::time::nanos(duration);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
    }

    fn snapshot(&self) -> Histogram {
        Histogram {
            counts: std::array::from_fn(|bucket| self.counts[bucket].load(Ordering::Relaxed)),
            sum: Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)),
        }
    }
}
