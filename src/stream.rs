//! A payload that is read in pieces.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use cachelock_platform::File;

use crate::cache::Entry;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::meta::Meta;
use crate::payload::take_in;
use crate::read::Snapshot;
use crate::tag::Content;

/// A payload that was verified and can be read in pieces. It stays this payload, whatever is published meanwhile. Takes constant
/// memory, but all of the payload's in a WASI guest, and on Windows where no open file can be replaced.
pub struct Stream {
    source: Source,
    at: u64,
    meta: Meta,
    path: PathBuf,
    key: Option<Key>,
}

/// Where its bytes are.
pub(crate) enum Source {
    /// All of it: it fitted into one piece, or there is no handle that stays on it.
    Memory(Arc<[u8]>),
    File(Box<dyn File>),
}

const CHANGED: &str = "it was changed while it was read";

impl Stream {
    pub(crate) fn new(source: Source, meta: Meta, entry: &Entry) -> Self {
        Stream {
            source,
            at: 0,
            meta,
            path: entry.path(),
            key: entry.key.clone(),
        }
    }

    /// What is known about it.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The whole payload in memory. What is read anew is verified anew.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the payload was changed since it was verified; what the system says.
    pub fn into_snapshot(self) -> Result<Snapshot> {
        let bytes = match &self.source {
            Source::Memory(bytes) => Ok(bytes.clone()),
            Source::File(file) => self.read_again(&**file),
        };
        let bytes = bytes.map_err(|error| error.of_key(self.key.as_ref()))?;
        Ok(Snapshot::new(bytes, self.meta))
    }

    fn read_again(&self, file: &dyn File) -> Result<Arc<[u8]>> {
        let (content, bytes) =
            take_in(file, self.meta.len).map_err(|error| Error::io("read", &*self.path, error))?;
        let Meta { len, hash, .. } = self.meta;
        match content == (Content::Value { len, hash }) {
            true => Ok(bytes),
            false => Err(Error::corrupt(&self.path, CHANGED)),
        }
    }

    /// As [`Read::read`], with an error that says what it happened to: reads the next bytes, at most `buffer.len()`. 0 is the
    /// end.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the payload was cut since it was verified; what the system says.
    pub fn read_next(&mut self, buffer: &mut [u8]) -> Result<usize> {
        // Not beyond what was verified, should somebody append to the file against the rules.
        let left = usize::try_from(self.meta.len - self.at).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        if want == 0 {
            return Ok(0);
        }
        let read = match &self.source {
            Source::Memory(bytes) => {
                buffer[..want].copy_from_slice(&bytes[self.at as usize..][..want]);
                Ok(want)
            }
            Source::File(file) => file.read_at(&mut buffer[..want], self.at),
        };
        let failed = match read {
            Ok(0) => Error::corrupt(&self.path, CHANGED),
            Ok(read) => {
                self.at += read as u64;
                return Ok(read);
            }
            Err(error) => Error::io("read", &*self.path, error),
        };
        Err(failed.of_key(self.key.as_ref()))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_next(buffer).map_err(io::Error::from)
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("path", &self.path)
            .field("at", &self.at)
            .field("meta", &self.meta)
            .finish()
    }
}
