//! Making names last: which directories are synced, and when.
//!
//! A file that was synced is lost all the same if the name is lost that leads to it, or one above it. Other processes may
//! have made those names, with a durability that syncs none. So it does not do to sync only what one has made oneself:
//!
//! - Before a tag that is to last, everything that leads to it and to its payload: a tag whose `previous` is a payload that
//!   has its name in memory only would know neither of the two payloads that a power loss may leave.
//! - After each of the two renames, the directory that it went to.

use std::io;
use std::sync::{Arc, PoisonError};

use cachelock_platform::{Access, Dir};

use crate::builder::Durability;
use crate::context::Context;
use crate::control::{TAGS, found, open_existing};
use crate::error::{Error, Result};
use crate::lock::Hold;
use crate::mutation::Mutation;
use crate::name::EntryName;
use crate::root::tag_path;

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

/// Makes the names last that lead to the entry's payload and to its tag, as far as they are there.
pub(crate) fn sync_names(cx: &Context, hold: &Hold, name: &EntryName) -> Result<()> {
    sync_above(cx, hold);
    sync_way(cx, &hold.root.dir, &mut name.folders())
        .and_then(|_| sync_way(cx, &hold.control.dir, &mut tag_folders(name)))
        .map_err(|error| Error::io("sync the way to", cx.path.join(name.as_str()), error))?;
    Ok(())
}

/// Makes the entry's tag last as it is.
pub(crate) fn sync_tag(cx: &Context, hold: &Hold, name: &EntryName) -> Result<()> {
    sync_names(cx, hold, name)?;
    let sync = || -> io::Result<()> {
        let mut dir = hold.control.dir.clone();
        for folder in tag_folders(name) {
            dir = dir.open_dir(folder)?;
        }
        match open_existing(&*dir, name.file(), Access::Write)? {
            Some((file, _)) => file.sync(),
            None => Ok(()),
        }
    };
    sync().map_err(|error| Error::io("sync", tag_path(cx, name), error))
}

fn tag_folders(name: &EntryName) -> impl Iterator<Item = &str> {
    std::iter::once(TAGS).chain(name.folders())
}

fn sync_way(
    cx: &Context,
    from: &Arc<dyn Dir>,
    folders: &mut dyn Iterator<Item = &str>,
) -> io::Result<()> {
    let mut dir = from.clone();
    sync_dir(cx, &*dir)?;
    for folder in folders {
        match found(dir.open_dir(folder))? {
            Some(below) => dir = below,
            None => return Ok(()),
        }
        sync_dir(cx, &*dir)?;
    }
    Ok(())
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
