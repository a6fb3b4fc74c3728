//! What goes to standard output and standard error, for people and as JSON.

use std::io::{self, Read, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use cachelock::platform::standard;
use cachelock::{ErrorKind, Holder};
use serde_json::{Value, json};

use crate::config::Settings;
use crate::control::Control;
use crate::exit::Failure;
use crate::input::PIECE;

/// Says why the program fails, unless that was said or whoever ended it knows.
pub(crate) fn failure(failure: &Failure, json: bool, control: &Control) {
    let said = match failure {
        Failure::Lost => true,
        Failure::Cache(error) => error.kind() == ErrorKind::LeaseLost && control.is_lost(),
        _ => false,
    };
    if said {
        return;
    }
    if json {
        json_failure(failure);
    } else if !matches!(failure, Failure::Terminated(_)) {
        named_line(failure.name(), &failure.to_string());
    }
}

/// What a person reads of the error `name`. The name is there as well: a guest's runtime may swallow the exit code.
pub(crate) fn named_line(name: &str, message: &str) {
    error_line(&format!("cachelock: {message} [{name}]"));
}

/// The error object.
pub(crate) fn json_failure(failure: &Failure) {
    json_error(
        failure.name(),
        &failure.to_string(),
        failure.path().as_deref(),
        failure.code(),
    );
}

/// As [`json_failure`], of an error that is said before it ends the program.
pub(crate) fn json_error(name: &str, message: &str, path: Option<&Path>, exit_code: u8) {
    let object = json!({
        "error": name,
        "message": message,
        "path": path.map(|path| path.display().to_string()),
        "exit_code": exit_code,
    });
    error_line(&json_line(&object));
}

/// Something that does not stop the program.
pub(crate) fn warning(settings: &Settings, message: &str) {
    if settings.quiet() {
        return;
    }
    if settings.json() {
        let line = json!({ "event": "warning", "message": message });
        error_line(&json_line(&line));
    } else {
        error_line(&format!("cachelock: warning: {message}"));
    }
}

/// One line on standard error, in one write, so that lines of several processes do not mix.
pub(crate) fn error_line(line: &str) {
    // There is nowhere left to complain.
    let _ = io::stderr().write_all(format!("{}\n", printable(line)).as_bytes());
}

/// `text` without anything that moves a terminal's cursor: a path may hold any character.
pub(crate) fn printable(text: &str) -> String {
    without_controls(text, |control| control.escape_default().to_string())
}

fn without_controls(text: &str, escaped: impl Fn(char) -> String) -> String {
    let mut without = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => without.push_str(&escaped(character)),
            false => without.push(character),
        }
    }
    without
}

/// `value` on one line, without anything that moves a terminal's cursor. JSON itself asks for that below a blank only.
pub(crate) fn json_line(value: &Value) -> String {
    let escaped = |control| format!("\\u{:04x}", u32::from(control));
    without_controls(&value.to_string(), escaped)
}

/// One line on standard output.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    bytes(format!("{text}\n").as_bytes())
}

/// A line on standard output that only people read.
pub(crate) fn said(text: &str) -> Result<(), Failure> {
    line(&printable(text))
}

/// `value` on a line of standard output.
pub(crate) fn json(value: &Value) -> Result<(), Failure> {
    line(&json_line(value))
}

/// A path on standard output.
pub(crate) fn path(path: &Path) -> Result<(), Failure> {
    let mut text = path.as_os_str().as_encoded_bytes().to_vec();
    text.push(b'\n');
    bytes(&text)
}

/// Anything on standard output.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = standard::Output;
    heard(out.write_all(bytes).and_then(|()| out.flush())).map(drop)
}

/// The payload on standard output, with constant memory.
pub(crate) fn payload(mut source: impl Read) -> Result<(), Failure> {
    let mut out = standard::Output;
    let mut piece = vec![0; PIECE];
    loop {
        let read = match source.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::io("read the payload", error)),
        };
        if !heard(out.write_all(&piece[..read]))? {
            return Ok(());
        }
    }
    heard(out.flush()).map(drop)
}

/// `false` if nobody reads any more, which is no error: `head` has seen enough.
pub(crate) fn heard(written: io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Io("write to standard output", error)),
    }
}

/// A holder of the lease.
pub(crate) fn holder(holder: &Holder) -> Value {
    json!({
        "pid": holder.pid,
        "host": holder.host,
        "since_ms": unix_ms(holder.since),
        "gated": holder.gated,
        "epoch": holder.epoch,
        "lease_ms": ms(holder.lease),
    })
}

/// Whole milliseconds.
pub(crate) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    ms(time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_of_any_text_is_json_and_moves_no_cursor() {
        let text: String = (0..0x300).filter_map(char::from_u32).collect();
        let line = json_line(&json!({ "path": text }));
        assert!(!line.chars().any(char::is_control), "{line}");
        let back: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(back["path"], *text);
    }
}
