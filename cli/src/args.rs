//! What the program takes on its command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::commands::Shell;
use cachelock::{Durability, Locking, Policy, Timeout, parse_duration};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand, ValueHint};

use crate::config::{self, Flags};
use crate::help;

/// Caches the output of commands in files that many processes share.
///
/// One caller at a time refreshes, readers never wait and never see half of anything, and a holder that died or fell
/// asleep cannot block the others.
#[derive(Debug, Parser)]
#[command(
    name = "cachelock",
    version,
    after_help = help::SHORT,
    after_long_help = help::long()
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the payload; if it is missing or old, have COMMAND (or standard input) produce it first
    ///
    /// Among all callers that ask at the same time one runs COMMAND; the others wait and print its result.
    #[command(after_long_help = help::GET)]
    Get(GetArgs),
    /// Replace the payload by what COMMAND (or standard input) produces, whatever is there
    ///
    /// Until the new payload is whole and in its place, readers see the old one. A COMMAND that fails changes nothing.
    #[command(after_long_help = help::REFRESH)]
    Refresh(RefreshArgs),
    /// Print the payload, verified; takes no lock
    ///
    /// Never waits, runs nothing and writes nothing, so it also works where the cache is read-only.
    Read {
        #[command(flatten)]
        place: Place,
        /// Print the payload's path and not the payload
        #[arg(long)]
        path: bool,
    },
    /// Run COMMAND while holding the writer lock of the cache in DIR
    ///
    /// As flock(1) does. If the lock is lost meanwhile, that is said at once, COMMAND is ended, and the exit code is 76.
    /// What COMMAND itself writes is not protected from a new holder.
    Lock {
        /// The cache's directory; it is created if it is missing
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
        #[command(flatten)]
        locks: Locks,
        /// What to run; it has this program's standard input, output and error
        #[arg(last = true, required = true, value_name = "COMMAND")]
        #[arg(value_hint = ValueHint::CommandWithArguments)]
        command: Vec<OsString>,
    },
    /// Tell who holds the lock, and what is known about an entry
    ///
    /// Nobody waits for it. With -v also each setting and where it comes from; what happens is then said from -vv on.
    Status {
        /// A cache's directory, or the file of an entry
        path: PathBuf,
        /// The cache's directory; PATH is then the entry's name in it
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        cache: Option<PathBuf>,
    },
    /// Remove what dead holders have left in DIR; every refresh does that, too
    Sweep {
        /// The cache's directory
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
        #[command(flatten)]
        locks: Locks,
    },
    /// Take the lock of the cache in DIR from whoever has it
    ///
    /// The old holder cannot publish any more. Only needed to be quicker than the lease.
    Break {
        /// The cache's directory
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
        #[command(flatten)]
        locks: Locks,
    },
    /// Print a script that teaches a shell to complete this program's arguments
    #[command(after_long_help = help::COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, for man(1)
    #[command(after_long_help = help::MAN)]
    Man,
}

/// `get`
#[derive(Debug, ClapArgs)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Refresh if it is older than this; without it, whatever is there is fresh
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    fresh_for: Option<Duration>,
    /// For so long after that, one caller refreshes and the others print the old payload at once
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "fresh_for")]
    stale_for: Option<Duration>,
    /// For so long after that, print the old payload if it cannot be refreshed
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "fresh_for")]
    error_for: Option<Duration>,
    /// Draw by chance who refreshes early, so that a busy entry never gets old; more than 1: earlier
    #[arg(
        long,
        value_name = "BETA",
        require_equals = true,
        requires = "fresh_for"
    )]
    #[arg(num_args = 0..=1, default_missing_value = "1", value_parser = positive)]
    early: Option<f64>,
    /// Print the payload's path and not the payload
    #[arg(long)]
    pub(crate) path: bool,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    locks: Locks,
    #[command(flatten)]
    pub(crate) producer: Producer,
}

/// `refresh`
#[derive(Debug, ClapArgs)]
pub(crate) struct RefreshArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Publish only if the payload has exactly this many bytes
    #[arg(long, value_name = "BYTES")]
    pub(crate) expect_len: Option<u64>,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    locks: Locks,
    #[command(flatten)]
    pub(crate) producer: Producer,
}

/// Which entry of which cache.
#[derive(Debug, ClapArgs)]
pub(crate) struct Place {
    /// The entry's file; its directory is the cache
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The cache's directory; FILE is then the entry's name in it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) cache: Option<PathBuf>,
}

/// Who makes the payload.
#[derive(Debug, ClapArgs)]
pub(crate) struct Producer {
    /// Keep this about the payload, for the next COMMAND: an ETag, a revision; may be repeated
    #[arg(long = "validator", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub(crate) validators: Vec<(String, String)>,
    /// Let COMMAND say with exit code 66 that the entry does not exist, which is then believed for so long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) absent_for: Option<Duration>,
    /// Its standard output becomes the payload; without it standard input does
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, ClapArgs)]
struct Writing {
    /// What a publish survives [default: data]
    #[arg(long, value_name = "HOW", value_parser = one_of::<Durability>(DURABILITIES))]
    durability: Option<Durability>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Locks {
    /// How long to wait for the lock: a duration, 0 or infinite [default: 10s]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Timeout>,
    /// How writers exclude each other [default: auto]
    #[arg(long, value_name = "HOW", value_parser = one_of::<Locking>(WAYS_OF_LOCKING))]
    locking: Option<Locking>,
    /// How long a holder may stand still before others take over [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = config::parse_lease)]
    lease: Option<Duration>,
}

/// What every command takes. `--quiet=false` is for whoever has it set elsewhere.
#[derive(Debug, ClapArgs)]
pub(crate) struct Output {
    /// Accept a directory that other users may write to or that belongs to another user
    #[arg(long, global = true, value_name = "BOOL", value_parser = config::parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(overrides_with = "allow_shared")]
    allow_shared: Option<bool>,
    /// Results and errors as JSON
    #[arg(long, global = true, value_name = "BOOL", value_parser = config::parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(overrides_with = "json")]
    pub(crate) json: Option<bool>,
    /// No feedback and no warnings, only errors
    #[arg(long, short, global = true, value_name = "BOOL", value_parser = config::parse_bool)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(overrides_with = "quiet")]
    quiet: Option<bool>,
    /// Say what happens; twice: everything
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

const DURABILITIES: [(&str, &str); 3] = [
    (
        "none",
        "kills, but no power loss: after one, the entry may be torn",
    ),
    (
        "data",
        "a power loss leaves the entry old, new or missing, never torn",
    ),
    ("full", "as data, and what was published stays published"),
];

const WAYS_OF_LOCKING: [(&str, &str); 2] = [
    (
        "auto",
        "the kernel's lock where it can be trusted, and the lease",
    ),
    ("lease", "the lease alone"),
];

/// A parser whose words help and completions know.
fn one_of<T>(
    words: impl IntoIterator<Item = (&'static str, &'static str)>,
) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = String> + Clone + Send + Sync + 'static,
{
    let words = words
        .into_iter()
        .map(|(word, help)| PossibleValue::new(word).help(help));
    PossibleValuesParser::new(words).try_map(|word| word.parse::<T>())
}

/// A number above 0.
fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err("it must be a number above 0".to_owned()),
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it must have a key, `=` and a value".to_owned()),
    }
}

impl GetArgs {
    /// What makes the entry good enough.
    pub(crate) fn policy(&self) -> Policy {
        let Some(fresh_for) = self.fresh_for else {
            return Policy::any_age();
        };
        Policy::fresh_for(fresh_for)
            .stale_for(self.stale_for.unwrap_or_default())
            .error_for(self.error_for.unwrap_or_default())
            .early(self.early.unwrap_or_default())
    }
}

impl Args {
    /// What the command line says about settings.
    pub(crate) fn flags(&self) -> Flags {
        let (locks, writing) = match &self.command {
            Command::Get(get) => (Some(&get.locks), Some(&get.writing)),
            Command::Refresh(refresh) => (Some(&refresh.locks), Some(&refresh.writing)),
            Command::Lock { locks, .. }
            | Command::Sweep { locks, .. }
            | Command::Break { locks, .. } => (Some(locks), None),
            Command::Read { .. }
            | Command::Status { .. }
            | Command::Completions { .. }
            | Command::Man => (None, None),
        };
        Flags {
            timeout: locks.and_then(|locks| locks.timeout),
            locking: locks.and_then(|locks| locks.locking),
            lease: locks.and_then(|locks| locks.lease),
            durability: writing.and_then(|writing| writing.durability),
            allow_shared: self.output.allow_shared,
            quiet: self.output.quiet,
            json: self.output.json,
        }
    }

    /// How loud tracing is; `None` where nothing happens and no setting counts. For `status` the first `-v` asks for the
    /// settings.
    pub(crate) fn tracing(&self) -> Option<u8> {
        match self.command {
            Command::Status { .. } => Some(self.output.verbose.saturating_sub(1)),
            Command::Completions { .. } | Command::Man => None,
            _ => Some(self.output.verbose),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        super::Args::command().debug_assert();
    }
}
