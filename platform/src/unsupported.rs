//! The backend for targets that have no other: everything that needs a system answers with a typed error.
//!
//! Nothing here panics, not even the clocks, so that a program that merely links the library runs. Waiting returns at
//! once, as a wait may.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use crate::{Dir, Event, Identity, Monotonic, Platform, Slot, Task};

/// The one platform of this process.
pub(super) fn native() -> Arc<dyn Platform> {
    static NATIVE: OnceLock<Arc<Unsupported>> = OnceLock::new();
    NATIVE.get_or_init(Arc::default).clone()
}

fn unsupported<T>() -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "cachelock has no file system on this target",
    ))
}

/// A platform that can do nothing.
#[derive(Default)]
struct Unsupported {
    slot: Arc<Slot>,
}

impl Platform for Unsupported {
    fn name(&self) -> &'static str {
        "unsupported"
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        std::path::absolute(path)
    }

    fn open_dir(&self, _path: &Path) -> io::Result<Arc<dyn Dir>> {
        unsupported()
    }

    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        unsupported()
    }

    fn monotonic(&self) -> Monotonic {
        // The standard library's clock may panic here. One that stands still is allowed, and there is nothing to wait
        // for.
        Monotonic::ZERO
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn random(&self) -> io::Result<u128> {
        unsupported()
    }

    fn event(&self) -> Arc<dyn Event> {
        Arc::new(Flag::default())
    }

    fn spawn(&self, _name: &str, _task: Task) -> io::Result<()> {
        unsupported()
    }

    fn identity(&self) -> Identity {
        Identity::default()
    }

    fn process_id(&self) -> u32 {
        0
    }

    fn slot(&self) -> Arc<Slot> {
        self.slot.clone()
    }

    fn is_busy(&self, _error: &io::Error) -> bool {
        false
    }

    fn default_mode(&self) -> Option<u32> {
        None
    }
}

/// An event that nobody can be put to sleep for.
#[derive(Default)]
struct Flag(AtomicBool);

impl Event for Flag {
    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn wait_until(&self, _deadline: Option<Monotonic>) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}
