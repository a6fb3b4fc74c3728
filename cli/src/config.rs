//! The settings. Each has its flag's value, else that of its environment variable, else that of its key in the
//! configuration file, else its default, and remembers which, so that messages can say what to change. That order is
//! written down in [`Layers::settle`] and nowhere else.
//!
//! Whatever is wrong in the environment or in the file is an error, even where a flag comes first: what is ignored today
//! would be a surprise tomorrow.

mod file;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cachelock::{Durability, Locking, Timeout, parse_duration};
use serde_json::Value as Json;

use file::{File, Raw};

/// Names the configuration file in place of the usual one; empty: there is none.
pub(crate) const FILE_VARIABLE: &str = "CACHELOCK_CONFIG";
/// Where the file is in the user's configuration directory.
const USUAL_FILE: &str = "cachelock/config.toml";

/// The default lease, and the shortest and the longest one, which are the library's.
const LEASE: Duration = Duration::from_secs(5);
const LEASE_MIN: Duration = Duration::from_millis(100);
const LEASE_MAX: Duration = Duration::from_secs(600);

/// How a setting is called.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) flag: &'static str,
    pub(crate) variable: &'static str,
    /// In the configuration file. What a program's output looks like is no matter of taste, so `--json` has none.
    pub(crate) key: Option<&'static str>,
}

impl Names {
    const fn new(flag: &'static str, variable: &'static str, key: Option<&'static str>) -> Self {
        Names {
            flag,
            variable,
            key,
        }
    }

    /// As one word, for `status`.
    pub(crate) fn word(&self) -> &'static str {
        self.flag.trim_start_matches('-')
    }
}

const TIMEOUT: Names = Names::new("--timeout", "CACHELOCK_TIMEOUT", Some("lock_timeout"));
const LOCKING: Names = Names::new("--locking", "CACHELOCK_LOCKING", Some("locking"));
const LEASE_NAMES: Names = Names::new("--lease", "CACHELOCK_LEASE", Some("lease"));
const DURABILITY: Names = Names::new("--durability", "CACHELOCK_DURABILITY", Some("durability"));
const ALLOW_SHARED: Names = Names::new(
    "--allow-shared",
    "CACHELOCK_ALLOW_SHARED",
    Some("allow_shared"),
);
const QUIET: Names = Names::new("--quiet", "CACHELOCK_QUIET", Some("quiet"));
const JSON: Names = Names::new("--json", "CACHELOCK_JSON", None);

/// All settings.
pub(crate) const ALL: [&Names; 7] = [
    &TIMEOUT,
    &LOCKING,
    &LEASE_NAMES,
    &DURABILITY,
    &ALLOW_SHARED,
    &QUIET,
    &JSON,
];

/// What the command line says; `None`: nothing.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    pub(crate) timeout: Option<Timeout>,
    pub(crate) locking: Option<Locking>,
    pub(crate) lease: Option<Duration>,
    pub(crate) durability: Option<Durability>,
    pub(crate) allow_shared: Option<bool>,
    pub(crate) quiet: Option<bool>,
    pub(crate) json: Option<bool>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Flag(&'static str),
    Variable(&'static str),
    File { path: PathBuf, line: usize },
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag(name) | Source::Variable(name) => f.write_str(name),
            Source::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Source::Default => f.write_str("default"),
        }
    }
}

impl Source {
    /// As part of a sentence.
    pub(crate) fn phrase(&self) -> String {
        match self {
            Source::Default => "the default".to_owned(),
            source => format!("from {source}"),
        }
    }
}

/// A setting's value, and why it has it.
#[derive(Debug)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) source: Source,
    pub(crate) names: &'static Names,
}

/// All settings, as they count for this run.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) timeout: Setting<Timeout>,
    pub(crate) locking: Setting<Locking>,
    pub(crate) lease: Setting<Duration>,
    pub(crate) durability: Setting<Durability>,
    pub(crate) allow_shared: Setting<bool>,
    quiet: Setting<bool>,
    json: Setting<bool>,
    /// Where a configuration file is or could be.
    pub(crate) file: Option<PathBuf>,
    /// Whether one is there.
    pub(crate) file_exists: bool,
}

/// A setting that cannot be used: what is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Error {
    /// The configuration file, if it is there that something is wrong.
    pub(crate) path: Option<PathBuf>,
    message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The environment, by name.
type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// How the configuration file is read.
type Read<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// The settings for a command line that says `flags`.
pub(crate) fn settings(flags: Flags) -> Result<Settings, Error> {
    let usual_dir = cachelock::platform::folders::config_dir();
    resolve(
        flags,
        &|name| std::env::var_os(name),
        usual_dir,
        &file::read,
    )
}

/// Whether to speak JSON, also before the settings are known, or when they cannot be had.
pub(crate) fn json(flag: Option<bool>) -> bool {
    let environment = || {
        variable(&|name| std::env::var_os(name), &JSON)
            .ok()
            .flatten()
    };
    flag.or_else(environment).unwrap_or(false)
}

/// As [`settings`], in an environment and with a file that may be made up.
pub(crate) fn resolve(
    flags: Flags,
    environment: Environment<'_>,
    usual_dir: Option<PathBuf>,
    read: Read<'_>,
) -> Result<Settings, Error> {
    let (path, must_exist) = match environment(FILE_VARIABLE) {
        Some(path) if path.is_empty() => (None, false),
        Some(path) => (Some(PathBuf::from(path)), true),
        None => (usual_dir.map(|dir| dir.join(USUAL_FILE)), false),
    };
    let file = match &path {
        Some(path) => File::read(path, must_exist, read)?,
        None => None,
    };
    let layers = Layers {
        environment,
        file: file.as_ref(),
    };
    Ok(Settings {
        timeout: layers.settle(&TIMEOUT, flags.timeout, Timeout::DEFAULT)?,
        locking: layers.settle(&LOCKING, flags.locking, Locking::default())?,
        lease: layers.settle(&LEASE_NAMES, flags.lease, LEASE)?,
        durability: layers.settle(&DURABILITY, flags.durability, Durability::default())?,
        allow_shared: layers.settle(&ALLOW_SHARED, flags.allow_shared, false)?,
        quiet: layers.settle(&QUIET, flags.quiet, false)?,
        json: layers.settle(&JSON, flags.json, false)?,
        file_exists: file.is_some(),
        file: path,
    })
}

/// What is below the flags.
struct Layers<'a> {
    environment: Environment<'a>,
    file: Option<&'a File>,
}

impl Layers<'_> {
    fn settle<T: Value>(
        &self,
        names: &'static Names,
        flag: Option<T>,
        default: T,
    ) -> Result<Setting<T>, Error> {
        let variable = variable(self.environment, names)?;
        let in_file = match (self.file, names.key) {
            (Some(file), Some(key)) => file.get(key)?,
            _ => None,
        };
        let (value, source) = if let Some(value) = flag {
            (value, Source::Flag(names.flag))
        } else if let Some(value) = variable {
            (value, Source::Variable(names.variable))
        } else if let Some((value, source)) = in_file {
            (value, source)
        } else {
            (default, Source::Default)
        };
        Ok(Setting {
            value,
            source,
            names,
        })
    }
}

/// What the environment says; empty counts as not set, so that a script can take a variable back.
fn variable<T: Value>(environment: Environment<'_>, names: &Names) -> Result<Option<T>, Error> {
    let Some(value) = environment(names.variable).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let wrong = |why: String| Error {
        path: None,
        message: format!("the environment variable {}: {why}", names.variable),
    };
    let text = value
        .to_str()
        .ok_or_else(|| wrong(format!("{:?} is not UTF-8", value.display().to_string())))?;
    T::from_text(text).map(Some).map_err(wrong)
}

/// What a setting can hold.
trait Value: Sized {
    /// From the environment, or a string of the configuration file.
    fn from_text(text: &str) -> Result<Self, String>;
    /// From the configuration file.
    fn from_raw(raw: &Raw) -> Result<Self, String>;
}

impl Value for Timeout {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error| format!("{error}, and not `infinite`"))
    }

    fn from_raw(raw: &Raw) -> Result<Self, String> {
        Self::from_text(raw.duration()?)
    }
}

/// A lease: no other setting is a duration.
impl Value for Duration {
    fn from_text(text: &str) -> Result<Self, String> {
        parse_lease(text)
    }

    fn from_raw(raw: &Raw) -> Result<Self, String> {
        Self::from_text(raw.duration()?)
    }
}

impl Value for Locking {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn from_raw(raw: &Raw) -> Result<Self, String> {
        Self::from_text(raw.word()?)
    }
}

impl Value for Durability {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn from_raw(raw: &Raw) -> Result<Self, String> {
        Self::from_text(raw.word()?)
    }
}

impl Value for bool {
    fn from_text(text: &str) -> Result<Self, String> {
        parse_bool(text)
    }

    fn from_raw(raw: &Raw) -> Result<Self, String> {
        raw.boolean()
    }
}

/// A duration that may be a lease, as flags, the environment and the file take it.
pub(crate) fn parse_lease(text: &str) -> Result<Duration, String> {
    let lease = parse_duration(text).map_err(|error| error.to_string())?;
    match (LEASE_MIN..=LEASE_MAX).contains(&lease) {
        true => Ok(lease),
        false => Err(format!("{text:?} is not between 100ms and 10m")),
    }
}

/// A boolean as flags and the environment take it.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(&["1", "true", "yes", "on"]) {
        Ok(true)
    } else if is(&["0", "false", "no", "off"]) {
        Ok(false)
    } else {
        Err(format!(
            "{text:?} is neither 1, true, yes or on, nor 0, false, no or off"
        ))
    }
}

impl Settings {
    pub(crate) fn quiet(&self) -> bool {
        self.quiet.value
    }

    pub(crate) fn json(&self) -> bool {
        self.json.value
    }

    /// Each setting's names, its value as the configuration file would have it, and where it comes from.
    pub(crate) fn list(&self) -> [(&'static Names, Json, &Source); 7] {
        fn row<T>(setting: &Setting<T>, value: impl Into<Json>) -> (&'static Names, Json, &Source) {
            (setting.names, value.into(), &setting.source)
        }
        [
            row(&self.timeout, self.timeout.value.to_string()),
            row(&self.locking, self.locking.value.to_string()),
            row(&self.lease, Timeout::from(self.lease.value).to_string()),
            row(&self.durability, self.durability.value.to_string()),
            row(&self.allow_shared, self.allow_shared.value),
            row(&self.quiet, self.quiet.value),
            row(&self.json, self.json.value),
        ]
    }

    /// For whoever waited in vain: what the timeout is, why, and how to change it.
    pub(crate) fn about_timeout(&self) -> String {
        let Setting {
            value,
            source,
            names,
        } = &self.timeout;
        let file = match self.file.as_deref().map(Path::display) {
            Some(file) => format!("in {file}"),
            None => "in a configuration file".to_owned(),
        };
        format!(
            "the timeout is {value}, {}; change it with {}, {} or {} {file}",
            source.phrase(),
            names.flag,
            names.variable,
            names.key.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests;
