//! The volume that a directory is on: asked about once, for no name below it leads to another one. (A mounted volume is a
//! reparse point, which is not followed.)
//!
//! # Kernel locks
//!
//! Trusted are those of NTFS and ReFS on a volume of this machine. A drive of another machine shows that machine's name for its
//! file system, often NTFS; so what the volume's device says comes first. What is not known counts as remote as well.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle, BorrowedHandle};

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_FS_ATTRIBUTE_INFORMATION, FileFsAttributeInformation, FileFsDeviceInformation,
};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_ID_INFO, FileIdInfo, GetFileInformationByHandle,
    GetFileInformationByHandleEx,
};
use windows_sys::Win32::System::SystemServices::FILE_SUPPORTS_POSIX_UNLINK_RENAME;

use super::nt;
use super::security::check;
use crate::{FileId, FileSystem};

/// A bit of the second number in the answer to `FileFsDeviceInformation`, whose first is the device's type.
const FILE_REMOTE_DEVICE: u32 = 0x10;

/// What is known about a volume.
pub(super) struct Volume {
    /// Its number.
    device: u64,
    /// What its file system calls itself, in lower case.
    name: String,
    /// Whether another machine has it.
    pub(super) remote: bool,
    /// Whether a file on it can be replaced and removed while somebody has it open (and shares deletion).
    pub(super) replaces_open_files: bool,
}

impl Volume {
    /// The volume that `dir` is on.
    pub(super) fn of(dir: BorrowedHandle<'_>) -> io::Result<Self> {
        let device: [u64; 1] = nt::volume(dir, FileFsDeviceInformation)?;
        let answer: [u64; 64] = nt::volume(dir, FileFsAttributeInformation)?;
        let answer = bytes(&answer);
        let attributes = std::mem::offset_of!(FILE_FS_ATTRIBUTE_INFORMATION, FileSystemAttributes);
        Ok(Volume {
            device: serial(dir)?,
            name: name(&answer).to_lowercase(),
            remote: number(&bytes(&device), 4) & FILE_REMOTE_DEVICE != 0,
            replaces_open_files: number(&answer, attributes) & FILE_SUPPORTS_POSIX_UNLINK_RENAME
                != 0,
        })
    }

    /// Which file of this volume `handle` is open on.
    pub(super) fn id(&self, handle: BorrowedHandle<'_>) -> io::Result<FileId> {
        // The short number may be that of several files there.
        let inode = match &*self.name {
            "refs" => u128::from_le_bytes(long_id(handle)?.FileId.Identifier),
            _ => nt::index(handle)?.into(),
        };
        Ok(FileId {
            device: self.device,
            inode,
        })
    }

    /// For the library.
    pub(super) fn file_system(&self) -> FileSystem {
        judge(&self.name, self.remote)
    }
}

/// The long number of the volume where it has one.
fn serial(dir: BorrowedHandle<'_>) -> io::Result<u64> {
    if let Ok(id) = long_id(dir) {
        return Ok(id.VolumeSerialNumber);
    }
    let mut found = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: `dir` is open, and `found` is writable and of the type that the call fills in.
    check(unsafe { GetFileInformationByHandle(dir.as_raw_handle(), &raw mut found) })?;
    Ok(found.dwVolumeSerialNumber.into())
}

fn long_id(handle: BorrowedHandle<'_>) -> io::Result<FILE_ID_INFO> {
    let mut id = FILE_ID_INFO::default();
    let len = u32::try_from(size_of_val(&id)).unwrap_or(0);
    let to = (&raw mut id).cast::<c_void>();
    // SAFETY: `handle` is open, and `to` has `len` writable bytes of the type that this class fills in.
    check(unsafe { GetFileInformationByHandleEx(handle.as_raw_handle(), FileIdInfo, to, len) })?;
    Ok(id)
}

/// What the file system calls itself, from a `FILE_FS_ATTRIBUTE_INFORMATION` with the name behind it.
fn name(answer: &[u8]) -> String {
    let len_at = std::mem::offset_of!(FILE_FS_ATTRIBUTE_INFORMATION, FileSystemNameLength);
    let start = std::mem::offset_of!(FILE_FS_ATTRIBUTE_INFORMATION, FileSystemName);
    let len = number(answer, len_at) as usize;
    let units: Vec<u16> = answer
        .get(start..start + len)
        .unwrap_or_default()
        .chunks_exact(2)
        .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]))
        .collect();
    String::from_utf16_lossy(&units)
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map_or(0, u32::from_ne_bytes)
}

fn judge(name: &str, remote: bool) -> FileSystem {
    let trusted = ["ntfs", "refs"].contains(&name);
    let local = trusted || ["fat", "fat32", "exfat", "udf", "cdfs"].contains(&name);
    FileSystem {
        kernel_locks: trusted && !remote,
        remote: remote || !local,
        name: match (remote, name) {
            (_, "") => "unknown".to_owned(),
            (true, name) => format!("{name} of another machine"),
            (false, name) => name.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_trusted_on_ntfs_and_refs_of_this_machine_alone() {
        for (name, remote, locks, counts_as_remote) in [
            ("ntfs", false, true, false),
            ("refs", false, true, false),
            ("ntfs", true, false, true),
            ("refs", true, false, true),
            ("fat32", false, false, false),
            ("exfat", false, false, false),
            ("vboxsharedfolderfs", false, false, true),
            ("", false, false, true),
        ] {
            let found = judge(name, remote);
            let said = (found.kernel_locks, found.remote);
            assert_eq!(said, (locks, counts_as_remote), "{name:?} {remote}");
            assert!(!found.name.is_empty(), "{name:?} {remote}");
        }
    }
}
