//! Files that are opened by name for each call; the parent module says why.
//!
//! For writers that is as good as a handle: the names of claims and stages are never used twice. A payload's name gets
//! another file with each publish, so a file that is read remembers what it has read from, and says "not found" rather
//! than go on with the bytes of another.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wasi::clocks::wall_clock;
use wasi::filesystem::types::{Descriptor, DescriptorFlags, NewTimestamp, OpenFlags};

use super::dir::{NO_FOLLOW, kind, stat};
use super::error::{call, error, unsupported};
use crate::{Access, File, FileKind, Metadata, Quoted, failure};

/// Whether the host knows what "now" is as a file's time, found out once. The shim of jco (preview2-shim 0.26.1) takes
/// seconds for milliseconds there and dates the file to January 1970: others would think that the holder of a claim with
/// that date has long been dead. Where the host knows, its word is better than the guest's clock, for on a network file
/// system it is the server's.
static KNOWS_NOW: OnceLock<bool> = OnceLock::new();

/// A name of a file.
pub(super) struct WasiFile {
    directory: Arc<Descriptor>,
    name: String,
    /// `None` for a file that is written.
    read: Option<Mutex<Read>>,
}

/// What was read so far.
#[derive(Default)]
struct Read {
    /// From which file: changes with the file, and on some hosts with what is in it.
    from: Option<(u64, u64)>,
    /// Where it ended. Asking again would take another open, and there might be another file by then.
    end: Option<u64>,
}

impl WasiFile {
    pub(super) fn open(
        directory: &Arc<Descriptor>,
        name: &str,
        access: Access,
    ) -> io::Result<Self> {
        let file = Self {
            directory: directory.clone(),
            name: name.to_owned(),
            read: (access == Access::Read).then(Mutex::default),
        };
        if let Access::CreateNew(_) = access {
            let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
            let create = OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
            call(|| directory.open_at(NO_FOLLOW, name, create, flags))?;
            return Ok(file);
        }
        // Looked at first: to open a FIFO could take for ever.
        match kind(call(|| directory.stat_at(NO_FOLLOW, name))?.type_) {
            FileKind::Symlink => Err(failure(
                io::ErrorKind::Other,
                format!(
                    "{} is a symbolic link, which is not followed here",
                    Quoted(name)
                ),
            )),
            FileKind::File => {
                // So that a file that may not be opened is an error here, and not at its first use.
                let flags = match access {
                    Access::Read => DescriptorFlags::READ,
                    _ => DescriptorFlags::WRITE,
                };
                file.handle(flags).map(|_| file)
            }
            FileKind::Directory | FileKind::Other => Ok(file),
        }
    }

    fn set_modified(&self, time: NewTimestamp) -> io::Result<()> {
        call(|| {
            self.directory
                .set_times_at(NO_FOLLOW, &self.name, NewTimestamp::NoChange, time)
        })
    }

    /// Whether "now" makes this file no older than it was.
    fn try_now(&self) -> io::Result<bool> {
        let before = stat(&self.directory, &self.name)?.modified;
        self.set_modified(NewTimestamp::Now)?;
        Ok(stat(&self.directory, &self.name)?.modified >= before)
    }

    /// Closed when dropped, which cannot fail.
    fn handle(&self, flags: DescriptorFlags) -> io::Result<Descriptor> {
        call(|| {
            self.directory
                .open_at(NO_FOLLOW, &self.name, OpenFlags::empty(), flags)
        })
    }
}

impl File for WasiFile {
    fn metadata(&self) -> io::Result<Metadata> {
        stat(&self.directory, &self.name)
    }

    fn is_pinned(&self) -> bool {
        false
    }

    /// As much as there is: whoever asks for all of a file gets it from one open file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.read.as_ref();
        let mut read = read.map(|read| read.lock().unwrap_or_else(PoisonError::into_inner));
        let end = read.as_ref().and_then(|read| read.end);
        if end.is_some_and(|end| offset >= end) {
            return Ok(0);
        }
        let file = self.handle(DescriptorFlags::READ)?;
        if let Some(read) = &mut read {
            let hash = call(|| file.metadata_hash())?;
            let this = (hash.upper, hash.lower);
            if *read.from.get_or_insert(this) != this {
                let replaced = "it was replaced by another file while it was read";
                return Err(failure(io::ErrorKind::NotFound, replaced));
            }
        }
        let mut filled = 0;
        while filled < buf.len() {
            let at = offset + filled as u64;
            let (bytes, ended) = call(|| file.read((buf.len() - filled) as u64, at))?;
            buf[filled..filled + bytes.len()].copy_from_slice(&bytes);
            filled += bytes.len();
            if ended || bytes.is_empty() {
                if let Some(read) = &mut read {
                    read.end = Some(offset + filled as u64);
                }
                break;
            }
        }
        Ok(filled)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let file = self.handle(DescriptorFlags::WRITE)?;
        let mut written = 0;
        while written < buf.len() {
            let at = offset + written as u64;
            match call(|| file.write(&buf[written..], at)) {
                Ok(0) => break,
                Ok(more) => written += usize::try_from(more).unwrap_or(usize::MAX),
                // What was written counts; the error comes again.
                Err(_) if written > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written.min(buf.len()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let file = self.handle(DescriptorFlags::WRITE)?;
        call(|| file.set_size(len))
    }

    fn sync(&self) -> io::Result<()> {
        let file = self.handle(DescriptorFlags::WRITE)?;
        // Not made again, even when it was interrupted: what the first one has dropped the second may call written.
        file.sync().map_err(error)
    }

    fn set_mode(&self, _mode: u32) -> io::Result<()> {
        Ok(())
    }

    fn touch(&self) -> io::Result<()> {
        let knows_now = match KNOWS_NOW.get() {
            Some(known) => *known,
            None => {
                let tried = self.try_now()?;
                *KNOWS_NOW.get_or_init(|| tried)
            }
        };
        self.set_modified(match knows_now {
            true => NewTimestamp::Now,
            false => NewTimestamp::Timestamp(wall_clock::now()),
        })
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        Err(unsupported("a WASI guest has no kernel locks"))
    }

    fn lock(&self) -> io::Result<()> {
        self.try_lock().map(drop)
    }

    fn unlock(&self) -> io::Result<()> {
        self.try_lock().map(drop)
    }
}
