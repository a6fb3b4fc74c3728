//! Which file system a directory is on, and whether its kernel locks are trusted.
//!
//! Trusted are the file systems on a short list, where a `flock` is known to exclude everybody who can reach the file.
//! Everything else is not: network file systems, whose locks may be local, emulated or hang; FUSE and what a host shows
//! its virtual machine (9p, virtiofs), where another kernel has other locks; FAT, whose inode numbers are made up; and
//! what is not known at all. What is not known counts as remote as well.

#![cfg_attr(
    not(any(
        target_os = "linux",
        target_os = "android",
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "dragonfly",
        target_os = "openbsd"
    )),
    allow(dead_code, reason = "nothing is known there")
)]

use std::io;
use std::os::fd::BorrowedFd;

use crate::FileSystem;

/// What is known about one file system.
struct Known {
    name: &'static str,
    kernel_locks: bool,
    remote: bool,
}

const fn trusted(name: &'static str) -> Known {
    Known {
        name,
        kernel_locks: true,
        remote: false,
    }
}

const fn local(name: &'static str) -> Known {
    Known {
        name,
        kernel_locks: false,
        remote: false,
    }
}

const fn remote(name: &'static str) -> Known {
    Known {
        name,
        kernel_locks: false,
        remote: true,
    }
}

/// File systems that may have no permission bits, so that a refusal to set them is no failure.
const MAY_LACK_MODES: &[&str] = &[
    "9p", "cifs", "exfat", "fuse", "fusefs", "hgfs", "macfuse", "msdos", "msdosfs", "ntfs",
    "ntfs3", "osxfuse", "smb", "smb2", "smbfs", "vboxsf", "vfat",
];

/// File systems that a process serves, by the names they have here.
const FUSE: [&str; 4] = ["fuse", "fusefs", "macfuse", "osxfuse"];

/// Whether the file system that `fd` is on may have no permission bits.
pub(super) fn may_lack_modes(fd: BorrowedFd<'_>) -> bool {
    file_system(fd).is_ok_and(|found| MAY_LACK_MODES.contains(&found.name.as_str()))
}

/// Whether `fd` is on a file system that a process serves.
pub(super) fn is_fuse(fd: BorrowedFd<'_>) -> bool {
    file_system(fd).is_ok_and(|found| FUSE.contains(&found.name.as_str()))
}

/// What kind of file system `fd` is on.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(
    clippy::unnecessary_cast,
    reason = "the type of the field differs from machine to machine"
)]
pub(super) fn file_system(fd: BorrowedFd<'_>) -> io::Result<FileSystem> {
    // `fstatfs` asks the server on NFS. There is a way around it (`statx` for the mount's number, then
    // `/proc/self/mountinfo`), but opening the directory has asked the server already.
    let stat = rustix::io::retry_on_intr(|| rustix::fs::fstatfs(fd))?;
    // Some machines have a signed 32-bit field here, which must not be extended.
    let magic = stat.f_type as u32;
    Ok(known(magic).map_or_else(|| unknown(format!("{magic:#x}")), found))
}

/// The numbers of `statfs(2)` and of the kernel's `magic.h`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn known(magic: u32) -> Option<Known> {
    Some(match magic {
        // ext2, ext3 and ext4 have one number.
        0xEF53 => trusted("ext"),
        0x5846_5342 => trusted("xfs"),
        0x9123_683E => trusted("btrfs"),
        0x2FC1_2FC1 => trusted("zfs"),
        0xF2F5_2010 => trusted("f2fs"),
        0x0102_1994 => trusted("tmpfs"),
        0x794C_7630 => trusted("overlay"),

        0x4D44 => local("vfat"),
        0x2011_BAB0 => local("exfat"),
        0x5346_544E => local("ntfs"),
        0x7366_746E => local("ntfs3"),
        0x8584_58F6 => local("ramfs"),
        0xCA45_1A4E => local("bcachefs"),
        0x3153_464A => local("jfs"),
        0x5265_4973 => local("reiserfs"),
        0x4244 => local("hfs"),
        0x482B => local("hfsplus"),
        0x9660 => local("iso9660"),
        0x7371_7368 => local("squashfs"),
        0xE0F5_E1E2 => local("erofs"),

        0x6969 => remote("nfs"),
        0xFF53_4D42 => remote("cifs"),
        0xFE53_4D42 => remote("smb2"),
        0x517B => remote("smb"),
        // Virtiofs has this number too.
        0x6573_5546 => remote("fuse"),
        0x0102_1997 => remote("9p"),
        0x00C3_6400 => remote("ceph"),
        0x5346_414F | 0x6B41_4653 => remote("afs"),
        0x7375_7245 => remote("coda"),
        0x0116_1970 => remote("gfs2"),
        0x7461_636F => remote("ocfs2"),
        0x0BD0_0BD0 => remote("lustre"),
        0x4750_4653 => remote("gpfs"),
        0x786F_4256 => remote("vboxsf"),
        0xBACB_ACBC => remote("hgfs"),
        _ => return None,
    })
}

/// What kind of file system `fd` is on.
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "openbsd"
))]
#[allow(
    clippy::unnecessary_cast,
    reason = "the type of a C character differs from machine to machine"
)]
pub(super) fn file_system(fd: BorrowedFd<'_>) -> io::Result<FileSystem> {
    let stat = rustix::io::retry_on_intr(|| rustix::fs::fstatfs(fd))?;
    let bytes = stat
        .f_fstypename
        .iter()
        .map(|&c| c as u8)
        .take_while(|&byte| byte != 0);
    let name = String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned();
    Ok(known_name(&name).map_or_else(|| unknown(name), found))
}

/// The names of the systems' own `mount(8)`.
#[cfg(any(
    test,
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "openbsd"
))]
fn known_name(name: &str) -> Option<Known> {
    // FreeBSD adds what is behind it: `fusefs.sshfs`.
    let family = name.split('.').next().unwrap_or(name);
    Some(match family {
        "apfs" => trusted("apfs"),
        "hfs" => trusted("hfs"),
        "ufs" => trusted("ufs"),
        // OpenBSD's name for it.
        "ffs" => trusted("ffs"),
        "zfs" => trusted("zfs"),

        "msdos" => local("msdos"),
        "msdosfs" => local("msdosfs"),
        "exfat" => local("exfat"),
        "ntfs" => local("ntfs"),
        "tmpfs" => local("tmpfs"),
        "cd9660" => local("cd9660"),

        "nfs" => remote("nfs"),
        "smbfs" => remote("smbfs"),
        "afpfs" => remote("afpfs"),
        "webdav" => remote("webdav"),
        "fuse" => remote("fuse"),
        "fusefs" => remote("fusefs"),
        "osxfuse" | "osxfusefs" => remote("osxfuse"),
        "macfuse" => remote("macfuse"),
        _ => return None,
    })
}

/// What kind of file system `fd` is on: not found out on this system, and so not trusted.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "openbsd"
)))]
pub(super) fn file_system(_fd: BorrowedFd<'_>) -> io::Result<FileSystem> {
    Ok(unknown("unknown".to_owned()))
}

fn found(known: Known) -> FileSystem {
    FileSystem {
        name: known.name.to_owned(),
        kernel_locks: known.kernel_locks,
        remote: known.remote,
    }
}

fn unknown(name: String) -> FileSystem {
    FileSystem {
        name,
        kernel_locks: false,
        remote: true,
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;

    #[test]
    fn macos_and_the_bsds_name_theirs() {
        for name in ["apfs", "hfs", "ufs", "ffs", "zfs"] {
            let known = known_name(name).unwrap_or_else(|| panic!("{name} is known"));
            assert!(known.kernel_locks && !known.remote, "{name}");
        }
        for name in [
            "fuse",
            "fusefs",
            "fusefs.sshfs",
            "macfuse",
            "osxfuse",
            "osxfusefs",
        ] {
            let known = known_name(name).unwrap_or_else(|| panic!("{name} is known"));
            assert!(known.remote && !known.kernel_locks, "{name}");
            assert!(FUSE.contains(&known.name), "{name} is served by a process");
        }
        for name in ["nfs", "smbfs", "afpfs", "webdav", "msdos", "exfat"] {
            let known = known_name(name).unwrap_or_else(|| panic!("{name} is known"));
            assert!(!known.kernel_locks, "{name}");
        }
        for name in ["", "nullfs", "lifs", "zfs2"] {
            assert!(known_name(name).is_none(), "{name:?} is not known");
        }
    }

    #[test]
    fn no_remote_file_system_has_trusted_locks() {
        for magic in 0..=u32::from(u16::MAX) {
            assert!(
                known(magic).is_none_or(|found| !(found.remote && found.kernel_locks)),
                "{magic:#x}"
            );
        }
        for (magic, name) in [
            (0x6969, "nfs"),
            (0xFF53_4D42, "cifs"),
            (0xFE53_4D42, "smb2"),
            (0x6573_5546, "fuse"),
        ] {
            let found = known(magic).expect(name);
            assert_eq!(
                (found.name, found.kernel_locks, found.remote),
                (name, false, true)
            );
        }
    }

    #[test]
    fn file_systems_that_may_lack_permission_bits_are_not_trusted_with_locks() {
        for magic in [
            0x4D44,
            0x2011_BAB0,
            0x5346_544E,
            0x7366_746E,
            0x517B,
            0xFF53_4D42,
            0xFE53_4D42,
            0x0102_1997,
        ] {
            let found = known(magic).expect("listed");
            assert!(
                MAY_LACK_MODES.contains(&found.name),
                "{} has no modes",
                found.name
            );
            assert!(!found.kernel_locks, "{}", found.name);
        }
    }
}
