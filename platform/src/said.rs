//! What is said to people: errors with a text of ours, and names in it.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::io;
use std::path::Path;

use crate::GUEST;

/// An error of this kind that says `text`. As [`io::Error::new`], which brings quotation by all of Unicode's tables along.
pub fn failure(kind: io::ErrorKind, text: impl Into<Cow<'static, str>>) -> io::Error {
    io::Error::new(kind, Said(text.into()))
}

struct Said(Cow<'static, str>);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Said {}

/// What an error says. In a guest without the numbers of a system, which none has there, and whose texts are 3 KB.
#[derive(Debug, Clone, Copy)]
pub struct Reason<'a>(pub &'a io::Error);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get_ref() {
            Some(text) if GUEST => fmt::Display::fmt(text, f),
            None if GUEST => fmt::Display::fmt(&self.0.kind(), f),
            _ => fmt::Display::fmt(self.0, f),
        }
    }
}

/// A text in quotation marks, where nothing can hide: as it is debugged.
///
/// ```
/// use cachelock_platform::Quoted;
///
/// assert_eq!(Quoted("a \"b\"\n").to_string(), r#""a \"b\"\n""#);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", Escaped(self.0))
    }
}

/// What [`Quoted`] has in its marks. Whatever debugs a text has tables of all of Unicode, 7 KB of a guest: there it is escaped
/// what controls a terminal, turns the text around or cannot be seen.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if GUEST {
            return escape(self.0, f);
        }
        self.0.chars().try_for_each(|character| match character {
            '\'' => f.write_char(character),
            _ => character.escape_debug().fmt(f),
        })
    }
}

/// A path as people read it, with a U+FFFD for what is no text. As [`Path::display`], which can pad it, too: 1 KB of a guest.
///
/// ```
/// use cachelock_platform::Shown;
///
/// assert_eq!(Shown("a/b".as_ref()).to_string(), "a/b");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a>(pub &'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_os_str().as_encoded_bytes().utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

/// What is not to be seen beyond the control characters: spaces of other widths, marks that join or turn what follows, tags.
const UNSEEN: [(char, char); 11] = [
    ('\u{a0}', '\u{a0}'),
    ('\u{ad}', '\u{ad}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{1680}', '\u{1680}'),
    ('\u{180e}', '\u{180e}'),
    ('\u{2000}', '\u{200f}'),
    ('\u{2028}', '\u{202f}'),
    ('\u{205f}', '\u{206f}'),
    ('\u{3000}', '\u{3000}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{e0000}', '\u{e0fff}'),
];

fn escape(text: &str, f: &mut impl Write) -> fmt::Result {
    for character in text.chars() {
        match character {
            '"' | '\\' => write!(f, "\\{character}")?,
            '\0' => f.write_str("\\0")?,
            '\t' => f.write_str("\\t")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            _ if is_unseen(character) => write!(f, "\\u{{{:x}}}", u32::from(character))?,
            _ => f.write_char(character)?,
        }
    }
    Ok(())
}

fn is_unseen(character: char) -> bool {
    let is_in = |(first, last): &(char, char)| (*first..=*last).contains(&character);
    matches!(character, '\0'..' ' | '\u{7f}'..'\u{a0}') || UNSEEN.iter().any(is_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_a_guest_is_escaped_what_is_debugged_so_but_for_what_takes_tables() {
        for character in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let text = format!("a{character}");
            let debugged = format!("{text:?}");
            assert_eq!(Quoted(&text).to_string(), debugged);
            let mut escaped = String::new();
            escape(&text, &mut escaped).expect("a string takes all");
            let is_plain =
                character.is_ascii() || character.is_control() || character.is_whitespace();
            let is_mark = "\u{200d}\u{202e}\u{2066}\u{feff}\u{e0041}".contains(character);
            if is_plain || is_mark || debugged.contains(character) {
                assert_eq!(
                    format!("\"{escaped}\""),
                    debugged,
                    "U+{:04X}",
                    u32::from(character)
                );
            }
        }
    }

    #[test]
    fn a_failure_says_its_text_and_has_its_kind() {
        let error = failure(io::ErrorKind::NotFound, "it is gone");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(Reason(&error).to_string(), "it is gone");
        let system = io::Error::from_raw_os_error(2);
        assert_eq!(Reason(&system).to_string(), system.to_string());
    }
}
