//! `status`: the lock, and one entry if asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cachelock::{Backend, Cache, Entry, Lookup, Status, Stream};
use serde_json::{Value, json};

use super::{ends_in_separator, split, text};
use crate::config::{Settings, Source};
use crate::exit::{self, Failure};
use crate::report;

/// The cache and perhaps the entry that `path` means: a directory is a cache, anything else an entry's file.
pub(super) fn target(
    path: &Path,
    cache: Option<&Path>,
) -> Result<(PathBuf, Option<String>), Failure> {
    if let Some(cache) = cache {
        return Ok((cache.to_owned(), Some(text(path)?)));
    }
    let is_directory = path.is_dir() || ends_in_separator(path) || path.file_name().is_none();
    if is_directory {
        return Ok((path.to_owned(), None));
    }
    let (dir, name) = split(path)?;
    Ok((dir, Some(name)))
}

/// What is at an entry's place.
enum State {
    There(Stream),
    Missing,
    /// Known not to exist at its source, until then.
    Absent(SystemTime),
    Corrupt(String),
}

pub(super) fn run(
    cache: &Cache,
    entry: Option<&Entry>,
    settings: &Settings,
    settings_too: bool,
) -> Result<u8, Failure> {
    let status = cache.status()?;
    let state = entry.map(state).transpose()?;
    let path = entry.map_or_else(|| cache.path().to_owned(), Entry::path);
    let path = path.display().to_string();
    if settings.json() {
        let mut object = object(&path, status.as_ref(), state.as_ref());
        if settings_too {
            object["settings"] = settings_object(settings);
            object["config_file"] = json!(settings.file.as_ref().map(|file| json!({
                "path": file.display().to_string(),
                "exists": settings.file_exists,
            })));
        }
        report::json(&object)?;
    } else {
        let mut rows = table(&path, status.as_ref(), state.as_ref());
        if settings_too {
            rows.extend(settings_table(settings));
        }
        let lines = rows
            .iter()
            .map(|(name, value)| report::printable(&format!("{name:<12} {value}")));
        report::line(&lines.collect::<Vec<_>>().join("\n"))?;
    }
    Ok(exit::OK)
}

fn state(entry: &Entry) -> Result<State, Failure> {
    match entry.lookup() {
        Ok(Lookup::Value(stream)) => Ok(State::There(stream)),
        Ok(Lookup::Absent { until }) => Ok(State::Absent(until)),
        Ok(Lookup::Missing) => Ok(State::Missing),
        Err(error) if error.is_corrupt() => Ok(State::Corrupt(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// What is not known.
const PRIVATE: &str = "unknown: the lock's files are private to another user";

fn settings_object(settings: &Settings) -> Value {
    let rows = settings.list().into_iter().map(|(names, value, source)| {
        let (kind, name, file, line) = match source {
            Source::Flag(name) => ("flag", Some(*name), None, None),
            Source::Variable(name) => ("environment", Some(*name), None, None),
            Source::File { path, line } => ("file", names.key, Some(path), Some(line)),
            Source::Default => ("default", None, None, None),
        };
        let setting = json!({
            "value": value,
            "source": kind,
            "name": name,
            "file": file.map(|file| file.display().to_string()),
            "line": line,
        });
        (names.word().replace('-', "_"), setting)
    });
    Value::Object(rows.collect())
}

fn settings_table(settings: &Settings) -> Vec<(&'static str, String)> {
    let file = match &settings.file {
        None => "none".to_owned(),
        Some(file) if settings.file_exists => file.display().to_string(),
        Some(file) => format!("{} (not there)", file.display()),
    };
    let mut rows = vec![("config file", file)];
    rows.extend(settings.list().into_iter().map(|(names, value, source)| {
        let value = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        (names.word(), format!("{value:<8} {source}"))
    }));
    rows
}

fn backend(status: &Status) -> Backend {
    let gated = match &status.holder {
        Some(holder) => holder.gated,
        None => status.file_system.kernel_locks,
    };
    if gated { Backend::Gate } else { Backend::Lease }
}

fn object(path: &str, status: Option<&Status>, state: Option<&State>) -> Value {
    let mut object = json!({
        "path": path,
        "holder": status.and_then(|status| status.holder.as_ref()).map(report::holder),
        "locked": status.and_then(|status| status.locked),
        "epoch": status.map_or(0, |status| status.epoch),
        "file_system": status.map(|status| &*status.file_system.name),
        "kernel_locks": status.map(|status| status.file_system.kernel_locks),
        "backend": status.map(|status| backend(status).name()),
    });
    if let Some(state) = state {
        let meta = match state {
            State::There(stream) => Some(stream.meta()),
            State::Missing | State::Absent(_) | State::Corrupt(_) => None,
        };
        object["generation"] = json!(meta.and_then(|meta| meta.generation));
        object["entry"] = json!({
            "exists": !matches!(state, State::Missing | State::Absent(_)),
            "length": meta.map(|meta| meta.len),
            "hash": meta.map(|meta| format!("{:032x}", meta.hash)),
            "age_ms": meta.map(|meta| age_ms(meta.checked)),
            "written_ms": meta.map(|meta| report::unix_ms(meta.written)),
            "checked_ms": meta.map(|meta| report::unix_ms(meta.checked)),
            "took_ms": meta.and_then(|meta| meta.took).map(report::ms),
            "validators": meta.map(|meta| meta.validators.iter().collect::<BTreeMap<_, _>>()),
            "absent_until_ms": match state {
                State::Absent(until) => Some(report::unix_ms(*until)),
                _ => None,
            },
            "verification": match state {
                State::There(stream) => Some(stream.meta().verification.name()),
                State::Missing | State::Absent(_) => None,
                State::Corrupt(_) => Some("corrupt"),
            },
        });
    }
    object
}

/// 0 for an entry from the future.
fn age_ms(checked: SystemTime) -> u64 {
    report::ms(checked.elapsed().unwrap_or_default())
}

fn table(
    path: &str,
    status: Option<&Status>,
    state: Option<&State>,
) -> Vec<(&'static str, String)> {
    let mut rows = vec![("path", path.to_owned())];
    match state {
        None => {}
        Some(State::Missing) => rows.push(("entry", "missing".to_owned())),
        Some(State::Absent(until)) => {
            let what = match until.duration_since(SystemTime::now()) {
                Ok(left) => format!(
                    "known not to exist at its source, for {} s more",
                    left.as_secs()
                ),
                Err(_) => {
                    "was known not to exist at its source, and is to be asked for again".to_owned()
                }
            };
            rows.push(("entry", what));
        }
        Some(State::Corrupt(reason)) => rows.push(("entry", format!("corrupt: {reason}"))),
        Some(State::There(stream)) => {
            let meta = stream.meta();
            rows.push(("entry", meta.verification.name().to_owned()));
            if let Some(generation) = meta.generation {
                rows.push(("generation", generation.to_string()));
            }
            rows.push(("length", format!("{} bytes", meta.len)));
            rows.push(("hash", format!("{:032x}", meta.hash)));
            let age = age_ms(meta.checked);
            rows.push(("age", format!("{}.{} s", age / 1000, age % 1000 / 100)));
            let validators = meta.validators.iter();
            rows.extend(validators.map(|(key, value)| ("validator", format!("{key}={value}"))));
        }
    }
    match status {
        None => rows.push(("cache", "nothing there yet".to_owned())),
        Some(status) => {
            let holder = match &status.holder {
                Some(holder) => holder.to_string(),
                None if status.private => PRIVATE.to_owned(),
                None => "nobody".to_owned(),
            };
            rows.push(("holder", holder));
            let locked = match status.locked {
                Some(true) => "held",
                Some(false) => "free",
                None if status.private && status.file_system.kernel_locks => PRIVATE,
                None => "not used",
            };
            rows.push(("kernel lock", locked.to_owned()));
            rows.push(("epoch", status.epoch.to_string()));
            rows.push(("file system", status.file_system.name.clone()));
            rows.push(("backend", backend(status).name().to_owned()));
        }
    }
    rows
}
