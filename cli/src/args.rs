//! What the program takes on its command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use cachelock::{Durability, Locking, Timeout, parse_duration};
use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand};

const EXIT_CODES: &str = "\
Exit codes:
  0 done   1 other   2 usage   65 corrupt   66 missing   69 no lock to be had   74 I/O
  75 timeout   76 lease lost   77 no permission or read-only   126, 127 COMMAND cannot be started
  130 SIGINT   143 SIGTERM   otherwise COMMAND's own, 128+n if a signal ended it

A bare number is seconds; units are ms, s, m, h, d, w.";

/// Caches the output of commands in files that many processes share.
///
/// One caller at a time refreshes, readers never wait and never see half of anything, and a holder that died or fell
/// asleep cannot block the others.
#[derive(Debug, Parser)]
#[command(name = "cachelock", version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the payload; if it is missing or old, have COMMAND (or standard input) produce it first
    Get {
        #[command(flatten)]
        place: Place,
        /// Refresh if it is older than this; without it, whatever is there is fresh
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        fresh_for: Option<Duration>,
        /// Print the payload's path and not the payload
        #[arg(long)]
        path: bool,
        #[command(flatten)]
        writing: Writing,
        #[command(flatten)]
        locks: Locks,
        #[command(flatten)]
        producer: Producer,
    },
    /// Replace the payload by what COMMAND (or standard input) produces, whatever is there
    Refresh {
        #[command(flatten)]
        place: Place,
        /// Publish only if the payload has exactly this many bytes
        #[arg(long, value_name = "BYTES")]
        expect_len: Option<u64>,
        #[command(flatten)]
        writing: Writing,
        #[command(flatten)]
        locks: Locks,
        #[command(flatten)]
        producer: Producer,
    },
    /// Print the payload, verified; takes no lock
    Read {
        #[command(flatten)]
        place: Place,
        /// Print the payload's path and not the payload
        #[arg(long)]
        path: bool,
    },
    /// Run COMMAND while holding the writer lock of the cache in DIR
    ///
    /// If the lock is lost meanwhile, that is said at once, COMMAND is ended, and the exit code is 76.
    Lock {
        /// The cache's directory
        dir: PathBuf,
        #[command(flatten)]
        locks: Locks,
        /// What to run
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Tell who holds the lock, and what is known about an entry
    Status {
        /// A cache's directory, or the file of an entry
        path: PathBuf,
        /// The cache's directory; PATH is then the entry's name in it
        #[arg(long, value_name = "DIR")]
        cache: Option<PathBuf>,
    },
    /// Remove what dead holders have left in DIR; every refresh does that, too
    Sweep {
        /// The cache's directory
        dir: PathBuf,
        #[command(flatten)]
        locks: Locks,
    },
    /// Take the lock of the cache in DIR from whoever has it
    ///
    /// The old holder cannot publish any more. Only needed to be quicker than the lease.
    Break {
        /// The cache's directory
        dir: PathBuf,
        #[command(flatten)]
        locks: Locks,
    },
}

/// Which entry of which cache.
#[derive(Debug, ClapArgs)]
pub(crate) struct Place {
    /// The entry's file; its directory is the cache
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The cache's directory; FILE is then the entry's name in it
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
}

/// Who makes the payload.
#[derive(Debug, ClapArgs)]
pub(crate) struct Producer {
    /// Its standard output becomes the payload; without it standard input does
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Writing {
    /// What a publish survives: none, data or full
    #[arg(long, value_name = "HOW", default_value_t)]
    pub(crate) durability: Durability,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Locks {
    /// How long to wait for the lock: a duration, 0 or infinite
    #[arg(long, value_name = "DURATION", default_value_t)]
    pub(crate) timeout: Timeout,
    /// auto, or lease: without the kernel's lock
    #[arg(long, value_name = "HOW", default_value_t)]
    pub(crate) locking: Locking,
    /// How long a holder may stand still before others take over
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub(crate) lease: Duration,
}

/// What every command takes.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Output {
    /// Accept a directory that other users may write to or that belongs to another user
    #[arg(long, global = true)]
    pub(crate) allow_shared: bool,
    /// Results and errors as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No feedback and no warnings, only errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Say what happens; twice: everything
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        super::Args::command().debug_assert();
    }
}
