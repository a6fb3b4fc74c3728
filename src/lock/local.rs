//! What one process has in common: for each cache a queue and a gate, and one heartbeat for all leases on a file system. One that
//! hangs must not take the leases on another one along.
//!
//! It hangs on the platform, not on a static: a simulated process has its own, and so has a child made by `fork`.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cachelock_platform::{FileId, FileSystem, GUEST, Platform};

use super::gate::Gate;
use super::heartbeat::Heartbeat;
use super::queue::Queue;

/// The library's state of one process.
#[derive(Default)]
pub(crate) struct Local {
    /// Never removed: what was said once must not be said again because nobody used the cache in between, nor a file system
    /// be asked again. They are few and small. Sorted.
    caches: Mutex<Vec<(FileId, Arc<LocalCache>)>>,
}

/// The state of one cache in one process, whatever path it was opened by.
#[derive(Default)]
pub(crate) struct LocalCache {
    pub(crate) queue: Arc<Queue>,
    pub(crate) heartbeat: Arc<Heartbeat>,
    pub(crate) gate: Gate,
    pub(crate) file_system: OnceLock<FileSystem>,
    /// Set when `fallback_to_lease` has been said.
    pub(crate) fallback_said: OnceLock<()>,
}

impl Local {
    pub(crate) fn of(platform: &dyn Platform) -> Arc<Local> {
        let slot = platform.slot();
        let any = slot.get_or_init(|| Arc::new(Local::default())).clone();
        // Nothing else is ever put there.
        any.downcast::<Local>().unwrap_or_default()
    }

    /// The state for the cache whose control directory is `id`.
    pub(crate) fn cache(&self, id: FileId) -> Arc<LocalCache> {
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        let at = match caches.binary_search_by_key(&id, |(known, _)| *known) {
            Ok(at) => at,
            Err(at) => {
                let cache = LocalCache {
                    heartbeat: beside(&caches, id).unwrap_or_default(),
                    ..LocalCache::default()
                };
                caches.insert(at, (id, Arc::new(cache)));
                at
            }
        };
        caches[at].1.clone()
    }
}

/// The heartbeat of another cache on the same file system.
fn beside(caches: &[(FileId, Arc<LocalCache>)], id: FileId) -> Option<Arc<Heartbeat>> {
    // None beats in the background.
    if GUEST {
        return None;
    }
    let is_beside = |(known, _): &&(FileId, Arc<LocalCache>)| known.device == id.device;
    let found = caches.iter().find(is_beside);
    found.map(|(_, cache)| cache.heartbeat.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_one_file_system_has_one_heartbeat() {
        let local = Local::default();
        let id = |device, inode| FileId { device, inode };
        let heartbeats = [id(1, 5), id(2, 5), id(1, 6), id(2, 4)].map(|id| local.cache(id));
        // A guest has none to share.
        if GUEST {
            return;
        }
        let [a, b, c, d] = heartbeats.map(|cache| cache.heartbeat.clone());
        assert!(Arc::ptr_eq(&a, &c) && Arc::ptr_eq(&b, &d));
        assert!(!Arc::ptr_eq(&a, &b));
    }
}
