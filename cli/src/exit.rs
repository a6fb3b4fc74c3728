//! How a run can fail, and the exit code and the name of each way.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use cachelock::platform::process::{self, Termination};
use cachelock::{Error, ErrorKind};

use crate::config;

/// Done.
pub(crate) const OK: u8 = 0;
/// A mistake in how the program was called.
pub(crate) const USAGE: u8 = 2;
const OTHER: u8 = 1;
const CORRUPT: u8 = 65;
/// Also what COMMAND says of what does not exist at its source; see `--absent-for`.
pub(crate) const MISSING: u8 = 66;
/// What COMMAND says of a payload that is still right. After HTTP's 304.
pub(crate) const NOT_MODIFIED: u8 = 104;
const NO_LOCK: u8 = 69;
const IO: u8 = 74;
const TIMEOUT: u8 = 75;
const LEASE_LOST: u8 = 76;
const PERMISSION: u8 = 77;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Why the program ends without having done what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    Cache(Error),
    /// The library's error, and what the timeout is and how to change it.
    Timeout(Error, String),
    Usage(String),
    /// A setting that cannot be used.
    Config(config::Error),
    Missing(PathBuf),
    Absent(PathBuf),
    /// COMMAND has ended otherwise than with 0.
    Failed(String, ExitStatus),
    /// What COMMAND has left as validators is none.
    Validators(String),
    /// COMMAND could not be started.
    NotStarted(String, io::Error),
    /// `cannot <what>: <error>`.
    Io(&'static str, io::Error),
    /// Asked to end.
    Terminated(Termination),
    /// The lease was lost, as the observer has said already.
    Lost,
}

impl Failure {
    /// The failure behind an error of a [`cachelock::Refresh`] or [`cachelock::Stream`].
    pub(crate) fn io(what: &'static str, error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => Failure::Cache(error),
            Err(error) => Failure::Io(what, error),
        }
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::Cache(error) | Failure::Timeout(error, _) => code_of(error.kind()),
            Failure::Usage(_) | Failure::Config(_) => USAGE,
            Failure::Missing(_) | Failure::Absent(_) => MISSING,
            Failure::Validators(_) => OTHER,
            // A code of 0 would claim success.
            Failure::Failed(_, status) => process::exit_code(*status).max(1),
            Failure::NotStarted(_, error) if error.kind() == io::ErrorKind::NotFound => NOT_FOUND,
            Failure::NotStarted(..) => NOT_EXECUTABLE,
            Failure::Io(_, error) => match error.kind() {
                io::ErrorKind::PermissionDenied => PERMISSION,
                _ => IO,
            },
            Failure::Terminated(termination) => termination.exit_code(),
            Failure::Lost => LEASE_LOST,
        }
    }

    /// The code that COMMAND has ended with, if that is what failed.
    pub(crate) fn command_code(&self) -> Option<u8> {
        match self {
            Failure::Failed(_, status) => status.code().and_then(|code| u8::try_from(code).ok()),
            _ => None,
        }
    }

    /// Whether an old payload is no answer to it: somebody wants this run to end, or it lost its place to a newer one.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Failure::Terminated(_) | Failure::Lost | Failure::Usage(_) | Failure::Absent(_) => true,
            Failure::Cache(error) => {
                matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::LeaseLost)
            }
            _ => false,
        }
    }

    /// The stable name, for `--json`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Failure::Cache(error) | Failure::Timeout(error, _) => error.kind().name(),
            Failure::Usage(_) => "usage",
            Failure::Config(_) => "config",
            Failure::Missing(_) => "missing",
            Failure::Absent(_) => "absent",
            Failure::Validators(_) => "validators",
            Failure::Failed(..) => "command-failed",
            Failure::NotStarted(_, error) if error.kind() == io::ErrorKind::NotFound => {
                "command-not-found"
            }
            Failure::NotStarted(..) => "command-not-started",
            Failure::Io(..) => "io",
            Failure::Terminated(_) => "terminated",
            Failure::Lost => ErrorKind::LeaseLost.name(),
        }
    }

    pub(crate) fn path(&self) -> Option<PathBuf> {
        match self {
            Failure::Cache(error) | Failure::Timeout(error, _) => error.path().map(Into::into),
            Failure::Missing(path) | Failure::Absent(path) => Some(path.clone()),
            Failure::Config(error) => error.path.clone(),
            _ => None,
        }
    }
}

fn code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Timeout => TIMEOUT,
        ErrorKind::LeaseLost => LEASE_LOST,
        ErrorKind::Corrupt => CORRUPT,
        ErrorKind::Missing => MISSING,
        ErrorKind::InvalidName => USAGE,
        ErrorKind::NoLock => NO_LOCK,
        ErrorKind::Untrusted | ErrorKind::Permission => PERMISSION,
        ErrorKind::NotAFile
        | ErrorKind::StorageFull
        | ErrorKind::LengthMismatch
        | ErrorKind::NotDurable
        | ErrorKind::Io => IO,
        _ => OTHER,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Cache(error) => error.fmt(f),
            Failure::Timeout(error, about) => write!(f, "{error:#} ({about})"),
            Failure::Usage(message) => f.write_str(message),
            Failure::Config(error) => error.fmt(f),
            Failure::Missing(path) => write!(f, "there is no entry {}", path.display()),
            Failure::Absent(path) => {
                write!(f, "{} is known not to exist at its source", path.display())
            }
            Failure::Failed(command, status) => {
                write!(
                    f,
                    "{command} failed ({status}); nothing was published and the old entry stays"
                )
            }
            Failure::Validators(what) => write!(
                f,
                "the file $CACHELOCK_VALIDATORS that COMMAND has left {what}; nothing was published and the old entry stays"
            ),
            Failure::NotStarted(command, error) => write!(f, "cannot start \"{command}\": {error}"),
            Failure::Io(what, error) => write!(f, "cannot {what}: {error}"),
            Failure::Terminated(termination) => write!(f, "ended by {}", signal(*termination)),
            Failure::Lost => f.write_str("the lease was lost"),
        }
    }
}

fn signal(termination: Termination) -> &'static str {
    match termination {
        Termination::Interrupt => "SIGINT",
        Termination::Terminate => "SIGTERM",
        Termination::Hangup => "SIGHUP",
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Cache(error)
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Failure::Config(error)
    }
}
