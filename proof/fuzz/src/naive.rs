//! A second parser of each format, as plain as can be: what the library makes of bytes is held against it.

use std::collections::BTreeMap;
use std::io::Write as _;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// No recorded lease is longer, in milliseconds.
const LEASE_MAX: u64 = 600_000;
const RECORD_LEN: usize = 512;
const HOST_MAX: usize = 64;

/// The lines of a document, key and value.
fn document<'a>(bytes: &'a [u8], format: &str) -> Option<Vec<(&'a str, &'a str)>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut body = 0;
    let mut lines = Vec::new();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let ended = line.ends_with('\n');
        let said = line.strip_suffix('\n').unwrap_or(line);
        let said = if ended {
            said.strip_suffix('\r').unwrap_or(said)
        } else {
            said
        };
        if number == 0 {
            if said.strip_prefix("cachelock ") != Some(format) {
                return None;
            }
        } else if let Some(check) = said.strip_prefix("check ") {
            let right = u128::from(xxh3_64(&bytes[..body]));
            return (hex(check, 16) == Some(right)).then_some(lines);
        } else {
            lines.push(said.split_once(' ').unwrap_or((said, "")));
        }
        body += line.len();
    }
    None
}

/// `body` with the first and the last line that make a document of it.
fn with_check(format: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD_LEN.max(2 * body.len()));
    bytes.extend([b"cachelock ", format.as_bytes(), b"\n", body].concat());
    if !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
    let check = xxh3_64(&bytes);
    let _ = writeln!(bytes, "check {check:016x}");
    bytes
}

/// The document that an input is: as it is, or with its first line, check and padding made right, since no random change
/// would hit those.
pub(crate) fn document_of(bytes: &[u8], format: &str, len: usize) -> Vec<u8> {
    match bytes {
        [b'+', body @ ..] => {
            let mut document = with_check(format, body);
            if document.len() < len {
                document.resize(len - 1, b' ');
                document.push(b'\n');
            }
            document
        }
        _ => bytes.to_owned(),
    }
}

fn number(text: &str) -> Option<u64> {
    wide(text)?.try_into().ok()
}

fn wide(text: &str) -> Option<u128> {
    if text.is_empty() {
        return None;
    }
    text.bytes().try_fold(0_u128, |sum, byte| match byte {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u128::from(byte - b'0')),
        _ => None,
    })
}

/// A number of so many digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    if text.len() != digits {
        return None;
    }
    text.chars().try_fold(0, |sum, digit| {
        Some(sum << 4 | u128::from(digit.to_digit(16)?))
    })
}

pub(crate) fn unescape(word: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut pieces = word.split('%');
    bytes.extend_from_slice(pieces.next()?.as_bytes());
    for piece in pieces {
        let digits = piece.get(..2)?;
        let digit = |at: usize| digits[at..].chars().next()?.to_digit(16);
        // A piece may begin with one character of two bytes: then it is no digit, and `digit(1)` is not asked.
        let high = digit(0)?;
        bytes.push((high * 16 + digit(1)?) as u8);
        bytes.extend_from_slice(&piece.as_bytes()[2..]);
    }
    Some(bytes)
}

/// What a claim's record says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Claim {
    released: bool,
    epoch: u64,
    nonce: u128,
    beat: u64,
    lease: u64,
    since: u64,
    gate: Option<(u64, u128)>,
    bypass: bool,
    pid: Option<u64>,
    boot: Option<u128>,
    pub(crate) host: Option<String>,
}

pub(crate) fn claim(bytes: &[u8]) -> Option<Claim> {
    if bytes.len() != RECORD_LEN {
        return None;
    }
    let mut claim = Claim::default();
    let (mut state, mut epoch, mut nonce, mut lease) = (None, None, None, None);
    for (key, value) in document(bytes, "claim 1")? {
        match key {
            "state" => state = Some(value),
            "epoch" => epoch = Some(number(value)?),
            "nonce" => nonce = Some(hex(value, 32)?),
            "beat" => claim.beat = number(value)?,
            "lease_ms" => lease = Some(number(value)?),
            "since_ms" => claim.since = number(value)?,
            "gate" => {
                let (device, inode) = value.split_once(':')?;
                claim.gate = Some((number(device)?, wide(inode)?));
                claim.bypass = false;
            }
            "bypass" => {
                claim.gate = None;
                claim.bypass = true;
            }
            "pid" => {
                claim.pid = Some(number(value)?);
                u32::try_from(claim.pid?).ok()?;
            }
            "boot" => claim.boot = Some(hex(value, 32)?),
            "host" => {
                let host = String::from_utf8(unescape(value)?).ok()?;
                let host = host.chars().filter(char::is_ascii_graphic);
                claim.host = Some(host.take(HOST_MAX).collect());
            }
            _ => {}
        }
    }
    claim.released = match state? {
        "held" => false,
        "released" => true,
        _ => return None,
    };
    claim.epoch = epoch?;
    claim.nonce = nonce?;
    claim.lease = lease?.min(LEASE_MAX);
    Some(claim)
}

/// What one record of a tag says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    kind: Kind,
    generation: u64,
    written: u64,
    checked: u64,
    took: Option<u64>,
    pub(crate) validators: BTreeMap<String, String>,
    pub(crate) key: Option<Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Missing,
    Value(u64, u128),
    Absent(u64),
}

/// Previous and next.
pub(crate) fn tag(bytes: &[u8]) -> Option<[Record; 2]> {
    let mut records: [Option<Vec<(&str, &str)>>; 2] = [None, None];
    let mut current = None;
    for (key, value) in document(bytes, "tag 1")? {
        if key == "record" {
            let index = ["previous", "next"]
                .iter()
                .position(|name| *name == value)?;
            if records[index].replace(Vec::new()).is_some() {
                return None;
            }
            current = Some(index);
        } else if let Some(lines) = current.and_then(|index: usize| records[index].as_mut()) {
            lines.push((key, value));
        }
    }
    let [previous, next] = records;
    Some([record(&previous?)?, record(&next?)?])
}

fn record(lines: &[(&str, &str)]) -> Option<Record> {
    let [mut length, mut valid, mut generation, mut took] = [None; 4];
    let [mut written, mut checked] = [0; 2];
    let (mut kind, mut hash, mut bytes) = (None, None, None);
    let mut validators = BTreeMap::new();
    for (key, value) in lines {
        match *key {
            "length" => length = Some(number(value)?),
            "valid_ms" => valid = Some(number(value)?),
            "generation" => generation = Some(number(value)?),
            "took_ms" => took = Some(number(value)?),
            "written_ms" => written = number(value)?,
            "checked_ms" => checked = number(value)?,
            "kind" => kind = Some(*value),
            "xxh3" => hash = Some(hex(value, 32)?),
            "validator" => {
                let (key, value) = value.split_once('=')?;
                let [key, value] = [key, value].map(|word| String::from_utf8(unescape(word)?).ok());
                let key = key.filter(|key| !key.is_empty() && !key.contains('='))?;
                validators.insert(key, value?);
            }
            "key" => bytes = Some(unescape(value)?),
            _ => {}
        }
    }
    Some(Record {
        kind: match kind? {
            "missing" => Kind::Missing,
            "value" => Kind::Value(length?, hash?),
            "absent" => Kind::Absent(valid?),
            _ => return None,
        },
        generation: generation?,
        written,
        checked,
        took,
        validators,
        key: bytes,
    })
}

/// Milliseconds.
pub(crate) fn want(bytes: &[u8]) -> Option<u64> {
    match bytes {
        [digits @ .., b'\n'] if digits.len() == 20 => number(std::str::from_utf8(digits).ok()?),
        _ => None,
    }
}

/// The names of a claim, a next head, a stage and a want.
pub(crate) fn control_names(epoch: u64, nonce: u128, number: u64) -> [String; 4] {
    [
        format!("claim-{epoch:0>20}"),
        format!("head-{epoch:0>20}-{nonce:0>32x}"),
        format!("stage-{epoch:0>20}-{nonce:0>32x}-{number}"),
        format!("want-{nonce:0>32x}"),
    ]
}

/// The name of the entry for a key.
pub(crate) fn key_name(key: &[u8]) -> String {
    let hash = xxh3_128(key);
    format!("cachelock-keys/{:02x}/{hash:0>32x}", hash >> 120)
}

/// What a name in the control directory is, and its epoch.
pub(crate) fn control_name(name: &str) -> (&'static str, Option<u64>) {
    let (kind, rest) = match name.split_once('-') {
        Some(("claim", rest)) if rest.len() == 20 => ("claim", rest),
        Some(("head" | "stage", rest)) => ("fenced", rest),
        Some(("want", _)) => return ("want", None),
        _ => return ("other", None),
    };
    match rest.get(..20).and_then(number) {
        Some(epoch) => (kind, Some(epoch)),
        None => ("other", None),
    }
}

/// Whether a name of an entry means the same file on every system.
pub(crate) fn is_entry_name(name: &str) -> bool {
    let is_plain = |c: char| !c.is_control() && !"\\:<>\"|?*".contains(c);
    name.len() <= 1024 && name.chars().all(is_plain) && name.split('/').all(is_segment)
}

fn is_segment(segment: &str) -> bool {
    let Some(last) = segment.chars().last() else {
        return false;
    };
    if segment.len() > 255 || last == '.' || last == ' ' {
        return false;
    }
    let is_seen = |c: &char| {
        let code = u32::from(*c);
        let unseen = [
            0x200c..=0x200f,
            0x202a..=0x202e,
            0x206a..=0x206f,
            0xfeff..=0xfeff,
        ];
        !unseen.iter().any(|range| range.contains(&code))
    };
    let seen = segment.chars().filter(is_seen);
    let lower: String = seen.flat_map(char::to_lowercase).collect();
    let is_short = match lower.split_once('~') {
        Some(("cachel", digits)) => wide_enough(digits),
        _ => false,
    };
    if lower == ".cachelock" || is_short {
        return false;
    }
    let stem = segment.find('.').map_or(segment, |dot| &segment[..dot]);
    let stem: String = stem.chars().flat_map(char::to_uppercase).collect();
    let stem = stem.trim_end_matches(' ');
    let digits = "0123456789\u{b9}\u{b2}\u{b3}";
    let is_port = |port: &str| {
        let number = stem.strip_prefix(port).map(|rest| rest.chars());
        number.is_some_and(|mut rest| {
            rest.next().is_some_and(|c| digits.contains(c)) && rest.next().is_none()
        })
    };
    let devices = "CON PRN AUX NUL CONIN$ CONOUT$ CLOCK$ KEYBD$";
    !devices.split(' ').any(|device| device == stem) && !is_port("COM") && !is_port("LPT")
}

/// At least one digit, and nothing else.
fn wide_enough(digits: &str) -> bool {
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// A duration in microseconds, where that can be told exactly: `Ok(None)` for a text that is none, `Err` where rounding
/// decides.
pub(crate) fn duration(text: &str) -> Result<Option<u64>, ()> {
    let text = text.trim();
    let digits = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let (number, unit) = text.split_at(text.len() - digits.len());
    let per_unit: u64 = match unit.trim_start() {
        "ms" => 1_000,
        "" | "s" => 1_000_000,
        "m" | "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        "w" => 604_800_000_000,
        _ => return Ok(None),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Ok(None);
    }
    if whole.len() > 12 || fraction.len() > 6 {
        return Err(());
    }
    let value = |digits: &str| wide(digits).unwrap_or(0);
    let scale = 10_u128.pow(fraction.len() as u32);
    let scaled = (value(whole) * scale + value(fraction)) * u128::from(per_unit);
    let most = 100 * 366 * 86_400 * 1_000_000_u128;
    if scaled / scale > most {
        return Ok(None);
    }
    if !scaled.is_multiple_of(scale) || scaled / scale == most {
        return Err(());
    }
    Ok(Some((scaled / scale) as u64))
}
