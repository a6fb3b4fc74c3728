//! What `--help` and the manual page say beside the arguments. A line that starts at the margin and ends in a colon is a
//! heading; the manual page makes sections of them.

use std::fmt::Write as _;

use crate::config;

pub(crate) const SHORT: &str = "\
Exit codes:
  0 done   1 other   2 usage   65 corrupt   66 missing
  69 no lock to be had   74 I/O   75 timeout   76 lease lost
  77 no permission or read-only   126, 127 COMMAND cannot be started
  129 SIGHUP   130 SIGINT   143 SIGTERM
  otherwise COMMAND's own; 128+n if signal n ended it

Durations:
  A bare number is seconds; units are ms, s, m, h, d, w.";

/// What `get` and `refresh` have to say about COMMAND. A macro, for `concat!` takes no constants.
macro_rules! producing {
    () => {
        "\
Conditional requests:
  COMMAND finds what was kept about the old payload in variables such
  as CACHELOCK_VALIDATOR_ETAG, and leaves lines such as etag=... for the
  next time in the file $CACHELOCK_VALIDATORS. It answers 104 if the
  payload of $CACHELOCK_FILE is still right and, with --absent-for, 66
  if there is no such thing.

Environment:
  The CACHELOCK_ variables stand for options that are not given;
  `cachelock help` lists them. COMMAND inherits them, so they also count
  for a cachelock that it runs.

"
    };
}

pub(crate) const GET: &str = concat!(
    "\
Where the payload comes from:
  With COMMAND: from its standard output. COMMAND has this program's
  standard input, standard error, working directory and environment. It
  runs only if the entry is missing or older than --fresh-for, and once
  among all callers. If it fails, nothing is published, the old payload
  stays, and its exit code is passed on. With --error-for the old
  payload is printed all the same for a while, with a warning.

  Without COMMAND: from standard input, which is only read if a refresh
  is needed; a terminal or /dev/null there is a usage error then. The
  end of the input publishes. A shell's pipe also ends when the program
  that writes to it fails, so where that matters give the program as
  COMMAND. `-- true` makes an empty payload.

",
    producing!(),
    "\
Examples:
  cachelock get ~/.cache/tool/index.json --fresh-for 1h -- fetch-index
  cachelock get index.json --fresh-for 1h --stale-for 1d \\
    --error-for 7d -- fetch-index
  cachelock get --path --cache ~/.cache/tool index.json -- fetch-index"
);

pub(crate) const REFRESH: &str = concat!(
    "\
Where the payload comes from:
  With COMMAND: from its standard output. COMMAND has this program's
  standard input, standard error, working directory and environment. If
  it fails, nothing is published, the old payload stays, and its exit
  code is passed on.

  Without COMMAND: from standard input; a terminal or /dev/null there is
  a usage error. The end of the input publishes. A shell's pipe also
  ends when the program that writes to it fails, so where that matters
  give the program as COMMAND, or say how long the payload is with
  --expect-len. `-- true` makes an empty payload.

",
    producing!(),
    "\
Examples:
  cachelock refresh ~/.cache/tool/index.json -- fetch-index
  fetch-index | cachelock refresh ~/.cache/tool/index.json"
);

pub(crate) const COMPLETIONS: &str = "\
Examples:
  In ~/.bashrc:
    eval \"$(cachelock completions bash)\"
  For zsh, with ~/.zfunc in $fpath:
    cachelock completions zsh > ~/.zfunc/_cachelock
  For fish:
    cd ~/.config/fish/completions
    cachelock completions fish > cachelock.fish";

pub(crate) const MAN: &str = "\
Examples:
  cachelock man > ~/.local/share/man/man1/cachelock.1
  cachelock man | man -l -";

/// What `cachelock help` has below the arguments.
pub(crate) fn long() -> String {
    let mut text = format!("{SHORT}\n\nEnvironment:\n");
    let mut line = |name: &str, what: &str| {
        // Nothing fails when it is written to a string.
        let _ = writeln!(text, "  {name:<22} {what}");
    };
    for names in config::ALL {
        let key = match names.key {
            Some(key) => format!("; in the file: {key}"),
            None => String::new(),
        };
        line(names.variable, &format!("{}{key}", names.flag));
    }
    line(config::FILE_VARIABLE, "the configuration file; empty: none");
    line(
        "CACHELOCK_LOG",
        "what -v says, as a filter: cachelock=debug",
    );
    text.push_str(
        "  An empty variable counts as not set.
  Booleans are 1, true, yes, on, or 0, false, no, off.

Configuration file:
  cachelock/config.toml in $XDG_CONFIG_HOME, else in ~/.config (on macOS
  in ~/Library/Application Support; on Windows in %APPDATA%). A flag
  comes before the environment, and that before the file. `cachelock
  status -v DIR` shows what counts and why. With the defaults:
    lock_timeout = \"10s\"
    locking = \"auto\"
    lease = \"5s\"
    durability = \"data\"
    allow_shared = false
    quiet = false",
    );
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_line_fits_a_terminal_and_a_manual_page() {
        let long = super::long();
        let texts = [super::GET, super::REFRESH, super::COMPLETIONS, super::MAN];
        for line in texts
            .iter()
            .flat_map(|text| text.lines())
            .chain(long.lines())
        {
            assert!(line.len() <= 72, "{line:?} has {} columns", line.len());
        }
    }
}
