//! Entry names: relative paths of plain segments that mean the same on every target.
//!
//! A name that works here must not escape the cache, be hidden by it, or stop working when the same tool runs on
//! another system. So the rules are the strictest of all targets at once, and they are checked before any call.

use std::fmt;
use std::path::Path;

use cachelock_platform::{Quoted, cut, parts, prefixes};

use crate::error::{Error, Result};

/// The directory inside a cache that holds everything but the payloads.
pub(crate) const CONTROL_DIR: &str = ".cachelock";

/// The longest segment, in bytes: the limit of the common file systems.
const SEGMENT_MAX: usize = 255;

/// The longest name, in bytes: with the cache's own path in front it must fit what systems take.
const NAME_MAX: usize = 1024;

/// Names that Windows gives to devices in every directory, whatever extension follows. The superscript digits are
/// digits to it.
const DEVICES: [&str; 8] = [
    "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$", "KEYBD$",
];
const NUMBERED_DEVICES: [&str; 2] = ["COM", "LPT"];

/// A validated name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryName(Box<str>);

impl EntryName {
    pub(crate) fn new(name: &str) -> Result<Self> {
        match check(name) {
            Ok(()) => Ok(EntryName(name.into())),
            Err(reason) => Err(Error::invalid_name(name, reason)),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The folders on the way, each with what leads to it, from the cache to the folder itself.
    pub(crate) fn folders(&self) -> impl Iterator<Item = (&str, &str)> {
        prefixes(&self.0, b'/').map(|way| (last(way), way))
    }

    /// The last segment.
    pub(crate) fn file(&self) -> &str {
        last(&self.0)
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

fn last(name: &str) -> &str {
    let segment = name.bytes().rev().take_while(|byte| *byte != b'/').count();
    name.get(name.len() - segment..).unwrap_or(name)
}

fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("it is empty".into());
    }
    if name.len() > NAME_MAX {
        return Err(format!("it has {} bytes, more than {NAME_MAX}", name.len()));
    }
    if name.starts_with('/') {
        return Err("it is absolute; give it relative to the cache directory".into());
    }
    if name.ends_with('/') {
        return Err("it ends in a slash, so it would be a directory".into());
    }
    for character in name.chars() {
        match character {
            '\\' => {
                return Err(
                    "it holds a backslash, which is a separator on Windows; use `/`".into(),
                );
            }
            ':' => return Err("it holds a colon, which names a drive or stream on Windows".into()),
            '<' | '>' | '"' | '|' | '?' | '*' => {
                return Err(format!(
                    "it holds a {character}, which Windows has in no name"
                ));
            }
            '\0' => return Err("it holds a NUL".into()),
            _ if character.is_control() => {
                return Err(format!(
                    "it holds the control character U+{:04X}",
                    u32::from(character)
                ));
            }
            _ => {}
        }
    }
    parts(name, b'/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), String> {
    if segment.is_empty() {
        return Err("a segment of it is empty".into());
    }
    if segment == "." || segment == ".." {
        return Err(format!(
            "the segment {} would leave its place",
            Quoted(segment)
        ));
    }
    if segment.len() > SEGMENT_MAX {
        return Err(format!(
            "a segment of it has {} bytes, more than {SEGMENT_MAX}",
            segment.len()
        ));
    }
    if segment.ends_with(['.', ' ']) {
        return Err(format!(
            "the segment {} ends in a dot or a space, which Windows drops",
            Quoted(segment)
        ));
    }
    if is_control_dir(segment) {
        return Err(format!(
            "{} is the cache's own directory",
            Quoted(CONTROL_DIR)
        ));
    }
    if is_device(segment) {
        return Err(format!(
            "the segment {} is a device on Windows",
            Quoted(segment)
        ));
    }
    Ok(())
}

/// Refuses a cache in a control directory, whose files it would take for entries: a publish to `head` could turn the epoch
/// back.
pub(crate) fn check_cache_path(path: &Path) -> Result<()> {
    let is_separator = |byte: &u8| std::path::is_separator(char::from(*byte));
    let mut segments = path.as_os_str().as_encoded_bytes().split(is_separator);
    if segments.any(|segment| std::str::from_utf8(segment).is_ok_and(is_control_dir)) {
        let reason = format!(
            "it is in {}, the own directory of a cache; use the directory that is in",
            Quoted(CONTROL_DIR)
        );
        return Err(Error::invalid_cache(path, reason));
    }
    Ok(())
}

/// Whether some system takes this segment for the control directory.
fn is_control_dir(segment: &str) -> bool {
    // HFS+ skips these.
    let is_skipped = |c: &char| matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    let folded: String = segment
        .chars()
        .filter(|character| !is_skipped(character))
        .map(lower)
        .collect();
    // Windows may give it a second name: `CACHEL~1`.
    let is_short = folded.strip_prefix("cachel~").is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    folded == CONTROL_DIR || is_short
}

/// Lower case as far as an ASCII letter comes of it: to APFS the Kelvin sign is a `k`. All of Unicode's is a table of 12 KB,
/// and so is its upper case.
fn lower(character: char) -> char {
    match character {
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

/// Upper case as far as a letter of a device comes of it.
fn upper(character: char) -> char {
    match character {
        'ı' => 'I',
        other => other.to_ascii_uppercase(),
    }
}

fn is_device(segment: &str) -> bool {
    // Windows looks at what stands before the first dot, less trailing spaces: `COM1 .txt` is the port, too.
    let stem = cut(segment, b'.').map_or(segment, |(stem, _)| stem);
    let stem: String = stem.trim_end_matches(' ').chars().map(upper).collect();
    let numbered = NUMBERED_DEVICES.iter().any(|device| {
        stem.strip_prefix(device).is_some_and(|rest| {
            let mut digits = rest.chars();
            matches!(digits.next(), Some('0'..='9' | '¹' | '²' | '³')) && digits.next().is_none()
        })
    });
    numbered || DEVICES.contains(&stem.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_relative_names_are_taken_as_they_are() {
        for name in [
            "x",
            "metadata.json",
            "a/b/c.bin",
            ".hidden",
            "com10",
            "console",
            "über/größe",
            "a b",
            "..x",
            "x~1",
            "cachel~",
            "cachel~x",
            "cachelock",
            ".cachelocks",
        ] {
            let entry = EntryName::new(name)
                .unwrap_or_else(|error| panic!("{name:?} is a good name: {error}"));
            assert_eq!(entry.as_str(), name);
        }
        let nested = EntryName::new("a/b/c").unwrap();
        assert!(nested.folders().eq([("a", "a"), ("b", "a/b")]));
        assert_eq!(nested.file(), "c");
        assert_eq!(EntryName::new("c").unwrap().folders().count(), 0);
    }

    #[test]
    fn no_other_character_folds_to_a_letter_of_a_reserved_name() {
        let (small, capital) = (".cachelock~0123456789", DEVICES.concat() + "COMLPT");
        for character in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let folds = |text: String, letters: &str, short: char| {
                let matters = text.chars().all(|letter| letters.contains(letter));
                assert!(!matters || text == short.to_string(), "{character:?}");
            };
            folds(character.to_lowercase().collect(), small, lower(character));
            folds(
                character.to_uppercase().collect(),
                &capital,
                upper(character),
            );
        }
    }

    #[test]
    fn a_cache_in_a_control_directory_is_refused_by_every_folding() {
        for path in [
            "/d/.cachelock",
            "/d/.CacheLock/tags/x",
            "/d/.cacheloc\u{212a}",
            "/d/.cache\u{200c}lock",
            "/d/CACHEL~1",
            "/d/.cachelock/..",
        ] {
            let error = check_cache_path(Path::new(path)).expect_err(path);
            assert_eq!(error.kind(), crate::ErrorKind::InvalidName, "{path}");
            assert_eq!(error.path(), Some(Path::new(path)), "{error}");
        }
        for path in ["/", "/d/cachelock", "/.cachelocks/d", "/d/x.cachelock"] {
            check_cache_path(Path::new(path)).expect(path);
        }
    }

    #[test]
    fn names_that_could_escape_hide_or_break_elsewhere_are_refused() {
        let long = "x".repeat(256);
        let longer = "x/".repeat(600) + "x";
        for name in [
            "",
            "/",
            "/x",
            "x/",
            "a//b",
            ".",
            "..",
            "../x",
            "a/../b",
            "a/./b",
            "a\\b",
            "c:x",
            "a?b",
            "*",
            "a<b",
            "a>b",
            "a|b",
            "a\"b",
            "a\0b",
            "a\nb",
            "\u{85}",
            "x.",
            "x ",
            "a./b",
            "a /b",
            ".cachelock",
            ".CacheLock/x",
            "a/.cachelock/b",
            ".cacheloc\u{212a}",
            ".cache\u{200c}lock/x",
            "\u{feff}.cachelock",
            "CACHEL~1/head",
            "cachel~12",
            "CON",
            "nul.txt",
            "COM1",
            "COM1 ",
            "com1 .txt",
            "COM¹",
            "lpt9.x.y",
            "COM0",
            "aux/x",
            "conin$",
            &long,
            &longer,
        ] {
            let error = EntryName::new(name).expect_err(name);
            assert_eq!(
                error.kind(),
                crate::ErrorKind::InvalidName,
                "{name:?}: {error}"
            );
        }
    }
}
