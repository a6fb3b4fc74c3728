//! Making names last: which directories are synced, and when.
//!
//! A file that was synced is lost all the same if the name is lost that leads to it, or one above it. Other processes may
//! have made those names, with a durability that syncs none. So it does not do to sync only what one has made oneself:
//!
//! - Before a tag that is to last, everything that leads to it and to its payload: a tag whose `previous` is a payload that
//!   has its name in memory only would know neither of the two payloads that a power loss may leave. Not the directory of the
//!   tag itself: what the tag was before does not matter.
//! - After each of the two renames, the directory that it went to.
//!
//! What leads to an entry need not be synced again by a process whose own publish was the entry's last one ([`Lasting`]).

use std::io;
use std::sync::{Arc, PoisonError};

use cachelock_platform::{Access, Dir, FileId, GUEST};

use crate::builder::Durability;
use crate::context::Context;
use crate::control::{TAGS, found, open_existing};
use crate::error::{Error, Result};
use crate::lock::Hold;
use crate::mutation::Mutation;
use crate::name::EntryName;
use crate::root::tag_path;
use crate::tag::{Content, Record};
use crate::time;

/// Syncs one directory. Where they cannot be synced at all, durability is as good as it gets there.
pub(crate) fn sync_dir(cx: &Context, dir: &dyn Dir) -> io::Result<()> {
    if cx.mutated(Mutation::NoDirectorySync) {
        return Ok(());
    }
    match dir.sync() {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        synced => synced,
    }
}

/// Makes the names last that lead to the entry's payload, and to the folder of its tag, as far as they are there. Returns that
/// folder.
pub(crate) fn sync_names(
    cx: &Context,
    hold: &Hold,
    name: &EntryName,
) -> Result<Option<Arc<dyn Dir>>> {
    sync_above(cx, hold);
    let sync = || {
        if let Some(folder) = sync_way(cx, &hold.root.dir, &mut folders(name))? {
            sync_dir(cx, &*folder)?;
        }
        sync_way(cx, &hold.control.dir, &mut tag_folders(name))
    };
    sync().map_err(|error| Error::io("sync the way to", cx.path.join(name.as_str()), error))
}

/// Makes the entry's tag last as it is.
pub(crate) fn sync_tag(cx: &Context, hold: &Hold, name: &EntryName) -> Result<()> {
    let Some(dir) = sync_names(cx, hold, name)? else {
        return Ok(());
    };
    let sync = || -> io::Result<()> {
        sync_dir(cx, &*dir)?;
        match open_existing(&*dir, name.file(), Access::Write)? {
            Some((file, _)) => file.sync(),
            None => Ok(()),
        }
    };
    sync().map_err(|error| Error::io("sync", tag_path(cx, name), error))
}

fn folders(name: &EntryName) -> impl Iterator<Item = &str> {
    name.folders().map(|(folder, _)| folder)
}

fn tag_folders(name: &EntryName) -> impl Iterator<Item = &str> {
    std::iter::once(TAGS).chain(folders(name))
}

/// Syncs each directory that has the next one's name in it, and returns the last one; `None` if the way ends before.
fn sync_way(
    cx: &Context,
    from: &Arc<dyn Dir>,
    folders: &mut dyn Iterator<Item = &str>,
) -> io::Result<Option<Arc<dyn Dir>>> {
    let mut dir = from.clone();
    for folder in folders {
        sync_dir(cx, &*dir)?;
        match found(dir.open_dir(folder))? {
            Some(below) => dir = below,
            None => return Ok(None),
        }
    }
    Ok(Some(dir))
}

/// An entry that lasts as it is, and so does every name that leads to it, because a publish of this process has seen to that.
///
/// Somebody else's publish since then has another record, and a cache that was made anew is another directory. For entries in
/// folders nothing is kept: those would have to be compared as well.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lasting {
    directories: [FileId; 2],
    name: String,
    generation: u64,
    content: Content,
    written_ms: u64,
}

impl Lasting {
    /// The entry `name` while its payload is what `record` says; `None` if nothing is kept of such an entry.
    pub(crate) fn of(hold: &Hold, name: &EntryName, record: &Record) -> Option<Self> {
        let is_plain = !GUEST && name.folders().next().is_none();
        let is_value = matches!(record.content, Content::Value { .. });
        (is_plain && is_value).then(|| Lasting {
            directories: [hold.root.id(), hold.control.id],
            name: name.as_str().to_owned(),
            generation: record.generation,
            content: record.content,
            written_ms: time::to_unix_ms(record.written),
        })
    }
}

/// The names of the cache directory and of those above it: once for each directory that is the cache, and as far as they let
/// us, for they may be another user's.
fn sync_above(cx: &Context, hold: &Hold) {
    let this = Some(hold.root.id());
    let mut synced = cx
        .synced_above
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if std::mem::replace(&mut *synced, this) == this {
        return;
    }
    drop(synced);
    if !cx.mutated(Mutation::NoDirectorySync) {
        cx.platform.sync_parents(&cx.path);
    }
}

/// Whether a stage must be synced before it may be renamed.
pub(crate) fn syncs_payload(cx: &Context) -> bool {
    cx.options.durability != Durability::None && !cx.mutated(Mutation::NoSync)
}

/// The same for a tag, and whether names are made to last.
pub(crate) fn syncs_all(cx: &Context) -> bool {
    cx.options.durability == Durability::Full
}
