//! The configuration file: TOML, flat, and nothing in it that is not understood.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{ALL, Error, FILE_VARIABLE, Names, Read, Source, Value};

/// More is no configuration file.
const MOST: u64 = 1 << 20;

/// From here on, by Jaro's measure, a key is likely meant.
const SIMILAR: f64 = 0.7;

/// A configuration file whose keys are all known.
pub(super) struct File {
    path: PathBuf,
    values: BTreeMap<String, (Raw, usize)>,
}

/// A value as the file has it.
pub(super) enum Raw {
    Text(String),
    /// In decimal.
    Integer(String),
    Boolean(bool),
    /// Anything else, in words.
    Other(String),
}

impl Raw {
    /// As text that a duration can be made of: a bare number is seconds.
    pub(super) fn duration(&self) -> Result<&str, String> {
        match self {
            Raw::Text(text) | Raw::Integer(text) => Ok(text),
            other => Err(format!(
                "{other} is neither a string such as \"10s\" nor a whole number of seconds"
            )),
        }
    }

    pub(super) fn word(&self) -> Result<&str, String> {
        match self {
            Raw::Text(text) => Ok(text),
            other => Err(format!("{other} is not a string")),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, String> {
        match self {
            Raw::Boolean(value) => Ok(*value),
            other => Err(format!(
                "{other} is neither true nor false, written without quotes"
            )),
        }
    }
}

impl std::fmt::Display for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Raw::Text(text) => write!(f, "the string {text:?}"),
            Raw::Integer(number) => write!(f, "the number {number}"),
            Raw::Boolean(value) => write!(f, "{value}"),
            Raw::Other(what) => f.write_str(what),
        }
    }
}

impl From<&DeValue<'_>> for Raw {
    fn from(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Raw::Text(text.clone().into_owned()),
            DeValue::Boolean(value) => Raw::Boolean(*value),
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => Raw::Integer(number.to_string()),
                    Err(_) => Raw::Other(format!("the number {}", number.as_str())),
                }
            }
            DeValue::Float(number) => Raw::Other(format!("the number {}", number.as_str())),
            DeValue::Datetime(time) => Raw::Other(format!("the time {time}")),
            DeValue::Array(_) => Raw::Other("a list".to_owned()),
            DeValue::Table(_) => Raw::Other("a table".to_owned()),
        }
    }
}

impl File {
    /// What `read` finds at `path`; `None` if there is no file and none `must_exist`.
    pub(super) fn read(
        path: &Path,
        must_exist: bool,
        read: Read<'_>,
    ) -> Result<Option<Self>, Error> {
        let bytes = match read(path) {
            Ok(bytes) => bytes,
            Err(error) if !must_exist && is_absent(path, &error) => return Ok(None),
            Err(error) => {
                let remedy = if must_exist {
                    format!("{FILE_VARIABLE} names it; set that to a readable file, or to nothing")
                } else {
                    format!("make it a readable file, or name another in {FILE_VARIABLE}")
                };
                let message = format!(
                    "cannot read the configuration file {}: {error}; {remedy}",
                    path.display()
                );
                return Err(Error {
                    path: Some(path.to_owned()),
                    message,
                });
            }
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let line = line_of(&bytes, error.valid_up_to());
            wrong(path, line, "it is not UTF-8")
        })?;
        let table = DeTable::parse(text).map_err(|error| {
            let line = line_of(&bytes, error.span().map_or(0, |span| span.start));
            wrong(path, line, &error.message().replace('\n', "; "))
        })?;
        let mut values = BTreeMap::new();
        let mut unknown: Option<(usize, String)> = None;
        for (key, value) in table.get_ref() {
            let line = line_of(&bytes, key.span().start);
            let name = key.get_ref().clone().into_owned();
            if is_key(&name) {
                values.insert(name, (Raw::from(value.get_ref()), line));
            } else if unknown.as_ref().is_none_or(|(first, _)| line < *first) {
                unknown = Some((line, name));
            }
        }
        match unknown {
            Some((line, name)) => Err(wrong(path, line, &not_known(&name))),
            None => Ok(Some(File {
                path: path.to_owned(),
                values,
            })),
        }
    }

    /// What the file says for `key`, and on which line.
    pub(super) fn get<T: Value>(&self, key: &str) -> Result<Option<(T, Source)>, Error> {
        let Some((raw, line)) = self.values.get(key) else {
            return Ok(None);
        };
        let value =
            T::from_raw(raw).map_err(|why| wrong(&self.path, *line, &format!("`{key}`: {why}")))?;
        let source = Source::File {
            path: self.path.clone(),
            line: *line,
        };
        Ok(Some((value, source)))
    }
}

/// All bytes of a file that may be one.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Where a directory cannot be opened as a file, that error says less.
    if fs::metadata(path)?.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::IsADirectory,
            "it is a directory",
        ));
    }
    let file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    file.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        let reason = format!("it has more than {MOST} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

/// Whether `error` means that there is no file at `path`. A home that is not one, or into which this user may not look
/// (after `su`, with the old `HOME`), holds no file for this user.
fn is_absent(path: &Path, error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => true,
        io::ErrorKind::PermissionDenied => fs::metadata(path).is_err(),
        _ => false,
    }
}

fn line_of(text: &[u8], at: usize) -> usize {
    let before = text.get(..at).unwrap_or(text);
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn wrong(path: &Path, line: usize, why: &str) -> Error {
    Error {
        path: Some(path.to_owned()),
        message: format!("{}, line {line}: {why}", path.display()),
    }
}

fn keys() -> impl Iterator<Item = &'static str> {
    ALL.iter().filter_map(|names| names.key)
}

fn is_key(name: &str) -> bool {
    keys().any(|key| key == name)
}

/// What to say about a key that does not exist.
fn not_known(name: &str) -> String {
    let only_elsewhere = |names: &&&Names| names.key.is_none() && names.word() == name;
    if let Some(names) = ALL.iter().find(only_elsewhere) {
        return format!(
            "`{name}` cannot be set in a file, only with {} or {}",
            names.flag, names.variable
        );
    }
    let similar = |key: &&str| strsim::jaro(name, key);
    // A quoted key may hold a new line.
    let shown = name.escape_debug();
    match keys().max_by(|a, b| similar(a).total_cmp(&similar(b))) {
        Some(nearest) if similar(&nearest) >= SIMILAR => {
            format!("there is no setting `{shown}`; `{nearest}` is the nearest")
        }
        _ => {
            let keys: Vec<_> = keys().collect();
            format!(
                "there is no setting `{shown}`; there are {}",
                keys.join(", ")
            )
        }
    }
}
