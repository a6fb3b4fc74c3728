//! Running programs, and saying what went wrong.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Failure;

/// Says what went wrong.
pub(crate) fn said<T>(result: Result<T, String>) -> Result<T, Failure> {
    result.map_err(|reason| {
        println!("xtask: {reason}");
        Failure::Step
    })
}

pub(crate) fn cannot(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

/// What `command` prints. An error has what it complained of.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{:?} cannot be started: {error}", command.get_program()))?;
    if !out.status.success() {
        let complaint = String::from_utf8_lossy(&out.stderr);
        return Err(format!(
            "{command:?} ended with {}:\n{}",
            out.status,
            complaint.trim_end()
        ));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// `words` as one text, in which cargo separates them at blanks and knows no quotes.
pub(crate) fn words<const N: usize>(words: [&OsStr; N]) -> Result<OsString, Failure> {
    for word in words {
        if word.as_encoded_bytes().contains(&b' ') {
            println!(
                "xtask: {word:?} has a blank in it, and cargo takes no such path; move this checkout"
            );
            return Err(Failure::Step);
        }
    }
    Ok(words.join(OsStr::new(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_would_split_is_refused() {
        assert!(words(["a".as_ref(), "b c".as_ref()]).is_err());
        let joined = words(["a".as_ref(), "b".as_ref()]);
        assert!(joined.is_ok_and(|joined| joined == "a b"));
    }
}
