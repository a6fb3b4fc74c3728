//! The backend for Windows, 10 and later.
//!
//! Every name is looked up relative to the handle of an open directory, with the kernel's own calls ([`nt`]), so that a
//! directory that is renamed or replaced under way cannot divert a call, and no name is too long or means anything but
//! itself. Only the user's own path goes through the standard library, which knows drives, shares and long paths.
//!
//! | module | what |
//! | --- | --- |
//! | [`nt`] | the calls relative to a directory: open, rename, remove, list |
//! | [`dir`] | directories, made of them |
//! | [`mod@file`] | files: read, write, sync, close, and the kernel lock |
//! | [`meta`] | what is known about a file |
//! | [`security`] | whose it is, who may write to it, files that are this user's alone |
//! | [`volume`] | what is asked once: file identity, whether kernel locks are trusted, whether open files can be replaced |
//! | [`process`] | child processes and Ctrl-C, for the program |
//!
//! # Identity
//!
//! There is no number of the boot: the time of the boot moves when the clock is set, and a boot that seems to be another one
//! makes living holders look dead. A dead holder is known by the gate all the same. There is no `fork`.

use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Instant, SystemTime};

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_LOCK_VIOLATION, ERROR_SHARING_VIOLATION, ERROR_USER_MAPPED_FILE,
};
use windows_sys::Win32::Storage::FileSystem::FILE_FLAG_BACKUP_SEMANTICS;

use crate::condvar::Flag;
use crate::{Dir, Event, FileKind, Identity, Monotonic, Platform, Slot, Task};

mod dir;
#[allow(
    unsafe_code,
    reason = "no safe call reports the error of close, or makes holes"
)]
mod file;
#[allow(unsafe_code, reason = "the system's calls")]
mod meta;
#[allow(unsafe_code, reason = "the system's calls")]
mod nt;
#[allow(unsafe_code, reason = "the system's calls")]
pub(crate) mod process;
#[allow(unsafe_code, reason = "the system's calls")]
mod security;
#[allow(unsafe_code, reason = "the system's calls")]
mod volume;

/// The one [`Windows`] of this process.
pub(super) fn native() -> Arc<dyn Platform> {
    static NATIVE: OnceLock<Arc<Windows>> = OnceLock::new();
    NATIVE.get_or_init(Arc::default).clone()
}

/// This process and the system it runs on.
#[derive(Default)]
struct Windows {
    slot: Arc<Slot>,
}

impl Platform for Windows {
    fn name(&self) -> &'static str {
        "windows"
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        std::path::absolute(path)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let opened = std::fs::OpenOptions::new()
            .access_mode(dir::DIR_ACCESS)
            // Without it a directory cannot be opened.
            .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
            .open(path)?;
        let dir = dir::WindowsDir::new(opened.into())?;
        match dir.metadata()?.kind {
            FileKind::Directory => Ok(Arc::new(dir)),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        // What the parent hands down decides who may do what. A directory that somebody else creates meanwhile is success.
        std::fs::create_dir_all(path)
    }

    fn monotonic(&self) -> Monotonic {
        monotonic()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self) -> io::Result<u128> {
        random()
    }

    fn event(&self) -> Arc<dyn Event> {
        Arc::new(Flag::new(monotonic))
    }

    fn spawn(&self, name: &str, task: Task) -> io::Result<()> {
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(task)
            .map(drop)
    }

    fn identity(&self) -> Identity {
        Identity {
            pid: Some(std::process::id()),
            boot: None,
            host: std::env::var("COMPUTERNAME")
                .ok()
                .filter(|host| !host.is_empty()),
        }
    }

    fn process_id(&self) -> u32 {
        std::process::id()
    }

    fn slot(&self) -> Arc<Slot> {
        self.slot.clone()
    }

    fn is_busy(&self, error: &io::Error) -> bool {
        // "Access denied" is also a want of permission, and cannot be told from it.
        matches!(
            error.raw_os_error().map(i32::cast_unsigned),
            Some(
                ERROR_ACCESS_DENIED
                    | ERROR_SHARING_VIOLATION
                    | ERROR_LOCK_VIOLATION
                    | ERROR_USER_MAPPED_FILE
            )
        )
    }

    fn default_mode(&self) -> Option<u32> {
        None
    }
}

/// The time since the first call. The standard library's clock here is the performance counter, which does not step.
fn monotonic() -> Monotonic {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    ORIGIN.get_or_init(Instant::now).elapsed()
}

fn random() -> io::Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u128::from_ne_bytes(bytes))
}
