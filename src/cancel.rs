//! Cancelling waits.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cachelock_platform as platform;

/// Cancels waits from another thread, at once. Clones are the same token.
///
/// ```
/// let token = cachelock::CancelToken::new();
/// let dir = std::env::temp_dir().join("cachelock-doc-cancel");
/// let cache = cachelock::Cache::builder(&dir).cancel(token.clone()).open()?;
/// token.cancel();
/// let holder = cache.lock();
/// assert!(holder.is_err_and(|error| error.is_cancelled()));
/// # Ok::<(), cachelock::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct CancelToken(Arc<TokenState>);

#[derive(Default)]
struct TokenState {
    cancelled: AtomicBool,
    waiting: Mutex<Vec<Weak<dyn platform::Event>>>,
}

impl CancelToken {
    /// A token that is not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels all waits that use this token, now and in future.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        let waiting = std::mem::take(
            &mut *self
                .0
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for event in waiting.iter().filter_map(Weak::upgrade) {
            event.set();
        }
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Wakes `event` when it is cancelled.
    pub(crate) fn wake(&self, event: &Arc<dyn platform::Event>) {
        let mut waiting = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|event| event.strong_count() > 0);
        waiting.push(Arc::downgrade(event));
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelToken")
            .field(&self.is_cancelled())
            .finish()
    }
}
