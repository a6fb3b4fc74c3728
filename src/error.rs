//! The one error type: what happened, to which path, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cachelock_platform::{GUEST, Quoted, Reason, Shown, failure};

pub(crate) use crate::events::WaitingFor;
use crate::key::Key;
pub use crate::kind::ErrorKind;
use crate::lock::Holder;
use crate::time::seconds;

/// The result of most calls of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with the path it happened to and a remedy in its text.
///
/// Opaque, so that it can grow; ask [`Error::kind`] or one of the predicates.
///
/// ```
/// let error = cachelock::Cache::open("/tmp/demo")?.entry("../escape").unwrap_err();
/// assert_eq!(error.kind(), cachelock::ErrorKind::InvalidName);
/// assert_eq!(error.kind().name(), "invalid-name");
/// # Ok::<(), cachelock::Error>(())
/// ```
// One pointer: it is part of nearly every result, and each of those is moved through many callers.
pub struct Error(pub(crate) Box<Body>);

pub(crate) struct Body {
    repr: Repr,
    pub(crate) key: Option<Key>,
}

#[derive(Debug, thiserror::Error)]
enum Repr {
    #[error(
        "timed out after {} waiting for {what} of {}{}",
        seconds(*waited), Shown(path), held_by(holder.as_ref())
    )]
    Timeout {
        path: PathBuf,
        what: WaitingFor,
        waited: Duration,
        /// `None`: to wait would have been in vain.
        budget: Option<Duration>,
        holder: Option<Holder>,
    },
    #[error("cancelled after {} of waiting for {what} of {}", seconds(*waited), Shown(path))]
    Cancelled {
        path: PathBuf,
        what: WaitingFor,
        waited: Duration,
    },
    #[error(
        "the lease on {} (epoch {epoch}) was lost: {reason}; nothing was published and what is there now stands, so read again or refresh again",
        Shown(path)
    )]
    LeaseLost {
        path: PathBuf,
        epoch: u64,
        reason: String,
    },
    #[error("{} is corrupt: {reason}; refresh it to replace it", Shown(path))]
    Corrupt { path: PathBuf, reason: String },
    #[error(
        "{} has no payload to keep, although its producer says that it was not modified; produce it without a condition",
        Shown(path)
    )]
    Missing { path: PathBuf },
    #[error("{} cannot be the name of an entry: {reason}", Quoted(name))]
    InvalidName { name: String, reason: String },
    #[error("{} cannot be a cache: {reason}", Shown(path))]
    InvalidCache { path: PathBuf, reason: String },
    #[error(
        "{} is not safe to share a cache in: {reason}; use a directory of your own, or allow shared directories",
        Shown(path)
    )]
    Untrusted { path: PathBuf, reason: String },
    #[error("{} {reason}; remove it or choose another place", Shown(path))]
    NotAFile { path: PathBuf, reason: String },
    #[error(
        "the payload for {} has {written} bytes and not the expected {expected}; the old entry stays",
        Shown(path)
    )]
    LengthMismatch {
        path: PathBuf,
        expected: u64,
        written: u64,
    },
    #[error("{} was published, but {doubt}: {}", Shown(path), Reason(source))]
    #[rustfmt::skip]
    NotDurable { path: PathBuf, doubt: &'static str, source: io::Error },
    #[error("{}: {reason}", Shown(path))]
    Limit { path: PathBuf, reason: String },
    #[error(
        "the refresh of {} failed before ({reason}), so what was written cannot be published; restart it or begin another",
        Shown(path)
    )]
    Poisoned { path: PathBuf, reason: String },
    #[error("cannot {action} {}: {}{}", Shown(path), Reason(source), hint(source))]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn held_by(holder: Option<&Holder>) -> String {
    holder.map_or_else(String::new, |holder| format!(", held by {holder}"))
}

fn remedy(budget: Option<Duration>) -> String {
    match budget {
        None => "; nobody lets go while this thread waits, try again later".into(),
        Some(Duration::ZERO) => "; it was tried once, allow a timeout to wait".into(),
        Some(budget) => format!(
            "; wait longer with a timeout above {}, or see who holds it",
            seconds(budget)
        ),
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => "; free some space and try again",
        io::ErrorKind::QuotaExceeded => "; free some of your quota and try again",
        io::ErrorKind::ReadOnlyFilesystem => "; a read-only cache can be read but not refreshed",
        io::ErrorKind::PermissionDenied => "; check who owns it and its mode",
        io::ErrorKind::FileTooLarge => {
            "; this process may not make so large a file, or the file system cannot"
        }
        // What starting a thread says.
        io::ErrorKind::WouldBlock => "; end some processes or raise the limit of their number",
        io::ErrorKind::CrossesDevices => {
            "; the entry's folder must be on the file system of the cache directory"
        }
        io::ErrorKind::IsADirectory => "; a directory has the name of the entry",
        io::ErrorKind::NotADirectory => "; a file has the name of a folder on the way",
        // The kinds of `std` have none for it yet, but its text is the same everywhere. A guest's host does not say it.
        _ if !GUEST && source.to_string().starts_with("Too many open files") => {
            "; close some files or raise the limit of open files"
        }
        _ => "",
    }
}

impl Error {
    pub(crate) fn timeout(
        path: &Path,
        what: WaitingFor,
        waited: Duration,
        budget: Option<Duration>,
        holder: Option<Holder>,
    ) -> Self {
        Repr::Timeout {
            path: path.into(),
            what,
            waited,
            budget,
            holder,
        }
        .into()
    }

    pub(crate) fn cancelled(path: &Path, what: WaitingFor, waited: Duration) -> Self {
        Repr::Cancelled {
            path: path.into(),
            what,
            waited,
        }
        .into()
    }

    pub(crate) fn lease_lost(path: &Path, epoch: u64, reason: impl Into<String>) -> Self {
        Repr::LeaseLost {
            path: path.into(),
            epoch,
            reason: reason.into(),
        }
        .into()
    }

    pub(crate) fn corrupt(path: &Path, reason: impl Into<String>) -> Self {
        Repr::Corrupt {
            path: path.into(),
            reason: reason.into(),
        }
        .into()
    }

    pub(crate) fn invalid_name(name: &str, reason: impl Into<String>) -> Self {
        Repr::InvalidName {
            name: name.into(),
            reason: reason.into(),
        }
        .into()
    }

    pub(crate) fn invalid_cache(path: &Path, reason: impl Into<String>) -> Self {
        Repr::InvalidCache {
            path: path.into(),
            reason: reason.into(),
        }
        .into()
    }

    pub(crate) fn untrusted(path: &Path, reason: impl Into<String>) -> Self {
        Repr::Untrusted {
            path: path.into(),
            reason: reason.into(),
        }
        .into()
    }

    pub(crate) fn not_a_file(path: &Path, reason: impl Into<String>) -> Self {
        Repr::NotAFile {
            path: path.into(),
            reason: reason.into(),
        }
        .into()
    }

    pub(crate) fn missing(path: &Path) -> Self {
        Repr::Missing { path: path.into() }.into()
    }

    pub(crate) fn length_mismatch(path: &Path, expected: u64, written: u64) -> Self {
        Repr::LengthMismatch {
            path: path.into(),
            expected,
            written,
        }
        .into()
    }

    /// `doubt` completes "was published, but".
    #[rustfmt::skip]
    pub(crate) fn published_but(path: &Path, doubt: &'static str, source: io::Error) -> Self {
        Repr::NotDurable { path: path.into(), doubt, source }.into()
    }

    pub(crate) fn limit(path: &Path, reason: impl Into<String>) -> Self {
        Repr::Limit {
            path: path.into(),
            reason: reason.into(),
        }
        .into()
    }

    pub(crate) fn poisoned(path: &Path, reason: impl Into<String>) -> Self {
        Repr::Poisoned {
            path: path.into(),
            reason: reason.into(),
        }
        .into()
    }

    /// `action` completes "cannot ...": `open`, `create`, `rename the stage to`.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Repr::Io {
            action,
            path: path.into(),
            source,
        }
        .into()
    }

    /// What the standard library calls it.
    pub(crate) fn io_kind(&self) -> io::ErrorKind {
        match &self.0.repr {
            Repr::Io { source, .. } => source.kind(),
            Repr::Timeout { .. } => io::ErrorKind::TimedOut,
            Repr::Corrupt { .. } => io::ErrorKind::InvalidData,
            Repr::InvalidName { .. } | Repr::InvalidCache { .. } => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        }
    }

    /// As the source of another one: its kind and its text.
    pub(crate) fn to_source(&self) -> io::Error {
        failure(self.io_kind(), self.to_string())
    }

    /// What kind of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &self.0.repr {
            Repr::Timeout { .. } => ErrorKind::Timeout,
            Repr::Cancelled { .. } => ErrorKind::Cancelled,
            Repr::LeaseLost { .. } => ErrorKind::LeaseLost,
            Repr::Corrupt { .. } => ErrorKind::Corrupt,
            Repr::Missing { .. } => ErrorKind::Missing,
            Repr::InvalidName { .. } | Repr::InvalidCache { .. } => ErrorKind::InvalidName,
            Repr::Untrusted { .. } => ErrorKind::Untrusted,
            Repr::NotAFile { .. } => ErrorKind::NotAFile,
            Repr::LengthMismatch { .. } => ErrorKind::LengthMismatch,
            Repr::NotDurable { .. } => ErrorKind::NotDurable,
            Repr::Limit { .. } => ErrorKind::Limit,
            Repr::Poisoned { .. } => ErrorKind::Poisoned,
            Repr::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    ErrorKind::Permission
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
                io::ErrorKind::Unsupported => ErrorKind::NoLock,
                _ => ErrorKind::Io,
            },
        }
    }

    /// The file or directory it happened to; `None` for a name that never became a path.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.0.repr {
            Repr::InvalidName { .. } => None,
            Repr::Timeout { path, .. }
            | Repr::Cancelled { path, .. }
            | Repr::LeaseLost { path, .. }
            | Repr::Corrupt { path, .. }
            | Repr::Missing { path }
            | Repr::InvalidCache { path, .. }
            | Repr::Untrusted { path, .. }
            | Repr::NotAFile { path, .. }
            | Repr::LengthMismatch { path, .. }
            | Repr::NotDurable { path, .. }
            | Repr::Limit { path, .. }
            | Repr::Poisoned { path, .. }
            | Repr::Io { path, .. } => Some(path),
        }
    }

    /// The holder that a timed-out caller waited for, as far as known.
    #[must_use]
    pub fn holder(&self) -> Option<&Holder> {
        match &self.0.repr {
            Repr::Timeout { holder, .. } => holder.as_ref(),
            _ => None,
        }
    }

    /// Whether the timeout passed.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::Timeout
    }

    /// Whether the wait was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.kind() == ErrorKind::Cancelled
    }

    /// Whether the holder was overtaken.
    #[must_use]
    pub fn is_lease_lost(&self) -> bool {
        self.kind() == ErrorKind::LeaseLost
    }

    /// Whether something on disk is not what it should be.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        self.kind() == ErrorKind::Corrupt
    }

    /// Whether it is for want of permission, a read-only file system included.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        self.kind() == ErrorKind::Permission
    }
}

impl From<Repr> for Error {
    fn from(repr: Repr) -> Self {
        Error(Box::new(Body { repr, key: None }))
    }
}

/// `{:#}` leaves the remedy of a timeout to a program that can name its own setting.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.repr.fmt(f)?;
        if let (Repr::Timeout { budget, .. }, false) = (&self.0.repr, f.alternate()) {
            f.write_str(&remedy(*budget))?;
        }
        self.0.key.iter().try_for_each(|key| write!(f, " ({key})"))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.repr.source()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.io_kind(), error)
    }
}
