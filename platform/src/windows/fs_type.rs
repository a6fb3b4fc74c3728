//! Which file system a directory is on, and whether its kernel locks are trusted.
//!
//! Trusted are NTFS and ReFS on a volume of this machine. A drive of another machine shows that machine's name for its file
//! system, often NTFS; so what the volume's device says comes first. What is not known counts as remote as well.

use std::io;
use std::os::windows::io::BorrowedHandle;

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_FS_ATTRIBUTE_INFORMATION, FileFsAttributeInformation, FileFsDeviceInformation,
};
use windows_sys::Win32::System::SystemServices::FILE_SUPPORTS_POSIX_UNLINK_RENAME;

use super::nt;
use crate::FileSystem;

/// A bit of the second number in the answer to `FileFsDeviceInformation`, whose first is the device's type.
const FILE_REMOTE_DEVICE: u32 = 0x10;

/// What kind of file system `dir` is on.
pub(super) fn file_system(dir: BorrowedHandle<'_>) -> io::Result<FileSystem> {
    Ok(judge(&name(dir)?, is_remote(dir)?))
}

/// Whether another machine has the file system that `file` is on.
pub(super) fn is_remote(file: BorrowedHandle<'_>) -> io::Result<bool> {
    let answer: [u64; 1] = nt::volume(file, FileFsDeviceInformation)?;
    Ok(number(&bytes(&answer), 4) & FILE_REMOTE_DEVICE != 0)
}

/// Whether a file on this file system can be replaced and removed while somebody has it open (and shares deletion).
pub(super) fn replaces_open_files(file: BorrowedHandle<'_>) -> bool {
    let at = std::mem::offset_of!(FILE_FS_ATTRIBUTE_INFORMATION, FileSystemAttributes);
    attributes(file)
        .is_ok_and(|answer| number(&answer, at) & FILE_SUPPORTS_POSIX_UNLINK_RENAME != 0)
}

/// What the file system calls itself.
fn name(dir: BorrowedHandle<'_>) -> io::Result<String> {
    let answer = attributes(dir)?;
    let len_at = std::mem::offset_of!(FILE_FS_ATTRIBUTE_INFORMATION, FileSystemNameLength);
    let start = std::mem::offset_of!(FILE_FS_ATTRIBUTE_INFORMATION, FileSystemName);
    let len = number(&answer, len_at) as usize;
    let units: Vec<u16> = answer
        .get(start..start + len)
        .unwrap_or_default()
        .chunks_exact(2)
        .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]))
        .collect();
    Ok(String::from_utf16_lossy(&units))
}

/// A `FILE_FS_ATTRIBUTE_INFORMATION` and the name behind it.
fn attributes(file: BorrowedHandle<'_>) -> io::Result<Vec<u8>> {
    let answer: [u64; 64] = nt::volume(file, FileFsAttributeInformation)?;
    Ok(bytes(&answer))
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map_or(0, u32::from_ne_bytes)
}

fn judge(name: &str, remote: bool) -> FileSystem {
    let name = name.to_lowercase();
    let is_one_of = |names: &[&str]| names.contains(&name.as_str());
    let trusted = is_one_of(&["ntfs", "refs"]);
    let local = trusted || is_one_of(&["fat", "fat32", "exfat", "udf", "cdfs"]);
    FileSystem {
        kernel_locks: trusted && !remote,
        remote: remote || !local,
        name: match (remote, name.is_empty()) {
            (_, true) => "unknown".to_owned(),
            (true, false) => format!("{name} of another machine"),
            (false, false) => name,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_trusted_on_ntfs_and_refs_of_this_machine_alone() {
        for (name, remote, locks, counts_as_remote) in [
            ("NTFS", false, true, false),
            ("ReFS", false, true, false),
            ("NTFS", true, false, true),
            ("ReFS", true, false, true),
            ("FAT32", false, false, false),
            ("exFAT", false, false, false),
            ("VBoxSharedFolderFS", false, false, true),
            ("", false, false, true),
        ] {
            let found = judge(name, remote);
            let said = (found.kernel_locks, found.remote);
            assert_eq!(said, (locks, counts_as_remote), "{name:?} {remote}");
            assert!(!found.name.is_empty(), "{name:?} {remote}");
        }
    }
}
