//! Runs of the real program, with a limit of time.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// All that a page of the program's documentation says of how it ends.
const CODES: [i32; 10] = [0, 1, 2, 65, 66, 69, 74, 75, 76, 77];

/// A run that has ended.
#[derive(Debug)]
pub struct Ran {
    what: String,
    status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Ran {
    /// Runs `command` to its end, with `input` or nothing on its standard input.
    ///
    /// # Errors
    /// It cannot be started, or does not end within `limit`.
    pub fn of(
        command: &mut Command,
        input: Option<&Path>,
        limit: Duration,
    ) -> Result<Self, String> {
        let what = format!("{command:?}");
        let failed = |error: std::io::Error| format!("{what}: {error}");
        let input = match input {
            Some(path) => File::open(path).map_err(failed)?.into(),
            None => Stdio::null(),
        };
        let started = Instant::now();
        let mut child = command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut pause = Duration::from_micros(500);
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break status;
            }
            if started.elapsed() > limit {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("{what} does not end within {limit:?}"));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(4));
        };
        let took = started.elapsed();
        // So little is printed that it is all in the pipes by now.
        let mut said = [Vec::new(), Vec::new()];
        if let Some(stdout) = &mut child.stdout {
            stdout.read_to_end(&mut said[0]).map_err(failed)?;
        }
        if let Some(stderr) = &mut child.stderr {
            stderr.read_to_end(&mut said[1]).map_err(failed)?;
        }
        let [stdout, stderr] = said.map(|said| String::from_utf8_lossy(&said).into_owned());
        Ok(Ran {
            what,
            status,
            stdout,
            stderr,
            took,
        })
    }

    /// Its exit code; -1 if a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Whatever it was, it was said as the documentation promises: one of its exit codes, a message that names `path`, no
    /// panic.
    ///
    /// # Errors
    /// Why it was not.
    pub fn is_clear(&self, path: &Path) -> Result<(), String> {
        if self.stderr.contains("panicked") {
            return Err(format!("it panicked: {self}"));
        }
        if !CODES.contains(&self.code()) {
            return Err(format!("an undocumented exit code: {self}"));
        }
        let path = path.display().to_string();
        let mut lines = self.stderr.lines();
        if self.code() != 0
            && !lines.any(|line| line.starts_with("cachelock: ") && line.contains(&path))
        {
            return Err(format!("no message names {path}: {self}"));
        }
        Ok(())
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ran {
            what,
            status,
            stdout,
            stderr,
            took,
        } = self;
        write!(
            f,
            "{what} ended with {status} after {took:.1?}, printed {stdout:?} and said {stderr:?}"
        )
    }
}
