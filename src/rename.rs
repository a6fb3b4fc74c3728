//! The rename of a sealed stage into place: the one thing that changes an entry, and that an overtaken holder can no longer do.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cachelock_platform::{Dir, Shown, failure};

use crate::cache::Entry;
use crate::error::{Error, Result};
use crate::lock::Hold;
use crate::payload::not_a_payload;
use crate::root::tag_path;
use crate::stage::Stage;
use crate::wait::Waiter;

/// The two places that a stage is renamed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Tag,
    Payload,
}

impl Target {
    pub(crate) fn path(self, entry: &Entry) -> PathBuf {
        match self {
            Target::Tag => tag_path(entry.cx(), &entry.name),
            Target::Payload => entry.path(),
        }
    }
}

pub(crate) fn folder_of(entry: &Entry, hold: &Hold, target: Target) -> Result<Arc<dyn Dir>> {
    match target {
        Target::Tag => hold.root.tag_folder_or_create(&hold.control, &entry.name),
        Target::Payload => hold.root.folder_or_create(entry.cx(), &entry.name),
    }
}

/// Renames a sealed stage into place; `LeaseLost` if it was fenced. `folder`: the target's, if it is open; what a retry needs is
/// opened anew. `loosely`: it need not outlive a power loss, and what it replaces is a file; see [`Dir::displace`].
pub(crate) fn rename(
    entry: &Entry,
    stage: &mut Stage,
    target: Target,
    mut folder: Option<Arc<dyn Dir>>,
    loosely: bool,
) -> Result<()> {
    let cx = entry.cx();
    let hold = stage.hold().clone();
    let path = target.path(entry);
    let mut waiter: Option<Waiter<'_>> = None;
    let mut made_folders = false;
    loop {
        let folder = match folder.take() {
            Some(folder) => folder,
            None => folder_of(entry, &hold, target)?,
        };
        let (from, to) = (&hold.control.dir, entry.name.file());
        let renamed = match loosely {
            true => from.displace(stage.name(), &*folder, to),
            false => from.rename(stage.name(), &*folder, to).map(|()| false),
        };
        let error = match renamed {
            Ok(leaves_old) => {
                // Before anything else is published: by its names a guest tells whether it was replaced. What cannot be removed
                // is removed by the next holder.
                match leaves_old.then(|| from.unlink(stage.name())) {
                    Some(Err(error)) if error.kind() == io::ErrorKind::IsADirectory => {
                        // Somebody has put it there just now, and wants it back.
                        from.displace(stage.name(), &*folder, to)
                            .map_err(|error| Error::io("put back", &*path, error))?;
                        error
                    }
                    _ => {
                        stage.renamed();
                        return Ok(());
                    }
                }
            }
            Err(error) => error,
        };
        match error.kind() {
            io::ErrorKind::NotFound => {
                if !hold.control.exists(stage.name())? {
                    stage.renamed();
                    let reason = hold
                        .lease
                        .overtaken_by()?
                        .unwrap_or_else(|| "its stage was removed".into());
                    return Err(hold.lease.lose(reason));
                }
                // The folder was removed between opening it and now. Once is bad luck, twice is somebody at work.
                if std::mem::replace(&mut made_folders, true) {
                    return Err(Error::io("rename a stage to", path, error));
                }
            }
            _ if cx.platform.is_busy(&error) => {
                let left = hold.budget_left;
                let waiter = waiter.get_or_insert_with(|| Waiter::for_retries(cx, left));
                waiter.pause_for_handle(path.clone())?;
            }
            io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory
                if target == Target::Payload =>
            {
                return Err(not_a_payload(&*folder, cx, &entry.name)
                    .unwrap_or_else(|| Error::io("rename a stage to", path, error)));
            }
            io::ErrorKind::CrossesDevices => {
                let reason = format!(
                    "{} and {}",
                    Shown(&hold.control.path(stage.name())),
                    Shown(&path)
                );
                let source = failure(
                    error.kind(),
                    format!("they are on two file systems: {reason}"),
                );
                return Err(Error::io("rename a stage to", path, source));
            }
            _ => return Err(Error::io("rename a stage to", path, error)),
        }
    }
}
