//! Open files and their kernel lock.
//!
//! The lock is `LockFileEx`, through `fs4`, on all bytes that a file could have. It belongs to the handle, so two handles
//! exclude each other even in one process. It also keeps others from reading those bytes, which matters to nobody: of
//! the file that is locked only the length says anything. The system gives it back when the process ends, soon but not at once.
//!
//! While a thread blocks in the lock, every other call on the same handle waits for it.

use std::fs;
use std::io;
use std::os::windows::fs::FileExt;
use std::os::windows::io::{AsHandle, AsRawHandle, IntoRawHandle, OwnedHandle};
use std::ptr;
use std::sync::Arc;
use std::time::SystemTime;

use windows_sys::Win32::Foundation::{
    CloseHandle, ERROR_CALL_NOT_IMPLEMENTED, ERROR_INVALID_FUNCTION, ERROR_NOT_LOCKED,
    ERROR_NOT_SUPPORTED,
};
use windows_sys::Win32::System::IO::DeviceIoControl;
use windows_sys::Win32::System::Ioctl::FSCTL_SET_SPARSE;

use super::meta;
use super::security::check;
use super::volume::Volume;
use crate::{File, Metadata};

/// From here on a file is made sparse when it grows: shorter ones fit into the file system's own record of the file.
const SPARSE_FROM: u64 = 512;

/// An open file.
pub(super) struct WindowsFile {
    file: fs::File,
    volume: Arc<Volume>,
}

impl WindowsFile {
    pub(super) fn new(handle: OwnedHandle, volume: Arc<Volume>) -> Self {
        let file = handle.into();
        Self { file, volume }
    }
}

impl File for WindowsFile {
    fn is_pinned(&self) -> bool {
        self.volume.replaces_open_files
    }

    fn metadata(&self) -> io::Result<Metadata> {
        meta::of(self.file.as_handle(), &self.volume)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.seek_read(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.file.seek_write(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len >= SPARSE_FROM {
            // Where the file system knows no holes, the zeros take space.
            let _ = make_sparse(&self.file);
        }
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Who may do what is decided when a file is created.
    fn set_mode(&self, _mode: u32) -> io::Result<()> {
        Ok(())
    }

    fn touch(&self) -> io::Result<()> {
        // NTFS may keep the time of a write to itself until the last handle is closed; hence this call. Another machine's
        // clock cannot be asked for: there the write before it must do.
        if self.volume.remote {
            return Ok(());
        }
        self.file.set_modified(SystemTime::now())
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        let handle = self.file.into_raw_handle();
        // SAFETY: `into_raw_handle` has just made this function the only owner of the open handle, and nothing uses it
        // afterwards.
        check(unsafe { CloseHandle(handle) })
    }

    fn try_lock(&self) -> io::Result<bool> {
        // Called through the trait by name: std's `File` has methods of the same name, which would win.
        match fs4::FileExt::try_lock(&self.file) {
            Ok(()) => Ok(true),
            Err(fs4::TryLockError::WouldBlock) => Ok(false),
            Err(fs4::TryLockError::Error(error)) => Err(lock_error(error)),
        }
    }

    fn lock(&self) -> io::Result<()> {
        fs4::FileExt::lock(&self.file).map_err(lock_error)
    }

    fn unlock(&self) -> io::Result<()> {
        match fs4::FileExt::unlock(&self.file) {
            Err(error) if code(&error) == Some(ERROR_NOT_LOCKED) => Ok(()),
            result => result.map_err(lock_error),
        }
    }
}

fn make_sparse(file: &fs::File) -> io::Result<()> {
    let mut returned = 0;
    // SAFETY: the handle is open, this request has neither input nor output, `returned` is writable, and a synchronous handle
    // needs no more.
    check(unsafe {
        DeviceIoControl(
            file.as_raw_handle(),
            FSCTL_SET_SPARSE,
            ptr::null(),
            0,
            ptr::null_mut(),
            0,
            &raw mut returned,
            ptr::null_mut(),
        )
    })
}

fn code(error: &io::Error) -> Option<u32> {
    error.raw_os_error().map(i32::cast_unsigned)
}

/// A lock call's error, with the several numbers for "no locks here" made one kind.
fn lock_error(error: io::Error) -> io::Error {
    match code(&error) {
        Some(ERROR_CALL_NOT_IMPLEMENTED | ERROR_INVALID_FUNCTION | ERROR_NOT_SUPPORTED) => {
            io::Error::new(
                io::ErrorKind::Unsupported,
                format!("no kernel lock on this file: {error}"),
            )
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_for_no_locks_are_one_kind_and_others_are_passed_on() {
        for number in [1, 50, 120] {
            let error = lock_error(io::Error::from_raw_os_error(number));
            assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{number}");
        }
        let error = lock_error(io::Error::from_raw_os_error(1117));
        assert_eq!(
            error.raw_os_error(),
            Some(1117),
            "an I/O error is no lack of locks"
        );
    }
}
