//! Open directories, and the calls that take a name in one.
//!
//! No call follows a link: opens carry `O_NOFOLLOW`, `stat` looks at the link itself, and rename and unlink act on
//! names anyway. Opens carry `O_NONBLOCK` and `O_NOCTTY` too, so that a FIFO or a terminal that was planted at one of
//! our names neither blocks us nor becomes our terminal.

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::file::UnixFile;
use super::fuse::Fuse;
use super::meta::{Owner, User};
use super::{fs_type, meta, watch};
use crate::{Access, Dir, Event, File, FileSystem, Metadata, Watch};

const OPEN_FILE: OFlags = OFlags::NOFOLLOW
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

const OPEN_DIR: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// An open directory.
///
/// Where this user may search a directory but not read it, the descriptor is good for names only (`O_PATH`, on Linux):
/// its files can be opened, but it can be neither listed nor synced.
pub(super) struct UnixDir {
    fd: OwnedFd,
    /// Whose it is, once that was asked for.
    owner: OnceLock<Owner>,
    common: Arc<Common>,
}

/// What all directories share that were opened on the way from one path. Names are renamed from one to another, so they are on
/// one file system.
pub(super) struct Common {
    me: User,
    fuse: Fuse,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            me: User::now(),
            fuse: Fuse::default(),
        }
    }
}

impl UnixDir {
    /// A directory from the descriptor that `open` returns when it is given these access flags.
    pub(super) fn open_with(
        open: impl Fn(OFlags) -> Result<OwnedFd, Errno>,
        common: Arc<Common>,
    ) -> io::Result<Self> {
        let result = open(OFlags::RDONLY);
        // The second error is the same one, unless the directory may be searched.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let result = match result {
            Err(Errno::ACCESS) => open(OFlags::PATH),
            result => result,
        };
        Ok(Self {
            fd: result?,
            owner: OnceLock::new(),
            common,
        })
    }

    /// What `look` finds under `name`.
    fn find<T>(&self, name: &str, look: impl Fn() -> io::Result<T>) -> io::Result<T> {
        self.common.fuse.find(self.fd.as_fd(), name, list, look)
    }

    fn open_subdir(&self, name: &str) -> io::Result<Self> {
        Self::open_with(
            |access| match openat(&self.fd, name, access | OPEN_DIR, Mode::empty()) {
                Err(error) if is_link_error(error) => Err(Errno::NOTDIR),
                result => result,
            },
            self.common.clone(),
        )
    }

    /// Gives what root has just created in somebody's directory to that somebody.
    fn give(&self, file: &OwnedFd) {
        if !self.common.me.is_root() {
            return;
        }
        let owner = match self.owner.get() {
            Some(owner) => Some(*owner),
            None => meta::owner_of(self.fd.as_fd()).ok(),
        };
        if let Some(owner) = owner {
            meta::give_new_file(file.as_fd(), *self.owner.get_or_init(|| owner));
        }
    }
}

impl Dir for UnixDir {
    fn metadata(&self) -> io::Result<Metadata> {
        let (metadata, owner) = meta::of_dir(self.fd.as_fd(), self.common.me)?;
        let _ = self.owner.set(owner);
        Ok(metadata)
    }

    fn file_system(&self) -> io::Result<FileSystem> {
        fs_type::file_system(self.fd.as_fd())
    }

    fn open_dir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(self.open_subdir(plain(name)?)?))
    }

    fn reopen(&self) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(self.open_subdir(".")?))
    }

    fn create_dir(&self, name: &str, mode: u32) -> io::Result<()> {
        let name = plain(name)?;
        retry_on_intr(|| rustix::fs::mkdirat(&self.fd, name, meta::mode_bits(mode)))?;
        meta::widen_new_dir(self.fd.as_fd(), name, mode)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn File>> {
        let name = plain(name)?;
        let (flags, mode) = match access {
            Access::Read => (OFlags::RDONLY, Mode::empty()),
            Access::Write => (OFlags::RDWR, Mode::empty()),
            Access::CreateNew(mode) => (
                OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
                meta::mode_bits(mode),
            ),
        };
        let fd = self.find(name, || {
            openat(&self.fd, name, flags | OPEN_FILE, mode)
                .map_err(|error| explain_open(name, access, error))
        })?;
        if access == Access::Read {
            self.common.fuse.read_from_server(self.fd.as_fd(), &fd);
        }
        if let Access::CreateNew(mode) = access {
            // On an error the new file stays. It must not be unlinked here: to the others it may mean something by
            // now (a claim, say), and who may remove it is for the library to know.
            meta::widen_new_file(fd.as_fd(), mode)?;
            self.give(&fd);
        }
        Ok(Box::new(UnixFile::new(fd, self.common.me)))
    }

    fn rename(&self, from: &str, to_dir: &dyn Dir, to: &str) -> io::Result<()> {
        let (from, to, to_dir) = (plain(from)?, plain(to)?, ours(to_dir)?);
        Ok(retry_on_intr(|| {
            rustix::fs::renameat(&self.fd, from, &to_dir.fd, to)
        })?)
    }

    #[cfg(target_os = "linux")]
    fn displace(&self, from: &str, to_dir: &dyn Dir, to: &str) -> io::Result<bool> {
        let (old, new, dir) = (plain(from)?, plain(to)?, ours(to_dir)?);
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let exchanged =
            retry_on_intr(|| rustix::fs::renameat_with(&self.fd, old, &dir.fd, new, flags));
        // What cannot be done so, and why not, an ordinary rename finds out.
        exchanged.map_or_else(
            |_| self.rename(from, to_dir, to).map(|()| false),
            |()| Ok(true),
        )
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let name = plain(name)?;
        Ok(retry_on_intr(|| {
            rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())
        })?)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        list(self.fd.as_fd())
    }

    fn stat(&self, name: &str) -> io::Result<Metadata> {
        let name = plain(name)?;
        self.find(name, || {
            meta::of_name(self.fd.as_fd(), name, self.common.me)
        })
    }

    fn sync(&self) -> io::Result<()> {
        meta::full_sync(self.fd.as_fd()).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::BADF) => Errno::ACCESS.into(), // Open for names only: this user may not read the directory.
            Some(errno) if meta::cannot_sync(errno) => io::Error::new(
                io::ErrorKind::Unsupported,
                format!("this file system cannot sync directories: {error}"),
            ),
            _ => error,
        })
    }

    fn watch(&self, wake: Arc<dyn Event>) -> io::Result<Box<dyn Watch>> {
        watch::watch(self.fd.as_fd(), wake)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A directory of this backend.
fn ours(dir: &dyn Dir) -> io::Result<&UnixDir> {
    dir.as_any().downcast_ref().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "cannot rename between directories of two backends",
        )
    })
}

fn openat(dir: &OwnedFd, name: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    retry_on_intr(|| rustix::fs::openat(dir, name, flags, mode))
}

/// `name` if it is one plain segment. The library has seen to that; this keeps a mistake there inside the directory.
fn plain(name: &str) -> io::Result<&str> {
    if name.is_empty()
        || name == "."
        || name == ".."
        || name.bytes().any(|byte| byte == b'/' || byte == 0)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is not the name of a file in a directory"),
        ));
    }
    Ok(name)
}

/// What an open that must not follow links says when it meets one.
fn is_link_error(error: Errno) -> bool {
    #[cfg(target_os = "netbsd")]
    let also = Errno::FTYPE;
    #[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
    let also = Errno::MLINK;
    #[cfg(not(any(target_os = "netbsd", target_os = "freebsd", target_os = "dragonfly")))]
    let also = Errno::LOOP;
    error == Errno::LOOP || error == also
}

/// Says what the bare number does not.
fn explain_open(name: &str, access: Access, error: Errno) -> io::Error {
    if is_link_error(error) {
        let kind = io::Error::from(Errno::LOOP).kind();
        return io::Error::new(
            kind,
            format!("{name:?} is a symbolic link, which is not followed here"),
        );
    }
    // `EOPNOTSUPP` (a socket on macOS and the BSDs) would otherwise read as "no such thing on this target".
    let existing = matches!(access, Access::Read | Access::Write);
    if existing && (error == Errno::NXIO || error == Errno::OPNOTSUPP) {
        return io::Error::other(format!("{name:?} is a socket or a device, not a file"));
    }
    error.into()
}

/// Reads the directory through a descriptor of its own: two threads that list at once must not share an offset. Opened for each
/// listing, and not wound back: btrfs shows no name that is newer than the opening, which a fence must see.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn list(dir: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    use std::mem::MaybeUninit;

    // Some 500 short names, so that our directories take one call and one more that finds the end.
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let flags = OFlags::RDONLY | OPEN_DIR;
    let fd = retry_on_intr(|| rustix::fs::openat(dir, c".", flags, Mode::empty()))?;
    let mut entries = rustix::fs::RawDir::new(fd, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => names.extend(listed(entry.file_name())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(names)
}

/// Reads the directory through a descriptor of its own: two threads that list at once must not share an offset.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn list(dir: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    // It opens `.` anew.
    for entry in retry_on_intr(|| rustix::fs::Dir::read_from(dir))? {
        names.extend(listed(entry?.file_name()));
    }
    Ok(names)
}

/// A name as [`Dir::list`] reports it.
fn listed(name: &std::ffi::CStr) -> Option<String> {
    match name.to_str() {
        Ok("." | "..") | Err(_) => None,
        Ok(name) => Some(name.to_owned()),
    }
}
