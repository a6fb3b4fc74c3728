//! Reading: no lock, no write, and never half of anything.
//!
//! Open the payload once, read the tag right after, read the payload to its end, compare. The open payload cannot change (it is
//! only ever replaced), and the tag was read so close to the open that at most one publish lies between, which its two
//! records cover. Reading the tag last would let any number of publishes pass during a long read.
//!
//! What was opened must still be the entry when the tag was read. Else it could be an older payload with the same bytes as the
//! one that is about to be published, of which the tag speaks already.
//!
//! If they do not match all the same, publishes have passed, and it is all done again. It is called corrupt only when two
//! attempts saw the same file and the same tag; see [`Mismatches`].

use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cachelock_platform::{File, GUEST, Metadata, failure};

use crate::cache::Entry;
use crate::error::{Error, Result};
use crate::events::{Event, EventKind};
use crate::found_tag::{FoundTag, Glance, TagState};
use crate::meta::{Meta, Verification};
use crate::mutation::Mutation;
use crate::payload::{PIECE, Payload, take_in};
use crate::root::Root;
use crate::state::{Mismatches, Version, record_of};
use crate::stream::{Source, Stream};
use crate::tag::{Content, Record};
use crate::validators::Validators;

/// A payload in memory, with what is known about it. Cheap to clone; dereferences to its bytes.
#[derive(Debug, Clone)]
pub struct Snapshot {
    bytes: Arc<[u8]>,
    meta: Arc<Meta>,
}

impl Snapshot {
    pub(crate) fn new(bytes: Arc<[u8]>, meta: Meta) -> Self {
        Snapshot {
            bytes,
            meta: Arc::new(meta),
        }
    }

    /// The payload; shares the memory.
    #[must_use]
    pub fn bytes(&self) -> Arc<[u8]> {
        self.bytes.clone()
    }

    /// What is known about it.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }
}

impl Deref for Snapshot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Snapshot {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What is at an entry's place; see [`Entry::lookup`].
#[derive(Debug)]
pub enum Lookup {
    /// A payload, verified, to be read in pieces.
    Value(Stream),
    /// It is known not to exist at its source, as a producer has [said](crate::Refresh::publish_absent).
    Absent {
        /// Until when that is to be believed; may be past.
        until: SystemTime,
    },
    /// Nothing, or nothing of the entry's key.
    Missing,
}

/// What a look at an entry found.
#[derive(Debug)]
pub(crate) enum Found<P> {
    Missing,
    /// Known not to exist at its source: since when, and for how long that is to be believed.
    Absent {
        checked: SystemTime,
        valid_for: Duration,
    },
    Value(P),
}

impl<P> Found<P> {
    pub(crate) fn value(self) -> Option<P> {
        match self {
            Found::Value(value) => Some(value),
            Found::Missing | Found::Absent { .. } => None,
        }
    }
}

/// How a payload is taken in: all of it into memory, or hashed first and read again later.
pub(crate) trait Intake {
    type Output;

    fn take(payload: Payload) -> io::Result<(Content, Self)>
    where
        Self: Sized;

    fn finish(self, meta: Meta, entry: &Entry) -> Self::Output;
}

pub(crate) struct Whole {
    bytes: Arc<[u8]>,
    file: Box<dyn File>,
    metadata: Metadata,
}

impl Intake for Whole {
    type Output = (Snapshot, Box<dyn File>, Metadata);

    fn take(payload: Payload) -> io::Result<(Content, Self)> {
        let Payload { file, metadata, .. } = payload;
        let (content, bytes) = take_in(&*file, metadata.len)?;
        Ok((
            content,
            Whole {
                bytes,
                file,
                metadata,
            },
        ))
    }

    fn finish(self, meta: Meta, _: &Entry) -> Self::Output {
        (Snapshot::new(self.bytes, meta), self.file, self.metadata)
    }
}

impl Intake for Source {
    type Output = Stream;

    fn take(payload: Payload) -> io::Result<(Content, Self)> {
        // What the name stands for later may be another payload: then memory is the only place where this one stays.
        let len = payload.metadata.len;
        if len <= PIECE as u64 || !payload.file.is_pinned() {
            let (content, bytes) = take_in(&*payload.file, len)?;
            return Ok((content, Source::Memory(bytes)));
        }
        Ok((payload.hash()?, Source::File(payload.file)))
    }

    fn finish(self, meta: Meta, entry: &Entry) -> Stream {
        Stream::new(self, meta, entry)
    }
}

/// One look, whatever the intake: the outcome and the tag it rests on.
pub(crate) struct Look<P> {
    pub(crate) found: Found<P>,
    pub(crate) tag: FoundTag,
}

pub(crate) fn look<I: Intake>(entry: &Entry, glance: Glance) -> Result<Look<I::Output>> {
    let mut mismatches = Mismatches::default();
    let mut replaced = 0;
    loop {
        let Some(root) = entry.cache.root()? else {
            return Ok(Look {
                found: Found::Missing,
                tag: FoundTag::default(),
            });
        };
        let looked = match look_once::<I>(entry, &root, glance) {
            Ok(looked) => looked,
            // An open directory that is there no more may answer with anything. No guest was seen to need it.
            Err(error) => match !GUEST && entry.cache.root_was_replaced(&root).unwrap_or(false) {
                true => continue,
                false => return Err(error),
            },
        };
        match looked {
            Ok(look) => {
                let missing = matches!(look.found, Found::Missing);
                if !missing || !entry.cache.root_was_replaced(&root)? {
                    return Ok(look);
                }
            }
            Err(Again::Mismatch(reason, version)) if mismatches.convince(&root, &version) => {
                entry.cx().emit(&Event {
                    entry: Some(entry.name.as_str()),
                    detail: Some(&reason),
                    ..Event::new(EventKind::EntryCorrupt, &entry.cx().path)
                });
                return Err(Error::corrupt(&entry.path(), reason));
            }
            Err(Again::Mismatch(..)) => root.forget_tags(),
            Err(Again::Replaced) if replaced < REPLACED => replaced += 1,
            Err(Again::Replaced) => {
                let reason = "it is replaced all the time; ask again";
                let reason = failure(io::ErrorKind::Other, reason);
                return Err(Error::io("read", entry.path(), reason));
            }
        }
    }
}

/// How often a payload may be replaced while it is read: more than anybody publishes, less than for ever.
const REPLACED: u32 = 10_000;

/// Why a look has to be repeated.
enum Again {
    /// Payload and tag do not go together: why, and what was seen.
    Mismatch(String, Version),
    /// The payload was replaced before the tag was read, or while it was read, where a file system loses what has no name any
    /// more.
    Replaced,
}

fn look_once<I: Intake>(
    entry: &Entry,
    root: &Root,
    glance: Glance,
) -> Result<Result<Look<I::Output>, Again>> {
    let cx = entry.cx();
    let path = || entry.path();
    let read_tag = || FoundTag::read(cx, root, &entry.name, glance);
    let late = cx.mutated(Mutation::TagReadLate);
    let mut payload = Payload::open(cx, root, &entry.name)?;
    let tag = if late { None } else { Some(read_tag()?) };
    if let Some(payload) = &mut payload {
        let current = payload.is_current(&entry.name);
        let current = current.map_err(|error| Error::io("look at", path(), error))?;
        if !current && !cx.mutated(Mutation::PayloadNotCompared) {
            return Ok(Err(Again::Replaced));
        }
    }
    // The payload of an entry that has become absent goes a moment later, and is read no more.
    if tag.as_ref().is_some_and(FoundTag::is_absent) {
        payload = None;
    }
    let metadata = payload.as_ref().map(|payload| payload.metadata);
    // Before a single byte is read: a sparse file may claim any length.
    if let (Some(tag), Some(metadata)) = (&tag, &metadata)
        && let Some(reason) = tag.contradicts(metadata.len)
    {
        return Ok(Err(Again::Mismatch(reason, version(Some(metadata), tag))));
    }
    let taken = match payload.map(I::take).transpose() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(Again::Replaced)),
        taken => taken.map_err(|error| Error::io("read", path(), error))?,
    };
    let tag = match tag {
        Some(tag) => tag,
        None => read_tag()?,
    };
    let content = taken.as_ref().map(|(content, _)| *content);
    let outcome = match (&tag.state, content) {
        (TagState::Corrupt(reason), Some(_)) => Err(reason.clone()),
        (TagState::Read(tag), content) => match record_of(cx, tag, content) {
            Some(record) => Ok(Some(record)),
            None if content.is_none() => Ok(None),
            None => Err("its bytes are not what its tag says".into()),
        },
        _ => Ok(None),
    };
    let record = match outcome {
        Ok(record) => record,
        Err(reason) => {
            let version = version(metadata.as_ref(), &tag);
            return Ok(Err(Again::Mismatch(reason, version)));
        }
    };
    let found = match (record, taken) {
        (None, None) => Found::Missing,
        (record, _) if !entry.may_have(record, &tag.state)? => Found::Missing,
        (
            Some(&Record {
                content: Content::Absent { valid_for },
                checked,
                ..
            }),
            _,
        ) => Found::Absent { checked, valid_for },
        (_, None) => Found::Missing,
        (record, Some((content, intake))) => {
            let meta = meta(content, record, &tag.state, metadata);
            Found::Value(intake.finish(meta, entry))
        }
    };
    Ok(Ok(Look { found, tag }))
}

fn version(metadata: Option<&Metadata>, tag: &FoundTag) -> Version {
    (
        metadata.map(|metadata| (metadata.id, metadata.len, metadata.modified)),
        tag.bytes.clone(),
    )
}

fn meta(
    content: Content,
    record: Option<&Record>,
    tag: &TagState,
    metadata: Option<Metadata>,
) -> Meta {
    let (len, hash) = match content {
        Content::Value { len, hash } => (len, hash),
        _ => (0, 0),
    };
    let modified = metadata.map_or(SystemTime::UNIX_EPOCH, |metadata| metadata.modified);
    match record {
        Some(record) => Meta {
            len,
            hash,
            generation: Some(record.generation),
            written: record.written,
            checked: record.checked,
            took: record.took,
            validators: record.validators.clone(),
            verification: Verification::Verified,
        },
        None => Meta {
            len,
            hash,
            generation: None,
            written: modified,
            checked: modified,
            took: None,
            validators: Validators::new(),
            verification: match tag {
                TagState::Forbidden => Verification::Unverified,
                _ => Verification::Untagged,
            },
        },
    }
}

impl Entry {
    /// Reads the payload into memory, verified; `None` if there is none (of this entry's key, if it has one), or if it is
    /// known not to exist.
    ///
    /// Takes no lock, waits for nobody, writes nothing. A publish meanwhile costs a repetition of what comes before the payload's
    /// bytes are read.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if the payload is not what its tag says;
    /// [`NotAFile`](crate::ErrorKind::NotAFile) if something else has the name;
    /// [`InvalidName`](crate::ErrorKind::InvalidName) if a folder on the way is an entry, a link or a cache of its own; what the
    /// system says.
    pub fn read(&self) -> Result<Option<Snapshot>> {
        Ok(self
            .of_key(look::<Whole>(self, Glance::No))?
            .found
            .value()
            .map(|(snapshot, ..)| snapshot))
    }

    /// What was just published, or what has replaced it since. `None` only if that is known to be absent: a payload that
    /// somebody removed meanwhile, or one for another key, says nothing about the source.
    pub(crate) fn read_back(&self) -> Result<Option<Snapshot>> {
        match self.of_key(look::<Whole>(self, Glance::No))?.found {
            Found::Value((snapshot, ..)) => Ok(Some(snapshot)),
            Found::Absent { .. } => Ok(None),
            Found::Missing => {
                let gone = "it is gone again, right after it was published; ask again";
                let gone = failure(io::ErrorKind::NotFound, gone);
                self.of_key(Err(Error::io("read", self.path(), gone)))
            }
        }
    }

    /// Opens the payload for reading in pieces, with constant memory. It is read twice: hashed and compared now, and then by
    /// the caller.
    ///
    /// ```
    /// # use std::io::Write;
    /// let dir = std::env::temp_dir().join("cachelock-doc-open");
    /// let entry = cachelock::Cache::open(&dir)?.entry("large")?;
    /// # let mut refresh = entry.refresh()?;
    /// # refresh.write_all(b"large")?;
    /// # refresh.publish()?;
    /// if let Some(mut stream) = entry.open()? {
    ///     println!("{} bytes, generation {:?}", stream.meta().len, stream.meta().generation);
    ///     std::io::copy(&mut stream, &mut std::io::sink())?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Entry::read`].
    pub fn open(&self) -> Result<Option<Stream>> {
        Ok(self.look()?.value())
    }

    /// As [`Entry::open`], and tells what is not there from what is known not to exist: in one look, between which and another
    /// one somebody might publish.
    ///
    /// ```
    /// use cachelock::Lookup;
    ///
    /// let dir = std::env::temp_dir().join("cachelock-doc-lookup");
    /// match cachelock::Cache::open(&dir)?.entry("gone")?.lookup()? {
    ///     Lookup::Value(stream) => println!("{} bytes", stream.meta().len),
    ///     Lookup::Absent { until } => println!("its source had none, which is believed until {until:?}"),
    ///     Lookup::Missing => println!("nobody has asked its source yet"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Entry::read`].
    pub fn lookup(&self) -> Result<Lookup> {
        Ok(match self.look()? {
            Found::Value(stream) => Lookup::Value(stream),
            Found::Absent { checked, valid_for } => Lookup::Absent {
                until: checked.checked_add(valid_for).unwrap_or(checked),
            },
            Found::Missing => Lookup::Missing,
        })
    }

    /// Until when the entry is known not to exist at its source, if a producer has said so; that may be past.
    ///
    /// # Errors
    /// As [`Entry::read`].
    pub fn known_absent_until(&self) -> Result<Option<SystemTime>> {
        Ok(match self.lookup()? {
            Lookup::Absent { until } => Some(until),
            Lookup::Missing | Lookup::Value(_) => None,
        })
    }

    pub(crate) fn look(&self) -> Result<Found<Stream>> {
        Ok(self.of_key(look::<Source>(self, Glance::No))?.found)
    }
}
