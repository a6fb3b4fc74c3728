//! Open directories, and the calls that take a name in one.
//!
//! No call follows a link: every open is of the reparse point itself, and what turns out to be one is refused.
//!
//! # Names that others have open
//!
//! A name is removed or replaced through a handle of its own. With POSIX semantics (Windows 10 1709 and later, on NTFS) other
//! handles are in the way of neither, if they share deletion, as all of ours do. Elsewhere:
//!
//! - [`unlink`](Dir::unlink) first gives the file another name, which is allowed, and lets the system remove it when its last
//!   handle is closed. So the name that others look for is gone at once. A file on its way out is called `gone-` and 32
//!   digits.
//! - [`rename`](Dir::rename) over a file that somebody has open fails. Nothing is done about that here: to move the old file
//!   away first would leave a moment without either.
//!
//! A handle that does *not* share deletion forbids both, everywhere. The library tries again; see
//! [`Platform::is_busy`](crate::Platform::is_busy).

use std::any::Any;
use std::io;
use std::os::windows::io::{AsHandle, BorrowedHandle, OwnedHandle};
use std::sync::Arc;

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_CREATE, FILE_DELETE_ON_CLOSE, FILE_NON_DIRECTORY_FILE, FILE_OPEN,
    FILE_OPEN_FOR_BACKUP_INTENT,
};
use windows_sys::Win32::Foundation::{GENERIC_READ, GENERIC_WRITE};
use windows_sys::Win32::Storage::FileSystem::{
    DELETE, FILE_ADD_FILE, FILE_LIST_DIRECTORY, FILE_READ_ATTRIBUTES, FILE_TRAVERSE, READ_CONTROL,
};

use super::file::WindowsFile;
use super::nt::{self, Open, Status};
use super::security::Private;
use super::volume::Volume;
use super::{meta, random};
use crate::{Access, Dir, Event, File, FileKind, FileSystem, Metadata, Watch};

/// What a directory's handle may do, at best.
pub(super) const DIR_ACCESS: u32 =
    FILE_LIST_DIRECTORY | FILE_TRAVERSE | FILE_READ_ATTRIBUTES | READ_CONTROL;

const LOOK: Open<'static> = Open {
    access: FILE_READ_ATTRIBUTES | READ_CONTROL,
    disposition: FILE_OPEN,
    options: FILE_OPEN_FOR_BACKUP_INTENT,
    private: None,
};

/// An open directory.
pub(super) struct WindowsDir {
    handle: OwnedHandle,
    volume: Arc<Volume>,
}

impl WindowsDir {
    pub(super) fn new(handle: OwnedHandle) -> io::Result<Self> {
        let volume = Arc::new(Volume::of(handle.as_handle())?);
        Ok(Self { handle, volume })
    }

    /// One below, or the same once more.
    fn beside(&self, handle: OwnedHandle) -> Arc<dyn Dir> {
        let volume = self.volume.clone();
        Arc::new(Self { handle, volume })
    }

    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.handle.as_handle()
    }

    /// Opens the subdirectory `name`, or this directory itself if that is empty.
    fn open_subdir(&self, name: &str, access: u32) -> io::Result<OwnedHandle> {
        let how = Open {
            access,
            options: nt::DIRECTORY | FILE_OPEN_FOR_BACKUP_INTENT,
            ..LOOK
        };
        Ok(nt::open(self.as_handle(), name, how)?)
    }

    fn open_to_delete(&self, name: &str, options: u32) -> Result<OwnedHandle, Status> {
        let how = Open {
            access: DELETE,
            options: options | FILE_OPEN_FOR_BACKUP_INTENT,
            ..LOOK
        };
        nt::open(self.as_handle(), name, how)
    }

    /// Removes `name` where a name cannot be removed at once while the file is open.
    fn unlink_later(&self, name: &str) -> io::Result<()> {
        let gone = format!("gone-{:032x}", random()?);
        let file = self.open_to_delete(name, FILE_NON_DIRECTORY_FILE | FILE_DELETE_ON_CLOSE)?;
        // Should we be killed in between, the system closes the handle, and so the file goes, whatever its name is by then.
        Ok(nt::rename(file.as_handle(), self.as_handle(), &gone)?)
    }
}

impl Dir for WindowsDir {
    fn metadata(&self) -> io::Result<Metadata> {
        meta::of(self.as_handle(), &self.volume)
    }

    fn file_system(&self) -> io::Result<FileSystem> {
        Ok(self.volume.file_system())
    }

    fn open_dir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        let handle = self.open_subdir(plain(name)?, DIR_ACCESS)?;
        if meta::kind_of(handle.as_handle())? != FileKind::Directory {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(self.beside(handle))
    }

    fn reopen(&self) -> io::Result<Arc<dyn Dir>> {
        let handle = self.open_subdir("", DIR_ACCESS)?;
        Ok(self.beside(handle))
    }

    fn create_dir(&self, name: &str, _mode: u32) -> io::Result<()> {
        let how = Open {
            disposition: FILE_CREATE,
            options: nt::DIRECTORY,
            ..LOOK
        };
        nt::open(self.as_handle(), plain(name)?, how)?;
        Ok(())
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn File>> {
        let name = plain(name)?;
        let how = |access, disposition, private| Open {
            access: access | READ_CONTROL,
            disposition,
            options: FILE_NON_DIRECTORY_FILE,
            private,
        };
        let both = GENERIC_READ | GENERIC_WRITE;
        let how = match access {
            Access::Read => how(GENERIC_READ, FILE_OPEN, None),
            Access::Write => how(both, FILE_OPEN, None),
            Access::CreateNew(mode) if mode & 0o077 == 0 => {
                how(both, FILE_CREATE, Some(Private::get()?))
            }
            Access::CreateNew(_) => how(both, FILE_CREATE, None),
        };
        let handle = nt::open(self.as_handle(), name, how)?;
        if meta::kind_of(handle.as_handle())? == FileKind::Symlink {
            return Err(io::Error::other(format!(
                "{name:?} is a link or another reparse point, which is not followed here"
            )));
        }
        Ok(Box::new(WindowsFile::new(handle, self.volume.clone())))
    }

    fn rename(&self, from: &str, to_dir: &dyn Dir, to: &str) -> io::Result<()> {
        let (from, to) = (plain(from)?, plain(to)?);
        let Some(to_dir) = to_dir.as_any().downcast_ref::<Self>() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "cannot rename between directories of two backends",
            ));
        };
        let file = self.open_to_delete(from, 0)?;
        match nt::rename(file.as_handle(), to_dir.as_handle(), to) {
            // A directory cannot be replaced, and is no reason to wait.
            Err(Status::ACCESS_DENIED)
                if to_dir
                    .stat(to)
                    .is_ok_and(|there| there.kind == FileKind::Directory) =>
            {
                Err(io::ErrorKind::IsADirectory.into())
            }
            result => Ok(result?),
        }
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let name = plain(name)?;
        let file = self.open_to_delete(name, FILE_NON_DIRECTORY_FILE)?;
        match nt::unlink_posix(file.as_handle()) {
            Err(status) if status.is_unknown_call() => {
                drop(file);
                self.unlink_later(name)
            }
            result => Ok(result?),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        // A handle of its own: two threads that list at once must not share a place in it.
        let handle = self.open_subdir("", FILE_LIST_DIRECTORY)?;
        Ok(nt::list(handle.as_handle())?)
    }

    fn stat(&self, name: &str) -> io::Result<Metadata> {
        let name = plain(name)?;
        let found = match nt::open(self.as_handle(), name, LOOK) {
            // Whose it is, may not be for us to know.
            Err(Status::ACCESS_DENIED) => {
                let how = Open {
                    access: FILE_READ_ATTRIBUTES,
                    ..LOOK
                };
                nt::open(self.as_handle(), name, how)?
            }
            found => found?,
        };
        meta::of(found.as_handle(), &self.volume)
    }

    fn sync(&self) -> io::Result<()> {
        let no = |error: io::Error| {
            let reason = format!("this directory cannot be synced: {error}");
            io::Error::new(io::ErrorKind::Unsupported, reason)
        };
        // Only a handle that may write can be flushed.
        let handle = self.open_subdir("", FILE_ADD_FILE)?;
        match nt::flush(handle.as_handle()) {
            Err(status) if status.is_unknown_call() || status == Status::ACCESS_DENIED => {
                Err(no(status.into()))
            }
            result => Ok(result?),
        }
    }

    /// Nothing: the library looks again every few milliseconds.
    fn watch(&self, _wake: Arc<dyn Event>) -> io::Result<Box<dyn Watch>> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "directories are not watched on Windows",
        ))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `name` if it is one plain segment. The library has seen to that; this keeps a mistake there inside the directory. A colon
/// would name a stream of a file, and the kernel itself knows no other meaning of the other characters.
fn plain(name: &str) -> io::Result<&str> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', ':', '\0']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is not the name of a file in a directory"),
        ));
    }
    Ok(name)
}
