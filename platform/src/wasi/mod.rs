//! The backend for guests of WASI preview 2 (`wasm32-wasip2`), over the `wasi` crate.
//!
//! A guest sees the directories that its host has opened for it, and nothing else: no kernel locks, no threads, no
//! process numbers, no watches, no permission bits, no owners. What it lacks is `Unsupported` or unknown here.
//!
//! | module | what |
//! | --- | --- |
//! | [`preopens`] | from a path to the preopened directory that it is in |
//! | [`dir`] | directories: open, create, rename, unlink, list, stat |
//! | [`mod@file`] | files: one that is written is opened by name for each call |
//! | [`error`] | from WASI's error codes to kinds |
//! | [`event`] | the monotonic clock and waiting |
//! | `libc` | for a component: the little of the C library that it needs |
//!
//! The standard library is not used for files. Its writable opens ask for more rights than some hosts give, and its
//! paths go through a C library that knows better than the host.
//!
//! # No file stays open
//!
//! Between two calls of the library no file is open. A host on Windows opens a guest's files so that nobody can rename or
//! remove them, and a guest cannot find out where its host runs: one open file would block everybody's fence, release and
//! publish. So a [`File`](crate::File) that is written, which the library may keep, is a name here, and each call opens, acts
//! and closes. One that is read the library lets go before it returns or waits, so that is an open file. Directories do stay
//! open: nothing ever renames or removes one of those.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use crate::{Dir, Event, Identity, Monotonic, Platform, Slot, Task};

mod dir;
mod error;
mod event;
mod file;
#[cfg(feature = "bare")]
mod libc;
mod preopens;

/// The one [`Wasi`] of this instance.
pub(super) fn native() -> Arc<dyn Platform> {
    static NATIVE: OnceLock<Arc<Wasi>> = OnceLock::new();
    NATIVE.get_or_init(Arc::default).clone()
}

/// This instance and its host.
#[derive(Default)]
struct Wasi {
    slot: Arc<Slot>,
}

impl Platform for Wasi {
    fn name(&self) -> &'static str {
        "wasi"
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        preopens::absolute(path)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(preopens::open_dir(path)?))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        preopens::create_dir_all(path)
    }

    fn sync_parents(&self, path: &Path) {
        preopens::sync_parents(path);
    }

    fn monotonic(&self) -> Monotonic {
        event::monotonic()
    }

    fn wall(&self) -> SystemTime {
        dir::system_time(wasi::clocks::wall_clock::now())
    }

    fn random(&self) -> io::Result<u128> {
        use wasi::random::random::get_random_u64;

        Ok(u128::from(get_random_u64()) << 64 | u128::from(get_random_u64()))
    }

    fn event(&self) -> Arc<dyn Event> {
        Arc::new(event::WasiEvent::default())
    }

    fn spawn(&self, _name: &str, _task: Task) -> io::Result<()> {
        Err(error::unsupported("a WASI guest has no threads"))
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

    fn is_busy(&self, error: &io::Error) -> bool {
        error::is_busy(error)
    }

    fn default_mode(&self) -> Option<u32> {
        None
    }
}
