//! The control directory `.cachelock/`: its names, and the checked way to each of its files.
//!
//! Nothing here trusts what it finds. Files are opened without following links and must be ordinary files of this user, with one name
//! if they are written, or they are an error that names them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cachelock_platform::{
    Access, Dir, File, FileId, FileKind, GUEST, Metadata, Owner, SETS_MODES, failure,
};

use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::name::CONTROL_DIR;
use crate::text;
use crate::transfer;
use crate::wait::Waiter;

pub(crate) const GATE: &str = "cache.lock";
pub(crate) const HEAD: &str = "head";
pub(crate) const TAGS: &str = "tags";
/// What a directory's name gets in front when it stood at a name of ours.
const ASIDE: &str = "stray-";

/// Files that only their creator needs.
pub(crate) const PRIVATE: u32 = 0o600;
/// Files that whoever may read the cache may read.
const OPEN: u32 = 0o644;
/// A claim that a gated holder has created and not yet written. The mode is there from the first moment on, so whoever has the
/// gate need not wait to know that the creator is dead.
pub(crate) const UNWRITTEN_GATED: u32 = 0o700;
/// What is said of a link, a FIFO, a directory.
const NO_FILE: &str = "is not an ordinary file";
/// Directories that other users' readers pass through.
const PASSABLE: u32 = 0o755;

/// Epochs are zero-padded, so that a listing is sorted: 20 digits hold every `u64`.
pub(crate) fn claim(epoch: u64) -> String {
    format!("claim-{epoch:020}")
}

pub(crate) fn next_head(epoch: u64, nonce: u128) -> String {
    format!("head-{epoch:020}-{nonce:032x}")
}

pub(crate) fn stage(epoch: u64, nonce: u128, number: u64) -> String {
    format!("stage-{epoch:020}-{nonce:032x}-{number}")
}

pub(crate) fn want(nonce: u128) -> String {
    format!("want-{nonce:032x}")
}

/// What a name in the control directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Claim(u64),
    /// A stage or a next head: what an overtaken holder could still rename, so what a fence removes.
    Fenced(u64),
    Want,
    /// The gate, the head, the tags, and whatever is not ours.
    Other,
}

pub(crate) fn kind_of(name: &str) -> Kind {
    let epoch = |rest: &str| {
        let digits = rest.get(..20)?;
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text::digits(digits))?
    };
    let parsed = if let Some(rest) = name.strip_prefix("claim-") {
        (rest.len() == 20)
            .then(|| epoch(rest))
            .flatten()
            .map(Kind::Claim)
    } else if let Some(rest) = name
        .strip_prefix("stage-")
        .or_else(|| name.strip_prefix("head-"))
    {
        epoch(rest).map(Kind::Fenced)
    } else if name.starts_with("want-") {
        Some(Kind::Want)
    } else {
        None
    };
    parsed.unwrap_or(Kind::Other)
}

/// An open control directory.
#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) cx: Arc<Context>,
    pub(crate) dir: Arc<dyn Dir>,
    /// Which directory it is.
    pub(crate) id: FileId,
    /// See [`Control::is_remote`].
    pub(crate) remote: bool,
    /// Whether files of other users are looked at, too: by somebody who changes nothing.
    pub(crate) any_owner: bool,
}

impl Control {
    /// Opens the control directory of `root` for a writer; creates it if it is missing.
    pub(crate) fn open_or_create(
        cx: &Arc<Context>,
        root: &dyn Dir,
        root_metadata: &Metadata,
    ) -> Result<Self> {
        let path = cx.path.join(CONTROL_DIR);
        let dir = open_or_create_dir(root, CONTROL_DIR, root_metadata)
            .map_err(|error| dir_error("open the control directory", &path, error))?;
        let metadata = dir
            .metadata()
            .map_err(|error| Error::io("look at", &*path, error))?;
        check_trust(cx, &path, &metadata)?;
        Ok(Control {
            cx: cx.clone(),
            dir,
            id: metadata.id,
            remote: false,
            any_owner: cx.options.allow_shared,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.cx.path.join(CONTROL_DIR).join(name)
    }

    /// The error for what cannot be done with `name`; see [`Error::io`].
    pub(crate) fn failed(&self, action: &'static str, name: &str, source: io::Error) -> Error {
        Error::io(action, self.path(name), source)
    }

    /// Whether other machines may change it, so that a handle's cached "absent" must not be believed. No guest can know.
    pub(crate) fn is_remote(&self) -> bool {
        !GUEST && self.remote
    }

    /// The same directory past the caches of a network file system's client; elsewhere just this one.
    pub(crate) fn fresh(&self) -> Result<Arc<dyn Dir>> {
        if !self.is_remote() {
            return Ok(self.dir.clone());
        }
        self.dir
            .reopen()
            .map_err(|error| self.failed("open", "", error))
    }

    /// What has become of this directory, if the cache's path does not lead to it any more.
    pub(crate) fn displaced(&self) -> Option<&'static str> {
        let there = match found(self.cx.platform.open_dir(&self.cx.path)) {
            Ok(Some(root)) => found(root.stat(CONTROL_DIR)).ok()?,
            Ok(None) => return Some("the cache directory was deleted or moved"),
            Err(_) => return None,
        };
        match there {
            None => Some("its control directory was deleted or moved"),
            Some(there) if there.id == self.id => None,
            Some(_) => Some("its control directory was replaced by another"),
        }
    }

    /// The highest epoch that ever acquired: the head's length, 0 without a head.
    pub(crate) fn head(&self) -> Result<u64> {
        match self.glance(HEAD)? {
            None => Ok(0),
            Some(metadata) => {
                self.check_ours(HEAD, &metadata)?;
                Ok(metadata.len)
            }
        }
    }

    pub(crate) fn exists(&self, name: &str) -> Result<bool> {
        Ok(self.glance(name)?.is_some())
    }

    pub(crate) fn stat(&self, name: &str) -> Result<Option<Metadata>> {
        found(self.dir.stat(name)).map_err(|error| self.failed("look at", name, error))
    }

    /// As [`Control::stat`], past caches, and without the file's identity.
    fn glance(&self, name: &str) -> Result<Option<Metadata>> {
        found(self.fresh()?.glance(name)).map_err(|error| self.failed("look at", name, error))
    }

    /// Opens a file that must be ours; `None` if it does not exist. What is to be written must be known to be ours and nothing
    /// else: see [`Control::check_alone`].
    pub(crate) fn open(
        &self,
        name: &str,
        access: Access,
    ) -> Result<Option<(Box<dyn File>, Metadata)>> {
        let Some((file, metadata)) = open_existing(&*self.dir, name, access)
            .map_err(|error| self.in_the_way("open", name, error))?
        else {
            return Ok(None);
        };
        self.check_ours(name, &metadata)?;
        Ok(Some((file, metadata)))
    }

    /// Refuses to write where another name may lead to somebody's file, which was given ours. What is read or replaced may have
    /// other names: those of a copy that shares its files with the cache (`cp -al`), say.
    pub(crate) fn check_alone(&self, name: &str, metadata: &Metadata) -> Result<()> {
        if !metadata.is_alone() {
            let reason = "has a second name (a hard link)";
            return Err(Error::not_a_file(&self.path(name), reason));
        }
        Ok(())
    }

    /// Refuses what is not an ordinary file of this user.
    fn check_ours(&self, name: &str, metadata: &Metadata) -> Result<()> {
        let reason = if metadata.kind != FileKind::File {
            NO_FILE.to_owned()
        } else if let (Owner::Other(user), false) = (metadata.owner, self.any_owner) {
            format!("belongs to the user with the number {user}")
        } else {
            return Ok(());
        };
        Err(Error::not_a_file(&self.path(name), reason))
    }

    /// What a system says of a link or a directory differs, so it is looked at once more to say what stands there.
    fn in_the_way(&self, action: &'static str, name: &str, error: io::Error) -> Error {
        match self.dir.stat(name) {
            Ok(metadata) if metadata.kind != FileKind::File => {
                Error::not_a_file(&self.path(name), NO_FILE)
            }
            _ => self.failed(action, name, error),
        }
    }

    /// Creates `name`; `None` if something has the name.
    pub(crate) fn create_new(&self, name: &str, mode: u32) -> Result<Option<Box<dyn File>>> {
        match self.dir.open(name, Access::CreateNew(mode)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(self.create_error(name, error)),
        }
    }

    /// Creates `name`, which has a nonce in it and so cannot exist.
    pub(crate) fn create_unique(&self, name: &str) -> Result<Box<dyn File>> {
        self.create(name, PRIVATE)
    }

    /// The same for what is to be published. Where no mode can be set afterwards, it is open to others from the start, as far
    /// as its directory is.
    pub(crate) fn create_stage(&self, name: &str) -> Result<Box<dyn File>> {
        self.create(name, if SETS_MODES { PRIVATE } else { OPEN })
    }

    fn create(&self, name: &str, mode: u32) -> Result<Box<dyn File>> {
        self.dir
            .open(name, Access::CreateNew(mode))
            .map_err(|error| self.create_error(name, error))
    }

    /// "Not found" for a name that is to be created means that the directory is gone.
    fn create_error(&self, name: &str, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::NotFound {
            let gone = failure(error.kind(), "the cache directory was deleted meanwhile");
            return self.failed("create", name, gone);
        }
        self.failed("create", name, error)
    }

    /// Reads what is there of a small file, at most `limit` bytes; `None` if it does not exist.
    pub(crate) fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>> {
        let Some((file, _)) = self.open(name, Access::Read)? else {
            return Ok(None);
        };
        match transfer::read_up_to(&*file, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            // A guest opens by name for each call, so the name may have gone in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", name, error)),
        }
    }

    /// Writes all of a small file from its start.
    pub(crate) fn write(&self, file: &dyn File, name: &str, bytes: &[u8]) -> Result<()> {
        transfer::write_all_at(file, bytes, 0)
            .map_err(|error| self.failed("write", name, error))?;
        if self.is_remote() {
            file.sync()
                .map_err(|error| self.failed("sync", name, error))?;
        }
        Ok(())
    }

    /// Removes a name; `false` if it did not exist.
    pub(crate) fn unlink(&self, name: &str) -> Result<bool> {
        self.unlinked(name, self.dir.unlink(name))
    }

    /// Takes a name from whoever could still rename it, and waits for whoever has the file open where that is in the way. A
    /// directory, which is nothing of ours, is moved aside: whose it is may know what to do with it.
    pub(crate) fn take_away(&self, name: &str, waiter: &mut Waiter<'_>) -> Result<()> {
        let unlinked = self.patiently(name, waiter, || self.dir.unlink(name))?;
        match self.unlinked(name, unlinked) {
            Err(error) if error.kind() == ErrorKind::NotAFile => self
                .dir
                .rename(name, &*self.dir, &(ASIDE.to_owned() + name))
                .map_err(|error| self.failed("move aside", name, error)),
            removed => removed.map(drop),
        }
    }

    /// The result of `step`, which renames `name`, replaces or removes it: not before somebody's open handle lets it be done.
    pub(crate) fn patiently<T>(
        &self,
        name: &str,
        waiter: &mut Waiter<'_>,
        step: impl Fn() -> io::Result<T>,
    ) -> Result<io::Result<T>> {
        loop {
            match step() {
                Err(error) if self.cx.platform.is_busy(&error) => {
                    waiter.pause_for_handle(self.path(name))?;
                }
                result => return Ok(result),
            }
        }
    }

    fn unlinked(&self, name: &str, result: io::Result<()>) -> Result<bool> {
        match result {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            // Hardly anything but a directory resists.
            Err(error) => Err(self.in_the_way("remove", name, error)),
        }
    }

    pub(crate) fn list(&self) -> Result<Vec<String>> {
        self.fresh()?
            .list()
            .map_err(|error| self.failed("list", "", error))
    }
}

/// "Not found" as `None`.
pub(crate) fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a file and takes a [glance](File::glance) at it; `None` if it does not exist. Where a handle stands for a name, the
/// file may have been replaced or removed between the two: then it is opened anew.
pub(crate) fn open_existing(
    dir: &dyn Dir,
    name: &str,
    access: Access,
) -> io::Result<Option<(Box<dyn File>, Metadata)>> {
    while let Some(file) = found(dir.open(name, access))? {
        if let Some(metadata) = found(file.glance())? {
            return Ok(Some((file, metadata)));
        }
    }
    Ok(None)
}

/// Opens the directory `name` in `parent`, which is created if it is missing: with 0755, but no wider than the cache
/// directory itself.
pub(crate) fn open_or_create_dir(
    parent: &dyn Dir,
    name: &str,
    root_metadata: &Metadata,
) -> io::Result<Arc<dyn Dir>> {
    loop {
        if let Some(dir) = found(parent.open_dir(name))? {
            return Ok(dir);
        }
        match parent.create_dir(name, PASSABLE & root_metadata.mode.unwrap_or(PASSABLE)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn dir_error(action: &'static str, path: &Path, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotADirectory {
        return Error::not_a_file(path, "is no directory, or is below something that is none");
    }
    Error::io(action, path, error)
}

/// Refuses to write where others could interfere. A guest knows of no owners and no modes.
pub(crate) fn check_trust(cx: &Context, path: &Path, metadata: &Metadata) -> Result<()> {
    if cx.options.allow_shared || GUEST {
        return Ok(());
    }
    if let Owner::Other(user) = metadata.owner {
        return Err(Error::untrusted(
            path,
            format!("it belongs to the user with the number {user}"),
        ));
    }
    if metadata.shared {
        let mode = metadata
            .mode
            .map_or_else(String::new, |mode| format!(" (mode {mode:04o})"));
        return Err(Error::untrusted(
            path,
            format!("other users may write to it{mode}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_ours_is_recognized_and_no_other() {
        assert_eq!(kind_of(&claim(7)), Kind::Claim(7));
        assert_eq!(kind_of(&claim(u64::MAX)), Kind::Claim(u64::MAX));
        assert_eq!(kind_of(&next_head(8, 1)), Kind::Fenced(8));
        assert_eq!(kind_of(&stage(9, 1, 2)), Kind::Fenced(9));
        assert_eq!(kind_of(&want(3)), Kind::Want);
        for name in [
            GATE,
            HEAD,
            TAGS,
            "claim-",
            "claim-7",
            "claim-+0000000000000000007",
            "head-x",
            "stage-é",
            "",
            "claims",
        ] {
            assert_eq!(kind_of(name), Kind::Other, "{name:?}");
        }
        let beyond = format!("claim-{}", "9".repeat(20));
        assert_eq!(kind_of(&beyond), Kind::Other, "a number that no u64 holds");
    }
}
