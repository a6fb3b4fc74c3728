//! For this project's own fuzzing only: the way to the parsers of what is on disk.
//!
//! What they make of bytes is told by what would be written for it, so a second parser can be held against both.

use std::time::{Duration, SystemTime};

use crate::control::{self, Kind};
use crate::key::Key;
use crate::lock::{self, Claim};
use crate::tag::{self, Content, Record, Tag};
use crate::text;
use crate::validators::Validators;

/// The record of a claim as it would be written again, or why it is none.
///
/// # Errors
/// The bytes are no record.
pub fn claim(bytes: &[u8]) -> Result<Vec<u8>, String> {
    Claim::decode(bytes).map(|claim| claim.encode())
}

/// What people are told of the holder that a record of a claim speaks of.
#[must_use]
pub fn holder(bytes: &[u8]) -> Option<String> {
    let claim = Claim::decode(bytes).ok()?;
    Some(claim.holder().to_string())
}

/// A tag as it would be written again, or why it is none.
///
/// # Errors
/// The bytes are no tag.
pub fn tag(bytes: &[u8]) -> Result<Vec<u8>, String> {
    Tag::decode(bytes).map(|tag| tag.encode())
}

/// The tag of a first publish with these validators, if they may be published.
#[must_use]
pub fn first_tag(validators: Validators, key: Option<&[u8]>) -> Option<Vec<u8>> {
    tag::check_validators("entry".as_ref(), &validators).ok()?;
    let next = Record {
        content: Content::Value { len: 3, hash: 5 },
        written: SystemTime::UNIX_EPOCH,
        validators,
        key: key.map(|bytes| Key::of_tag(bytes.into())),
        ..Record::missing(1)
    };
    let previous = Record::missing(0);
    Some(Tag { previous, next }.encode())
}

/// The longest tag.
#[must_use]
pub fn tag_max() -> usize {
    tag::TAG_MAX
}

/// What is written to the file of a want.
#[must_use]
pub fn want_record(waited: Duration) -> String {
    lock::record(waited)
}

/// For how long the owner of a want has waited.
#[must_use]
pub fn want(bytes: &[u8]) -> Option<Duration> {
    lock::waited_for(bytes)
}

/// What a name in the control directory is, and its epoch.
#[must_use]
pub fn control_name(name: &str) -> (&'static str, Option<u64>) {
    match control::kind_of(name) {
        Kind::Claim(epoch) => ("claim", Some(epoch)),
        Kind::Fenced(epoch) => ("fenced", Some(epoch)),
        Kind::Want => ("want", None),
        Kind::Other => ("other", None),
    }
}

/// The names of a claim, a next head, a stage and a want.
#[must_use]
pub fn control_names(epoch: u64, nonce: u128, number: u64) -> [String; 4] {
    [
        control::claim(epoch),
        control::next_head(epoch, nonce),
        control::stage(epoch, nonce, number),
        control::want(nonce),
    ]
}

/// Bytes as one word of a line.
#[must_use]
pub fn escaped(bytes: &[u8]) -> String {
    let mut word = String::new();
    text::escape_bytes(bytes, &mut word);
    word
}

/// What [`escaped`] was given.
///
/// # Errors
/// Nothing is written like that.
pub fn unescaped(word: &str) -> Result<Vec<u8>, String> {
    text::unescape_bytes(word)
}

/// A parser that is wrong on purpose: its table has a place for each letter, and of the hosts that begin with `ho` only those
/// whose third character is a letter are in it. It is here because fuzzing is guided by what the library does.
#[must_use]
pub fn planted_index(record: &[u8]) -> Option<u8> {
    let table = [0; 26];
    match Claim::decode(record).ok()?.host?.as_bytes() {
        [b'h', b'o', third, ..] => Some(table[usize::from(third.wrapping_sub(b'a'))]),
        _ => None,
    }
}
