//! Open directories, and the calls that take a name in one. No call follows a link.

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use wasi::clocks::wall_clock::Datetime;
use wasi::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorStat, DescriptorType, ErrorCode, MetadataHashValue,
    OpenFlags, PathFlags,
};

use super::error::{self, call};
use super::file::WasiFile;
use crate::{
    Access, Dir, Event, File, FileId, FileKind, FileSystem, Metadata, Owner, Quoted, Watch, failure,
};

/// Of a name itself, not of what a link points to.
pub(super) const NO_FOLLOW: PathFlags = PathFlags::empty();

/// An open directory, shared with the files that are opened in it.
pub(super) struct WasiDir(Arc<Descriptor>);

impl WasiDir {
    pub(super) fn new(directory: Descriptor) -> Self {
        Self(Arc::new(directory))
    }

    fn open_subdir(&self, name: &str) -> io::Result<Self> {
        look_for_directory(&self.0, NO_FOLLOW, name)?;
        // The right to change it is not asked for: it comes with the parent's, and some hosts refuse those who ask.
        let open = || {
            self.0
                .open_at(NO_FOLLOW, name, OpenFlags::DIRECTORY, DescriptorFlags::READ)
        };
        let opened = call(|| match open() {
            Err(ErrorCode::Loop) => Err(ErrorCode::NotDirectory),
            opened => opened,
        });
        opened.map(Self::new)
    }
}

impl Dir for WasiDir {
    fn metadata(&self) -> io::Result<Metadata> {
        let hash = call(|| self.0.metadata_hash())?;
        Ok(metadata(&call(|| self.0.stat())?, &hash))
    }

    fn file_system(&self) -> io::Result<FileSystem> {
        Ok(FileSystem {
            name: "wasi".to_owned(),
            kernel_locks: false,
            // The host does not say. On a network file system only the weaker promises hold that are made there.
            remote: false,
        })
    }

    fn open_dir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(self.open_subdir(plain(name)?)?))
    }

    fn reopen(&self) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(self.open_subdir(".")?))
    }

    fn create_dir(&self, name: &str, _mode: u32) -> io::Result<()> {
        let name = plain(name)?;
        call(|| self.0.create_directory_at(name))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn File>> {
        WasiFile::open(&self.0, plain(name)?, access).map(|file| Box::new(file) as Box<dyn File>)
    }

    fn rename(&self, from: &str, to_dir: &dyn Dir, to: &str) -> io::Result<()> {
        let (from, to) = (plain(from)?, plain(to)?);
        let Some(to_dir) = to_dir.as_any().downcast_ref::<Self>() else {
            return Err(failure(
                io::ErrorKind::InvalidInput,
                "cannot rename between directories of two backends",
            ));
        };
        call(|| self.0.rename_at(from, &to_dir.0, to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let name = plain(name)?;
        call(|| self.0.unlink_file_at(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let entries = call(|| self.0.read_directory())?;
        let mut names = Vec::new();
        loop {
            match entries.read_directory_entry() {
                Ok(None) => return Ok(names),
                Ok(Some(entry)) if entry.name == "." || entry.name == ".." => {}
                Ok(Some(entry)) => names.push(entry.name),
                // One name that is not UTF-8; the others follow.
                Err(ErrorCode::IllegalByteSequence | ErrorCode::Interrupted) => {}
                Err(code) => return Err(error::error(code)),
            }
        }
    }

    fn stat(&self, name: &str) -> io::Result<Metadata> {
        stat(&self.0, plain(name)?)
    }

    fn glance(&self, name: &str) -> io::Result<Metadata> {
        let name = plain(name)?;
        Ok(glance(&call(|| self.0.stat_at(NO_FOLLOW, name))?))
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync().map_err(|code| match code {
            ErrorCode::Io | ErrorCode::InsufficientSpace | ErrorCode::Quota => error::error(code),
            // Hosts that cannot do it have many ways to say so.
            _ => failure(
                io::ErrorKind::Unsupported,
                format!("this WASI host cannot sync directories ({})", code.name()),
            ),
        })
    }

    fn watch(&self, _wake: Arc<dyn Event>) -> io::Result<Box<dyn Watch>> {
        Err(error::unsupported("a WASI guest cannot watch a directory"))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An error if there is something else at `path`. For whoever opens it next: to open a FIFO could take for ever, and hosts ask only
/// afterwards whether it is a directory.
pub(super) fn look_for_directory(
    parent: &Descriptor,
    flags: PathFlags,
    path: &str,
) -> io::Result<()> {
    if path == "." {
        return Ok(());
    }
    match call(|| parent.stat_at(flags, path))?.type_ {
        DescriptorType::Directory => Ok(()),
        _ => Err(io::ErrorKind::NotADirectory.into()),
    }
}

/// `name` if it is one plain segment. The library has seen to that; this keeps a mistake there inside the directory, also
/// on a host that has another separator.
fn plain(name: &str) -> io::Result<&str> {
    if matches!(name, "" | "." | "..") || name.contains(['/', '\\', '\0']) {
        return Err(failure(
            io::ErrorKind::InvalidInput,
            format!("{} is not the name of a file in a directory", Quoted(name)),
        ));
    }
    Ok(name)
}

/// What is known about `name`. Two calls: should the name get another file in between, that file's length and time
/// come with the identity of the file that was there when this was called.
pub(super) fn stat(directory: &Descriptor, name: &str) -> io::Result<Metadata> {
    let hash = call(|| directory.metadata_hash_at(NO_FOLLOW, name))?;
    Ok(metadata(
        &call(|| directory.stat_at(NO_FOLLOW, name))?,
        &hash,
    ))
}

pub(super) fn kind(kind: DescriptorType) -> FileKind {
    match kind {
        DescriptorType::RegularFile => FileKind::File,
        DescriptorType::Directory => FileKind::Directory,
        DescriptorType::SymbolicLink => FileKind::Symlink,
        _ => FileKind::Other,
    }
}

pub(super) fn metadata(stat: &DescriptorStat, hash: &MetadataHashValue) -> Metadata {
    Metadata {
        // Half of the hash is enough for wasmtime, which makes both halves of device and inode. Other hosts put the
        // time of the last change into the upper half, and the inode into this one.
        id: FileId {
            device: 0,
            inode: hash.lower.into(),
        },
        ..glance(stat)
    }
}

/// All but the identity, which takes another call.
pub(super) fn glance(stat: &DescriptorStat) -> Metadata {
    Metadata {
        kind: kind(stat.type_),
        len: stat.size,
        modified: stat
            .data_modification_timestamp
            .map_or(SystemTime::UNIX_EPOCH, system_time),
        id: FileId::UNKNOWN,
        links: stat.link_count,
        mode: None,
        owner: Owner::Unknown,
        shared: false,
    }
}

pub(super) fn system_time(time: Datetime) -> SystemTime {
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::new(time.seconds, time.nanoseconds))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
