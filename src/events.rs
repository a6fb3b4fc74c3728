//! What happens, said once: counted, and told to `tracing`, to the `metrics` facade and to the observer of a cache, with the
//! same names and fields. `docs/events.md` lists them.
//!
//! Whoever listens cannot change what it listens to. Its panic ends in [`tell`]. Events are told where no mutex of the library's own
//! is held. A listener that wants a cache's lock is refused it, for its thread may be the one that has it; and so is one that
//! publishes in the middle of another publish under the same lock, which would wait for itself.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use crate::context::TELLS;
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

/// What a caller was waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitingFor {
    /// Another thread of this process to be done.
    Thread,
    /// The gate: another process has the kernel lock.
    Gate,
    /// The lease: somebody without the kernel lock holds it, or it must expire first.
    Lease,
    /// Another program's handle on the file that is to be replaced.
    Replace,
}

impl WaitingFor {
    /// The stable name, as in `tracing` events: `thread`, `gate`, `lease` or `replace`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            WaitingFor::Thread => "thread",
            WaitingFor::Gate => "gate",
            WaitingFor::Lease => "lease",
            WaitingFor::Replace => "replace",
        }
    }
}

impl fmt::Display for WaitingFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WaitingFor::Thread => "another thread of this process",
            WaitingFor::Gate => "the writer lock",
            WaitingFor::Lease => "the lease",
            WaitingFor::Replace => "somebody else's open handle",
        })
    }
}

/// One line for each kind, so that kind, name, counter and list cannot come apart.
macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $name:literal,)+) => {
        /// The kinds of [`Event`]. The names are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum EventKind {
            $($(#[doc = $doc])+ $kind,)+
        }

        impl EventKind {
            /// All kinds.
            pub const ALL: &'static [EventKind] = &[$(EventKind::$kind),+];

            /// The stable name, `lock_contended` and so on: also the message of the `tracing` event.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(EventKind::$kind => $name,)+
                }
            }

            /// The name of its counter, and what that counts, for the `metrics` facade.
            #[cfg(feature = "metrics")]
            pub(crate) fn counter(self) -> (&'static str, &'static str) {
                match self {
                    $(EventKind::$kind => (concat!("cachelock_", $name, "_total"), concat!($($doc),+)),)+
                }
            }
        }
    };
}

kinds! {
    /// The lock was not free at the first look.
    LockContended = "lock_contended",
    /// The wait goes on; said 50 ms after its start, and each second from then on.
    LockWaiting = "lock_waiting",
    /// The lock was acquired.
    LockAcquired = "lock_acquired",
    /// The timeout passed.
    LockTimeout = "lock_timeout",
    /// The wait was cancelled.
    LockCancelled = "lock_cancelled",
    /// The lock was given back: after a publish or without one, and also if it had been lost.
    LockReleased = "lock_released",
    /// A dead or frozen holder's lease was taken over.
    LeaseTakenOver = "lease_taken_over",
    /// This process was overtaken. Said as soon as it is noticed.
    LeaseLost = "lease_lost",
    /// A background beat of the lease failed. It is tried again, but the lease will be lost if that goes on.
    HeartbeatFailed = "heartbeat_failed",
    /// A refresh was published.
    RefreshPublished = "refresh_published",
    /// Somebody else had refreshed meanwhile, so nothing was produced.
    RefreshSkipped = "refresh_skipped",
    /// A stale entry was returned: somebody else refreshes it, or refreshing it failed.
    ServedStale = "served_stale",
    /// A read found a payload that is not what its tag says.
    EntryCorrupt = "entry_corrupt",
    /// What a dead holder had left was removed.
    Recovered = "recovered",
    /// Kernel locks cannot be had or trusted here; the lease alone is used. Said once for each cache and process.
    FallbackToLease = "fallback_to_lease",
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

    /// Whether a person who runs the program would want to know without asking.
    fn is_warning(&self) -> bool {
        match self.kind {
            EventKind::LockTimeout
            | EventKind::LeaseTakenOver
            | EventKind::LeaseLost
            | EventKind::HeartbeatFailed
            | EventKind::EntryCorrupt
            | EventKind::FallbackToLease => true,
            // All is well unless they say what is not.
            EventKind::LockReleased | EventKind::ServedStale => self.detail.is_some(),
            _ => false,
        }
    }
}

/// Somebody who wants to know what happens.
///
/// Called on the thread where it happens, heartbeats included: be quick, for the lock may be held meanwhile.
///
/// It may call back into the cache to read, to ask for its [`status`](crate::Cache::status) or its
/// [`metrics`](crate::Cache::metrics), to publish, and to give locks back. Whatever wants the lock of a cache, any cache, fails
/// there at once with [`NoLock`](crate::ErrorKind::NoLock): the thread may be the one that has that lock, or that waits for it.
/// So does a publish, if the event was told in the middle of another one under the same lock. It must not wait for another
/// thread that does such things. What happens because of such a call is counted and not told.
///
/// A panic of an observer goes no further than the panic hook. It is counted in
/// [`observer_panics`](crate::Metrics::observer_panics), and the observer is called again for the next event.
///
/// ```
/// use cachelock::{Cache, Event, EventKind};
/// use std::sync::mpsc::channel;
///
/// let (sender, generations) = channel();
/// let dir = std::env::temp_dir().join("cachelock-doc-observer");
/// let cache = Cache::builder(&dir)
///     .observer(move |event: &Event<'_>| {
///         if event.kind == EventKind::RefreshPublished {
///             // Away from this thread with it: the lock is still held here.
///             let _ = sender.send(event.generation);
///         }
///     })
///     .open()?;
///
/// let published = cache.entry("index.json")?.refresh()?.publish()?;
/// assert_eq!(generations.recv()?, Some(published.generation));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Observer: Send + Sync {
    /// `event` has just happened.
    fn observe(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync> Observer for F {
    fn observe(&self, event: &Event<'_>) {
        self(event);
    }
}

thread_local! {
    static TELLING: Cell<bool> = const { Cell::new(false) };
}

/// This thread tells an event: what it does now was asked for by whoever listens.
struct Telling;

impl Telling {
    /// `None` if it does so already.
    fn begin() -> Option<Self> {
        // Lazily: the drop of one that is not wanted would end the other.
        (!TELLING.replace(true)).then(|| Telling)
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        TELLING.set(false);
    }
}

/// Whether the caller was called by somebody who listens to an event.
pub(crate) fn is_telling() -> bool {
    TELLS && TELLING.get()
}

/// Tells `event` to everybody who listens. Returns how many of them panicked.
///
/// An event that a listener brings about is not told: one that reads the corrupt entry that it hears of would never end.
pub(crate) fn tell(observer: Option<&dyn Observer>, event: &Event<'_>) -> u64 {
    let Some(_telling) = Telling::begin() else {
        return 0;
    };
    // They are called in the middle of acquiring and of releasing, and by the one thread that beats all leases.
    let panics = |listen: &dyn Fn()| u64::from(catch_unwind(AssertUnwindSafe(listen)).is_err());
    let mut panicked = panics(&|| trace(event));
    #[cfg(feature = "metrics")]
    {
        panicked += panics(&|| crate::facade::record(event));
    }
    if let Some(observer) = observer {
        panicked += panics(&|| observer.observe(event));
    }
    panicked
}

fn trace(event: &Event<'_>) {
    let ms = |duration: Option<Duration>| duration.map(crate::time::millis);
    // As a text, which whoever writes lines escapes: a path may hold what moves a terminal's cursor.
    let cache = event.cache.to_string_lossy();
    macro_rules! trace {
        ($level:expr) => {
            tracing::event!(
                target: "cachelock",
                $level,
                cache = &*cache,
                entry = event.entry,
                backend = event.backend.map(Backend::name),
                waiting_for = event.waiting_for.map(WaitingFor::name),
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
    if event.is_warning() {
        trace!(tracing::Level::WARN);
    } else {
        trace!(tracing::Level::DEBUG);
    }
}
