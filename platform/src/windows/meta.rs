//! What is known about an open file or directory.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle};
use std::time::{Duration, SystemTime};

use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_REPARSE_POINT, FILE_BASIC_INFO,
    FILE_INFO_BY_HANDLE_CLASS, FILE_STANDARD_INFO, FileBasicInfo, FileStandardInfo,
    GetFileInformationByHandleEx,
};

use super::security::{self, Access, check};
use super::volume::Volume;
use crate::{FileKind, Metadata};

/// From 1601, where the system's times begin, to 1970, in its units of 100 ns.
const UNIX_EPOCH: u64 = 116_444_736_000_000_000;

/// What the object on `volume` is like that `handle` is open on.
pub(super) fn of(handle: BorrowedHandle<'_>, volume: &Volume) -> io::Result<Metadata> {
    let basic: FILE_BASIC_INFO = ask(handle, FileBasicInfo)?;
    let standard: FILE_STANDARD_INFO = ask(handle, FileStandardInfo)?;
    // A handle that may not ask, and a file system that has no owners.
    let access = security::access(handle).unwrap_or(Access::UNKNOWN);
    Ok(Metadata {
        kind: kind(basic.FileAttributes),
        len: u64::try_from(standard.EndOfFile).unwrap_or(0),
        modified: time(u64::try_from(basic.LastWriteTime).unwrap_or(0)),
        id: volume.id(handle)?,
        links: u64::from(standard.NumberOfLinks).max(1),
        mode: None,
        owner: access.owner,
        shared: access.shared,
    })
}

/// Of what kind the object is that `handle` is open on.
pub(super) fn kind_of(handle: BorrowedHandle<'_>) -> io::Result<FileKind> {
    let basic: FILE_BASIC_INFO = ask(handle, FileBasicInfo)?;
    Ok(kind(basic.FileAttributes))
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

/// What the system fills in for some class: a structure of numbers.
trait Answer: Default {}

impl Answer for FILE_BASIC_INFO {}
impl Answer for FILE_STANDARD_INFO {}

/// The answer of `class`, which is a `T`. One call for each, for a call that tells all asks for the file's path, too.
fn ask<T: Answer>(handle: BorrowedHandle<'_>, class: FILE_INFO_BY_HANDLE_CLASS) -> io::Result<T> {
    let mut answer = T::default();
    let len = u32::try_from(size_of::<T>()).unwrap_or(0);
    let to = (&raw mut answer).cast::<c_void>();
    // SAFETY: `handle` is open, and `to` has `len` writable bytes. All bytes that the system could write make a valid `T`,
    // which is plain numbers.
    check(unsafe { GetFileInformationByHandleEx(handle.as_raw_handle(), class, to, len) })?;
    Ok(answer)
}

/// From ticks since 1601.
fn time(ticks: u64) -> SystemTime {
    let duration =
        |ticks: u64| Duration::new(ticks / 10_000_000, (ticks % 10_000_000) as u32 * 100);
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
        assert_eq!(time(UNIX_EPOCH), SystemTime::UNIX_EPOCH);
        let later = SystemTime::UNIX_EPOCH + Duration::new(1, 500);
        assert_eq!(time(UNIX_EPOCH + 10_000_005), later);
        let earlier = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(time(UNIX_EPOCH - 10_000_000), earlier);
    }
}
