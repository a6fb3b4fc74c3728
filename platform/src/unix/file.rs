//! Open files and their kernel lock.
//!
//! The lock is `flock(2)`, through `fs4`. It belongs to the *open file description*: two handles exclude each other
//! even in one process, and a child made by `fork` shares its parent's. Hence the two rules here:
//!
//! - In a forked child, [`unlock`](File::unlock) does nothing, for it would take the lock from the parent; dropping the
//!   handle is harmless, the lock lives until the last descriptor is closed.
//! - In a forked child, taking the lock through an inherited handle is an error: the kernel would grant it, to parent
//!   and child at the same time.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW};
use rustix::io::{Errno, retry_on_intr};

use super::meta::{self, User};
use super::pid::process_id;
use crate::{File, Metadata};

/// An open file.
pub(super) struct UnixFile {
    file: fs::File,
    /// The process that opened it, and the only one that may lock and unlock.
    opened_by: u32,
    me: User,
}

impl UnixFile {
    pub(super) fn new(fd: OwnedFd, me: User) -> Self {
        Self {
            file: fd.into(),
            opened_by: process_id(),
            me,
        }
    }

    fn is_inherited(&self) -> bool {
        self.opened_by != process_id()
    }

    fn refuse_inherited(&self) -> io::Result<()> {
        if self.is_inherited() {
            return Err(io::Error::other(
                "this file was opened before a fork, and its lock is shared with the parent: open it anew",
            ));
        }
        Ok(())
    }
}

impl File for UnixFile {
    fn metadata(&self) -> io::Result<Metadata> {
        meta::of_fd(self.file.as_fd(), self.me).map_err(lost)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        retrying(|| self.file.read_at(buf, offset)).map_err(lost)
    }

    fn read_new_at<'b>(
        &self,
        buf: &'b mut [MaybeUninit<u8>],
        offset: u64,
    ) -> io::Result<&'b mut [u8]> {
        let read = retry_on_intr(|| {
            rustix::io::pread(&self.file, &mut *buf, offset).map(|(read, _)| read.len())
        })
        .map_err(|errno| lost(errno.into()))?;
        // SAFETY: so many were just written.
        #[allow(unsafe_code)]
        Ok(unsafe { buf[..read].assume_init_mut() })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        retrying(|| self.file.write_at(buf, offset)).map_err(lost)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len).map_err(lost)
    }

    #[cfg(target_os = "linux")]
    fn write_out(&self, offset: u64, len: u64) -> io::Result<()> {
        meta::write_out(self.file.as_fd(), offset, len).map_err(lost)
    }

    fn sync(&self) -> io::Result<()> {
        meta::full_sync(self.file.as_fd()).map_err(lost)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        meta::set_mode(self.file.as_fd(), mode).map_err(lost)
    }

    fn touch(&self) -> io::Result<()> {
        const NOW: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        // Both times, because only then a user who may write the file, but does not own it, may do this.
        let times = Timestamps {
            last_access: NOW,
            last_modification: NOW,
        };
        retry_on_intr(|| rustix::fs::futimens(&self.file, &times))
            .map_err(|errno| lost(errno.into()))
    }

    #[allow(unsafe_code, reason = "no safe call reports the error of close")]
    fn close(self: Box<Self>) -> io::Result<()> {
        let fd = self.file.into_raw_fd();
        // SAFETY: `into_raw_fd` has just made this function the only owner of the open descriptor `fd`, and nothing
        // uses it afterwards.
        if unsafe { libc::close(fd) } == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            // The descriptor is gone (on Linux certainly), and a second close could hit somebody else's.
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(lost(error)),
        }
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.refuse_inherited()?;
        // Called through the trait by name: std's `File` has methods of the same name, which would win.
        retrying(|| match fs4::FileExt::try_lock(&self.file) {
            Ok(()) => Ok(true),
            Err(fs4::TryLockError::WouldBlock) => Ok(false),
            Err(fs4::TryLockError::Error(error)) => Err(error),
        })
        .map_err(lock_error)
    }

    fn lock(&self) -> io::Result<()> {
        self.refuse_inherited()?;
        retrying(|| fs4::FileExt::lock(&self.file)).map_err(lock_error)
    }

    fn unlock(&self) -> io::Result<()> {
        if self.is_inherited() {
            return Ok(());
        }
        retrying(|| fs4::FileExt::unlock(&self.file)).map_err(lock_error)
    }
}

/// `call` until no signal interrupts it.
fn retrying<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A server of NFS loses a file that another of its clients replaces or removes, also for whoever has it open (`ESTALE`). That is told
/// as what it is: the file is there no more. Of a name in a directory it would say that nothing has that name, which nobody knows.
fn lost(error: io::Error) -> io::Error {
    if Errno::from_io_error(&error) == Some(Errno::STALE) {
        return crate::failure(
            io::ErrorKind::NotFound,
            "it was replaced or removed meanwhile, and its file system has lost it",
        );
    }
    error
}

/// A lock call's error, with the several numbers for "no locks here" made one kind.
fn lock_error(error: io::Error) -> io::Error {
    let means_none = |errno| errno == Errno::NOLCK || meta::is_unsupported(errno);
    if Errno::from_io_error(&error).is_some_and(means_none) {
        return io::Error::new(
            io::ErrorKind::Unsupported,
            format!("no kernel lock on this file: {error}"),
        );
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_for_no_locks_are_one_kind_and_others_are_passed_on() {
        for errno in [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP, libc::ENOTSUP] {
            let error = lock_error(io::Error::from_raw_os_error(errno));
            assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{errno}: {error}");
        }
        let error = lock_error(io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(
            error.raw_os_error(),
            Some(libc::EIO),
            "an I/O error is no lack of locks"
        );
    }

    #[test]
    fn what_a_server_has_lost_is_not_there() {
        let error = lost(io::Error::from_raw_os_error(libc::ESTALE));
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
        let error = lost(io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    }

    #[test]
    fn an_interrupted_call_is_made_again() {
        let mut calls = 0;
        let result = retrying(|| {
            calls += 1;
            if calls < 3 {
                Err(io::ErrorKind::Interrupted.into())
            } else {
                Ok(calls)
            }
        });
        assert_eq!(result.unwrap(), 3, "two interruptions, then success");
    }
}
