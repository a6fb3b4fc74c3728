//! Who makes the payload: COMMAND or standard input, and how the two sides talk.
//!
//! COMMAND is given, beside what this program itself was given:
//!
//! | variable | what |
//! | --- | --- |
//! | `CACHELOCK_FILE` | the entry's path; what is there is the old payload |
//! | `CACHELOCK_VALIDATOR_<KEY>` | what was kept about the old payload: `CACHELOCK_VALIDATOR_ETAG` for the key `etag`. Letters in upper case, `_` for all that is neither letter nor digit. None if there is no whole old payload |
//! | `CACHELOCK_VALIDATORS` | a file for `key=value` lines to be kept about the new payload |
//!
//! It answers with its exit code: 0, its output is the new payload; 104, the old payload is still right; with
//! `--absent-for`, 66, there is no such thing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use cachelock::platform::{self, process, standard};
use cachelock::{ErrorKind, Produced, Published, Refresh, Scratch, Validators};

use crate::args::Producer;
use crate::command::{self, CHECK_EVERY, Checks, Work as _};
use crate::control::Control;
use crate::exit::{self, Failure};
use crate::input::{self, Message, PIECE};

const FILE: &str = "CACHELOCK_FILE";
const VALIDATORS: &str = "CACHELOCK_VALIDATORS";
const VALIDATOR: &str = "CACHELOCK_VALIDATOR_";

/// More than a tag takes.
const VALIDATORS_MAX: usize = 64 * 1024;

/// Has the payload made and publishes what came of it. After an error nothing is published.
pub(crate) fn run(
    mut refresh: Refresh,
    producer: &Producer,
    control: &Control,
) -> Result<(Produced, Published), Failure> {
    let mut validators: Validators = producer.validators.iter().cloned().collect();
    if !validators.is_empty() {
        // What does not fit is said before anything is produced.
        refresh.set_validators(validators.clone())?;
    }
    let produced = if producer.command.is_empty() {
        check_input()?;
        from_input(&mut refresh, control)?;
        Produced::New
    } else {
        from_command(&mut refresh, producer, control, &mut validators)?
    };
    if !validators.is_empty() {
        refresh.set_validators(validators)?;
    }
    let path = refresh.entry().path();
    let published = refresh.finish(produced).map_err(cachelock::Error::from)?;
    match produced {
        Produced::Absent(_) => Err(Failure::Absent(path)),
        _ => Ok((produced, published)),
    }
}

/// A person at a terminal does not expect to type a payload; and a job without input, as cron and the like run it, was to have
/// a COMMAND: an empty payload would replace a good one.
pub(crate) fn check_input() -> Result<(), Failure> {
    let input = if std::io::stdin().is_terminal() {
        "a terminal"
    } else if process::has_null_input() {
        "the null device"
    } else {
        return Ok(());
    };
    Err(Failure::Usage(format!(
        "nothing to publish: standard input is {input}; give a COMMAND after `--`, or the payload on standard input \
         (an empty one on purpose: `-- true`, or `printf '' |` in front)"
    )))
}

fn from_command(
    refresh: &mut Refresh,
    producer: &Producer,
    control: &Control,
    validators: &mut Validators,
) -> Result<Produced, Failure> {
    let previous = refresh.previous()?;
    let answer = Answer(refresh.scratch()?);
    let scratch = &answer.0;
    let mut variables = BTreeMap::from([
        (FILE.into(), refresh.entry().path().into_os_string()),
        (VALIDATORS.into(), scratch.path().into_os_string()),
    ]);
    // Those of another entry, should this program be the COMMAND of itself.
    let inherited = std::env::vars_os().map(|(name, _)| name);
    let stale: Vec<_> = inherited.filter(|name| is_validator(name)).collect();
    if let Some(previous) = &previous {
        variables.extend(previous.meta().validators.iter().filter_map(variable));
    }
    let environment = command::Environment {
        set: variables,
        remove: stale,
    };
    let failure = command::produce(&producer.command, &environment, control, refresh).err();
    let produced = match failure {
        None => Produced::New,
        Some(failure) => match (failure.command_code(), producer.absent_for) {
            (Some(exit::NOT_MODIFIED), _) if let Some(previous) = &previous => {
                // What was kept about the payload is still right, too, but for what is said anew.
                let said = std::mem::replace(validators, previous.meta().validators.clone());
                validators.extend(said);
                Produced::NotModified
            }
            (Some(exit::MISSING), Some(absent_for)) => Produced::Absent(absent_for),
            _ => return Err(failure),
        },
    };
    let left = scratch
        .read(VALIDATORS_MAX)
        .map_err(|error| match error.kind() {
            ErrorKind::Limit => {
                Failure::Validators(format!("has more than {VALIDATORS_MAX} bytes"))
            }
            ErrorKind::NotAFile => Failure::Validators("is no ordinary file any more".to_owned()),
            _ => error.into(),
        })?;
    parse(&left, validators)?;
    Ok(produced)
}

/// The file for what COMMAND says. If it has become a directory, that goes with it: the next holder would only move it aside.
struct Answer(Scratch);

impl Drop for Answer {
    fn drop(&mut self) {
        let path = self.0.path();
        if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            // If this fails, the next holder does that.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

fn is_validator(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(VALIDATOR.as_bytes())
}

/// A validator as a variable; none for a value that no variable can hold.
fn variable((key, value): (&String, &String)) -> Option<(OsString, OsString)> {
    if value.contains('\0') {
        return None;
    }
    let word = |character: char| match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' => character.to_ascii_uppercase(),
        _ => '_',
    };
    let name: String = VALIDATOR.chars().chain(key.chars().map(word)).collect();
    Some((name.into(), value.into()))
}

/// The lines that COMMAND has left.
fn parse(bytes: &[u8], validators: &mut Validators) -> Result<(), Failure> {
    let wrong = |what: &str| Failure::Validators(what.to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("is not UTF-8"))?;
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.split_once('=') {
            // As headers end their lines.
            Some((key, value)) if !key.is_empty() => {
                validators.insert(key.to_owned(), value.trim_end_matches('\r').to_owned())
            }
            _ => {
                return Err(wrong(&format!(
                    "has the line {line:?}, which is not `key=value`"
                )));
            }
        };
    }
    Ok(())
}

fn from_input(refresh: &mut Refresh, control: &Control) -> Result<(), Failure> {
    let (bell, messages) = mpsc::channel();
    control.wake(bell.clone());
    let Ok(pieces) = input::read_in_background(standard::Input, bell) else {
        return from_input_here(refresh);
    };
    let mut checks = Checks::new();
    loop {
        checks.look(refresh);
        control.check()?;
        match messages.recv_timeout(CHECK_EVERY) {
            Ok(Message::Data(piece)) => {
                refresh.take(&piece)?;
                pieces.give_back(piece);
            }
            Ok(Message::End(result)) => {
                result.map_err(|error| Failure::Io("read standard input", error))?;
                return control.check();
            }
            Ok(Message::Wake) => {}
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let error = std::io::ErrorKind::UnexpectedEof.into();
                return Err(Failure::Io("read standard input", error));
            }
        }
    }
}

/// Where there are no threads: nobody else shows that this holder is alive, and nobody else ends the wait.
fn from_input_here(refresh: &mut Refresh) -> Result<(), Failure> {
    /// For how long to wait at most, and at least: a beat that failed is due at once.
    const LONGEST: Duration = Duration::from_secs(1);
    const SHORTEST: Duration = Duration::from_millis(25);

    let mut piece = vec![0; PIECE];
    loop {
        let due = refresh.heartbeat_due().unwrap_or(LONGEST);
        let read = platform::input::read(&mut piece, due.max(SHORTEST))
            .map_err(|error| Failure::Io("read standard input", error))?;
        match read {
            Some(0) => return Ok(()),
            Some(read) => refresh.take(&piece[..read])?,
            None => {}
        }
        match refresh.heartbeat() {
            Err(error) if error.is_lease_lost() => return Err(error.into()),
            // The disk may be full for a while. It will be tried again; the lease is lost when that takes too long.
            beaten => drop(beaten),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_leaves_is_read_line_by_line() {
        let read = |text: &str| {
            let mut validators = Validators::new();
            parse(text.as_bytes(), &mut validators).map(|()| validators)
        };
        let lines = read("etag=\"a=b\"\r\n\nrev=7\nempty=\n").expect("three lines");
        let expected = [("empty", ""), ("etag", "\"a=b\""), ("rev", "7")];
        assert!(
            lines
                .iter()
                .map(|(key, value)| (&**key, &**value))
                .eq(expected),
            "{lines:?}"
        );
        for wrong in ["etag", "=x", "etag=x\nnonsense\n"] {
            assert!(
                matches!(read(wrong), Err(Failure::Validators(_))),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn a_validator_becomes_a_variable() {
        let named = |key: &str| {
            variable((&key.to_owned(), &"x".to_owned()))
                .expect("it can be")
                .0
        };
        assert_eq!(named("etag"), "CACHELOCK_VALIDATOR_ETAG");
        assert_eq!(named("last-modified"), "CACHELOCK_VALIDATOR_LAST_MODIFIED");
        assert!(variable((&"etag".to_owned(), &"\0".to_owned())).is_none());
    }
}
