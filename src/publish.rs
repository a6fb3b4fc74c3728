//! The publish: tag, then payload, each by one rename that an overtaken holder can no longer make.
//!
//! ```text
//! write out the payload's stage
//! find the record that the payload on disk is        -> `previous`
//! write the tag { previous, next } to a stage        (checked, like each stage)
//! seal both stages (mode, sync, close)
//! rename the tag's stage over the tag
//! rename the payload's stage over the payload        <- readers see the new generation
//! ```
//!
//! Between the two renames the payload is `previous`; after the second it is `next`. A holder that dies in between has
//! published nothing, and one that is fenced in between neither: the next holder finds out which record the payload is.

use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use cachelock_platform::{Dir, FileKind, GUEST, failure};

use crate::context::Context;
use crate::durable::{Lasting, sync_dir, sync_names, sync_tag, syncs_all, syncs_payload};
use crate::error::{Error, Result};
use crate::events::{self, Event, EventKind};
use crate::freshness::Produced;
use crate::mutation::Mutation;
use crate::published::{PublishError, Published};
use crate::refresh::{Parts, Refresh};
use crate::rename::{Target, folder_of, rename};
use crate::stage::Stage;
use crate::state::{State, current_state};
use crate::tag::{Content, Record, Tag};
use crate::validators::Validators;

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
    // Whoever is told of something in the middle of a publish is on the thread that makes it.
    let published = if events::is_telling() && hold.publishing.is_busy() {
        let asks = "an observer asks for it in the middle of another publish under the same lock";
        let source = failure(io::ErrorKind::Unsupported, asks);
        Err(Error::io("publish", refresh.entry().path(), source).into())
    } else {
        let _alone = hold.publishing.enter();
        match produced {
            Produced::New => publish_value(&mut refresh.parts()),
            Produced::NotModified => keep(&mut refresh),
            Produced::Absent(valid_for) => publish_absent(&mut refresh.parts(), valid_for),
        }
    };
    let told = match &published {
        Ok(published) => Some(published),
        Err(failure) => failure.published.as_ref(),
    };
    if let Some(published) = told {
        let cx = refresh.entry().cx();
        cx.emit(&Event {
            entry: Some(refresh.entry().name.as_str()),
            backend: Some(hold.backend()),
            epoch: Some(hold.lease.epoch),
            generation: Some(published.generation),
            held: Some(hold.held()),
            ..Event::new(EventKind::RefreshPublished, &cx.path)
        });
    }
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
    let cx = parts.entry.cx();
    if let Some(expected) = parts
        .expected_len
        .filter(|expected| *expected != parts.stage.len())
    {
        return Err(
            Error::length_mismatch(&parts.entry.path(), expected, parts.stage.len()).into(),
        );
    }
    let content = parts.stage.complete()?;
    let current = current(parts)?;
    parts.stage.set_mode(payload_mode(parts, &current))?;
    if matches!(current.state.record.content, Content::Absent { .. }) {
        // The holder that published "absent" may have died before it emptied the payload. A payload that matches
        // neither record would be taken for corrupt.
        if let Some(empty) = empty_stage(parts, &current)? {
            rename_empty(parts, empty)?;
        }
    }
    let next = next_record(parts, &current.state.record, content)?;
    let loosely = loosely(parts, current.state.payload.is_some());
    let tag = NewTag::write(parts, current, &next)?;
    parts.stage.seal()?;
    if cx.mutated(Mutation::TagAfterPayload) {
        rename(parts.entry, parts.stage, Target::Payload, None, loosely)?;
        let doubt = tag.publish(parts)?;
        return done(parts, &next, doubt);
    }
    let doubt = tag.publish(parts)?;
    rename(parts.entry, parts.stage, Target::Payload, None, loosely)?;
    done(parts, &next, doubt)
}

fn publish_absent(parts: &mut Parts<'_>, valid_for: Duration) -> Result<Published, Failure> {
    let current = current(parts)?;
    let mut next = next_record(parts, &current.state.record, Content::Absent { valid_for })?;
    next.validators = Validators::new();
    let empty = empty_stage(parts, &current)?;
    let doubt = NewTag::write(parts, current, &next)?.publish(parts)?;
    // Published. What cannot be done any more is no failure of that.
    let emptied = match empty {
        None => Ok(()),
        Some(_) if parts.entry.cx().mutated(Mutation::RemoveByUnlink) => {
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
        checked: parts.entry.cx().platform.wall(),
        validators: parts
            .validators
            .unwrap_or(&current.state.record.validators)
            .clone(),
        ..current.state.record.clone()
    };
    let doubt = NewTag::write(parts, current, &next)?.publish(parts)?;
    done(parts, &next, doubt)
}

/// What the entry is now, found out under the lock.
fn current(parts: &Parts<'_>) -> Result<Current> {
    let (cx, name) = (parts.entry.cx(), &parts.entry.name);
    let look = || {
        let folder = folder_of(parts.entry, parts.hold, Target::Tag)?;
        let state = current_state(cx, &parts.hold.root, name, Some(&*folder))?;
        Ok(Current { state, folder })
    };
    let mut found = look();
    if found.is_err() {
        // A newer holder may have replaced what was being read.
        parts.hold.check_held()?;
    }
    if cx.mutated(Mutation::StateReadEarly)
        && let (Ok(found), Some(early)) = (&mut found, parts.early)
    {
        found.state.record = early.clone();
    }
    found
}

fn next_record(parts: &Parts<'_>, current: &Record, content: Content) -> Result<Record> {
    let exhausted = || {
        Error::limit(
            &parts.entry.path(),
            "its generations are used up; remove it and its tag",
        )
    };
    let now = parts.entry.cx().platform.wall();
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
fn empty_stage(parts: &Parts<'_>, current: &Current) -> Result<Option<Stage>> {
    if current
        .state
        .payload
        .is_none_or(|metadata| metadata.len == 0)
    {
        return Ok(None);
    }
    let mut stage = Stage::create(parts.stage.hold(), syncs_payload(parts.entry.cx()))?;
    stage.set_mode(payload_mode(parts, current))?;
    stage.seal()?;
    Ok(Some(stage))
}

fn rename_empty(parts: &Parts<'_>, mut stage: Stage) -> Result<()> {
    if syncs_payload(parts.entry.cx()) {
        // An empty payload without the tag that says why would be an empty entry.
        sync_tag(parts.entry.cx(), parts.hold, &parts.entry.name)?;
    }
    rename(parts.entry, &mut stage, Target::Payload, None, false)
}

/// Whether a rename may change places with the file that it replaces, if it `replaces` one; see [`rename`].
fn loosely(parts: &Parts<'_>, replaces: bool) -> bool {
    // Not where an answer may be lost: once more would change the places back.
    let is_local = !parts.hold.control.is_remote();
    replaces && is_local && !syncs_payload(parts.entry.cx())
}

/// What is published must be what the cache's path shows. Looked at last thing before the renames.
fn check_current(parts: &Parts<'_>) -> Result<()> {
    if parts.hold.is_current()? {
        return Ok(());
    }
    let reason = "its directory was deleted, moved or replaced meanwhile";
    Err(parts.hold.lease.lose(reason))
}

/// What the entry is now, and the folder of its tag.
struct Current {
    state: State,
    folder: Arc<dyn Dir>,
}

/// A tag that is to be renamed into place.
struct NewTag {
    stage: Stage,
    folder: Arc<dyn Dir>,
    /// Whether there is a file that it replaces.
    replaces: bool,
    /// Whether the payload that is there, and all that leads to it, is known to last.
    on_firm_ground: bool,
}

impl NewTag {
    /// Written before the payload is synced: what is on its way to the disk by then costs no wait of its own.
    fn write(parts: &Parts<'_>, current: Current, next: &Record) -> Result<Self> {
        let lasts = Lasting::of(parts.hold, &parts.entry.name, &current.state.record);
        let known = lasting(parts.entry.cx());
        let on_firm_ground = lasts.is_some() && *known == lasts;
        drop(known);
        let mode = tag_mode(parts, &current);
        let tag = Tag {
            previous: current.state.record,
            next: next.clone(),
        };
        let mut stage = Stage::create(parts.stage.hold(), syncs_all(parts.entry.cx()))?;
        stage.write(&tag.encode())?;
        stage.complete()?;
        stage.set_mode(mode)?;
        Ok(NewTag {
            stage,
            folder: current.folder,
            replaces: current.state.tag.is_some(),
            on_firm_ground,
        })
    }

    /// Renames it into place. Returns the doubt about its durability, if there is any.
    fn publish(mut self, parts: &Parts<'_>) -> Result<Option<Error>> {
        let (entry, hold) = (parts.entry, parts.hold);
        let full = syncs_all(entry.cx());
        self.stage.seal()?;
        if full && !self.on_firm_ground {
            folder_of(entry, hold, Target::Payload)?;
            sync_names(entry.cx(), hold, &entry.name)?;
        }
        check_current(parts)?;
        let folder = Some(self.folder.clone());
        let loosely = loosely(parts, self.replaces);
        rename(entry, &mut self.stage, Target::Tag, folder, loosely)?;
        if full {
            Ok(doubt(parts, sync_dir(entry.cx(), &*self.folder)))
        } else {
            Ok(None)
        }
    }
}

fn done(parts: &Parts<'_>, next: &Record, doubt: Option<Error>) -> Result<Published, Failure> {
    let cx = parts.entry.cx();
    let len = match next.content {
        Content::Value { len, .. } => len,
        _ => 0,
    };
    let published = Published {
        generation: next.generation,
        len,
        written: next.written,
    };
    let doubt = match doubt {
        None if syncs_all(cx) => sync_folder(parts),
        doubt => doubt,
    };
    *lasting(cx) = match doubt {
        None if syncs_all(cx) => Lasting::of(parts.hold, &parts.entry.name, next),
        _ => None,
    };
    match doubt {
        None => Ok(published),
        Some(error) => Err(Failure {
            error,
            published: Some(published),
        }),
    }
}

fn lasting(cx: &Context) -> MutexGuard<'_, Option<Lasting>> {
    cx.lasting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a rename last that was just made; what it returns is no failure of the publish.
fn sync_folder(parts: &Parts<'_>) -> Option<Error> {
    let cx = parts.entry.cx();
    let synced = folder_of(parts.entry, parts.hold, Target::Payload)
        .map_err(|error| error.to_source())
        .and_then(|folder| sync_dir(cx, &*folder));
    doubt(parts, synced)
}

fn doubt(parts: &Parts<'_>, synced: io::Result<()>) -> Option<Error> {
    let doubt = "its directory could not be synced, so a power loss may undo it";
    let doubtful = |error| Error::published_but(&parts.entry.path(), doubt, error);
    synced.err().map(doubtful)
}

/// The mode that the new payload gets: that of the one it replaces, else what any new file would get.
fn payload_mode(parts: &Parts<'_>, current: &Current) -> Option<u32> {
    if GUEST {
        return None;
    }
    // A link's bits say nothing, and special bits are for programs, not for data.
    let replaced = current.state.payload;
    let of_file = replaced
        .filter(|metadata| metadata.kind == FileKind::File)
        .and_then(|metadata| metadata.mode)
        .map(|mode| mode & 0o777);
    of_file.or_else(|| parts.entry.cx().platform.default_mode())
}

/// What a tag tells of the payload is for those alone who may read that, so that they can verify it, and for whoever publishes the
/// next one.
fn tag_mode(parts: &Parts<'_>, current: &Current) -> Option<u32> {
    payload_mode(parts, current).map(|mode| mode & 0o666 | 0o600)
}
