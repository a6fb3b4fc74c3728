//! The tag of an entry as it is found: read, forbidden, corrupt or not there.

use std::io;

use cachelock_platform::{Access, Dir, File, FileKind, GUEST, Metadata, Shown};

use crate::context::Context;
use crate::control::{found, open_existing};
use crate::error::{Error, Result};
use crate::name::EntryName;
use crate::root::{Root, tag_path};
use crate::tag::{Content, Record, TAG_MAX, Tag};
use crate::transfer::read_enough;

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
                "is a directory and so no tag: entries are or were in a folder of that name",
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
            Ok(tag) => TagState::Read(tag),
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

    /// Whether there is nothing at the entry's source, whatever is in the payload's place.
    pub(crate) fn is_absent(&self) -> bool {
        let next = self.tag().map(|tag| tag.next.content);
        matches!(next, Some(Content::Absent { .. }))
    }

    pub(crate) fn tag(&self) -> Option<&Tag> {
        match &self.state {
            TagState::Read(tag) => Some(tag),
            _ => None,
        }
    }
}

type Decoded = Result<Box<Tag>, String>;

/// The bytes of a tag, and what they say or why they say nothing.
fn decode_from(file: &dyn File) -> io::Result<(Vec<u8>, Decoded)> {
    let mut tag = Err(String::new());
    let bytes = read_enough(file, TAG_MAX + 1, &mut |bytes| {
        tag = Tag::decode(bytes).map(Box::new);
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
