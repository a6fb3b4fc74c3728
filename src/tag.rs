//! The tag of an entry: what its payload should be, in two records.
//!
//! A publish makes two renames, tag first, and a holder may die between them. So a tag describes the payload that was
//! there (`previous`) *and* the one that comes (`next`), and a payload is good when it matches either. One record alone
//! would leave a new tag beside an old payload.

use std::path::Path;
use std::time::{Duration, SystemTime};

use cachelock_platform::{Quoted, cut};

use crate::error::{Error, Result};
use crate::key::Key;
use crate::text::{self, Writer};
use crate::time;
use crate::validators::Validators;

const FORMAT: &str = "tag 1";

/// The longest tag that is written, and how much of a longer file is read: two sets of validators of [`VALIDATORS_MAX`] and two keys of
/// [`KEY_MAX`](crate::key::KEY_MAX) fit, escaped three for one.
pub(crate) const TAG_MAX: usize = 160 * 1024;

/// What all keys and values of a set of validators may have in bytes together.
const VALIDATORS_MAX: usize = 8 * 1024;

/// What is known about one state of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) content: Content,
    pub(crate) generation: u64,
    /// When this content was published.
    pub(crate) written: SystemTime,
    /// When it was last known to be right; later than `written` when a producer said "not modified".
    pub(crate) checked: SystemTime,
    /// How long it took to produce, if that is known.
    pub(crate) took: Option<Duration>,
    pub(crate) validators: Validators,
    /// The key that it was published for; `None` for a payload that was published by name.
    pub(crate) key: Option<Key>,
}

/// What an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// No payload and nothing known: before the first publish.
    Missing,
    /// A payload of this length and XXH3-128.
    Value { len: u64, hash: u128 },
    /// Known not to exist at the source, to be believed for this long after `checked`.
    Absent { valid_for: Duration },
}

/// A parsed tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) previous: Record,
    pub(crate) next: Record,
}

impl Record {
    pub(crate) fn missing(generation: u64) -> Self {
        Record {
            content: Content::Missing,
            generation,
            written: SystemTime::UNIX_EPOCH,
            checked: SystemTime::UNIX_EPOCH,
            took: None,
            validators: Validators::new(),
            key: None,
        }
    }

    fn write(&self, writer: &mut Writer, section: &str) {
        writer.line("record", section);
        match self.content {
            Content::Missing => writer.line("kind", "missing"),
            Content::Value { len, hash } => {
                writer.line("kind", "value");
                writer.number("length", len);
                writer.hex("xxh3", hash);
            }
            Content::Absent { valid_for } => {
                writer.line("kind", "absent");
                writer.number("valid_ms", time::millis(valid_for));
            }
        }
        writer.number("generation", self.generation);
        writer.number("written_ms", time::to_unix_ms(self.written));
        writer.number("checked_ms", time::to_unix_ms(self.checked));
        if let Some(took) = self.took {
            writer.number("took_ms", time::millis(took));
        }
        for (key, value) in &self.validators {
            let mut escaped = String::new();
            text::escape(key, &mut escaped);
            escaped.push('=');
            text::escape(value, &mut escaped);
            writer.raw("validator", &escaped);
        }
        if let Some(key) = &self.key {
            let mut escaped = String::new();
            text::escape_bytes(key.as_bytes(), &mut escaped);
            writer.raw("key", &escaped);
        }
    }
}

/// Whether a validator's key is read back as it is written.
fn is_validator(key: &str) -> bool {
    !key.is_empty() && cut(key, b'=').is_none()
}

/// Refuses validators that a tag cannot hold; `path` is the entry's.
pub(crate) fn check_validators(path: &Path, validators: &Validators) -> Result<()> {
    let size: usize = validators
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if size > VALIDATORS_MAX {
        return Err(Error::limit(
            path,
            format!("its validators have {size} bytes, more than {VALIDATORS_MAX}"),
        ));
    }
    if !validators.keys().all(|key| is_validator(key)) {
        return Err(Error::limit(
            path,
            "a validator's key is empty or holds `=`",
        ));
    }
    if validators.len() > 64 {
        return Err(Error::limit(
            path,
            format!("it has {} validators, more than 64", validators.len()),
        ));
    }
    Ok(())
}

impl Tag {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new(FORMAT);
        self.previous.write(&mut writer, "previous");
        self.next.write(&mut writer, "next");
        writer.finish().into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut drafts: [Option<Draft<'_>>; 2] = [None, None];
        let mut current = None;
        text::parse(bytes, FORMAT, &mut |key, value| {
            if key == "record" {
                let index = match value {
                    "previous" => 0,
                    "next" => 1,
                    _ => return Err(format!("it has an unknown record {}", Quoted(value))),
                };
                if drafts[index].is_some() {
                    return Err(format!("it has two records {}", Quoted(value)));
                }
                drafts[index] = Some(Draft::default());
                current = Some(index);
            } else if let Some(draft) = current.and_then(|index| drafts[index].as_mut()) {
                draft.line(key, value)?;
            }
            Ok(())
        })?;
        let [previous, next] = drafts;
        Ok(Tag {
            previous: previous.ok_or("its previous record is missing")?.finish()?,
            next: next.ok_or("its next record is missing")?.finish()?,
        })
    }
}

/// A record while its lines are read.
#[derive(Default)]
struct Draft<'a> {
    kind: Option<&'a str>,
    len: Option<u64>,
    hash: Option<u128>,
    valid_ms: Option<u64>,
    generation: Option<u64>,
    written_ms: u64,
    checked_ms: u64,
    took_ms: Option<u64>,
    validators: Validators,
    key: Option<Key>,
}

impl<'a> Draft<'a> {
    fn line(&mut self, key: &str, value: &'a str) -> Result<(), String> {
        match key {
            "kind" => self.kind = Some(value),
            "length" => self.len = Some(text::number(key, value)?),
            "xxh3" => self.hash = Some(text::hex(key, value)?),
            "valid_ms" => self.valid_ms = Some(text::number(key, value)?),
            "generation" => self.generation = Some(text::number(key, value)?),
            "written_ms" => self.written_ms = text::number(key, value)?,
            "checked_ms" => self.checked_ms = text::number(key, value)?,
            "took_ms" => self.took_ms = Some(text::number(key, value)?),
            "validator" => {
                let (key, value) = cut(value, b'=').ok_or("a validator has no value")?;
                let key = text::unescape(key)?;
                if !is_validator(&key) {
                    return Err(format!("it has a validator {}", Quoted(&key)));
                }
                self.validators.insert(key, text::unescape(value)?);
            }
            "key" => self.key = Some(Key::of_tag(text::unescape_bytes(value)?)),
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<Record, String> {
        let content = match self.kind {
            Some("missing") => Content::Missing,
            Some("value") => Content::Value {
                len: self.len.ok_or("a record's length is missing")?,
                hash: self.hash.ok_or("a record's hash is missing")?,
            },
            Some("absent") => Content::Absent {
                valid_for: Duration::from_millis(
                    self.valid_ms.ok_or("an absent record's time is missing")?,
                ),
            },
            _ => return Err("a record's kind is unknown".into()),
        };
        Ok(Record {
            content,
            generation: self.generation.ok_or("a record's generation is missing")?,
            written: time::from_unix_ms(self.written_ms),
            checked: time::from_unix_ms(self.checked_ms),
            took: self.took_ms.map(Duration::from_millis),
            validators: self.validators,
            key: self.key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KEY_MAX;

    fn full() -> Tag {
        let big: Validators = (0..64)
            .map(|n| (format!("k{n}"), "\n".repeat(124)))
            .collect();
        check_validators(Path::new("x"), &big).expect("within the limit");
        let record = Record {
            content: Content::Value {
                len: u64::MAX,
                hash: u128::MAX,
            },
            generation: u64::MAX,
            written: time::from_unix_ms(1),
            checked: time::from_unix_ms(u64::MAX >> 12),
            took: Some(Duration::from_millis(u64::MAX)),
            validators: big,
            key: Some(Key::of_tag(vec![b'\n'; KEY_MAX])),
        };
        let absent = Content::Absent {
            valid_for: Duration::from_millis(u64::MAX),
        };
        Tag {
            previous: Record {
                content: absent,
                ..record.clone()
            },
            next: record,
        }
    }

    #[test]
    fn the_largest_tag_fits_and_comes_back() {
        let tag = full();
        let bytes = tag.encode();
        assert!(bytes.len() <= TAG_MAX, "{} bytes", bytes.len());
        assert_eq!(Tag::decode(&bytes), Ok(tag));
        let first = Tag {
            previous: Record::missing(0),
            next: full().next,
        };
        assert_eq!(Tag::decode(&first.encode()), Ok(first));
    }

    #[test]
    fn each_record_has_its_own_key() {
        let of = |key: &[u8]| Record {
            key: Some(Key::of_tag(key.into())),
            ..full().next
        };
        let every_byte: Vec<u8> = (0..=255).collect();
        let keys: [&[u8]; 8] = [
            b"",
            b" ",
            b"%",
            b"a b%20\ncheck 0\r\n",
            "gr\u{f6}\u{df}e\u{2028}".as_bytes(),
            b"\xff\0\xc3",
            &every_byte,
            &every_byte.repeat(KEY_MAX / 256),
        ];
        for key in keys {
            let tag = Tag {
                previous: of(key),
                next: of(b"another"),
            };
            assert_eq!(Tag::decode(&tag.encode()), Ok(tag), "{key:?}");
            let first = Tag {
                previous: Record::missing(0),
                next: of(key),
            };
            let read = Tag::decode(&first.encode()).expect("just written");
            assert_eq!(read.previous.key, None, "no key is not the empty key");
            assert_eq!(read.next.key, first.next.key);
        }
    }

    #[test]
    fn a_tag_from_before_there_were_keys_is_read_and_what_a_later_one_adds_is_skipped() {
        let record = |section: &str| {
            format!(
                "record {section}\nkind value\nlength 3\nxxh3 {:032x}\ngeneration 7\nwritten_ms 1\nchecked_ms 2\n\
                 validator etag=x\n",
                5
            )
        };
        let checked = |body: String| {
            let check = xxhash_rust::xxh3::xxh3_64(body.as_bytes());
            format!("{body}check {check:016x}\n")
        };
        let (previous, next) = (record("previous"), record("next"));
        let before = checked(format!("cachelock tag 1\n{previous}{next}"));
        let tag = Tag::decode(before.as_bytes()).expect("what earlier versions have written");
        assert_eq!(tag.next.generation, 7);
        assert_eq!(tag.next.key, None);
        assert_eq!(
            tag.encode(),
            before.as_bytes(),
            "an entry without a key needs no new line"
        );
        let later = checked(format!(
            "cachelock tag 1\n{previous}novelty %zz\n{next}novelty\n"
        ));
        assert_eq!(Tag::decode(later.as_bytes()), Ok(tag));
    }

    #[test]
    fn validators_that_do_not_fit_are_refused() {
        let path = Path::new("x");
        let of = |key: &str, value: String| Validators::from([(key.to_owned(), value)]);
        assert!(check_validators(path, &of("etag", "x".repeat(VALIDATORS_MAX))).is_err());
        assert!(check_validators(path, &of("", String::new())).is_err());
        assert!(check_validators(path, &of("a=b", String::new())).is_err());
        assert!(
            check_validators(
                path,
                &(0..65).map(|n| (n.to_string(), String::new())).collect()
            )
            .is_err()
        );
    }

    #[test]
    fn validators_that_just_fit_are_taken() {
        let path = Path::new("x");
        let of = |value: usize| Validators::from([("etag".to_owned(), "x".repeat(value))]);
        assert!(check_validators(path, &of(VALIDATORS_MAX - 4)).is_ok());
        assert!(check_validators(path, &of(VALIDATORS_MAX - 3)).is_err());
        let many = (0..64).map(|n| (n.to_string(), String::new())).collect();
        assert!(check_validators(path, &many).is_ok());
    }

    #[test]
    fn a_validator_that_would_be_read_back_otherwise_is_none() {
        let mut writer = Writer::new(FORMAT);
        Record::missing(0).write(&mut writer, "previous");
        Record::missing(1).write(&mut writer, "next");
        writer.raw("validator", "a%3db=c");
        let error = Tag::decode(writer.finish().as_bytes()).expect_err("no such key");
        assert!(error.contains("a=b"), "{error}");
    }

    #[test]
    fn a_tag_of_a_later_format_says_so() {
        let error = Tag::decode(b"cachelock tag 2\ncheck 0\n").unwrap_err();
        assert!(error.contains("tag 2"), "{error}");
    }
}
