//! What is known about a payload.

use std::time::{Duration, SystemTime};

use crate::validators::Validators;

/// How far a payload was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verification {
    /// Its length and hash are those of its tag.
    Verified,
    /// It has no tag: it was not published by cachelock.
    Untagged,
    /// It has a tag that this user may not read.
    Unverified,
}

impl Verification {
    /// `verified`, `untagged` or `unverified`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verification::Verified => "verified",
            Verification::Untagged => "untagged",
            Verification::Unverified => "unverified",
        }
    }
}

/// What is known about a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Meta {
    /// Its length in bytes.
    pub len: u64,
    /// The XXH3-128 of its bytes.
    pub hash: u128,
    /// Its generation; `None` unless verified.
    pub generation: Option<u64>,
    /// When it was published; an untagged payload's modification time.
    pub written: SystemTime,
    /// When it was last known to be right: `written`, or later.
    pub checked: SystemTime,
    /// How long it took to produce, if that is known.
    pub took: Option<Duration>,
    /// What its producer wanted to remember.
    pub validators: Validators,
    /// How far it was checked.
    pub verification: Verification,
}
