//! What every part of a cache shares: the platform, the path, the options, and the voice.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachelock_platform::{FileId, GUEST, Platform};

use crate::builder::{Durability, Locking};
use crate::cancel::CancelToken;
use crate::durable::Lasting;
use crate::events::{self, Event, Observer};
use crate::metrics::Counters;
use crate::mutation::Mutation;
use crate::wait::Timeout;

/// The settings of a cache; see [`crate::CacheBuilder`].
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) locking: Locking,
    pub(crate) lease: Duration,
    pub(crate) timeout: Timeout,
    pub(crate) cancel: Option<CancelToken>,
    pub(crate) durability: Durability,
    pub(crate) allow_shared: bool,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    #[cfg_attr(
        not(feature = "mutations"),
        expect(dead_code, reason = "read by test builds only")
    )]
    pub(crate) mutation: Option<Mutation>,
}

/// Whether anybody can listen. What is made up for an event alone is not made up otherwise. A native always can: cargo gives it
/// the feature as well where it builds both.
pub(crate) const TELLS: bool = !(GUEST && cfg!(feature = "silent"));

pub(crate) struct Context {
    pub(crate) platform: Arc<dyn Platform>,
    /// The cache directory, absolute.
    pub(crate) path: PathBuf,
    pub(crate) options: Options,
    pub(crate) counters: Counters,
    /// The directory whose name, and those above it, were made to last; see [`durable`](crate::durable).
    pub(crate) synced_above: Mutex<Option<FileId>>,
    /// The entry that was published last and lasts.
    pub(crate) lasting: Mutex<Option<Lasting>>,
}

impl Context {
    /// The only way to say something: counts it and tells it to whoever listens.
    #[inline]
    pub(crate) fn emit(&self, event: &Event<'_>) {
        if !TELLS {
            return;
        }
        self.counters.count(event);
        let panics = events::tell(self.options.observer.as_deref(), event);
        self.counters.count_panics(panics);
    }

    /// Whether this build was told to get `mutation` wrong. Never, outside of tests.
    pub(crate) fn mutated(&self, mutation: Mutation) -> bool {
        #[cfg(feature = "mutations")]
        return self.options.mutation == Some(mutation);
        #[cfg(not(feature = "mutations"))]
        {
            let _ = mutation;
            false
        }
    }
}
