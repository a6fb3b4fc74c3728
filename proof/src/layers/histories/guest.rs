//! Guests: the program in a runtime, one run for each read or refresh, stamped by who starts it.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::history::{End, Hold, Read, failure, now};
use super::worker::{ENTRY, cache_in, log_in, other};
use crate::layer::Guest;
use crate::payload::{Origin, make, origin_of};
use crate::process::signal;
use crate::random::Random;

/// What the program says with `--json` when its lease was lost. A runtime may swallow the exit code.
const LOST: &str = "\"error\":\"lease-lost\"";

/// What it says with `-v` when it has the lock, and when it has taken over.
const ACQUIRED: &str = " lock_acquired ";
const TAKEN_OVER: &str = "\"event\":\"lease_taken_over\"";
const EPOCH: &str = " epoch=";
const GENERATION: &str = "\"generation\":";

/// What one guest after the other does.
#[derive(Debug, Clone)]
pub(super) struct Driver<'a> {
    pub(super) guest: &'a Guest,
    pub(super) dir: &'a Path,
    pub(super) owner: u64,
    pub(super) lease: Duration,
    pub(super) until: u64,
    pub(super) seed: u64,
}

impl Driver<'_> {
    /// Runs guests until the time is over, and writes down what they did.
    pub(super) fn run(&self) -> io::Result<()> {
        let mut random = Random::new(self.seed);
        let mut log = String::new();
        let mut number = 0;
        while now() < self.until {
            let line = if random.one_in(2) {
                number += 1;
                let hold = self.refresh(number, &mut random);
                hold.map(|hold| hold.map(|hold| hold.line()).unwrap_or_default())
            } else {
                self.read().map(|read| read.line())
            };
            log.push_str(&line.unwrap_or_else(|error| failure(self.owner, &error.to_string())));
            thread::sleep(Duration::from_micros(random.below(20_000)));
        }
        fs::write(log_in(self.dir, self.owner), log)
    }

    fn command(&self, words: &[&str]) -> Command {
        // Also one that is frozen ends with who has started it.
        let mut command = Command::new("setpriv");
        let grant = format!("{}::/cache", cache_in(self.dir).display());
        command
            .args(["--pdeathsig", "KILL"])
            .arg(&self.guest.wasmtime)
            .args(["run", "--allow-precompiled", "--dir", &grant])
            .arg(&self.guest.program)
            .args(words)
            .arg(format!("/cache/{ENTRY}"))
            .env("CACHELOCK_CONFIG", "")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn read(&self) -> io::Result<Read> {
        let began = now();
        let out = self.command(&["read"]).stdin(Stdio::null()).output()?;
        let ended = now();
        if !out.status.success() {
            let why = String::from_utf8_lossy(&out.stderr);
            return Err(other(format!("read: {}, {why}", out.status)));
        }
        Ok(Read {
            reader: self.owner,
            began,
            ended,
            origin: origin_of(&out.stdout).map_err(other)?,
            generation: None,
        })
    }

    /// `None` if the lease was lost before it was had for certain.
    fn refresh(&self, number: u64, random: &mut Random) -> io::Result<Option<Hold>> {
        let origin = Origin {
            writer: self.owner,
            number,
        };
        let payload = make(origin);
        let lease = format!("{}ms", self.lease.as_millis());
        let asked = now();
        let mut command = self.command(&[
            "refresh",
            "-v",
            "--json",
            "--timeout",
            "1m",
            "--lease",
            &lease,
        ]);
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // All but the last byte fits into the pipe, whenever it is read. Without that byte nothing is published.
            let (most, last) = payload.split_at(payload.len() - 1);
            let written = input.write_all(most);
            thread::sleep(Duration::from_micros(random.below(40_000)));
            if random.one_in(3) {
                signal(&child, Signal::STOP)?;
                let more = random.below(self.lease.as_nanos() as u64);
                thread::sleep(self.lease / 2 + Duration::from_nanos(more));
                signal(&child, Signal::CONT)?;
            }
            // A guest that was overtaken may have gone.
            let _ = written.and_then(|()| input.write_all(last));
        }
        let out = child.wait_with_output()?;
        let ended = now();
        let printed = String::from_utf8_lossy(&out.stdout);
        let said = String::from_utf8_lossy(&out.stderr);
        let end = if out.status.success() {
            let generation = number_after(&printed, GENERATION);
            let generation = generation.ok_or_else(|| other(format!("it prints {printed}")))?;
            End::Committed { generation }
        } else if said.contains(LOST) {
            End::Lost
        } else {
            return Err(other(format!("refresh: {}, {said}", out.status)));
        };
        let acquired = said.lines().find(|line| line.contains(ACQUIRED));
        let epoch = acquired.and_then(|line| number_after(line, EPOCH));
        match (epoch, end) {
            (None, End::Lost) => return Ok(None),
            (None, _) => return Err(other(format!("it does not say its epoch: {said}"))),
            _ => {}
        }
        Ok(Some(Hold {
            owner: self.owner,
            native: false,
            asked,
            // All that is known of when it had the lock.
            acquired: ended,
            publishing: asked,
            ended,
            epoch,
            overtook: Some(said.contains(TAKEN_OVER)),
            origin,
            end,
        }))
    }
}

/// The number that comes after `name` in `line`.
fn number_after(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(name)?;
    let end = rest.find(|c: char| !c.is_ascii_digit());
    rest[..end.unwrap_or(rest.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_a_line() {
        let line = r#"{"path":"/a","generation":12,"epoch":3}"#;
        assert_eq!(number_after(line, GENERATION), Some(12));
        assert_eq!(number_after("x lock_acquired epoch=7", EPOCH), Some(7));
        assert_eq!(number_after(line, EPOCH), None);
        assert_eq!(number_after(line, "\"path\":"), None);
    }
}
