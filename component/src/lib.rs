//! The interface `cachelock:cache/store` as a component: the library `cachelock` on whatever WASI host runs it, where leases
//! lock. `wit/` in the repository is its documentation.
//!
//! Build it with `cargo build --release --target wasm32-wasip2 -p cachelock-component`. For other targets this is an empty
//! library: nobody can call what it exports.
//!
//! `open` takes a path of the guest, below a directory that the host has preopened. There is no background task in a guest:
//! whoever holds a refresh calls `heartbeat` during long work without writes.

mod bindings;
mod convert;
mod refresh;

use std::cell::RefCell;

use bindings::exports::cachelock::cache::store as wit;
use cachelock::{Begun, Cache, Stream};

/// The most that one `read` of a snapshot returns.
const PIECE_MAX: u32 = 1024 * 1024;

/// What the exported interface is made of.
struct Component;

impl wit::Guest for Component {
    type Cache = CacheResource;
    type Refresh = refresh::RefreshResource;
    type Snapshot = SnapshotResource;
}

struct CacheResource(Cache);

// Not inlined, here and in `refresh`: each wrapper would spell out all cases of an error once more, 3 KB in all.
impl wit::GuestCache for CacheResource {
    #[inline(never)]
    fn open(path: String, options: wit::Options) -> Result<wit::Cache, wit::Error> {
        let mut builder = Cache::builder(path);
        if let Some(timeout) = options.timeout {
            builder = builder.timeout(convert::timeout(timeout));
        }
        if let Some(lease) = options.lease {
            builder = builder.lease(convert::millis(lease));
        }
        if let Some(durability) = options.durability {
            builder = builder.durability(convert::durability(durability));
        }
        let cache = builder.open().map_err(convert::error)?;
        Ok(wit::Cache::new(CacheResource(cache)))
    }

    #[inline(never)]
    fn read(&self, entry: String) -> Result<Option<wit::Snapshot>, wit::Error> {
        let opened = self.0.entry(&entry).and_then(|entry| entry.open());
        Ok(opened.map_err(convert::error)?.map(snapshot))
    }

    #[inline(never)]
    fn begin(&self, entry: String, policy: wit::Policy) -> Result<wit::Begun, wit::Error> {
        let policy = convert::policy(policy);
        let begun = self.0.entry(&entry).and_then(|entry| entry.begin(&policy));
        Ok(match begun.map_err(convert::error)? {
            Begun::Fresh(stream) => wit::Begun::Fresh(snapshot(stream)),
            Begun::Stale(stream, _) => wit::Begun::Stale(snapshot(stream)),
            Begun::Absent => wit::Begun::Absent,
            Begun::Refresh(refresh) => wit::Begun::Refresh(refresh::resource(refresh)),
        })
    }

    fn refresh(&self, entry: String) -> Result<wit::Refresh, wit::Error> {
        let refresh = self.0.entry(&entry).and_then(|entry| entry.refresh());
        refresh.map(refresh::resource).map_err(convert::error)
    }
}

struct SnapshotResource(RefCell<Stream>);

fn snapshot(stream: Stream) -> wit::Snapshot {
    wit::Snapshot::new(SnapshotResource(RefCell::new(stream)))
}

impl wit::GuestSnapshot for SnapshotResource {
    #[inline(never)]
    fn metadata(&self) -> wit::Metadata {
        convert::metadata(self.0.borrow().meta())
    }

    #[inline(never)]
    fn read(&self, length: u32) -> Result<Vec<u8>, wit::Error> {
        let mut stream = self.0.borrow_mut();
        let left = stream.meta().len.min(length.min(PIECE_MAX).into());
        let mut bytes = vec![0; left as usize];
        let read = stream.read_next(&mut bytes).map_err(convert::error)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}
