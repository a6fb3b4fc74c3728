//! The native calls of the NT kernel: the only ones that open, rename and remove names *relative to a directory's handle*.
//!
//! Names go to the file system as they are. The layer of Win32 above would drop trailing dots and spaces, turn `NUL` into a
//! device, and stop at 260 characters; none of that happens here. Handles are synchronous and not inherited by children.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Wdk::Foundation::OBJECT_ATTRIBUTES;
use windows_sys::Wdk::Storage::FileSystem::{
    FILE_DIRECTORY_FILE, FILE_DISPOSITION_DELETE, FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE,
    FILE_DISPOSITION_POSIX_SEMANTICS, FILE_INTERNAL_INFORMATION, FILE_NAMES_INFORMATION,
    FILE_OPEN_REPARSE_POINT, FILE_RENAME_IGNORE_READONLY_ATTRIBUTE, FILE_RENAME_INFORMATION,
    FILE_RENAME_POSIX_SEMANTICS, FILE_RENAME_REPLACE_IF_EXISTS, FILE_SYNCHRONOUS_IO_NONALERT,
    FS_INFORMATION_CLASS, FileDispositionInformationEx, FileInternalInformation,
    FileNamesInformation, FileRenameInformation, FileRenameInformationEx,
    NTCREATEFILE_CREATE_DISPOSITION, NTCREATEFILE_CREATE_OPTIONS, NtCreateFile, NtFlushBuffersFile,
    NtQueryDirectoryFile, NtQueryInformationFile, NtQueryVolumeInformationFile,
    NtSetInformationFile,
};
use windows_sys::Win32::Foundation::{
    HANDLE, NTSTATUS, OBJ_CASE_INSENSITIVE, RtlNtStatusToDosError, STATUS_ACCESS_DENIED,
    STATUS_FILE_IS_A_DIRECTORY, STATUS_INVALID_DEVICE_REQUEST, STATUS_INVALID_INFO_CLASS,
    STATUS_INVALID_PARAMETER, STATUS_NO_MORE_FILES, STATUS_NO_SUCH_FILE, STATUS_NOT_A_DIRECTORY,
    STATUS_NOT_IMPLEMENTED, STATUS_NOT_SUPPORTED, UNICODE_STRING,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_NORMAL, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE, SYNCHRONIZE,
};
use windows_sys::Win32::System::IO::IO_STATUS_BLOCK;

use super::security::Private;

/// What all our handles allow others: everything. A handle that does not share deletion keeps others from replacing the file.
const SHARE_ALL: u32 = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

/// An error of the kernel's, before it is one of Win32: several of them are "access denied" there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(NTSTATUS);

impl Status {
    pub(super) const ACCESS_DENIED: Status = Status(STATUS_ACCESS_DENIED);

    fn check(status: NTSTATUS) -> Result<(), Self> {
        if status >= 0 {
            Ok(())
        } else {
            Err(Status(status))
        }
    }

    /// Whether the kernel or the file system does not know what it was asked for: an older system, another file system.
    pub(super) fn is_unknown_call(self) -> bool {
        matches!(
            self.0,
            STATUS_INVALID_DEVICE_REQUEST
                | STATUS_INVALID_INFO_CLASS
                | STATUS_INVALID_PARAMETER
                | STATUS_NOT_IMPLEMENTED
                | STATUS_NOT_SUPPORTED
        )
    }
}

impl From<Status> for io::Error {
    fn from(status: Status) -> Self {
        match status.0 {
            STATUS_FILE_IS_A_DIRECTORY => io::ErrorKind::IsADirectory.into(),
            STATUS_NOT_A_DIRECTORY => io::ErrorKind::NotADirectory.into(),
            status => {
                // SAFETY: a table look-up; every number is allowed.
                let code = unsafe { RtlNtStatusToDosError(status) };
                io::Error::from_raw_os_error(code.cast_signed())
            }
        }
    }
}

/// How to open a name.
#[derive(Clone, Copy)]
pub(super) struct Open<'a> {
    pub(super) access: u32,
    pub(super) disposition: NTCREATEFILE_CREATE_DISPOSITION,
    /// Beside those that every handle has.
    pub(super) options: NTCREATEFILE_CREATE_OPTIONS,
    /// For a new file that nobody else may touch.
    pub(super) private: Option<&'a Private>,
}

/// Opens `name` in `dir`, or `dir` itself if it is empty. What stands there is opened, not what a link points to.
pub(super) fn open(
    dir: BorrowedHandle<'_>,
    name: &str,
    how: Open<'_>,
) -> Result<OwnedHandle, Status> {
    let mut wide: Vec<u16> = name.encode_utf16().collect();
    let name = unicode(&mut wide)?;
    let attributes = OBJECT_ATTRIBUTES {
        Length: size_of_u32::<OBJECT_ATTRIBUTES>(),
        RootDirectory: dir.as_raw_handle(),
        ObjectName: &raw const name,
        Attributes: OBJ_CASE_INSENSITIVE,
        SecurityDescriptor: how.private.map_or(ptr::null(), Private::as_ptr).cast::<_>(),
        SecurityQualityOfService: ptr::null(),
    };
    let mut handle: HANDLE = ptr::null_mut();
    let mut io = IO_STATUS_BLOCK::default();
    // SAFETY: `handle` and `io` are writable. `attributes` points to `name` and, through it, to `wide`, and to the descriptor
    // in `how`, all of which outlive the call. `dir` is open. No extended attributes are given.
    let status = unsafe {
        NtCreateFile(
            &raw mut handle,
            how.access | SYNCHRONIZE,
            &raw const attributes,
            &raw mut io,
            ptr::null(),
            FILE_ATTRIBUTE_NORMAL,
            SHARE_ALL,
            how.disposition,
            how.options | FILE_SYNCHRONOUS_IO_NONALERT | FILE_OPEN_REPARSE_POINT,
            ptr::null(),
            0,
        )
    };
    Status::check(status)?;
    // SAFETY: the call has succeeded, so `handle` is open, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// Renames what `file` is open on to `name` in `dir`, over a file that is there.
///
/// With POSIX semantics open handles on that file do not matter, as long as they share deletion. Where those are not to be had
/// (before Windows 10 1709, on FAT, under wine 8) any open handle on it forbids the rename.
pub(super) fn rename(
    file: BorrowedHandle<'_>,
    dir: BorrowedHandle<'_>,
    name: &str,
) -> Result<(), Status> {
    let posix = FILE_RENAME_REPLACE_IF_EXISTS
        | FILE_RENAME_POSIX_SEMANTICS
        | FILE_RENAME_IGNORE_READONLY_ATTRIBUTE;
    match rename_with(file, dir, name, posix, FileRenameInformationEx) {
        Err(status) if status.is_unknown_call() => rename_with(
            file,
            dir,
            name,
            FILE_RENAME_REPLACE_IF_EXISTS,
            FileRenameInformation,
        ),
        result => result,
    }
}

fn rename_with(
    file: BorrowedHandle<'_>,
    dir: BorrowedHandle<'_>,
    name: &str,
    flags: u32,
    class: i32,
) -> Result<(), Status> {
    let wide: Vec<u16> = name.encode_utf16().collect();
    let start = std::mem::offset_of!(FILE_RENAME_INFORMATION, FileName);
    let len = (start + 2 * wide.len()).max(size_of::<FILE_RENAME_INFORMATION>());
    // Of words, so that it is aligned for what is written into it.
    let mut buffer = vec![0_u64; len.div_ceil(8)];
    let info = buffer.as_mut_ptr().cast::<FILE_RENAME_INFORMATION>();
    // SAFETY: `buffer` is aligned for the structure and large enough for it and for all of the name behind it; each write
    // stays in it.
    unsafe {
        (*info).Anonymous.Flags = flags;
        (*info).RootDirectory = dir.as_raw_handle();
        (*info).FileNameLength = u32::try_from(2 * wide.len()).unwrap_or(u32::MAX);
        let to = (&raw mut (*info).FileName).cast::<u16>();
        ptr::copy_nonoverlapping(wide.as_ptr(), to, wide.len());
    }
    set(file, info.cast::<c_void>(), len, class)
}

/// Removes the name of what `file` is open on at once, whatever else is open on it.
pub(super) fn unlink_posix(file: BorrowedHandle<'_>) -> Result<(), Status> {
    let flags = FILE_DISPOSITION_DELETE
        | FILE_DISPOSITION_POSIX_SEMANTICS
        | FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE;
    let flags = (&raw const flags).cast::<c_void>();
    set(file, flags, size_of::<u32>(), FileDispositionInformationEx)
}

/// `info` points to `len` readable bytes that are what `class` asks for.
fn set(
    file: BorrowedHandle<'_>,
    info: *const c_void,
    len: usize,
    class: i32,
) -> Result<(), Status> {
    let mut io = IO_STATUS_BLOCK::default();
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    // SAFETY: `file` is open, `io` is writable, and both callers above pass a structure of this class and its length.
    Status::check(unsafe {
        NtSetInformationFile(file.as_raw_handle(), &raw mut io, info, len, class)
    })
}

/// Writes what is cached of `file` to the medium.
pub(super) fn flush(file: BorrowedHandle<'_>) -> Result<(), Status> {
    let mut io = IO_STATUS_BLOCK::default();
    // SAFETY: `file` is open and `io` is writable.
    Status::check(unsafe { NtFlushBuffersFile(file.as_raw_handle(), &raw mut io) })
}

/// The file's number on its volume.
pub(super) fn index(file: BorrowedHandle<'_>) -> Result<u64, Status> {
    let mut answer = FILE_INTERNAL_INFORMATION::default();
    let mut io = IO_STATUS_BLOCK::default();
    // SAFETY: `file` is open, `io` is writable, and so is `answer`, which is of the type that this class fills in.
    Status::check(unsafe {
        NtQueryInformationFile(
            file.as_raw_handle(),
            &raw mut io,
            (&raw mut answer).cast::<c_void>(),
            size_of_u32::<FILE_INTERNAL_INFORMATION>(),
            FileInternalInformation,
        )
    })?;
    Ok(answer.IndexNumber.cast_unsigned())
}

/// The answer of the volume that `file` is on, as `class` defines it; zeros where nothing was filled in.
pub(super) fn volume<const WORDS: usize>(
    file: BorrowedHandle<'_>,
    class: FS_INFORMATION_CLASS,
) -> Result<[u64; WORDS], Status> {
    let mut buffer = [0_u64; WORDS];
    let mut io = IO_STATUS_BLOCK::default();
    let len = u32::try_from(size_of_val(&buffer)).unwrap_or(0);
    // SAFETY: `file` is open, `io` is writable, and so are `len` bytes of `buffer`.
    Status::check(unsafe {
        NtQueryVolumeInformationFile(
            file.as_raw_handle(),
            &raw mut io,
            buffer.as_mut_ptr().cast::<c_void>(),
            len,
            class,
        )
    })?;
    Ok(buffer)
}

/// The names in the directory that `dir` was opened for, from the first on. Nobody else may list through this handle.
pub(super) fn list(dir: BorrowedHandle<'_>) -> Result<Vec<String>, Status> {
    let mut names = Vec::new();
    // Some 400 short names, so that our directories take one call and one more that finds the end.
    let mut buffer = [0_u64; 4 * 1024];
    let mut first = true;
    loop {
        let mut io = IO_STATUS_BLOCK::default();
        let len = u32::try_from(size_of_val(&buffer)).unwrap_or(0);
        // SAFETY: `dir` is open, synchronous (so no event and no callback are needed), `io` is writable and so are `len` bytes
        // of `buffer`; no pattern is given.
        let status = unsafe {
            NtQueryDirectoryFile(
                dir.as_raw_handle(),
                ptr::null_mut(),
                None,
                ptr::null(),
                &raw mut io,
                buffer.as_mut_ptr().cast::<c_void>(),
                len,
                FileNamesInformation,
                false,
                ptr::null(),
                first,
            )
        };
        // The second where a file system lists nothing at all of an empty directory, not even itself.
        if status == STATUS_NO_MORE_FILES || (first && status == STATUS_NO_SUCH_FILE) {
            return Ok(names);
        }
        Status::check(status)?;
        first = false;
        collect(&buffer, &mut names);
    }
}

/// Takes the names out of a filled buffer. What is not Unicode is left out.
fn collect(buffer: &[u64], names: &mut Vec<String>) {
    let start = std::mem::offset_of!(FILE_NAMES_INFORMATION, FileName);
    let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes) as usize
    };
    let mut at = 0;
    loop {
        let len = number(at + std::mem::offset_of!(FILE_NAMES_INFORMATION, FileNameLength));
        let name = bytes.get(at + start..at + start + len).unwrap_or_default();
        let units: Vec<u16> = name
            .chunks_exact(2)
            .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]))
            .collect();
        match String::from_utf16(&units) {
            Ok(name) if name != "." && name != ".." => names.push(name),
            _ => {}
        }
        match number(at + std::mem::offset_of!(FILE_NAMES_INFORMATION, NextEntryOffset)) {
            0 => return,
            next => at += next,
        }
    }
}

/// `wide` as the kernel takes it; it has no room for the length of what is longer than 32,767 units.
fn unicode(wide: &mut [u16]) -> Result<UNICODE_STRING, Status> {
    let len = u16::try_from(2 * wide.len()).map_err(|_| Status(STATUS_INVALID_PARAMETER))?;
    Ok(UNICODE_STRING {
        Length: len,
        MaximumLength: len,
        Buffer: wide.as_mut_ptr(),
    })
}

fn size_of_u32<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

/// Options of a handle on a directory.
pub(super) const DIRECTORY: NTCREATEFILE_CREATE_OPTIONS = FILE_DIRECTORY_FILE;
