//! What `struct stat` says, and permission bits that are exact whatever the umask.
//!
//! The system creates an object with the bits asked for, less those that the umask (or a default ACL of the directory)
//! takes away. So a new object is never wider than asked, and one look tells whether it has to be widened: a `fstat`,
//! which costs a fraction of the `fchmod` that is hardly ever needed.
//!
//! Access control lists are not looked at: a directory whose ACL lets others write shows that in its group bits on most
//! systems (the ACL's mask), but who those others are is not found out.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::fs::OFlags;
use rustix::fs::{AtFlags, FileType, Mode, RawMode, Stat};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Gid, Uid, getegid, geteuid};

use super::fs_type;
use crate::{FileId, FileKind, Metadata};

/// The user that this process acted as when it opened a path. Asked for at each such opening, and not in between: a process may
/// change it, and what it has opened stays what it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct User(Uid);

impl User {
    pub(super) fn now() -> Self {
        User(geteuid())
    }

    pub(super) fn is_root(self) -> bool {
        self.0.is_root()
    }
}

/// The user and the group that something belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    user: u32,
    group: u32,
}

/// What the object is like that `fd` is open on.
pub(super) fn of_fd(fd: BorrowedFd<'_>, me: User) -> io::Result<Metadata> {
    Ok(metadata(&raw_of_fd(fd)?, me))
}

/// The same for a directory, and whose it is.
pub(super) fn of_dir(fd: BorrowedFd<'_>, me: User) -> io::Result<(Metadata, Owner)> {
    let found = raw_of_fd(fd)?;
    Ok((metadata(&found, me), found.owner))
}

/// Which directory is at `path`; links are followed.
#[cfg(target_os = "linux")]
pub(super) fn dir_id(path: &std::path::Path) -> io::Result<FileId> {
    let found = match statx_now(rustix::fs::CWD, path, AtFlags::empty()) {
        Err(Errno::NOSYS) => raw(&retry_on_intr(|| rustix::fs::stat(path))?),
        result => result?,
    };
    match FileType::from_raw_mode(found.mode as RawMode) {
        FileType::Directory => Ok(found.id),
        _ => Err(Errno::NOTDIR.into()),
    }
}

/// Whose it is what `fd` is open on.
pub(super) fn owner_of(fd: BorrowedFd<'_>) -> io::Result<Owner> {
    Ok(raw(&rustix::fs::fstat(fd)?).owner)
}

fn raw_of_fd(fd: BorrowedFd<'_>) -> io::Result<Raw> {
    Ok(match stat_now(fd, None) {
        Err(Errno::NOSYS) => raw(&rustix::fs::fstat(fd)?),
        result => result?,
    })
}

/// What the object `name` in `dir` is like; a link is not followed.
pub(super) fn of_name(dir: BorrowedFd<'_>, name: &str, me: User) -> io::Result<Metadata> {
    let found = match stat_now(dir, Some(name)) {
        Err(Errno::NOSYS) => raw(&retry_on_intr(|| {
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        })?),
        result => result?,
    };
    Ok(metadata(&found, me))
}

/// What a `stat` says, in types that are the same everywhere.
struct Raw {
    mode: u32,
    owner: Owner,
    links: u64,
    len: u64,
    id: FileId,
    seconds: i64,
    nanos: u64,
}

/// Asks the file system itself, where the kernel would rather repeat what it was told a while ago. FUSE lets it do so for
/// a second, network file systems for longer; and a length from then is a `head` that has gone back. File systems that are
/// this kernel's alone take no notice of the flag.
#[cfg(target_os = "linux")]
fn stat_now(dir: BorrowedFd<'_>, name: Option<&str>) -> Result<Raw, Errno> {
    let object = match name {
        Some(_) => AtFlags::SYMLINK_NOFOLLOW,
        None => AtFlags::EMPTY_PATH,
    };
    statx_now(dir, name.unwrap_or_default(), object)
}

#[cfg(target_os = "linux")]
fn statx_now(
    dir: BorrowedFd<'_>,
    path: impl rustix::path::Arg + Copy,
    object: AtFlags,
) -> Result<Raw, Errno> {
    use rustix::fs::{StatxFlags, makedev, statx};

    let flags = object | AtFlags::STATX_FORCE_SYNC;
    let mask = StatxFlags::BASIC_STATS;
    let found = retry_on_intr(|| statx(dir, path, flags, mask))?;
    Ok(Raw {
        mode: found.stx_mode.into(),
        owner: Owner {
            user: found.stx_uid,
            group: found.stx_gid,
        },
        links: found.stx_nlink.into(),
        len: found.stx_size,
        id: FileId {
            device: makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino.into(),
        },
        seconds: found.stx_mtime.tv_sec,
        nanos: found.stx_mtime.tv_nsec.into(),
    })
}

/// Nothing: there is no such call, or (Android) a sandbox may kill the process for it.
#[cfg(not(target_os = "linux"))]
fn stat_now(_dir: BorrowedFd<'_>, _name: Option<&str>) -> Result<Raw, Errno> {
    Err(Errno::NOSYS)
}

#[allow(
    clippy::unnecessary_cast,
    reason = "the types of the fields differ from system to system"
)]
fn raw(stat: &Stat) -> Raw {
    Raw {
        mode: stat.st_mode as u32,
        owner: Owner {
            user: stat.st_uid,
            group: stat.st_gid,
        },
        links: stat.st_nlink as u64,
        len: u64::try_from(stat.st_size).unwrap_or(0),
        id: FileId {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u128,
        },
        seconds: stat.st_mtime as i64,
        nanos: stat.st_mtime_nsec as u64,
    }
}

fn metadata(raw: &Raw, me: User) -> Metadata {
    let mode = raw.mode & 0o7777;
    let kind = match FileType::from_raw_mode(raw.mode as RawMode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    };
    let Owner { user, group } = raw.owner;
    let owner = match user {
        user if user == me.0.as_raw() => crate::Owner::Me,
        user => crate::Owner::Other(user),
    };
    // Many distributions give each user a group of the same number with nobody else in it, and a umask of 002.
    let private_group = || group == user && group == getegid().as_raw();
    Metadata {
        kind,
        len: raw.len,
        modified: modified(raw),
        id: raw.id,
        links: raw.links,
        mode: Some(mode),
        owner,
        shared: mode & 0o002 != 0 || (mode & 0o020 != 0 && !private_group()),
    }
}

fn modified(raw: &Raw) -> SystemTime {
    let whole = Duration::from_secs(raw.seconds.unsigned_abs());
    let start = match raw.seconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(whole),
        _ => SystemTime::UNIX_EPOCH.checked_sub(whole),
    };
    start
        .and_then(|start| start.checked_add(Duration::from_nanos(raw.nanos)))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The bits of `mode` that a call for permissions takes.
pub(super) fn mode_bits(mode: u32) -> Mode {
    // The raw type has 16 bits on some systems, and these 12 everywhere.
    Mode::from_raw_mode((mode & 0o7777) as RawMode)
}

/// Gives a file that this process has just created with `mode` the bits that the umask has kept from it.
pub(super) fn widen_new_file(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    let has = Mode::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) & mode_bits(0o7777);
    if has == mode_bits(mode) {
        Ok(())
    } else {
        set_mode(fd, mode)
    }
}

/// Gives what root has just created in the directory of `owner` to that user, as far as the system goes along. Otherwise
/// one run as root would leave files that keep the owner out.
///
/// Only files, by their descriptor: what has the name of a directory that was just created may be another one by now.
pub(super) fn give_new_file(fd: BorrowedFd<'_>, owner: Owner) {
    if owner.user != 0 {
        let (user, group) = (Uid::from_raw(owner.user), Gid::from_raw(owner.group));
        let _ = retry_on_intr(|| rustix::fs::fchown(fd, Some(user), Some(group)));
    }
}

/// Sets the permission bits; a file system that has none is left alone.
pub(super) fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    match retry_on_intr(|| rustix::fs::fchmod(fd, mode_bits(mode))) {
        Err(error) if cannot_set_modes(error) && fs_type::may_lack_modes(fd) => Ok(()),
        result => Ok(result?),
    }
}

/// As [`widen_new_file`] for the directory `name` in `parent`. A set-group-id bit inherited from `parent` stays: it
/// is no permission, and whoever set it there wants it here.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn widen_new_dir(parent: BorrowedFd<'_>, name: &str, mode: u32) -> io::Result<()> {
    // `O_PATH` needs no permission on the directory itself, which a umask may have taken away from us too.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = retry_on_intr(|| rustix::fs::openat(parent, name, flags, Mode::empty()))?;
    let Some(mode) = wider_dir_mode(&rustix::fs::fstat(&fd)?, mode) else {
        return Ok(());
    };
    // A descriptor that only names its object takes no `fchmod`; its name under `/proc` does.
    let path = super::watch::proc_path(std::os::fd::AsFd::as_fd(&fd));
    match retry_on_intr(|| rustix::fs::chmod(&path, mode)) {
        Err(Errno::NOENT | Errno::NOTDIR) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = retry_on_intr(|| rustix::fs::openat(parent, name, flags, Mode::empty()))?;
            Ok(retry_on_intr(|| rustix::fs::fchmod(&fd, mode))?)
        }
        Err(error) if cannot_set_modes(error) && fs_type::may_lack_modes(parent) => Ok(()),
        result => Ok(result?),
    }
}

/// As [`widen_new_file`] for the directory `name` in `parent`. A set-group-id bit inherited from `parent` stays: it
/// is no permission, and whoever set it there wants it here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn widen_new_dir(parent: BorrowedFd<'_>, name: &str, mode: u32) -> io::Result<()> {
    let stat = retry_on_intr(|| rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW))?;
    let Some(mode) = wider_dir_mode(&stat, mode) else {
        return Ok(());
    };
    match retry_on_intr(|| rustix::fs::chmodat(parent, name, mode, AtFlags::SYMLINK_NOFOLLOW)) {
        Err(error) if cannot_set_modes(error) && fs_type::may_lack_modes(parent) => Ok(()),
        result => Ok(result?),
    }
}

/// What to set for a new directory that was created with `mode` and now has what `stat` says; `None` if nothing.
fn wider_dir_mode(stat: &Stat, mode: u32) -> Option<Mode> {
    let has = Mode::from_raw_mode(stat.st_mode) & mode_bits(0o7777);
    let wanted = mode_bits(mode) | (has & Mode::SGID);
    (has != wanted).then_some(wanted)
}

/// Makes what `fd` is open on durable: down to the medium on macOS too, as far as the file system goes along.
///
/// The standard library's `sync_all` would do, but for the systems that refuse `F_FULLFSYNC` (network and some FUSE
/// file systems), where it gives up.
pub(super) fn full_sync(fd: BorrowedFd<'_>) -> io::Result<()> {
    #[cfg(target_vendor = "apple")]
    match retry_on_intr(|| rustix::fs::fcntl_fullfsync(fd)) {
        Err(error) if cannot_sync(error) => {}
        result => return Ok(result?),
    }
    Ok(retry_on_intr(|| rustix::fs::fsync(fd))?)
}

/// Lets the kernel begin to write these bytes to the disk. It waits for nothing and takes no error away from the sync that is to
/// come: those it reports are of beginning.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "no safe call does this")]
pub(super) fn write_out(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;

    let whole = i64::try_from(offset).ok().zip(i64::try_from(len).ok());
    let (offset, len) = whole.ok_or(Errno::INVAL)?;
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: a call with numbers; the descriptor is open for as long as it is borrowed.
    let begun = || match unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, len, flags) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    };
    match retry_on_intr(begun) {
        Err(error) if cannot_sync(error) => Ok(()),
        result => Ok(result?),
    }
}

/// Whether this error of a sync means that the file system does not do it, and not that it has failed.
pub(super) fn cannot_sync(error: Errno) -> bool {
    is_unsupported(error) || error == Errno::INVAL || error == Errno::NOTTY
}

/// Whether a call for permissions fails so where there are none.
fn cannot_set_modes(error: Errno) -> bool {
    is_unsupported(error) || error == Errno::PERM
}

/// `ENOTSUP` and `EOPNOTSUPP` are one number on Linux and two elsewhere.
pub(super) fn is_unsupported(error: Errno) -> bool {
    [Errno::NOTSUP, Errno::OPNOTSUPP, Errno::NOSYS].contains(&error)
}

/// The process's umask.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn umask() -> u32 {
    // Read where it can be had without changing it, even for a moment: other threads create files.
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        .unwrap_or_else(swapped_umask)
}

/// The process's umask.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn umask() -> u32 {
    swapped_umask()
}

/// The process's umask, found by setting another. What other threads create in between gets fewer permissions than it
/// should: hence the narrow one.
#[allow(
    clippy::unnecessary_cast,
    reason = "the type of the bits differs from system to system"
)]
fn swapped_umask() -> u32 {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let mask = rustix::process::umask(mode_bits(0o077));
    rustix::process::umask(mask);
    mask.as_raw_mode() as u32
}
