//! What the tests that run the library in a simulated world have in common.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use cachelock::platform::memory::{Call, Op, Process, World};
use cachelock::platform::{FileSystem, Platform};
use cachelock::{Cache, CacheBuilder, Error, Published, Refresh};

/// The lease of all simulated caches, and how long they wait: long enough to see several leases expire.
pub(crate) const LEASE: Duration = Duration::from_secs(1);
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// The cache at `/cache` as this process has it.
pub(crate) fn builder(process: &Arc<Process>) -> CacheBuilder {
    Cache::builder("/cache")
        .platform(process.clone())
        .lease(LEASE)
        .timeout(TIMEOUT)
}

/// The entry of most tests.
pub(crate) const ENTRY: &str = "entry";

/// A refresh of [`ENTRY`] with these bytes written to it.
pub(crate) fn begin(cache: &Cache, bytes: &[u8]) -> Result<Refresh, Error> {
    begin_at(cache, ENTRY, bytes)
}

fn begin_at(cache: &Cache, entry: &str, bytes: &[u8]) -> Result<Refresh, Error> {
    let mut refresh = cache.entry(entry)?.refresh()?;
    refresh.add(bytes)?;
    Ok(refresh)
}

/// Publishes these bytes as [`ENTRY`].
pub(crate) fn publish(cache: &Cache, bytes: &[u8]) -> Result<Published, Error> {
    publish_at(cache, ENTRY, bytes)
}

/// Publishes these bytes as this entry.
pub(crate) fn publish_at(cache: &Cache, entry: &str, bytes: &[u8]) -> Result<Published, Error> {
    Ok(begin_at(cache, entry, bytes)?.publish()?)
}

/// Until so much time has passed.
pub(crate) fn sleep(own: &Process, time: Duration) {
    own.event().wait_until(Some(own.monotonic() + time));
}

/// Makes the world's disk one that other machines may change, too.
pub(crate) fn make_remote(world: &World) {
    world.set_file_system(FileSystem {
        name: "nfs".to_owned(),
        kernel_locks: true,
        remote: true,
    });
}

/// Renames of the payload, and not of its tag, which has the same name.
pub(crate) fn renames_payload() -> impl FnMut(&Call) -> bool + Send {
    let mut tag = false;
    move |call| {
        if !call.renames_to("entry") {
            return false;
        }
        // The tag's is the first of each publish, and is not tried again.
        std::mem::replace(&mut tag, true)
    }
}

/// A payload and its generation.
pub(crate) type Found = (Vec<u8>, Option<u64>);

/// What a process that has not been there before reads; `None` if the entry is missing.
pub(crate) fn read(world: &World, name: &str) -> Result<Option<Found>, Error> {
    let cache = builder(&world.process(name)).open()?;
    let snapshot = cache.entry(ENTRY)?.read()?;
    Ok(snapshot.map(|snapshot| (snapshot.to_vec(), snapshot.meta().generation)))
}

/// What is in the control directory besides what always stays.
pub(crate) fn residue(world: &World) -> Vec<String> {
    let mut names = world.list("/cache/.cachelock");
    names.retain(|name| !["cache.lock", "head", "tags"].contains(&name.as_str()));
    names
}

/// Whether a call is the `op` on the payload of `entry` itself, and not on its tag.
pub(crate) fn on_payload(call: &Call, op: Op) -> bool {
    call.op == op && &*call.dir == "/cache" && call.name == "entry"
}
