//! What is on disk for one entry: a payload and a tag, and which of the tag's records the payload is.

use std::io;

use cachelock_platform::{Dir, FileId, Metadata};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::found_tag::{FoundTag, Glance, TagState};
use crate::lock;
use crate::mutation::Mutation;
use crate::name::EntryName;
use crate::payload::Payload;
use crate::root::{Root, tag_path};
use crate::tag::{Content, Record, Tag};

/// What two looks must have in common to have seen the same thing.
pub(crate) type Version = (Option<(FileId, u64, std::time::SystemTime)>, Vec<u8>);

/// Attempts that saw a payload and a tag which do not go together.
#[derive(Default)]
pub(crate) struct Mismatches {
    last: Option<Version>,
    /// How many in a row were as the last.
    same: u32,
    all: u32,
}

/// So many are corrupt, whatever they saw: somebody changes it all the time, and does not publish.
const MISMATCHES: u32 = 100;

impl Mismatches {
    /// Takes in what one more attempt saw, and tells whether that is how things are: twice the same is, where the file
    /// system shows the truth. What another kernel or server remembers may for a moment mix two payloads more than once.
    pub(crate) fn convince(&mut self, root: &Root, version: &Version) -> bool {
        self.all += 1;
        if self.last.as_ref() == Some(version) {
            self.same += 1;
        } else {
            self.same = 1;
            self.last = Some(version.clone());
        }
        self.same >= 10 || (self.same >= 2 && !root.is_remote()) || self.all >= MISMATCHES
    }
}

/// The record of `tag` that a payload with this content is; `None` if it is neither. For readers, who have the hash.
pub(crate) fn record_of<'t>(
    cx: &Context,
    tag: &'t Tag,
    content: Option<Content>,
) -> Option<&'t Record> {
    if matches!(tag.next.content, Content::Absent { .. }) {
        return Some(&tag.next);
    }
    let is = |record: &Record| match (record.content, content) {
        (Content::Missing, None) => true,
        (value @ Content::Value { .. }, Some(content)) => value == content,
        // What was absent has an empty payload or none; see `publish`.
        (Content::Absent { .. }, None | Some(Content::Value { len: 0, .. })) => true,
        _ => false,
    };
    match (is(&tag.next), is(&tag.previous)) {
        (true, true) if cx.mutated(Mutation::PreviousWins) => Some(&tag.previous),
        (true, _) => Some(&tag.next),
        (false, true) => Some(&tag.previous),
        // A payload that somebody removed is missing, whatever the tag says, and not corrupt.
        (false, false) => None,
    }
}

/// What an entry is, found out by the holder of the lock.
pub(crate) struct State {
    /// The record that the payload on disk is: decided by length, and by hash where lengths do not decide. What matches neither
    /// record becomes one of its own.
    pub(crate) record: Record,
    /// What payload and tag are like, if they are there and ordinary files.
    pub(crate) payload: Option<Metadata>,
    pub(crate) tag: Option<Metadata>,
}

/// `tags`: the folder of its tag, if there is one.
pub(crate) fn current_state(
    cx: &Context,
    root: &Root,
    name: &EntryName,
    tags: Option<&dyn Dir>,
) -> Result<State> {
    let once = || {
        let mut payload = Payload::open(cx, root, name)?;
        if let Some(payload) = &mut payload {
            let looked = payload.look_closely();
            looked.map_err(|error| Error::io("look at", cx.path.join(name.as_str()), error))?;
        }
        let found = match tags {
            Some(folder) => FoundTag::read_in(cx, folder, name, Glance::Yes)?,
            None => FoundTag::default(),
        };
        Ok(State {
            record: current_record(cx, name, &payload, &found)?,
            payload: payload.map(|payload| payload.metadata),
            tag: found.seen.map(|(_, metadata)| metadata),
        })
    };
    loop {
        match once() {
            // Replaced while it was read, where a file system loses what has no name any more: this holder is overtaken, and
            // finds out when it goes on.
            Err(error) if lock::is_gone(&error) => {}
            found => return found,
        }
    }
}

fn current_record(
    cx: &Context,
    name: &EntryName,
    payload: &Option<Payload>,
    found: &FoundTag,
) -> Result<Record> {
    let path = || cx.path.join(name.as_str());
    if matches!(found.state, TagState::Forbidden) {
        // What it says must not be lost: generations never go back.
        let forbidden = io::ErrorKind::PermissionDenied.into();
        return Err(Error::io("read", tag_path(cx, name), forbidden));
    }
    let hash = |payload: &Payload| {
        payload
            .hash()
            .map_err(|error| Error::io("read", path(), error))
    };
    let Some(tag) = found.tag() else {
        return foreign(payload, 0, hash);
    };
    if cx.mutated(Mutation::PreviousFromNext) {
        return Ok(tag.next.clone());
    }
    if matches!(tag.next.content, Content::Absent { .. }) {
        return Ok(tag.next.clone());
    }
    let len = payload.as_ref().map(|payload| payload.metadata.len);
    let fits = |record: &Record| match record.content {
        Content::Missing => len.is_none(),
        Content::Value { len: expected, .. } => len == Some(expected),
        Content::Absent { .. } => len.is_none_or(|len| len == 0),
    };
    let highest = tag.previous.generation.max(tag.next.generation);
    match (fits(&tag.next), fits(&tag.previous)) {
        (true, false) => return Ok(tag.next.clone()),
        (false, true) => return Ok(tag.previous.clone()),
        (false, false) => return foreign(payload, highest, hash),
        (true, true) => {}
    }
    let content = payload.as_ref().map(hash).transpose()?;
    match record_of(cx, tag, content) {
        Some(record) => Ok(record.clone()),
        None => foreign(payload, highest, hash),
    }
}

/// A payload that no tag speaks of: written by something else, or before there was a tag.
fn foreign(
    payload: &Option<Payload>,
    highest: u64,
    hash: impl Fn(&Payload) -> Result<Content>,
) -> Result<Record> {
    let Some(payload) = payload else {
        return Ok(Record::missing(highest));
    };
    Ok(Record {
        content: hash(payload)?,
        written: payload.metadata.modified,
        checked: payload.metadata.modified,
        ..Record::missing(highest.saturating_add(1))
    })
}
