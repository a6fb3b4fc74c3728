//! The targets.

use std::path::{Component, Path};
use std::sync::LazyLock;
use std::time::Duration;

use cachelock::{Cache, Durability, Locking, Timeout, Validators, parse_duration, parsers};

use crate::naive;

/// Where the cache is. Nothing is ever read or written there.
const PLACE: &str = "/nowhere/cache";

static CACHE: LazyLock<Cache> =
    LazyLock::new(|| Cache::open(PLACE).expect("opening touches nothing"));

pub(crate) fn claim(bytes: &[u8]) {
    let bytes = naive::document_of(bytes, "claim 1", 512);
    let (ours, naive) = (parsers::claim(&bytes), naive::claim(&bytes));
    assert_eq!(ours.is_ok(), naive.is_some(), "{ours:?}, but {naive:?}");
    if let Ok(written) = ours {
        let holder = parsers::holder(&bytes).unwrap_or_default();
        assert!(!holder.contains(char::is_control), "{holder:?}");
        assert_eq!(naive::claim(&written), naive, "it is written otherwise");
        assert_eq!(parsers::claim(&written), Ok(written), "not as it was");
    }
}

pub(crate) fn tag(bytes: &[u8]) {
    let bytes = naive::document_of(bytes, "tag 1", 0);
    let (ours, naive) = (parsers::tag(&bytes), naive::tag(&bytes));
    assert_eq!(ours.is_ok(), naive.is_some(), "{ours:?}, but {naive:?}");
    if let Ok(written) = ours {
        assert_eq!(naive::tag(&written), naive, "it is written otherwise");
        assert_eq!(parsers::tag(&written), Ok(written), "not as it was");
    }
}

/// Names and values, with a byte between them that no text has; what comes first is the entry's key.
pub(crate) fn validators(bytes: &[u8]) {
    let mut words = bytes.split(|byte| *byte == 0xff);
    let key = words.next().filter(|key| !key.is_empty());
    let mut texts = words.map(|word| String::from_utf8_lossy(word).into_owned());
    let pairs = std::iter::from_fn(|| texts.next().zip(texts.next()));
    let validators: Validators = pairs.collect();
    let bad = |key: &String| key.is_empty() || key.contains('=');
    let refused = validators.keys().any(bad) || validators.len() > 64;
    let written = parsers::first_tag(validators.clone(), key);
    assert_eq!(written.is_none(), refused, "{validators:?}");
    let Some(written) = written else { return };
    assert!(written.len() <= parsers::tag_max());
    let [previous, next] = naive::tag(&written).expect("it was just written");
    assert!(previous.validators.is_empty() && previous.key.is_none());
    assert!(
        next.validators.iter().eq(&validators),
        "{validators:?} are not as they were: {:?}",
        next.validators
    );
    assert_eq!(next.key.as_deref(), key, "not as it was");
    assert_eq!(parsers::tag(&written), Ok(written), "not as it was");
}

pub(crate) fn want(bytes: &[u8]) {
    let ours = parsers::want(bytes);
    let naive = naive::want(bytes).map(Duration::from_millis);
    assert_eq!(ours, naive);
    if let Some(number) = bytes.first_chunk() {
        let waited = Duration::from_millis(u64::from_le_bytes(*number));
        let written = parsers::want_record(waited);
        assert_eq!(written.len(), 21, "it is rewritten in place");
        assert_eq!(parsers::want(written.as_bytes()), Some(waited));
    }
}

pub(crate) fn control(bytes: &[u8]) {
    if let Ok(name) = std::str::from_utf8(bytes) {
        let kind = parsers::control_name(name);
        assert_eq!(kind, naive::control_name(name), "{name:?}");
    }
    let Some((epoch, rest)) = bytes.split_first_chunk() else {
        return;
    };
    let Some((nonce, rest)) = rest.split_first_chunk() else {
        return;
    };
    let (epoch, nonce) = (u64::from_le_bytes(*epoch), u128::from_le_bytes(*nonce));
    let number = rest.len() as u64;
    // Digits, letters and dashes: good names anywhere, and sorted as their epochs are.
    let names = parsers::control_names(epoch, nonce, number);
    assert_eq!(names, naive::control_names(epoch, nonce, number));
    let fenced = ("fenced", Some(epoch));
    let kinds = [("claim", Some(epoch)), fenced, fenced, ("want", None)];
    for (name, kind) in names.iter().zip(kinds) {
        assert_eq!(parsers::control_name(name), kind, "{name:?}");
    }
}

pub(crate) fn name(bytes: &[u8]) {
    let Ok(name) = std::str::from_utf8(bytes) else {
        return;
    };
    let entry = CACHE.entry(name);
    assert_eq!(entry.is_ok(), naive::is_entry_name(name), "{name:?}");
    match entry {
        Ok(entry) => {
            assert_eq!(entry.name(), name);
            stays_inside(name, &entry.path());
        }
        Err(error) => {
            assert_eq!(error.kind(), cachelock::ErrorKind::InvalidName);
            let said = error.to_string();
            assert!(!said.contains('\n') && said.len() < 8 * 1024, "{said}");
        }
    }
}

#[track_caller]
fn stays_inside(name: &str, path: &Path) {
    let inside = path
        .strip_prefix(CACHE.path())
        .expect("it leaves the cache");
    let plain = |part| matches!(part, Component::Normal(part) if part != ".cachelock");
    assert!(inside.components().all(plain), "{name:?} is {path:?}");
    let segments = name.split('/').count();
    assert_eq!(inside.components().count(), segments, "{name:?}");
}

/// What is read back as it was is no other key's, neither as a word nor, but for the hash, as a name.
pub(crate) fn key(bytes: &[u8]) {
    let entry = CACHE.entry_for_key(bytes).expect("it is short enough");
    assert_eq!(entry.key(), Some(bytes));
    let name = naive::key_name(bytes);
    assert_eq!(entry.name(), name);
    assert_eq!(entry.path().into_os_string(), *format!("{PLACE}/{name}"));
    let word = parsers::escaped(bytes);
    let bad = |c: char| c.is_whitespace() || c.is_control();
    assert!(!word.contains(bad), "{word:?} is no word");
    assert!(word.len() <= 3 * bytes.len(), "{word:?}");
    assert_eq!(parsers::unescaped(&word).as_deref(), Ok(bytes), "{word:?}");
    if let Ok(word) = std::str::from_utf8(bytes) {
        let ours = parsers::unescaped(word).ok();
        assert_eq!(ours, naive::unescape(word), "{word:?}");
    }
}

pub(crate) fn setting(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let ours = parse_duration(text);
    if let Ok(expected) = naive::duration(text) {
        let expected = expected.map(Duration::from_micros);
        let ours = ours.as_ref().ok().copied();
        // Above 11 days a number with a fraction is not exact to the last digit.
        let close = |(one, other): (Duration, Duration)| {
            one.abs_diff(other) <= Duration::from_micros(one.as_secs() >> 20)
        };
        assert_eq!(ours.is_some(), expected.is_some(), "{text:?}: {ours:?}");
        assert!(ours.zip(expected).is_none_or(close), "{text:?}: {ours:?}");
    }
    match text.parse::<Timeout>() {
        Ok(Timeout::Infinite) => assert!(text.to_lowercase().contains("infinite")),
        Ok(timeout) => assert_eq!(ours.map(Timeout::from), Ok(timeout)),
        Err(_) => assert!(ours.is_err()),
    }
    if let Ok(locking) = text.parse::<Locking>() {
        assert_eq!(locking.to_string(), text);
    }
    if let Ok(durability) = text.parse::<Durability>() {
        assert_eq!(durability.to_string(), text);
    }
}
