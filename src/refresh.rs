//! A refresh under way: produce into a stage, then publish it with two renames, or leave everything as it was.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use cachelock_platform::Monotonic;

use crate::cache::Entry;
use crate::error::{Error, Result};
use crate::freshness::Produced;
use crate::lock::Hold;
use crate::published::{PublishError, Published};
use crate::stage::Stage;
use crate::stream::Stream;
use crate::tag::{Record, check_validators};
use crate::validators::Validators;

/// A refresh under way: whoever has it holds the lock, and what is written to it becomes the entry's next payload with
/// [`Refresh::publish`].
///
/// Dropped without that, it leaves the old entry as it was, removes its stage, and releases the lock.
///
/// # What is atomic
///
/// Readers see the whole old or the whole new payload at each moment. A process that is killed at any point leaves the
/// entry old or new, and a stage that the next holder removes.
///
/// # Being overtaken
///
/// A holder that stands still for its lease (it was suspended, or its disk hung) may be overtaken. It may go on computing
/// and writing to its stage; its publish fails with [`LeaseLost`](crate::ErrorKind::LeaseLost) and changes nothing. Work with
/// effects outside of the cache is not fenced.
///
/// # Example
///
/// ```
/// use std::io::Write;
///
/// let dir = std::env::temp_dir().join("cachelock-doc-refresh");
/// let cache = cachelock::Cache::open(&dir)?;
/// let mut refresh = cache.entry("index.json")?.refresh()?;
/// refresh.write_all(b"{}")?;
/// let published = refresh.publish()?;
/// assert_eq!(published.len, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a refresh that is dropped publishes nothing and releases the lock"]
pub struct Refresh {
    // Dropped first: the stage must be gone before the lease is released.
    stage: Stage,
    entry: Entry,
    expected_len: Option<u64>,
    validators: Option<Validators>,
    began: Monotonic,
    /// What a look under the lock has found, until somebody takes it.
    previous: Option<Box<Stream>>,
    /// What the entry was before the lock was had; for a mutation only.
    pub(crate) early: Option<Record>,
    hold: Arc<Hold>,
}

impl Refresh {
    pub(crate) fn begin(entry: Entry, hold: Arc<Hold>) -> Result<Self> {
        let cx = entry.cx();
        if let Some(folder) = hold.root.folder(cx, &entry.name)?
            && let Some(error) = crate::payload::not_a_payload(&*folder, cx, &entry.name)
        {
            return Err(error);
        }
        Ok(Refresh {
            stage: Stage::of_payload(&entry, &hold)?,
            entry,
            expected_len: None,
            validators: None,
            began: hold.control.cx.platform.monotonic(),
            previous: None,
            early: None,
            hold,
        })
    }

    pub(crate) fn with_previous(mut self, previous: Option<Stream>) -> Self {
        self.previous = previous.map(Box::new);
        self
    }

    /// The payload that is to be replaced, with its validators: for a conditional request, or to go on from. `None` if there
    /// is none, or if it is corrupt.
    ///
    /// # Errors
    /// What the system says while reading.
    pub fn previous(&mut self) -> Result<Option<Stream>> {
        if let Some(stream) = self.previous.take() {
            return Ok(Some(*stream));
        }
        let previous = match self.entry.open() {
            Err(error) if error.is_corrupt() => None,
            opened => opened?,
        };
        Ok(previous)
    }

    pub(crate) fn hold(&self) -> &Arc<Hold> {
        &self.hold
    }

    /// The entry that is refreshed.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// How long this caller waited for the lock.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.hold.waited
    }

    /// The epoch of the lease that is held.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.hold.lease.epoch
    }

    /// Announces the payload's length: a publish of any other fails with
    /// [`LengthMismatch`](crate::ErrorKind::LengthMismatch) and leaves the old entry.
    pub fn expect_len(&mut self, len: u64) {
        self.expected_len = Some(len);
    }

    /// Whether what was written can still have the length that was announced: for whoever copies from a source that may have
    /// no end. A publish looks, too.
    ///
    /// # Errors
    /// [`LengthMismatch`](crate::ErrorKind::LengthMismatch) if it is longer already.
    pub fn check_len(&self) -> Result<()> {
        let written = self.stage.len();
        match self.expected_len.filter(|expected| written > *expected) {
            Some(expected) => Err(Error::length_mismatch(
                &self.entry.path(),
                expected,
                written,
            )),
            None => Ok(()),
        }
    }

    /// Keeps small facts about the payload for the producer's next run, which finds them in [`Refresh::previous`]. At most 8 KiB and 64 keys.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if they do not fit or a key is empty or holds `=`.
    pub fn set_validators(&mut self, validators: Validators) -> Result<()> {
        let entry = &self.entry;
        entry.of_key(check_validators(&entry.path(), &validators))?;
        self.validators = Some(validators);
        Ok(())
    }

    /// Shows others that this holder is alive, where no background task does: in a sandbox, during long work without writes.
    /// Writes a beat when one is due, so call it as often as you like. Elsewhere it only tells whether the lease is known to
    /// be lost.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost), or what the system says.
    pub fn heartbeat(&self) -> Result<()> {
        self.hold.check_known()?;
        if self.hold.must_beat() {
            self.hold.lease.beat()
        } else {
            Ok(())
        }
    }

    /// Looks now whether this holder was overtaken, and writes nothing; see [`WriteLock::check_held`](crate::WriteLock::check_held).
    ///
    /// # Errors
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost), or what the system says.
    pub fn check_held(&self) -> Result<()> {
        self.hold.check_held()
    }

    /// In how long a [`Refresh::heartbeat`] is due; zero if it is now. `None` where a background task beats.
    #[must_use]
    pub fn heartbeat_due(&self) -> Option<Duration> {
        self.hold.beat_due()
    }

    /// Writes all of `bytes`, as [`Write::write_all`] does, with an error that says what it happened to.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost); [`Poisoned`](crate::ErrorKind::Poisoned) after an error that spoilt the
    /// stage; what the system says.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.stage.write(bytes)
    }

    /// Throws away what was written and starts over, with the lock still held. The way on after a failed write.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost), or what the system says.
    pub fn restart(&mut self) -> Result<()> {
        self.stage = Stage::of_payload(&self.entry, &self.hold)?;
        Ok(())
    }

    /// Publishes what was written, as the entry's next generation, and releases the lock, unless a
    /// [`WriteLock`](crate::WriteLock) or a [`Scratch`](crate::Scratch) still has it.
    ///
    /// # Errors
    /// Any error leaves the old entry, except [`NotDurable`](crate::ErrorKind::NotDurable): then the new one is in place.
    /// [`PublishError::refresh`] has the stage back if it makes sense to try again; as long as that lives it holds the lock.
    pub fn publish(self) -> Result<Published, PublishError> {
        self.finish(Produced::New)
    }

    /// Publishes that the payload that is there is still right, and releases the lock: its freshness starts anew, its
    /// generation and its bytes stay, and so do its validators unless new ones were set. What was written is thrown away.
    ///
    /// # Errors
    /// [`Missing`](crate::ErrorKind::Missing) if there is no whole payload that could be right; otherwise as
    /// [`Refresh::publish`].
    pub fn publish_not_modified(self) -> Result<Published, PublishError> {
        self.finish(Produced::NotModified)
    }

    /// Publishes that the entry does not exist at its source, to be believed for `valid_for`, and releases the lock. What
    /// was written is thrown away, validators included.
    ///
    /// # Errors
    /// As [`Refresh::publish`].
    pub fn publish_absent(self, valid_for: Duration) -> Result<Published, PublishError> {
        self.finish(Produced::Absent(valid_for))
    }

    /// Leaves the old entry, removes the stage and releases the lock. What dropping does, but with errors reported.
    ///
    /// # Errors
    /// What the system says when the stage cannot be removed. The lock is released all the same.
    pub fn abandon(mut self) -> Result<()> {
        self.stage.remove()
    }

    /// Whether what was written can still be published.
    pub(crate) fn is_usable(&self) -> bool {
        self.stage.is_usable()
    }

    /// Whether there is a whole payload that a producer may say is still right. Looks now: what there was when the producer
    /// began may have been removed or damaged by somebody who asks nobody.
    pub(crate) fn can_keep(&mut self) -> Result<bool> {
        self.previous = None;
        self.previous = self.previous()?.map(Box::new);
        Ok(self.previous.is_some())
    }

    pub(crate) fn parts(&mut self) -> Parts<'_> {
        Parts {
            took: self
                .hold
                .control
                .cx
                .platform
                .monotonic()
                .saturating_sub(self.began),
            entry: &self.entry,
            hold: &self.hold,
            stage: &mut self.stage,
            expected_len: self.expected_len,
            validators: self.validators.as_ref(),
            early: self.early.as_ref(),
        }
    }
}

/// A refresh taken apart for publishing.
pub(crate) struct Parts<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) hold: &'a Hold,
    pub(crate) stage: &'a mut Stage,
    pub(crate) expected_len: Option<u64>,
    pub(crate) validators: Option<&'a Validators>,
    /// How long producing took.
    pub(crate) took: Duration,
    pub(crate) early: Option<&'a Record>,
}

impl Write for Refresh {
    /// Takes bytes for the stage. After an error the stage is unusable: see [`Refresh::restart`]. Once a publish has completed
    /// it, nothing can be added either; one that failed with [`LengthMismatch`](crate::ErrorKind::LengthMismatch) has not.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes).map_err(io::Error::from)?;
        Ok(bytes.len())
    }

    /// Hands all bytes to the file system. Does not sync: [`Refresh::publish`] does, as the durability asks.
    fn flush(&mut self) -> io::Result<()> {
        self.stage.flush().map_err(io::Error::from)
    }
}

impl fmt::Debug for Refresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresh")
            .field("entry", &self.entry)
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}
