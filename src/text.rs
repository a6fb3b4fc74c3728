//! The one text format of claims and tags: a first line that names format and version, `key value` lines, and a check.
//!
//! ```text
//! cachelock claim 1
//! epoch 17
//! check 8c0ba5f3d1e2a977
//! ```
//!
//! The check is XXH3-64 of all that stands before its line. It guards against torn writes and flipped bits, not against
//! malice. Keys that a reader does not know are skipped, so that a later version can add some. Values are escaped:
//! a line never holds a control character. What follows the check line is padding.

use std::fmt::Write;

use cachelock_platform::{Quoted, cut};
use xxhash_rust::xxh3::xxh3_64;

const CHECK: &str = "check ";

/// Writes a document.
pub(crate) struct Writer(String);

impl Writer {
    pub(crate) fn new(format: &str) -> Self {
        Writer(format!("cachelock {format}\n"))
    }

    pub(crate) fn line(&mut self, key: &str, value: &str) {
        self.0.push_str(key);
        self.0.push(' ');
        escape(value, &mut self.0);
        self.0.push('\n');
    }

    /// A line whose value is escaped already.
    pub(crate) fn raw(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.0, "{key} {value}");
    }

    pub(crate) fn number(&mut self, key: &str, value: impl Into<u64>) {
        let _ = writeln!(self.0, "{key} {}", value.into());
    }

    pub(crate) fn hex(&mut self, key: &str, value: u128) {
        let _ = writeln!(self.0, "{key} {value:032x}");
    }

    pub(crate) fn finish(mut self) -> String {
        let check = xxh3_64(self.0.as_bytes());
        let _ = writeln!(self.0, "{CHECK}{check:016x}");
        self.0
    }
}

/// The first line, without its end, and what follows.
fn first_line(text: &str) -> (&str, &str) {
    match cut(text, b'\n') {
        Some((line, rest)) => (line.strip_suffix('\r').unwrap_or(line), rest),
        None => (text, ""),
    }
}

/// Reads `bytes` as a document of `format`, and gives `line` each key and its value; or tells why it is none. What `line` says of
/// them is believed once the check has shown that they are what was written: it must not act on them.
pub(crate) fn parse<'a>(
    bytes: &'a [u8],
    format: &str,
    line: &mut dyn FnMut(&'a str, &'a str) -> Result<(), String>,
) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    let (first, mut rest) = first_line(text);
    let found = first
        .strip_prefix("cachelock ")
        .ok_or("it is not a file of cachelock")?;
    if found != format {
        return Err(format!(
            "it has the format {} and this version reads {}",
            Quoted(found),
            Quoted(format)
        ));
    }
    let mut read = Ok(());
    while !rest.is_empty() && !rest.starts_with(CHECK) {
        let (found, after) = first_line(rest);
        if read.is_ok() {
            let (key, value) = cut(found, b' ').unwrap_or((found, ""));
            read = line(key, value);
        }
        rest = after;
    }
    let body = text.get(..text.len() - rest.len()).unwrap_or(text);
    let Some(rest) = rest.strip_prefix(CHECK) else {
        return Err("its check is missing".into());
    };
    let (check, _) = first_line(rest);
    if check.len() != 16 || unsigned(check, 16) != Some(xxh3_64(body.as_bytes()).into()) {
        return Err("its check does not match".into());
    }
    read
}

pub(crate) fn number<T: TryFrom<u128>>(key: &str, value: &str) -> Result<T, String> {
    digits(value).ok_or_else(|| format!("its {key} {} is not a number", Quoted(value)))
}

/// A decimal number of any type, by one parser for all.
pub(crate) fn digits<T: TryFrom<u128>>(text: &str) -> Option<T> {
    unsigned(text, 10)?.try_into().ok()
}

/// The parser of `std` takes a sign, too, and we never write one.
fn unsigned(text: &str, radix: u32) -> Option<u128> {
    let digits = Some(text).filter(|text| !text.starts_with('+'))?;
    u128::from_str_radix(digits, radix).ok()
}

pub(crate) fn hex(key: &str, value: &str) -> Result<u128, String> {
    if value.len() != 32 {
        return Err(format!(
            "its {key} {} does not have 32 digits",
            Quoted(value)
        ));
    }
    unsigned(value, 16).ok_or_else(|| format!("its {key} {} is not hexadecimal", Quoted(value)))
}

/// Escapes spaces too, so that a value can be one word of several on a line.
pub(crate) fn escape(value: &str, into: &mut String) {
    for character in value.chars() {
        if character.is_control() || matches!(character, '%' | ' ') || character.is_whitespace() {
            let mut buffer = [0; 4];
            for byte in character.encode_utf8(&mut buffer).bytes() {
                let _ = write!(into, "%{byte:02x}");
            }
        } else {
            into.push(character);
        }
    }
}

/// As [`escape`], for bytes that need not be text: what is text in them stays readable.
pub(crate) fn escape_bytes(value: &[u8], into: &mut String) {
    for chunk in value.utf8_chunks() {
        escape(chunk.valid(), into);
        for byte in chunk.invalid() {
            let _ = write!(into, "%{byte:02x}");
        }
    }
}

pub(crate) fn unescape(value: &str) -> Result<String, String> {
    String::from_utf8(unescape_bytes(value)?).map_err(|_| badly_escaped(value))
}

pub(crate) fn unescape_bytes(value: &str) -> Result<Vec<u8>, String> {
    let bad = || badly_escaped(value);
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let [high, low, tail @ ..] = tail else {
            return Err(bad());
        };
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(bad);
        bytes.push((digit(*high)? << 4 | digit(*low)?) as u8);
        rest = tail;
    }
    Ok(bytes)
}

fn badly_escaped(value: &str) -> String {
    format!("{} is not properly escaped", Quoted(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a document of the format `test 1` says.
    fn read(bytes: &[u8]) -> Result<Vec<(&str, &str)>, String> {
        let mut lines = Vec::new();
        parse(bytes, "test 1", &mut |key, value| {
            lines.push((key, value));
            Ok(())
        })?;
        Ok(lines)
    }

    fn checked(body: &str) -> String {
        let check = xxh3_64(body.as_bytes());
        format!("{body}{CHECK}{check:016x}\n")
    }

    #[test]
    fn a_number_with_a_sign_is_none() {
        assert_eq!(digits::<u64>("17"), Some(17));
        assert_eq!(digits::<u64>("+17"), None);
        assert!(hex("nonce", &format!("{:032x}", 17)).is_ok());
        assert!(hex("nonce", &format!("+{:031x}", 17)).is_err());
        // The first letter that gives a check with a 0 in front.
        let text = ('a'..='z')
            .map(|letter| {
                let mut writer = Writer::new("test 1");
                writer.line("x", &letter.to_string().repeat(3));
                writer.finish()
            })
            .find(|text| text.contains("check 0"))
            .expect("one in sixteen");
        assert!(read(text.as_bytes()).is_ok());
        let signed = text.replace("check 0", "check +");
        assert!(read(signed.as_bytes()).is_err());
    }

    #[test]
    fn lines_end_as_the_standard_library_has_them() {
        let longer = |text: &String| ["x", " ", "\r", "\n"].map(|more| format!("{text}{more}"));
        let mut texts = vec![String::new()];
        for length in 0..6 {
            let longest = texts.iter().filter(|text| text.len() == length);
            let more: Vec<_> = longest.flat_map(longer).collect();
            texts.extend(more);
        }
        for text in texts {
            let whole = checked(&format!("cachelock test 1\n{text}\n"));
            let found = read(whole.as_bytes()).unwrap();
            let text = format!("{text}\n");
            let expected = text
                .lines()
                .map(|line| line.split_once(' ').unwrap_or((line, "")));
            assert_eq!(found, expected.collect::<Vec<_>>(), "{text:?}");
        }
    }

    #[test]
    fn what_is_badly_escaped_is_quoted() {
        for text in ["%4", "%zz", "a%"] {
            let expected = format!("\"{text}\" is not properly escaped");
            assert_eq!(unescape(text), Err(expected));
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::new("test 1");
        writer.line("host", "a b%c\nd\u{85}é");
        writer.number("epoch", u64::MAX);
        writer.hex("nonce", 7);
        let text = writer.finish();
        let lines: Vec<_> = read(text.as_bytes()).unwrap();
        assert_eq!(lines.len(), 3);
        assert_eq!(unescape(lines[0].1).unwrap(), "a b%c\nd\u{85}é");
        assert_eq!(number::<u64>("epoch", lines[1].1), Ok(u64::MAX));
        assert_eq!(hex("nonce", lines[2].1), Ok(7));
    }

    #[test]
    fn a_flipped_bit_anywhere_before_the_padding_is_noticed() {
        let mut writer = Writer::new("test 1");
        writer.line("host", "abc");
        let text = writer.finish().into_bytes();
        for at in 0..text.len() - 1 {
            for bit in 0..8 {
                let mut flipped = text.clone();
                flipped[at] ^= 1 << bit;
                // The check's own digits may change case without changing their value.
                if flipped.eq_ignore_ascii_case(&text) {
                    continue;
                }
                assert!(read(&flipped).is_err(), "byte {at}, bit {bit}");
            }
        }
        for length in 0..text.len() - 1 {
            assert!(read(&text[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn what_a_line_says_is_believed_only_with_its_check() {
        let refuse = |bytes: &[u8]| parse(bytes, "test 1", &mut |key, _| Err(key.to_owned()));
        let whole = checked("cachelock test 1\na 1\nb 2\n");
        assert_eq!(refuse(whole.as_bytes()), Err("a".to_owned()), "the first");
        let torn = whole.replace("b 2", "b 3");
        assert_eq!(
            refuse(torn.as_bytes()),
            Err("its check does not match".to_owned())
        );
    }

    #[test]
    fn bad_escapes_are_refused() {
        for value in ["%", "%1", "%zz", "%ff", "%é"] {
            assert!(unescape(value).is_err(), "{value}");
        }
    }

    #[test]
    fn bytes_come_back_as_they_were_and_text_in_them_stays_text() {
        let every_byte: Vec<u8> = (0..=255).collect();
        for bytes in [
            &b""[..],
            b"\xff\xfe",
            b"%ff",
            "größe \u{fffd}".as_bytes(),
            &every_byte,
        ] {
            let mut escaped = String::new();
            escape_bytes(bytes, &mut escaped);
            assert!(
                !escaped.contains(|c: char| c.is_control() || c == ' '),
                "{escaped}"
            );
            assert_eq!(unescape_bytes(&escaped).as_deref(), Ok(bytes), "{escaped}");
        }
        let mut escaped = String::new();
        escape_bytes(b"https://example.org/\xc3\xb6?q=%", &mut escaped);
        assert_eq!(escaped, "https://example.org/ö?q=%25");
    }
}
