//! The payload of an entry, opened to be read.

use std::io;
use std::sync::Arc;

use cachelock_platform::{Access, Dir, File, FileId, FileKind, GUEST, Metadata};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

use crate::context::Context;
use crate::control::{found, open_existing};
use crate::error::{Error, Result};
use crate::name::EntryName;
use crate::root::Root;
use crate::tag::Content;
use crate::transfer::read_whole;

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

/// All of a payload, and what it is. A large one is hashed piece by piece, while what was read is still in the processor's cache, and
/// all of them in a guest, of which the other hasher would be 2 KB.
pub(crate) fn take_in(file: &dyn File, len: u64) -> io::Result<(Content, Arc<[u8]>)> {
    let in_pieces = GUEST || len > PIECE as u64;
    let mut hasher = in_pieces.then(Xxh3Default::new);
    let bytes = read_whole(file, len, |piece| {
        if let Some(hasher) = &mut hasher {
            hasher.update(piece);
        }
    })?;
    let hash = hasher.map_or_else(|| xxh3_128(&bytes), |hasher| hasher.digest128());
    let len = bytes.len() as u64;
    Ok((Content::Value { len, hash }, bytes))
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
