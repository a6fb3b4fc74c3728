//! Files. One that is read is open for as long as somebody has it, which is never longer than one call of the library; one
//! that is written is a name, opened for each call. The parent module says why.
//!
//! For writers a name is as good as a handle: the names of claims and stages are never used twice. A payload's name gets
//! another file with each publish, and whoever reads must not go on with the bytes of another.

use std::io;
use std::mem::MaybeUninit;
use std::sync::{Arc, OnceLock};

use wasi::clocks::wall_clock;
use wasi::filesystem::types::{
    Descriptor, DescriptorFlags, DescriptorStat, NewTimestamp, OpenFlags,
};

use super::dir::{NO_FOLLOW, glance, kind, metadata, stat};
use super::error::{call, error, unsupported};
use crate::{Access, File, FileKind, Metadata, Quoted, failure};

/// Whether the host knows what "now" is as a file's time, found out once. The shim of jco (preview2-shim 0.26.1) takes
/// seconds for milliseconds there and dates the file to January 1970: others would think that the holder of a claim with
/// that date has long been dead. Where the host knows, its word is better than the guest's clock, for on a network file
/// system it is the server's.
static KNOWS_NOW: OnceLock<bool> = OnceLock::new();

/// So often in a row an open is refused for nobody's publishing.
const REFUSALS: u32 = 10;

/// A file by its name.
pub(super) struct WasiFile {
    directory: Arc<Descriptor>,
    name: String,
    /// What the name was like right before the file was opened; not of one that was created.
    seen: Option<DescriptorStat>,
    /// The open file, if it is read.
    open: Option<Descriptor>,
}

impl WasiFile {
    pub(super) fn open(
        directory: &Arc<Descriptor>,
        name: &str,
        access: Access,
    ) -> io::Result<Self> {
        let mut file = Self {
            directory: directory.clone(),
            name: name.to_owned(),
            seen: None,
            open: None,
        };
        if let Access::CreateNew(_) = access {
            let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
            let create = OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
            call(|| directory.open_at(NO_FOLLOW, name, create, flags))?;
            return Ok(file);
        }
        // Looked at first: to open a FIFO could take for ever.
        let seen = call(|| directory.stat_at(NO_FOLLOW, name))?;
        if kind(seen.type_) != FileKind::File {
            return Err(failure(
                io::ErrorKind::Other,
                format!("{} is no ordinary file, and is not opened", Quoted(name)),
            ));
        }
        file.seen = Some(seen);
        // A file that may not be opened is an error here, and not at its first use.
        match access {
            Access::Read => file.open = Some(file.handle(DescriptorFlags::READ)?),
            _ => drop(file.handle(DescriptorFlags::WRITE)?),
        }
        Ok(file)
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

    /// What one call of the host reads.
    fn read(&self, len: usize, offset: u64) -> io::Result<Vec<u8>> {
        let read = |file: &Descriptor| call(|| file.read(len as u64, offset));
        let (bytes, _) = match &self.open {
            Some(file) => read(file),
            None => read(&self.handle(DescriptorFlags::READ)?),
        }?;
        Ok(bytes)
    }

    /// Closed when dropped, which cannot fail.
    ///
    /// On Linux wasmtime (cap-primitives 4.0.3) opens by `openat2` with `RESOLVE_BENEATH`, and says "not permitted" of a file that
    /// leaves the directory while it is opened, as one does that changes places with a file of another directory. Then the
    /// name stands for another file already, and that one is opened.
    fn handle(&self, flags: DescriptorFlags) -> io::Result<Descriptor> {
        let mut left = REFUSALS;
        loop {
            let opened = call(|| {
                self.directory
                    .open_at(NO_FOLLOW, &self.name, OpenFlags::empty(), flags)
            });
            left -= 1;
            match opened {
                Err(error) if left > 0 && error.kind() == io::ErrorKind::PermissionDenied => {}
                opened => return opened,
            }
        }
    }
}

/// Less than this is left to the sync that follows. What has gathered when the library asks is 8 MiB, which a disk takes in a fraction of
/// the shortest lease that makes sense.
const GATHERED: u64 = 1 << 20;

impl File for WasiFile {
    fn metadata(&self) -> io::Result<Metadata> {
        match &self.open {
            Some(file) => {
                let hash = call(|| file.metadata_hash())?;
                Ok(metadata(&call(|| file.stat())?, &hash))
            }
            None => stat(&self.directory, &self.name),
        }
    }

    fn glance(&self) -> io::Result<Metadata> {
        self.seen
            .as_ref()
            .map_or_else(|| self.metadata(), |seen| Ok(glance(seen)))
    }

    fn stat(&self) -> io::Result<Metadata> {
        match &self.open {
            Some(file) => Ok(glance(&call(|| file.stat())?)),
            None => self.metadata(),
        }
    }

    fn is_pinned(&self) -> bool {
        false
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.read(buf.len(), offset)?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn read_new_at<'b>(
        &self,
        buf: &'b mut [MaybeUninit<u8>],
        offset: u64,
    ) -> io::Result<&'b mut [u8]> {
        let bytes = self.read(buf.len(), offset)?;
        Ok(buf[..bytes.len()].write_copy_of_slice(&bytes))
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

    /// There is nothing that works in the background. But the sync of all that a long refresh has written might outlast the lease,
    /// which no guest can beat meanwhile: so what has gathered is synced between two writes.
    fn write_out(&self, _offset: u64, len: u64) -> io::Result<()> {
        match len >= GATHERED {
            true => self.sync(),
            false => Ok(()),
        }
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
