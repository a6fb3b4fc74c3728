//! The publish: tag, then payload, each by one rename that an overtaken holder can no longer make.
//!
//! ```text
//! seal the payload's stage (write out, mode, sync, close)
//! find the record that the payload on disk is        -> `previous`
//! write the tag { previous, next } to a stage        (checked, like each stage)
//! rename it over the tag
//! rename the payload's stage over the payload        <- readers see the new generation
//! ```
//!
//! Between the two renames the payload is `previous`; after the second it is `next`. A holder that dies in between has
//! published nothing, and one that is fenced in between neither: the next holder finds out which record the payload is.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cachelock_platform::{Dir, FileKind, GUEST, failure};

use crate::control::found;
use crate::durable::{sync_dir, sync_names, sync_tag, syncs_all, syncs_payload};
use crate::error::{Error, Result};
use crate::events::{Event, EventKind};
use crate::freshness::Produced;
use crate::mutation::Mutation;
use crate::published::{PublishError, Published};
use crate::refresh::{Parts, Refresh};
use crate::root::tag_path;
use crate::stage::Stage;
use crate::state::{current_record, not_a_payload};
use crate::tag::{Content, Record, Tag};
use crate::validators::Validators;
use crate::wait::Waiter;

/// A failed publish, and whether the stage is still good for another attempt.
struct Failure {
    error: Error,
    published: Option<Published>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure {
            error,
            published: None,
        }
    }
}

/// One publish at a time for each held lock: the record that the payload is must not change between the look at it and the
/// renames, and threads may share a lock.
pub(crate) fn publish(mut refresh: Refresh, produced: Produced) -> Result<Published, PublishError> {
    let hold = refresh.hold().clone();
    let published = {
        let _alone = hold.publishing.enter();
        match produced {
            Produced::New => publish_value(&mut refresh.parts()),
            Produced::NotModified => keep(&mut refresh),
            Produced::Absent(valid_for) => publish_absent(&mut refresh.parts(), valid_for),
        }
    };
    // Whoever gets the refresh back holds the lock by it alone.
    drop(hold);
    match published {
        Ok(published) => Ok(published),
        Err(Failure { error, published }) => {
            let spoilt = produced == Produced::New && !refresh.is_usable();
            let hopeless = spoilt || published.is_some() || error.is_lease_lost();
            let error = error.of_key(refresh.entry().key.as_ref());
            Err(PublishError {
                error,
                refresh: (!hopeless).then(|| Box::new(refresh)),
                published,
            })
        }
    }
}

fn publish_value(parts: &mut Parts<'_>) -> Result<Published, Failure> {
    let cx = &parts.entry.cx;
    if let Some(expected) = parts
        .expected_len
        .filter(|expected| *expected != parts.stage.len())
    {
        return Err(
            Error::length_mismatch(&parts.entry.path(), expected, parts.stage.len()).into(),
        );
    }
    let mode = payload_mode(parts)?;
    let content = parts.stage.seal(syncs_payload(cx), mode)?;
    let current = current(parts)?;
    if matches!(current.content, Content::Absent { .. }) {
        // The holder that published "absent" may have died before it emptied the payload. A payload that matches
        // neither record would be taken for corrupt.
        if let Some(empty) = empty_stage(parts)? {
            rename_empty(parts, empty)?;
        }
    }
    let next = next_record(parts, &current, content)?;
    if cx.mutated(Mutation::TagAfterPayload) {
        rename(parts.entry, parts.stage, Target::Payload, None)?;
        let doubt = publish_tag(parts, current, &next)?;
        return done(parts, &next, doubt);
    }
    let doubt = publish_tag(parts, current, &next)?;
    rename(parts.entry, parts.stage, Target::Payload, None)?;
    done(parts, &next, doubt)
}

fn publish_absent(parts: &mut Parts<'_>, valid_for: Duration) -> Result<Published, Failure> {
    let current = current(parts)?;
    let mut next = next_record(parts, &current, Content::Absent { valid_for })?;
    next.validators = Validators::new();
    let empty = empty_stage(parts)?;
    let doubt = publish_tag(parts, current, &next)?;
    // Published. What cannot be done any more is no failure of that.
    let emptied = match empty {
        None => Ok(()),
        Some(_) if parts.entry.cx.mutated(Mutation::RemoveByUnlink) => {
            let folder = folder_of(parts.entry, parts.hold, Target::Payload)?;
            let _ = folder.unlink(parts.entry.name.file());
            Ok(())
        }
        Some(empty) => rename_empty(parts, empty),
    };
    let old = "programs that read the file alone still find what it was before";
    let doubt = match emptied {
        Err(error) if !error.is_lease_lost() => {
            let error = Error::published_but(&parts.entry.path(), old, error.to_source());
            Some(doubt.unwrap_or(error))
        }
        _ => doubt,
    };
    done(parts, &next, doubt)
}

/// Refused where there is no whole payload that could be kept.
fn keep(refresh: &mut Refresh) -> Result<Published, Failure> {
    match refresh.can_keep()? {
        true => publish_not_modified(&refresh.parts()),
        false => Err(Error::missing(&refresh.entry().path()).into()),
    }
}

/// One rename, of the tag alone: both of its records are the payload that stays.
fn publish_not_modified(parts: &Parts<'_>) -> Result<Published, Failure> {
    let current = current(parts)?;
    let next = Record {
        checked: parts.entry.cx.platform.wall(),
        validators: parts.validators.unwrap_or(&current.validators).clone(),
        ..current.clone()
    };
    let doubt = publish_tag(parts, current, &next)?;
    done(parts, &next, doubt)
}

/// What the entry is now, found out under the lock.
fn current(parts: &Parts<'_>) -> Result<Record> {
    match parts.early {
        Some(early) if parts.entry.cx.mutated(Mutation::StateReadEarly) => Ok(early.clone()),
        _ => {
            let found = current_record(&parts.entry.cx, &parts.hold.root, &parts.entry.name);
            if found.is_err() {
                // A newer holder may have replaced what was being read.
                parts.hold.check_held()?;
            }
            found
        }
    }
}

fn next_record(parts: &Parts<'_>, current: &Record, content: Content) -> Result<Record> {
    let exhausted = || {
        Error::limit(
            &parts.entry.path(),
            "its generations are used up; remove it and its tag",
        )
    };
    let now = parts.entry.cx.platform.wall();
    Ok(Record {
        content,
        generation: current.generation.checked_add(1).ok_or_else(exhausted)?,
        written: now,
        checked: now,
        took: Some(parts.took),
        validators: parts.validators.cloned().unwrap_or_default(),
        key: parts.entry.key.clone(),
    })
}

/// What the payload of a known-absent entry is replaced by, if there is one: by a rename, like every change outside of the
/// control directory. An overtaken holder that unlinked it would unlink the newer payload.
fn empty_stage(parts: &Parts<'_>) -> Result<Option<Stage>> {
    let cx = &parts.entry.cx;
    let name = &parts.entry.name;
    let Some(folder) = parts.hold.root.folder(cx, name)? else {
        return Ok(None);
    };
    let there = found(folder.stat(name.file()))
        .map_err(|error| Error::io("look at", parts.entry.path(), error))?;
    if there.is_none_or(|metadata| metadata.len == 0) {
        return Ok(None);
    }
    let mut stage = Stage::create(parts.stage.hold())?;
    stage.seal(syncs_payload(cx), payload_mode(parts)?)?;
    Ok(Some(stage))
}

fn rename_empty(parts: &Parts<'_>, mut stage: Stage) -> Result<()> {
    if syncs_payload(&parts.entry.cx) {
        // An empty payload without the tag that says why would be an empty entry.
        sync_tag(&parts.entry.cx, parts.hold, &parts.entry.name)?;
    }
    rename(parts.entry, &mut stage, Target::Payload, None)
}

/// What is published must be what the cache's path shows. Looked at last thing before the renames.
fn check_current(parts: &Parts<'_>) -> Result<()> {
    if parts.hold.is_current()? {
        return Ok(());
    }
    let reason = "its directory was deleted, moved or replaced meanwhile";
    Err(parts.hold.lease.lose(reason))
}

/// Writes the tag and renames it into place. Returns the doubt about its durability, if there is any.
fn publish_tag(parts: &Parts<'_>, previous: Record, next: &Record) -> Result<Option<Error>> {
    let tag = Tag {
        previous,
        next: next.clone(),
    };
    let (entry, hold) = (parts.entry, parts.hold);
    let full = syncs_all(&entry.cx);
    if full {
        folder_of(entry, hold, Target::Payload)?;
        folder_of(entry, hold, Target::Tag)?;
        sync_names(&entry.cx, hold, &entry.name)?;
    }
    check_current(parts)?;
    let mut stage = Stage::create(parts.stage.hold())?;
    stage.write(&tag.encode())?;
    let folder = folder_of(entry, hold, Target::Tag)?;
    stage.seal(full, mode_for(parts, Some(&*folder), Target::Tag)?)?;
    rename(entry, &mut stage, Target::Tag, Some(folder))?;
    if full {
        Ok(sync_folder(parts, Target::Tag))
    } else {
        Ok(None)
    }
}

fn done(parts: &Parts<'_>, next: &Record, doubt: Option<Error>) -> Result<Published, Failure> {
    let cx = &parts.entry.cx;
    let len = match next.content {
        Content::Value { len, .. } => len,
        _ => 0,
    };
    let published = Published {
        generation: next.generation,
        len,
        written: next.written,
    };
    cx.emit(&Event {
        entry: Some(parts.entry.name.as_str()),
        backend: Some(parts.hold.backend()),
        epoch: Some(parts.hold.lease.epoch),
        generation: Some(next.generation),
        held: Some(parts.hold.held()),
        ..Event::new(EventKind::RefreshPublished, &cx.path)
    });
    let doubt = match doubt {
        None if syncs_all(cx) => sync_folder(parts, Target::Payload),
        doubt => doubt,
    };
    match doubt {
        None => Ok(published),
        Some(error) => Err(Failure {
            error,
            published: Some(published),
        }),
    }
}

/// Makes a rename last that was just made; what it returns is no failure of the publish.
fn sync_folder(parts: &Parts<'_>, target: Target) -> Option<Error> {
    let cx = &parts.entry.cx;
    let synced = folder_of(parts.entry, parts.hold, target)
        .map_err(|error| error.to_source())
        .and_then(|folder| sync_dir(cx, &*folder));
    let doubt = "its directory could not be synced, so a power loss may undo it";
    let doubtful = |error| Error::published_but(&parts.entry.path(), doubt, error);
    synced.err().map(doubtful)
}

/// The two places that a stage is renamed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Tag,
    Payload,
}

impl Target {
    fn path(self, entry: &crate::cache::Entry) -> PathBuf {
        match self {
            Target::Tag => tag_path(&entry.cx, &entry.name),
            Target::Payload => entry.path(),
        }
    }
}

fn folder_of(
    entry: &crate::cache::Entry,
    hold: &crate::lock::Hold,
    target: Target,
) -> Result<Arc<dyn Dir>> {
    match target {
        Target::Tag => hold.root.tag_folder_or_create(&hold.control, &entry.name),
        Target::Payload => hold.root.folder_or_create(&entry.cx, &entry.name),
    }
}

/// The mode that the new file gets: that of the file it replaces, else what any new file would get, so that other users'
/// readers can verify what they can read.
fn mode_for(parts: &Parts<'_>, folder: Option<&dyn Dir>, target: Target) -> Result<Option<u32>> {
    if GUEST {
        return Ok(None);
    }
    let cx = &parts.entry.cx;
    let name = &parts.entry.name;
    let path = target.path(parts.entry);
    let replaced = match folder {
        Some(folder) => {
            found(folder.stat(name.file())).map_err(|error| Error::io("look at", path, error))?
        }
        None => None,
    };
    // A link's bits say nothing, and special bits are for programs, not for data.
    let of_file = replaced
        .filter(|metadata| metadata.kind == FileKind::File)
        .and_then(|metadata| metadata.mode)
        .map(|mode| mode & 0o777);
    Ok(of_file.or_else(|| cx.platform.default_mode()))
}

fn payload_mode(parts: &Parts<'_>) -> Result<Option<u32>> {
    let folder = parts.hold.root.folder(&parts.entry.cx, &parts.entry.name)?;
    mode_for(parts, folder.as_deref(), Target::Payload)
}

/// Renames a sealed stage into place; `LeaseLost` if it was fenced. `folder`: the target's, if it is open; what a retry needs is
/// opened anew.
fn rename(
    entry: &crate::cache::Entry,
    stage: &mut Stage,
    target: Target,
    mut folder: Option<Arc<dyn Dir>>,
) -> Result<()> {
    let cx = &entry.cx;
    let hold = stage.hold().clone();
    let path = target.path(entry);
    let mut waiter: Option<Waiter<'_>> = None;
    let mut made_folders = false;
    loop {
        let folder = match folder.take() {
            Some(folder) => folder,
            None => folder_of(entry, &hold, target)?,
        };
        let error = match hold
            .control
            .dir
            .rename(stage.name(), &*folder, entry.name.file())
        {
            Ok(()) => {
                stage.renamed();
                return Ok(());
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
                    hold.control.path(stage.name()).display(),
                    path.display()
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
