//! Shares a cache on disk between processes.
//!
//! One writer at a time refreshes it, readers never wait and never see half of anything, and a holder that died or fell
//! asleep can neither block the others nor overwrite them.
//!
//! ```
//! use cachelock::{Cache, Policy};
//! use std::io::Write;
//! use std::time::Duration;
//!
//! let dir = std::env::temp_dir().join("cachelock-doc-lib");
//! let cache = Cache::open(&dir)?;
//! let index = cache.entry("index.json")?.get_or_refresh(
//!     &Policy::fresh_for(Duration::from_secs(600)),
//!     // Runs only if the entry is missing or older than ten minutes, and once among all processes that ask for it now.
//!     |refresh| refresh.write_all(b"fetched from somewhere slow"),
//! )?;
//! assert!(index.is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//!
//! - At most one refresh for each cache is inside the kernel lock; the others wait, time out, or are cancelled.
//! - An overtaken holder cannot publish: it gets [`ErrorKind::LeaseLost`], and nothing changes.
//! - A read takes no lock and writes nothing. It returns the whole old or the whole new payload, checked by length and hash.
//! - Killed at any instruction, a holder leaves nothing that a person must clean up.
//! - Waiting for a refresh that somebody else did is enough.
//! - Where no lock can be had that is an error or a visible event, never silence.
//!
//! # What is not promised
//!
//! - A lease is no mutual exclusion: an overtaken holder may go on computing. Only publishing is exclusive.
//! - Fairness, beyond that nobody waits for ever while others come and go.
//! - Anything against somebody with write access to the directory who means harm.
//!
//! # How it works
//!
//! See `docs/architecture.md` in the repository. In short: payloads are replaced by one rename each; a tag beside them says
//! what they should be; `.cachelock/` holds the kernel lock's file and numbered lease files, and the files that
//! are to be renamed are removed by whoever takes over.

/// The examples of the documents, run as tests.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/embedding.md")]
    struct Embedding;
}

/// See `docs/reliability.md`, "Mutants".
#[cfg(all(test, mutants))]
#[path = "../tests/together/mod.rs"]
mod together;
#[cfg(all(test, mutants))]
extern crate self as cachelock;

mod builder;
mod cache;
mod cancel;
mod context;
mod control;
mod durable;
mod error;
mod events;
#[cfg(feature = "metrics")]
mod facade;
mod found_tag;
mod freshness;
mod key;
mod kind;
mod lock;
mod meta;
mod metrics;
mod mutation;
mod name;
#[cfg(feature = "mutations")]
#[doc(hidden)]
pub mod parsers;
mod payload;
mod policy;
mod publish;
mod published;
mod read;
mod reader;
mod refresh;
mod rename;
mod root;
mod scratch;
mod section;
mod stage;
mod state;
mod stream;
mod tag;
mod text;
mod time;
mod transfer;
mod validators;
mod wait;

pub use cachelock_platform as platform;

pub use builder::{CacheBuilder, Durability, Locking};
pub use cache::{Cache, Entry, Status, WriteLock};
pub use cancel::CancelToken;
pub use error::{Error, ErrorKind, Result};
pub use events::{Backend, Event, EventKind, Observer, WaitingFor};
pub use freshness::{Begun, GetError, Produced};
pub use lock::Holder;
pub use meta::{Meta, Verification};
pub use metrics::{Histogram, Metrics};
#[cfg(feature = "mutations")]
pub use mutation::Mutation;
pub use policy::Policy;
pub use published::{PublishError, Published};
pub use read::{Lookup, Snapshot};
pub use reader::Reader;
pub use refresh::Refresh;
pub use scratch::Scratch;
pub use stream::Stream;
pub use validators::Validators;
pub use wait::{ParseDurationError, Timeout, parse_duration};
