//! Running programs, where they leave what they make, and saying what went wrong.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
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

/// Where cargo builds.
pub(crate) fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// Puts a copy of `from` in the place of `to`. Whoever runs the old one meanwhile keeps it.
pub(crate) fn replace(from: &Path, to: &Path) -> Result<(), String> {
    replaced(to, |new| {
        let copied = fs::copy(from, new);
        copied
            .map(drop)
            .map_err(|error| cannot("copy", from, &error))
    })
}

/// The same with these bytes.
pub(crate) fn replace_by(bytes: &[u8], to: &Path) -> Result<(), String> {
    replaced(to, |new| {
        fs::write(new, bytes).map_err(|error| cannot("write", new, &error))
    })
}

fn replaced(to: &Path, make: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    let parent = to.parent().unwrap_or(to);
    let new = to.with_extension("new");
    fs::create_dir_all(parent).map_err(|error| cannot("create", parent, &error))?;
    make(&new)?;
    fs::rename(&new, to).map_err(|error| cannot("replace", to, &error))
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
