//! What happens, said once: to the observer of a cache and to `tracing`, with the same names and fields.

use std::path::Path;
use std::time::Duration;

use crate::error::WaitingFor;
use crate::lock::Holder;

/// What gave the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// The kernel lock and the lease.
    Gate,
    /// The lease alone.
    Lease,
}

impl Backend {
    /// `gate` or `lease`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Backend::Gate => "gate",
            Backend::Lease => "lease",
        }
    }
}

/// The kinds of [`Event`]. The names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// The lock was not free at the first look.
    LockContended,
    /// The wait goes on; said 50 ms after its start, and each second from then on.
    LockWaiting,
    /// The lock was acquired.
    LockAcquired,
    /// The timeout passed.
    LockTimeout,
    /// The wait was cancelled.
    LockCancelled,
    /// A dead or frozen holder's lease was taken over.
    LeaseTakenOver,
    /// This process was overtaken. Said as soon as it is noticed.
    LeaseLost,
    /// A refresh was published.
    RefreshPublished,
    /// Somebody else had refreshed meanwhile, so nothing was produced.
    RefreshSkipped,
    /// A stale payload was served by the policy: somebody else is refreshing it, or refreshing it failed (the detail says
    /// how).
    ServedStale,
    /// A read found a payload that is not what its tag says.
    EntryCorrupt,
    /// What a dead holder had left was removed.
    Recovered,
    /// Kernel locks cannot be had or trusted here; the lease alone is used. Said once for each cache and process.
    FallbackToLease,
}

impl EventKind {
    /// The stable name, `lock_contended` and so on: also the message of the `tracing` event.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            EventKind::LockContended => "lock_contended",
            EventKind::LockWaiting => "lock_waiting",
            EventKind::LockAcquired => "lock_acquired",
            EventKind::LockTimeout => "lock_timeout",
            EventKind::LockCancelled => "lock_cancelled",
            EventKind::LeaseTakenOver => "lease_taken_over",
            EventKind::LeaseLost => "lease_lost",
            EventKind::RefreshPublished => "refresh_published",
            EventKind::RefreshSkipped => "refresh_skipped",
            EventKind::ServedStale => "served_stale",
            EventKind::EntryCorrupt => "entry_corrupt",
            EventKind::Recovered => "recovered",
            EventKind::FallbackToLease => "fallback_to_lease",
        }
    }

    /// Whether a person who runs the program would want to know without asking.
    fn is_warning(self) -> bool {
        matches!(
            self,
            EventKind::LockTimeout
                | EventKind::LeaseTakenOver
                | EventKind::LeaseLost
                | EventKind::EntryCorrupt
                | EventKind::FallbackToLease
        )
    }
}

/// Something that happened. Fields that do not apply are `None`.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Event<'a> {
    /// What happened.
    pub kind: EventKind,
    /// The cache directory.
    pub cache: &'a Path,
    /// The entry's name.
    pub entry: Option<&'a str>,
    /// What gave the lock.
    pub backend: Option<Backend>,
    /// What is waited for.
    pub waiting_for: Option<WaitingFor>,
    /// How long the caller has waited.
    pub waited: Option<Duration>,
    /// How long is left until the timeout; `None` also when there is none.
    pub remaining: Option<Duration>,
    /// How long the lock was held, or a lease stood still before it was taken over.
    pub held: Option<Duration>,
    /// The lease's epoch.
    pub epoch: Option<u64>,
    /// The entry's generation.
    pub generation: Option<u64>,
    /// Who holds the lock.
    pub holder: Option<&'a Holder>,
    /// More, in words.
    pub detail: Option<&'a str>,
}

impl<'a> Event<'a> {
    pub(crate) fn new(kind: EventKind, cache: &'a Path) -> Self {
        Event {
            kind,
            cache,
            entry: None,
            backend: None,
            waiting_for: None,
            waited: None,
            remaining: None,
            held: None,
            epoch: None,
            generation: None,
            holder: None,
            detail: None,
        }
    }
}

/// Somebody who wants to know what happens. Called on the thread where it happens, heartbeats included: be quick, and do
/// not call back into the cache.
pub trait Observer: Send + Sync {
    /// `event` has just happened.
    fn observe(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync> Observer for F {
    fn observe(&self, event: &Event<'_>) {
        self(event);
    }
}

/// Says `event` to `tracing` and to `observer`.
pub(crate) fn emit(observer: Option<&dyn Observer>, event: &Event<'_>) {
    let ms = |duration: Option<Duration>| duration.map(crate::time::millis);
    macro_rules! trace {
        ($level:expr) => {
            tracing::event!(
                $level,
                cache = %event.cache.display(),
                entry = event.entry,
                backend = event.backend.map(Backend::name),
                waiting_for = event.waiting_for.map(tracing::field::display),
                waited_ms = ms(event.waited),
                remaining_ms = ms(event.remaining),
                held_ms = ms(event.held),
                epoch = event.epoch,
                generation = event.generation,
                holder = event.holder.map(tracing::field::display),
                detail = event.detail,
                "{}",
                event.kind.name()
            )
        };
    }
    // A payload that others are refreshing is served as it was asked for; one that nobody could refresh is not.
    let failed = event.kind == EventKind::ServedStale && event.detail.is_some();
    if event.kind.is_warning() || failed {
        trace!(tracing::Level::WARN);
    } else {
        trace!(tracing::Level::DEBUG);
    }
    if let Some(observer) = observer {
        observer.observe(event);
    }
}
