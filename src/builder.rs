//! The settings of a cache.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachelock_platform::Platform;

use crate::cache::Cache;
use crate::cancel::CancelToken;
use crate::context::{Context, Options};
use crate::error::{Error, Result};
use crate::events::Observer;
use crate::lock::LEASE_MAX;
use crate::metrics::Counters;
#[cfg(feature = "mutations")]
use crate::mutation::Mutation;
use crate::name::check_cache_path;
use crate::time::millis;
use crate::wait::Timeout;

/// How writers exclude each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Locking {
    /// Kernel lock and lease where the kernel lock can be trusted, else the lease alone, which is said once as the event
    /// `fallback_to_lease`.
    #[default]
    Auto,
    /// The lease alone. Safe next to [`Locking::Auto`] on the same directory; waiting is less exact.
    Lease,
}

/// What a publish survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Kills of the process, but not a power loss: after one, an entry may be torn.
    None,
    /// After a power loss an entry is old, new or missing, never torn. Syncs the payload before its rename.
    #[default]
    Data,
    /// As `Data`, and an acknowledged publish survives. Syncs payload, tag and directories.
    Full,
}

macro_rules! words {
    ($type:ident, $what:literal, $($variant:ident = $word:literal),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($type::$variant => $word),+ })
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($type::$variant),)+
                    _ => Err(format!(concat!("{:?} is none of the ", $what, ":", $(" `", $word, "`"),+), text)),
                }
            }
        }
    };
}

words!(Locking, "ways of locking", Auto = "auto", Lease = "lease");
words!(
    Durability,
    "durabilities",
    None = "none",
    Data = "data",
    Full = "full"
);

/// The default lease: 5 s, below the default timeout, so that a waiter outlives a dead guest.
pub(crate) const LEASE_DEFAULT: Duration = Duration::from_secs(5);

/// Shorter leases would be lost to the scheduler of a busy machine: 100 ms.
pub(crate) const LEASE_MIN: Duration = Duration::from_millis(100);

impl Cache {
    /// The cache in the directory `path`, with settings.
    ///
    /// ```
    /// use cachelock::{Cache, Durability};
    /// use std::time::Duration;
    ///
    /// let dir = std::env::temp_dir().join("cachelock-doc-builder");
    /// let cache = Cache::builder(&dir).timeout(Duration::from_secs(60)).durability(Durability::Full).open()?;
    /// # Ok::<(), cachelock::Error>(())
    /// ```
    pub fn builder(path: impl AsRef<Path>) -> CacheBuilder {
        CacheBuilder {
            path: path.as_ref().to_owned(),
            platform: None,
            options: Options {
                locking: Locking::default(),
                lease: LEASE_DEFAULT,
                timeout: Timeout::DEFAULT,
                cancel: None,
                durability: Durability::default(),
                allow_shared: false,
                observer: None,
                mutation: None,
            },
        }
    }
}

/// Settings for a [`Cache`].
#[must_use = "nothing happens until `open`"]
pub struct CacheBuilder {
    path: PathBuf,
    platform: Option<Arc<dyn Platform>>,
    options: Options,
}

impl CacheBuilder {
    /// How long callers wait for the lock; 10 s by default. On the web (`wasm32-unknown-unknown`) it is tried once whatever the
    /// timeout: nobody else runs while the only thread waits.
    pub fn timeout(mut self, timeout: impl Into<Timeout>) -> Self {
        self.options.timeout = timeout.into();
        self
    }

    /// Ends waits of this cache from another thread.
    pub fn cancel(mut self, token: CancelToken) -> Self {
        self.options.cancel = Some(token);
        self
    }

    /// How writers exclude each other; [`Locking::Auto`] by default.
    pub fn locking(mut self, locking: Locking) -> Self {
        self.options.locking = locking;
        self
    }

    /// How long a holder may stand still before others take over: 5 s by default, at least 100 ms, at most 10 min. It is
    /// beaten three times in that time.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.options.lease = lease;
        self
    }

    /// What a publish survives; [`Durability::Data`] by default.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.options.durability = durability;
        self
    }

    /// Allows refreshes in a directory that other users may write to, or that belongs to another user. They can then forge
    /// entries. Reading is never refused.
    pub fn allow_shared(mut self, allow: bool) -> Self {
        self.options.allow_shared = allow;
        self
    }

    /// Whom to tell what happens; see [`Observer`].
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.options.observer = Some(Arc::new(observer));
        self
    }

    /// Runs on another platform than this process's own: a simulated one, in tests.
    pub fn platform(mut self, platform: Arc<dyn Platform>) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Gets one rule of the lease protocol wrong, for tests that must notice.
    #[cfg(feature = "mutations")]
    pub fn mutation(mut self, mutation: Mutation) -> Self {
        self.options.mutation = Some(mutation);
        self
    }

    /// The cache with these settings.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) for a lease out of bounds; [`InvalidName`](crate::ErrorKind::InvalidName) for a
    /// path in the control directory of a cache; an empty path; a relative one when the current directory cannot be had.
    pub fn open(self) -> Result<Cache> {
        let platform = self.platform.unwrap_or_else(cachelock_platform::native);
        let path = platform
            .absolute(&self.path)
            .map_err(|error| Error::io("find the directory", &*self.path, error))?;
        check_cache_path(&path)?;
        let lease = self.options.lease;
        if lease < LEASE_MIN || lease > LEASE_MAX {
            return Err(Error::limit(
                &path,
                format!(
                    "a lease of {} ms is not between {} and {} ms",
                    millis(lease),
                    millis(LEASE_MIN),
                    millis(LEASE_MAX)
                ),
            ));
        }
        let cx = Arc::new(Context {
            platform,
            path,
            options: self.options,
            counters: Counters::default(),
            synced_above: Mutex::default(),
            lasting: Mutex::default(),
        });
        #[cfg(feature = "metrics")]
        crate::facade::describe();
        Ok(Cache::new(cx))
    }
}
