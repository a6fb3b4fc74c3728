//! What is known about an open file or directory.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle};
use std::time::{Duration, SystemTime};

use windows_sys::Win32::Foundation::FILETIME;
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_REPARSE_POINT,
    FILE_ID_INFO, FileIdInfo, GetFileInformationByHandle, GetFileInformationByHandleEx,
};

use super::security::{self, Access, check};
use crate::{FileId, FileKind, Metadata};

/// From 1601, where the system's times begin, to 1970, in its units of 100 ns.
const UNIX_EPOCH: u64 = 116_444_736_000_000_000;

/// What the object is like that `handle` is open on.
pub(super) fn of(handle: BorrowedHandle<'_>) -> io::Result<Metadata> {
    let found = found(handle)?;
    // A handle that may not ask, and a file system that has no owners.
    let access = security::access(handle).unwrap_or(Access::UNKNOWN);
    Ok(Metadata {
        kind: kind(found.dwFileAttributes),
        len: joined(found.nFileSizeHigh, found.nFileSizeLow),
        modified: time(found.ftLastWriteTime),
        id: id(handle, &found),
        links: u64::from(found.nNumberOfLinks).max(1),
        mode: None,
        owner: access.owner,
        shared: access.shared,
    })
}

/// Of what kind the object is that `handle` is open on.
pub(super) fn kind_of(handle: BorrowedHandle<'_>) -> io::Result<FileKind> {
    Ok(kind(found(handle)?.dwFileAttributes))
}

fn found(handle: BorrowedHandle<'_>) -> io::Result<BY_HANDLE_FILE_INFORMATION> {
    let mut found = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: `handle` is open, and `found` is writable and of the type that the call fills in.
    check(unsafe { GetFileInformationByHandle(handle.as_raw_handle(), &raw mut found) })?;
    Ok(found)
}

fn kind(attributes: u32) -> FileKind {
    if attributes & FILE_ATTRIBUTE_REPARSE_POINT != 0 {
        FileKind::Symlink
    } else if attributes & FILE_ATTRIBUTE_DIRECTORY != 0 {
        FileKind::Directory
    } else {
        FileKind::File
    }
}

/// The long number where the file system has one (ReFS needs it), else the short one.
fn id(handle: BorrowedHandle<'_>, found: &BY_HANDLE_FILE_INFORMATION) -> FileId {
    let mut long = FILE_ID_INFO::default();
    let len = u32::try_from(size_of_val(&long)).unwrap_or(0);
    let to = (&raw mut long).cast::<c_void>();
    // SAFETY: `handle` is open, and `to` has `len` writable bytes of the type that this class fills in.
    let done =
        unsafe { GetFileInformationByHandleEx(handle.as_raw_handle(), FileIdInfo, to, len) };
    match check(done) {
        Ok(()) => FileId {
            device: long.VolumeSerialNumber,
            inode: u128::from_le_bytes(long.FileId.Identifier),
        },
        Err(_) => FileId {
            device: found.dwVolumeSerialNumber.into(),
            inode: joined(found.nFileIndexHigh, found.nFileIndexLow).into(),
        },
    }
}

fn joined(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn time(time: FILETIME) -> SystemTime {
    let ticks = joined(time.dwHighDateTime, time.dwLowDateTime);
    let duration = |ticks: u64| Duration::new(ticks / 10_000_000, (ticks % 10_000_000) as u32 * 100);
    let moved = match ticks.checked_sub(UNIX_EPOCH) {
        Some(after) => SystemTime::UNIX_EPOCH.checked_add(duration(after)),
        None => SystemTime::UNIX_EPOCH.checked_sub(duration(UNIX_EPOCH - ticks)),
    };
    moved.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_from_1601() {
        let at = |ticks: u64| {
            time(FILETIME {
                dwHighDateTime: (ticks >> 32) as u32,
                dwLowDateTime: ticks as u32,
            })
        };
        assert_eq!(at(UNIX_EPOCH), SystemTime::UNIX_EPOCH);
        let later = SystemTime::UNIX_EPOCH + Duration::new(1, 500);
        assert_eq!(at(UNIX_EPOCH + 10_000_005), later);
        let earlier = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(at(UNIX_EPOCH - 10_000_000), earlier);
    }
}
