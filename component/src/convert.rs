//! From the library's words to those of `wit/`, and back.

use std::time::{Duration, SystemTime};

use cachelock::{Durability, ErrorKind, Meta, Policy, Timeout, Verification};

use crate::bindings::exports::cachelock::cache::store as wit;

/// A refresh is used that was published or abandoned.
pub(crate) fn ended() -> wit::Error {
    wit::Error::Poisoned("the refresh has ended; begin it again".into())
}

pub(crate) fn error(error: cachelock::Error) -> wit::Error {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::Timeout => wit::Error::Timeout(text),
        ErrorKind::Cancelled => wit::Error::Cancelled(text),
        ErrorKind::LeaseLost => wit::Error::LeaseLost(text),
        ErrorKind::Corrupt => wit::Error::Corrupt(text),
        ErrorKind::Missing => wit::Error::Missing(text),
        ErrorKind::InvalidName => wit::Error::InvalidName(text),
        ErrorKind::NoLock => wit::Error::NoLock(text),
        ErrorKind::Untrusted => wit::Error::Untrusted(text),
        ErrorKind::NotAFile => wit::Error::NotAFile(text),
        ErrorKind::Permission => wit::Error::Permission(text),
        ErrorKind::StorageFull => wit::Error::StorageFull(text),
        ErrorKind::LengthMismatch => wit::Error::LengthMismatch(text),
        ErrorKind::NotDurable => wit::Error::NotDurable(text),
        ErrorKind::Limit => wit::Error::Limit(text),
        ErrorKind::Poisoned => wit::Error::Poisoned(text),
        // Kinds that are newer than this interface, too.
        _ => wit::Error::Io(text),
    }
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn as_millis(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1000);
    seconds.saturating_add(duration.subsec_millis().into())
}

/// Rounded up: who sleeps for that long has slept long enough.
pub(crate) fn until(wait: Duration) -> u64 {
    as_millis(wait.saturating_add(Duration::from_nanos(999_999)))
}

pub(crate) fn timeout(timeout: u64) -> Timeout {
    match timeout {
        u64::MAX => Timeout::Infinite,
        timeout => millis(timeout).into(),
    }
}

pub(crate) fn durability(durability: wit::Durability) -> Durability {
    match durability {
        wit::Durability::None => Durability::None,
        wit::Durability::Data => Durability::Data,
        wit::Durability::Full => Durability::Full,
    }
}

pub(crate) fn policy(policy: wit::Policy) -> Policy {
    let fresh_for = policy.fresh_for.map(millis);
    let window = |window: Option<u64>| millis(window.unwrap_or(0));
    fresh_for
        .map_or_else(Policy::any_age, Policy::fresh_for)
        .stale_for(window(policy.stale_for))
        .error_for(window(policy.error_for))
}

pub(crate) fn metadata(meta: &Meta) -> wit::Metadata {
    wit::Metadata {
        length: meta.len,
        hash: format!("{:032x}", meta.hash),
        generation: meta.generation,
        written: since_1970(meta.written),
        checked: since_1970(meta.checked),
        validators: meta
            .validators
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        verification: match meta.verification {
            Verification::Verified => wit::Verification::Verified,
            Verification::Untagged => wit::Verification::Untagged,
            _ => wit::Verification::Unverified,
        },
    }
}

/// Times before that are 0.
fn since_1970(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, as_millis)
}
