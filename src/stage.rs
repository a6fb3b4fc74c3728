//! A stage: a file in the control directory that is to be renamed into place.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cachelock_platform::{File, Reason, failure};
use xxhash_rust::xxh3::Xxh3Default;

use crate::cache::Entry;
use crate::durable::syncs_payload;
use crate::error::{Error, Result};
use crate::lock::Hold;
use crate::mutation::Mutation;
use crate::payload::PIECE;
use crate::tag::Content;
use crate::transfer::write_all_at;

/// How much gathers before the file system is told to begin with it: enough for it to lay it out in one go.
const WRITE_OUT: u64 = 8 << 20;

/// A stage while it is written to. Its first failure is final: what a file system has dropped after a failed write or sync it
/// may report as written the next time.
pub(crate) struct Stage {
    hold: Arc<Hold>,
    name: String,
    /// What an error is about that concerns more than this file.
    target: PathBuf,
    /// Whether it must be on the disk before it is renamed.
    syncs: bool,
    file: Option<Box<dyn File>>,
    /// Not yet given to the file system.
    buffer: Vec<u8>,
    /// Given to the file system.
    written: u64,
    /// On its way to the disk.
    begun: u64,
    /// Boxed for its size.
    hasher: Box<Xxh3Default>,
    failed: Option<String>,
    removed: bool,
}

impl Stage {
    pub(crate) fn create(hold: &Arc<Hold>, syncs: bool) -> Result<Self> {
        hold.refuse_copy()?;
        let (name, file) = hold.lease.create_stage()?;
        Ok(Stage {
            hold: hold.clone(),
            name,
            target: hold.control.cx.path.clone(),
            syncs,
            file: Some(file),
            buffer: Vec::new(),
            written: 0,
            begun: 0,
            hasher: Box::new(Xxh3Default::new()),
            failed: None,
            removed: false,
        })
    }

    pub(crate) fn of_payload(entry: &Entry, hold: &Arc<Hold>) -> Result<Self> {
        let mut stage = Self::create(hold, syncs_payload(entry.cx()))?;
        stage.target = entry.path();
        Ok(stage)
    }

    pub(crate) fn hold(&self) -> &Arc<Hold> {
        &self.hold
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether what was written can still be published.
    pub(crate) fn is_usable(&self) -> bool {
        self.failed.is_none()
    }

    pub(crate) fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.check_usable()?;
        if self.file.is_none() {
            let sealed = failure(
                io::ErrorKind::Other,
                "it is complete since a publish was tried; publish it as it is, or restart the refresh",
            );
            return Err(self.hold.control.failed("add to", &self.name, sealed));
        }
        while !bytes.is_empty() {
            let room = PIECE - self.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            // A large write needs no copy.
            if self.buffer.is_empty() && now.len() == PIECE {
                self.write_through(now)?;
            } else {
                self.beat_if_due()?;
                self.buffer.extend_from_slice(now);
                if self.buffer.len() == PIECE {
                    self.flush()?;
                }
            }
            bytes = later;
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.check_usable()?;
        let buffer = std::mem::take(&mut self.buffer);
        let flushed = if buffer.is_empty() {
            Ok(())
        } else {
            self.write_through(&buffer)
        };
        self.buffer = buffer;
        if flushed.is_ok() {
            self.buffer.clear();
        }
        flushed
    }

    /// Where nothing else beats the lease, writes do.
    fn beat_if_due(&self) -> Result<()> {
        match self.hold.must_beat() {
            true => self.hold.lease.keep_alive(),
            false => Ok(()),
        }
    }

    fn write_through(&mut self, bytes: &[u8]) -> Result<()> {
        self.hold.check_known()?;
        self.beat_if_due()?;
        let lease = &self.hold.lease;
        let Some(file) = &self.file else {
            return Err(self.fail(
                "write",
                failure(io::ErrorKind::Other, "the stage is closed"),
            ));
        };
        match write_all_at(&**file, bytes, self.written) {
            Ok(()) => {
                self.hasher.update(bytes);
                self.written += bytes.len() as u64;
                self.write_out(WRITE_OUT)
            }
            // Where files are opened by name for each write, a fenced stage shows here.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(lease.lose("its stage is gone"))
            }
            Err(error) => Err(self.fail("write", error)),
        }
    }

    /// Everything written given to the file system, and on its way to the disk if it will be synced: the sync then finds little
    /// to wait for.
    pub(crate) fn complete(&mut self) -> Result<Content> {
        self.hold.refuse_copy()?;
        if self.file.is_some() {
            self.flush()?;
            self.write_out(1)?;
        }
        self.check_usable()?;
        Ok(Content::Value {
            len: self.written,
            hash: self.hasher.digest128(),
        })
    }

    /// Lets the file system begin with what has gathered, if that will be synced and is at least so much.
    fn write_out(&mut self, least: u64) -> Result<()> {
        let len = self.written - self.begun;
        let begins = self.syncs && len >= least;
        let Some(file) = self.file.as_ref().filter(|_| begins) else {
            return Ok(());
        };
        let begun = file.write_out(self.begun, len);
        self.begun = self.written;
        begun.map_err(|error| self.fail("write out", error))
    }

    /// The mode that it is to have when it is renamed, if there are modes.
    pub(crate) fn set_mode(&mut self, mode: Option<u32>) -> Result<()> {
        match (&self.file, mode) {
            (Some(file), Some(mode)) => file
                .set_mode(mode)
                .map_err(|error| self.fail("finish", error)),
            _ => Ok(()),
        }
    }

    /// Synced, if it must be, and closed: ready to be renamed. What was written is [complete](Self::complete) before. Does nothing
    /// the second time.
    pub(crate) fn seal(&mut self) -> Result<()> {
        self.hold.refuse_copy()?;
        self.check_usable()?;
        if self.syncs {
            // While the file is there still: a stage without one is sealed.
            self.beat_if_due()?;
        }
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        let synced = match self.syncs {
            true => self.sync(&*file),
            false => Ok(()),
        };
        match synced.and_then(|()| file.close()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(self.hold.lease.lose("its stage is gone"))
            }
            Err(error) => Err(self.fail("finish", error)),
        }
    }

    fn sync(&self, file: &dyn File) -> io::Result<()> {
        match file.sync() {
            Err(_) if self.hold.control.cx.mutated(Mutation::SyncErrorSwallowed) => Ok(()),
            synced => synced,
        }
    }

    /// After the rename: the name is not ours to remove any more.
    pub(crate) fn renamed(&mut self) {
        self.removed = true;
    }

    fn fail(&mut self, action: &'static str, error: io::Error) -> Error {
        self.failed = Some(Reason(&error).to_string());
        self.hold.control.failed(action, &self.name, error)
    }

    fn check_usable(&self) -> Result<()> {
        match &self.failed {
            Some(reason) => Err(Error::poisoned(&self.target, reason.clone())),
            None => Ok(()),
        }
    }

    pub(crate) fn remove(&mut self) -> Result<()> {
        self.file = None;
        if std::mem::replace(&mut self.removed, true) || self.hold.is_copy() {
            return Ok(());
        }
        self.hold.control.unlink(&self.name).map(drop)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What stays behind is fenced by the next holder.
        let _ = self.remove();
    }
}
