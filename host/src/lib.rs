//! Gives guests in wasmtime the interface `cachelock:cache/store`, on the host's own kernel locks.
//!
//! A guest that imports it shares caches with native programs and with other guests as if it were a native program itself.
//! It reaches the directories that its embedder has granted, by the names they were granted under, and nothing else.
//!
//! ```no_run
//! use cachelock_host::{Caches, Limits};
//! use wasmtime::component::{Component, Linker};
//! use wasmtime::{Engine, Store};
//!
//! struct State {
//!     caches: Caches,
//! }
//!
//! let engine = Engine::default();
//! let mut linker = Linker::new(&engine);
//! cachelock_host::add_to_linker(&mut linker, |state: &mut State| &mut state.caches)?;
//!
//! let caches = Caches::new(Limits::default()).grant("index", "/var/cache/example");
//! let mut store = Store::new(&engine, State { caches });
//! let guest = Component::from_file(&engine, "guest.wasm")?;
//! let guest = linker.instantiate(&mut store, &guest)?; // then call what it exports
//! # Ok::<(), wasmtime::Error>(())
//! ```
//!
//! # Security
//!
//! - A guest names a grant, exactly; there is no path that it could lead elsewhere. Names of entries are checked as always,
//!   and no link is followed below the directory.
//! - Errors tell the guest the name of the grant in the place of the directory's path.
//! - [`Limits`] bound how long it waits, how much it writes, and how much it has open.
//! - While a guest holds a refresh nobody else can refresh that cache, and the host keeps its lease alive. Interrupt guests that
//!   run for too long, by wasmtime's epochs or fuel.
//!
//! # Traps
//!
//! What a guest holds is in its [`Caches`], and so is released with the `Store` that has them. To keep the `Store` of a
//! guest that has trapped, call [`Caches::release`].
//!
//! # Waiting
//!
//! Calls block the thread that runs the guest. Run guests on threads that may block, and end their waits with
//! [`Caches::cancel_token`].

mod bindings;
mod convert;
mod store;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cachelock::CancelToken;
use wasmtime::component::{HasSelf, Linker, ResourceTable};

/// What a guest may use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The longest wait for a lock; whoever asks for more waits this long. 10 s by default.
    pub timeout: Duration,
    /// The longest lease; whoever asks for more gets this one, and whoever asks for none at most 5 s. 5 s by default.
    pub lease: Duration,
    /// The longest payload in bytes: 64 MiB by default. Reading has no limit; it takes constant memory.
    pub payload_len: u64,
    /// How many refreshes may be open at once: 16 by default.
    pub open_refreshes: usize,
    /// How many caches, refreshes and payloads may be open at once: 256 by default. A payload may take a descriptor.
    pub open_resources: usize,
}

/// The lease of whoever asks for none, which is the library's default.
const LEASE: Duration = Duration::from_secs(5);

impl Default for Limits {
    fn default() -> Self {
        Limits {
            timeout: Duration::from_secs(10),
            lease: LEASE,
            payload_len: 64 * 1024 * 1024,
            open_refreshes: 16,
            open_resources: 256,
        }
    }
}

/// The caches that one guest may use, and what it has open of them. Belongs into the data of its `Store`.
#[derive(Debug)]
pub struct Caches {
    grants: BTreeMap<String, Arc<Grant>>,
    limits: Limits,
    cancel: CancelToken,
    table: ResourceTable,
    /// How many refreshes hold a lock.
    refreshes: usize,
}

/// A directory, under the name that the guest knows it by.
#[derive(Debug)]
struct Grant {
    name: String,
    dir: PathBuf,
}

impl Caches {
    /// Nothing is granted yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Caches {
            grants: BTreeMap::new(),
            table: table(&limits),
            limits,
            cancel: CancelToken::new(),
            refreshes: 0,
        }
    }

    /// Lets the guest open the cache in the directory `dir` as `name`. It is created when it is first refreshed. A relative
    /// `dir` is one of the directory that is the current one now.
    #[must_use]
    pub fn grant(mut self, name: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        let name = name.into();
        let dir = dir.into();
        // As errors have it: absolute, without `.` and doubled separators.
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        let grant = Grant {
            name: name.clone(),
            dir: dir.components().collect(),
        };
        self.grants.insert(name, Arc::new(grant));
        self
    }

    /// Ends all waits of this guest, from another thread: they fail with `cancelled`, and so does every later one.
    #[must_use]
    pub fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    /// Releases all that the guest holds, as dropping its `Store` does. What it has open afterwards is of no use to it: the
    /// next call with one of its handles traps.
    pub fn release(&mut self) {
        self.table = table(&self.limits);
        self.refreshes = 0;
    }
}

fn table(limits: &Limits) -> ResourceTable {
    let mut table = ResourceTable::new();
    table.set_max_capacity(limits.open_resources);
    table
}

/// Defines `cachelock:cache/store` in `linker`; `get` finds the guest's [`Caches`] in its store's data.
///
/// # Errors
/// If `linker` has that interface already.
pub fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    get: fn(&mut T) -> &mut Caches,
) -> wasmtime::Result<()> {
    bindings::cachelock::cache::store::add_to_linker::<T, HasSelf<Caches>>(linker, get)
}
