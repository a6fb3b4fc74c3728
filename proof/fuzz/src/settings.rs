//! The program's configuration file, and a second reader of it, which knows only the plainest TOML.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cachelock::Timeout;

use crate::naive;
use crate::program::config::{Error, Flags, Settings, Source, resolve};

/// Where the file would be. Nothing is ever read there.
const PLACE: &str = "/nowhere";

pub(crate) fn configuration(bytes: &[u8]) {
    let settings = match read(bytes) {
        Ok(settings) => settings,
        Err(error) => {
            says_where(&error, bytes);
            let plain = std::str::from_utf8(bytes).map_err(drop).and_then(plain);
            assert!(!matches!(plain, Ok(Some(_))), "{error}");
            return;
        }
    };
    let text = std::str::from_utf8(bytes).expect("what is read is text");
    if let Ok(plain) = plain(text) {
        let plain = plain.unwrap_or_else(|| panic!("it was not refused: {settings:?}"));
        is_same(&settings, &plain);
    }
    // What `status` lists is what the file could say.
    let mut again = String::new();
    for (names, value, source) in settings.list() {
        match (names.key, source) {
            (Some(key), Source::File { .. }) => again.push_str(&format!("{key} = {value}\n")),
            (_, source) => assert_eq!(source, &Source::Default),
        }
    }
    let listed = |settings: &Settings| settings.list().map(|(_, value, _)| value);
    let again = read(again.as_bytes()).expect("as it was listed");
    assert_eq!(listed(&again), listed(&settings), "{text:?}");
}

fn read(bytes: &[u8]) -> Result<Settings, Error> {
    let contents = |_: &Path| Ok(bytes.to_owned());
    resolve(Flags::default(), &|_| None, Some(PLACE.into()), &contents)
}

/// Each error is one line, and names the file and one of its lines.
fn says_where(error: &Error, bytes: &[u8]) {
    let said = error.to_string();
    assert!(!said.contains('\n') && said.len() < 2048, "{said}");
    let path = error.path.as_deref().expect("it is the file that is wrong");
    let place = format!("{}, line ", path.display());
    let line = said.strip_prefix(&place).and_then(|rest| {
        let (line, _) = rest.split_once(": ")?;
        line.parse().ok()
    });
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!(
        line.is_some_and(|line| (1..=lines).contains(&line)),
        "{said}"
    );
}

/// A value, as plain as can be, and its line.
type Plain<'a> = BTreeMap<&'a str, (Value<'a>, usize)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Text(&'a str),
    Number(&'a str),
    Bool(bool),
}

/// What a file says that has nothing but comments and lines `key = value` with bare keys, and words, whole numbers and
/// booleans for values. `Ok(None)` for one that must be refused, `Err` where more must be known to tell.
fn plain(text: &str) -> Result<Option<Plain<'_>>, ()> {
    let mut values = Plain::new();
    let mut twice = false;
    for (index, line) in text.split('\n').enumerate() {
        let line = line.trim_matches([' ', '\t']);
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return Err(());
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once('=').ok_or(())?;
        let [key, value] = [key, value].map(|word| word.trim_matches([' ', '\t']));
        let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if key.is_empty() || !key.chars().all(is_bare) {
            return Err(());
        }
        twice |= values
            .insert(key, (self::value(value)?, index + 1))
            .is_some();
    }
    let mut is_good = !twice;
    for (key, (value, _)) in &values {
        is_good &= match (*key, value) {
            ("lock_timeout", Value::Text(text) | Value::Number(text)) => duration(text)?.is_some(),
            ("lease", Value::Text(text) | Value::Number(text)) => match duration(text)? {
                Some(Timeout::After(lease)) => (100_000..=600_000_000).contains(&lease.as_micros()),
                _ => false,
            },
            ("locking", Value::Text(text)) => ["auto", "lease"].contains(text),
            ("durability", Value::Text(text)) => ["none", "data", "full"].contains(text),
            ("allow_shared" | "quiet", Value::Bool(_)) => true,
            _ => false,
        };
    }
    Ok(is_good.then_some(values))
}

fn value(text: &str) -> Result<Value<'_>, ()> {
    let inner = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    match text {
        "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        _ if let Some(word) = inner('\'')
            && !word.contains('\'') =>
        {
            Ok(Value::Text(word))
        }
        _ if let Some(word) = inner('"')
            && !word.contains(['"', '\\']) =>
        {
            Ok(Value::Text(word))
        }
        _ if is_number(text) => Ok(Value::Number(text)),
        _ => Err(()),
    }
}

fn is_number(text: &str) -> bool {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits && (1..=18).contains(&text.len()) && (text == "0" || !text.starts_with('0'))
}

/// As a timeout: `infinite` is one, too.
fn duration(text: &str) -> Result<Option<Timeout>, ()> {
    if text == "infinite" {
        return Ok(Some(Timeout::Infinite));
    }
    if text.trim().eq_ignore_ascii_case("infinite") {
        return Err(());
    }
    let micros = naive::duration(text)?;
    Ok(micros.map(|micros| Duration::from_micros(micros).into()))
}

fn is_same(settings: &Settings, plain: &Plain<'_>) {
    for (names, value, source) in settings.list() {
        let Some((said, line)) = names.key.and_then(|key| plain.get(key)) else {
            assert_eq!(source, &Source::Default, "{plain:?}");
            continue;
        };
        assert!(
            matches!(source, Source::File { line: found, .. } if found == line),
            "{source}, and not line {line}"
        );
        match said {
            Value::Bool(said) => assert_eq!(value, *said),
            Value::Text(word) if names.key == Some("locking") => assert_eq!(value, *word),
            Value::Text(word) if names.key == Some("durability") => assert_eq!(value, *word),
            Value::Text(text) | Value::Number(text) => {
                let found = match names.key {
                    Some("lease") => settings.lease.value.into(),
                    _ => settings.timeout.value,
                };
                let said = duration(text).ok().flatten().expect("it was before");
                assert!(is_close(found, said), "{text:?} is {found}");
            }
        }
    }
}

/// Above 11 days a number with a fraction is not exact to the last digit.
fn is_close(one: Timeout, other: Timeout) -> bool {
    match (one, other) {
        (Timeout::After(one), Timeout::After(other)) => {
            one.abs_diff(other) <= Duration::from_micros(one.as_secs() >> 20)
        }
        _ => one == other,
    }
}
