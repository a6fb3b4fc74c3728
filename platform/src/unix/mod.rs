//! The backend for Linux, macOS and the BSDs.
//!
//! Every name is looked up relative to the descriptor of an open directory, so that a directory that is renamed or
//! replaced under way cannot divert a call. `rustix` makes the calls; where the standard library has the same call and
//! retries an interrupted one, it is used instead.
//!
//! | module | what |
//! | --- | --- |
//! | [`dir`] | directories: open, create, rename, unlink, list, stat |
//! | [`mod@file`] | files: read, write, sync, close, and the kernel lock |
//! | [`meta`] | from `struct stat` to [`Metadata`](crate::Metadata), and exact permission bits |
//! | [`fuse`] | what file systems in a process of their own get wrong |
//! | [`fs_type`] | which file systems' kernel locks are trusted |
//! | [`clock`] | the monotonic clock |
//! | [`watch`] | inotify |
//! | [`identity`] | process, boot and host; what a forked child must not share |
//! | [`pid`] | the process's number |
//!
//! # After `fork`
//!
//! A forked child shares open files, and so locks, with its parent. Nothing in this backend may be undone by the child
//! on the parent's behalf: [`mod@file`] and [`watch`] remember which process made them.

use std::io;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::mem::MaybeUninit;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;

#[cfg(target_os = "linux")]
use crate::FileId;
use crate::condvar::Flag;
use crate::{Dir, Event, Identity, Monotonic, Platform, Slot, Task};

mod clock;
mod dir;
mod file;
mod fs_type;
mod fuse;
mod identity;
mod meta;
mod pid;
mod watch;

/// The one [`Unix`] of this process.
pub(super) fn native() -> Arc<dyn Platform> {
    static NATIVE: OnceLock<Arc<Unix>> = OnceLock::new();
    NATIVE.get_or_init(|| Arc::new(Unix)).clone()
}

/// This process and the system it runs on. It has no state of its own.
struct Unix;

impl Platform for Unix {
    fn name(&self) -> &'static str {
        "unix"
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        std::path::absolute(path)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let open = |access| {
            let flags = access | OFlags::DIRECTORY | OFlags::CLOEXEC;
            retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))
        };
        Ok(Arc::new(dir::UnixDir::open_with(open, Arc::default())?))
    }

    #[cfg(target_os = "linux")]
    fn dir_id(&self, path: &Path) -> io::Result<FileId> {
        meta::dir_id(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        // A directory that somebody else creates meanwhile is success there too.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
    }

    fn monotonic(&self) -> Monotonic {
        clock::monotonic()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self) -> io::Result<u128> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| match error.raw_os_error() {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::other(error.to_string()),
        })?;
        Ok(u128::from_ne_bytes(bytes))
    }

    fn event(&self) -> Arc<dyn Event> {
        Arc::new(Flag::new(clock::monotonic))
    }

    fn spawn(&self, name: &str, task: Task) -> io::Result<()> {
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(task)
            .map(drop)
    }

    fn identity(&self) -> Identity {
        identity::identity()
    }

    fn process_id(&self) -> u32 {
        pid::process_id()
    }

    fn slot(&self) -> Arc<Slot> {
        identity::slot()
    }

    fn is_busy(&self, _error: &io::Error) -> bool {
        // An open handle is never in the way of a rename or an unlink here.
        false
    }

    fn default_mode(&self) -> Option<u32> {
        Some(0o666 & !meta::umask())
    }
}

/// Tells the system that all of `memory` is about to be written, so that it gives it in huge pages where it can. That is a
/// fraction of the time that as many small ones take.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn expect_to_fill(memory: &[MaybeUninit<u8>]) {
    use rustix::mm::{Advice, madvise};

    let page = rustix::param::page_size();
    // Not the pages that it shares with others.
    let skip = memory.as_ptr().align_offset(page);
    let len = memory.len().saturating_sub(skip) / page * page;
    if len > 0 {
        let first = memory[skip..].as_ptr().cast_mut().cast();
        // SAFETY: all of it is ours, and the advice does not change what is in it.
        #[allow(unsafe_code)]
        let advised = unsafe { madvise(first, len, Advice::LinuxHugepage) };
        // Where there are none, small ones do.
        let _ = advised;
    }
}
