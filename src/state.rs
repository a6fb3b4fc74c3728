//! What is on disk for one entry: a payload and a tag, and which of the tag's records the payload is.

use std::io;
use std::sync::Arc;

use cachelock_platform::{Access, Dir, File, FileId, FileKind, GUEST, Metadata, Shown};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use crate::context::Context;
use crate::control::{found, open_existing};
use crate::error::{Error, Result};
use crate::lock;
use crate::mutation::Mutation;
use crate::name::EntryName;
use crate::root::{Root, tag_path};
use crate::tag::{Content, Record, TAG_MAX, Tag};
use crate::transfer::{read_enough, read_whole};

/// How much of a payload is moved at once. Guests pay for each call, so not less.
pub(crate) const PIECE: usize = 256 * 1024;

/// An open payload.
pub(crate) struct Payload {
    pub(crate) file: Box<dyn File>,
    pub(crate) metadata: Metadata,
    folder: Arc<dyn Dir>,
}

impl Payload {
    /// `None` if the entry has no payload.
    pub(crate) fn open(cx: &Context, root: &Root, name: &EntryName) -> Result<Option<Self>> {
        let Some(folder) = root.folder(cx, name)? else {
            return Ok(None);
        };
        let path = || cx.path.join(name.as_str());
        match open_existing(&*folder, name.file(), Access::Read) {
            Ok(None) => Ok(None),
            Ok(Some((file, metadata))) => match metadata.kind {
                FileKind::File => Ok(Some(Payload {
                    file,
                    metadata,
                    folder,
                })),
                kind => Err(wrong_kind(cx, name, kind)),
            },
            Err(error) => Err(not_a_payload(&*folder, cx, name)
                .unwrap_or_else(|| Error::io("open", path(), error))),
        }
    }

    /// Makes sure that length, time and identity are those of the open file.
    pub(crate) fn look_closely(&mut self) -> io::Result<()> {
        self.metadata = known(&*self.file, self.metadata)?;
        Ok(())
    }

    /// Whether the entry still is this payload.
    ///
    /// A guest asks the file for its names, of which it has fewer than right before it was opened once it was replaced: identities
    /// take two calls more. What is known of the payload is that of the open file afterwards.
    pub(crate) fn is_current(&mut self, name: &EntryName) -> io::Result<bool> {
        if self.metadata.id != FileId::UNKNOWN {
            let named = found(self.folder.stat(name.file()))?;
            return Ok(named.is_some_and(|named| named.id == self.metadata.id));
        }
        let Some(now) = found(self.file.stat())? else {
            return Ok(false);
        };
        let links = std::mem::replace(&mut self.metadata, now).links;
        Ok(now.links >= links)
    }

    /// All of it, and what it is. A large one is hashed piece by piece, while what was read is still in the processor's
    /// cache, and all of them in a guest, of which the other hasher would be 2 KB.
    pub(crate) fn take_in(&self) -> io::Result<(Content, Arc<[u8]>)> {
        let in_pieces = GUEST || self.metadata.len > PIECE as u64;
        let mut hasher = in_pieces.then(Xxh3Default::new);
        let bytes = read_whole(&*self.file, self.metadata.len, |piece| {
            if let Some(hasher) = &mut hasher {
                hasher.update(piece);
            }
        })?;
        let hash = hasher.map_or_else(|| xxh3_128(&bytes), |hasher| hasher.digest128());
        let len = bytes.len() as u64;
        Ok((Content::Value { len, hash }, bytes))
    }

    /// The hash of all that there is, read in pieces.
    pub(crate) fn hash(&self) -> io::Result<Content> {
        let mut hasher = Xxh3Default::new();
        let whole = self.metadata.len;
        let mut piece = vec![0; whole.clamp(1, PIECE as u64) as usize];
        let mut len = 0;
        loop {
            // A handle that stays on its file need not be asked where that ends.
            let read = match self.file.is_pinned() && len == whole {
                true => 0,
                false => self.file.read_at(&mut piece, len)?,
            };
            if read == 0 {
                return Ok(Content::Value {
                    len,
                    hash: hasher.digest128(),
                });
            }
            hasher.update(&piece[..read]);
            len += read as u64;
        }
    }
}

/// What is known of an open file, of which perhaps only a [glance](File::glance) was taken.
pub(crate) fn known(file: &dyn File, seen: Metadata) -> io::Result<Metadata> {
    match seen.id {
        FileId::UNKNOWN => file.metadata(),
        _ => Ok(seen),
    }
}

/// Says what stands in a payload's place, if it is no file.
pub(crate) fn not_a_payload(folder: &dyn Dir, cx: &Context, name: &EntryName) -> Option<Error> {
    let kind = folder.stat(name.file()).ok()?.kind;
    (kind != FileKind::File).then(|| wrong_kind(cx, name, kind))
}

fn wrong_kind(cx: &Context, name: &EntryName, kind: FileKind) -> Error {
    let what = match kind {
        FileKind::Directory => "is a directory and so cannot be an entry",
        FileKind::Symlink => "is a symbolic link and so cannot be an entry",
        _ => "is not an ordinary file and so cannot be an entry",
    };
    Error::not_a_file(&cx.path.join(name.as_str()), what)
}

/// What was found of a tag.
#[derive(Default)]
pub(crate) enum TagState {
    /// There is none.
    #[default]
    None,
    /// This user may not read it.
    Forbidden,
    /// It is there and says nothing; why.
    Corrupt(String),
    /// It was read.
    Read(Box<Tag>),
}

/// Whether a tag's file is looked at. Before it is read: afterwards some file systems speak of the file that has its name by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Glance {
    /// Not where there is no need: its check tells whether what was read is a tag, and all of it. Elsewhere the look has the system
    /// ask whether what it remembers of the file still is what there is.
    No,
    Yes,
}

/// A tag as it was found, with what identifies this version of it.
#[derive(Default)]
pub(crate) struct FoundTag {
    pub(crate) state: TagState,
    pub(crate) bytes: Vec<u8>,
    /// What it was like, if that was [asked for](Glance), and the open file, which keeps its identity from being given to another.
    pub(crate) seen: Option<(Option<Box<dyn File>>, Metadata)>,
}

fn forbidden_or(error: Error) -> Result<FoundTag> {
    match error.is_permission() {
        true => Ok(TagState::Forbidden.into()),
        false => Err(error),
    }
}

/// The open file, if it may stay open.
pub(crate) fn kept(file: Box<dyn File>) -> Option<Box<dyn File>> {
    file.is_pinned().then_some(file)
}

impl FoundTag {
    pub(crate) fn read(
        cx: &Context,
        root: &Root,
        name: &EntryName,
        glance: Glance,
    ) -> Result<Self> {
        let glance = match glance {
            Glance::No if !GUEST && root.is_remote() => Glance::Yes,
            glance => glance,
        };
        let once = |anew| match root.tag_folder(cx, name, anew) {
            Ok(Some(folder)) => Self::read_in(cx, &*folder, name, glance),
            Ok(None) => Ok(Self::default()),
            Err(error) => forbidden_or(error),
        };
        let tag = once(false)?;
        // The way to it may have changed since it was opened: a control directory that was removed, say.
        match tag.state {
            TagState::None => once(true),
            _ => Ok(tag),
        }
    }

    /// The tag in `folder`, which is where it belongs.
    pub(crate) fn read_in(
        cx: &Context,
        folder: &dyn Dir,
        name: &EntryName,
        glance: Glance,
    ) -> Result<Self> {
        let path = || tag_path(cx, name);
        let corrupt =
            |reason: &str| TagState::Corrupt(format!("its tag {} {reason}", Shown(&path())));
        let no_file = |kind| match kind {
            // Everything else is replaced by a refresh.
            FileKind::Directory => Err(Error::not_a_file(
                &path(),
                "is a directory and so no tag: what is an entry now was a folder before, and was deleted by hand",
            )),
            _ => Ok(corrupt("is not an ordinary file").into()),
        };
        // A guest's open has looked already.
        let opened = if GUEST || glance == Glance::Yes {
            open_existing(folder, name.file(), Access::Read)
                .map(|opened| opened.map(|(file, metadata)| (file, Some(metadata))))
        } else {
            found(folder.open(name.file(), Access::Read))
                .map(|opened| opened.map(|file| (file, None)))
        };
        let (file, seen) = match opened {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ok(Self::default()),
            Err(error) => {
                return match folder.stat(name.file()) {
                    Ok(metadata) if metadata.kind != FileKind::File => no_file(metadata.kind),
                    _ => forbidden_or(Error::io("open", path(), error)),
                };
            }
        };
        let irregular = || {
            let seen = match GUEST {
                // It opens nothing else.
                true => None,
                false => seen.or_else(|| file.glance().ok()),
            };
            seen.map(|seen| seen.kind)
                .filter(|kind| *kind != FileKind::File)
        };
        let (bytes, tag) = match found(decode_from(&*file)) {
            Ok(Some(read)) => read,
            // Replaced while it was read, where a file system loses what has no name any more.
            Ok(None) => return Self::read_in(cx, folder, name, glance),
            Err(error) => {
                return irregular().map_or_else(|| Err(Error::io("read", path(), error)), no_file);
            }
        };
        let state = match tag {
            Ok(tag) => TagState::Read(Box::new(tag)),
            Err(reason) => match irregular() {
                Some(kind) => return no_file(kind),
                None => corrupt(&reason),
            },
        };
        let seen = seen.map(|seen| (kept(file), seen));
        Ok(FoundTag { state, bytes, seen })
    }

    /// Why no payload of this length can be what the tag says, if that is so.
    pub(crate) fn contradicts(&self, len: u64) -> Option<String> {
        let may_be = |record: &Record| match record.content {
            Content::Missing => false,
            Content::Value { len: expected, .. } => expected == len,
            // See `record_of`.
            Content::Absent { .. } => len == 0,
        };
        match &self.state {
            TagState::None | TagState::Forbidden => None,
            TagState::Corrupt(reason) => Some(reason.clone()),
            TagState::Read(tag) => (!may_be(&tag.next) && !may_be(&tag.previous))
                .then(|| "its length is not what its tag says".to_owned()),
        }
    }

    pub(crate) fn tag(&self) -> Option<&Tag> {
        match &self.state {
            TagState::Read(tag) => Some(tag),
            _ => None,
        }
    }
}

/// The bytes of a tag, and what they say or why they say nothing.
fn decode_from(file: &dyn File) -> io::Result<(Vec<u8>, Result<Tag, String>)> {
    let mut tag = Err(String::new());
    let bytes = read_enough(file, TAG_MAX + 1, &mut |bytes| {
        tag = Tag::decode(bytes);
        tag.is_ok()
    })?;
    let tag = tag.map_err(|reason| match bytes.len() > TAG_MAX {
        true => "is too long".into(),
        false => format!("cannot be read: {reason}"),
    });
    Ok((bytes, tag))
}

impl From<TagState> for FoundTag {
    fn from(state: TagState) -> Self {
        FoundTag {
            state,
            ..Self::default()
        }
    }
}

/// What two looks must have in common to have seen the same thing.
pub(crate) type Version = (Option<(FileId, u64, std::time::SystemTime)>, Vec<u8>);

/// Attempts that saw a payload and a tag which do not go together.
#[derive(Default)]
pub(crate) struct Mismatches {
    last: Option<Version>,
    /// In a row, the last among them.
    same: u32,
    all: u32,
}

/// So many say the same as two of the same: somebody changes the payload all the time, and does not publish.
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
