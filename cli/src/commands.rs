//! The commands, one function each.

#[cfg_attr(not(feature = "manual"), path = "commands/no_manual.rs")]
mod manual;
mod status;

pub(crate) use manual::Shell;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cachelock::platform::process;
use cachelock::{Begun, Cache, Entry, ErrorKind, Lookup, Produced, Published, Refresh, Timeout};
use serde_json::json;

use crate::args::{Args, Command, GetArgs, Place, Producer, RefreshArgs};
use crate::config::{self, Settings};
use crate::control::Control;
use crate::exit::{self, Failure};
use crate::feedback::Feedback;
use crate::{command, producer, report};

/// A timeout above this is probably a mistake.
const LONG: Duration = Duration::from_secs(3600);

/// Runs what `args` ask for; `Ok` has the exit code.
pub(crate) fn run(args: &Args, control: &Arc<Control>) -> Result<u8, Failure> {
    let run = || -> Result<Run<'_>, Failure> {
        let settings = config::settings(args.flags())?;
        // Not before: a configuration that cannot be read to its end must not keep signals from ending this.
        control.listen();
        Ok(Run { settings, control })
    };
    match &args.command {
        Command::Get(args) => run()?.get(args),
        Command::Refresh(args) => run()?.refresh(args),
        Command::Read { place, path } => run()?.read(place, *path),
        Command::Lock { dir, command, .. } => run()?.lock(dir, command),
        Command::Status { path, cache } => {
            run()?.status(path, cache.as_deref(), args.output.verbose > 0)
        }
        Command::Sweep { dir, .. } => run()?.sweep(dir),
        Command::Break { dir, .. } => run()?.break_lock(dir),
        // Without settings: a shell that starts must not fail for a mistake in the configuration.
        Command::Completions { shell } => manual::completions(shell),
        Command::Man => manual::page(),
    }
}

impl Place {
    fn cache_dir(&self) -> Result<PathBuf, Failure> {
        match &self.cache {
            Some(cache) => Ok(cache.clone()),
            None => Ok(split(&self.file)?.0),
        }
    }

    fn name(&self) -> Result<String, Failure> {
        match &self.cache {
            Some(_) => text(&self.file),
            None => Ok(split(&self.file)?.1),
        }
    }
}

/// The cache's directory and the entry's name of `file`.
fn split(file: &Path) -> Result<(PathBuf, String), Failure> {
    if let (Some(name), false) = (file.file_name(), ends_in_separator(file)) {
        let dir = match file.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok((dir, text(Path::new(name))?))
    } else {
        let file = file.display();
        Err(Failure::Usage(format!("{file:?} does not name a file")))
    }
}

fn ends_in_separator(path: &Path) -> bool {
    let last = path.as_os_str().as_encoded_bytes().last();
    last.is_some_and(|last| std::path::is_separator(char::from(*last)))
}

fn text(name: &Path) -> Result<String, Failure> {
    match name.to_str() {
        Some(name) => Ok(name.to_owned()),
        None => {
            let name = name.display();
            Err(Failure::Usage(format!(
                "{name:?} cannot be the name of an entry: it is not UTF-8"
            )))
        }
    }
}

/// What a command opens a cache for.
#[derive(Clone, Copy, PartialEq)]
enum Access {
    Read,
    Write,
}

/// One run of the program.
struct Run<'a> {
    settings: Settings,
    control: &'a Arc<Control>,
}

impl Run<'_> {
    fn open(&self, dir: &Path, access: Access) -> Result<Cache, Failure> {
        let settings = &self.settings;
        let writes = access == Access::Write;
        if writes
            && let Timeout::After(timeout) = settings.timeout.value
            && timeout > LONG
        {
            let message = format!(
                "the timeout of {}, {}, is more than an hour; say infinite if there should be no limit",
                settings.timeout.value,
                settings.timeout.source.phrase()
            );
            report::warning(settings, &message);
        }
        Ok(Cache::builder(dir)
            .timeout(settings.timeout.value)
            .locking(settings.locking.value)
            .lease(settings.lease.value)
            .durability(settings.durability.value)
            .allow_shared(settings.allow_shared.value)
            .cancel(self.control.cancel_token())
            // A command that only reads ends with what this would say.
            .observer(Feedback::new(settings, self.control, writes))
            .open()?)
    }

    fn entry(&self, place: &Place, access: Access) -> Result<Entry, Failure> {
        let cache = self.open(&place.cache_dir()?, access)?;
        Ok(cache.entry(&place.name()?)?)
    }

    /// What a wait failed with, for the lock or for others to close the file that a publish replaces.
    fn waited(&self, error: cachelock::Error) -> Failure {
        match error.kind() {
            ErrorKind::Timeout => Failure::Timeout(error, self.settings.about_timeout()),
            // Nothing but a signal cancels.
            ErrorKind::Cancelled => self.control.check().err().unwrap_or(Failure::Cache(error)),
            _ => Failure::Cache(error),
        }
    }

    fn produce(
        &self,
        refresh: Refresh,
        producer: &Producer,
    ) -> Result<(Produced, Published), Failure> {
        producer::run(refresh, producer, self.control).map_err(|failure| match failure {
            Failure::Cache(error) => self.waited(error),
            failure => failure,
        })
    }

    fn get(&self, args: &GetArgs) -> Result<u8, Failure> {
        let entry = self.entry(&args.place, Access::Write)?;
        let policy = args.policy();
        let begun = entry.begin(&policy).map_err(|error| self.waited(error))?;
        let stream = match begun {
            // Overtaken before anything was produced: that says more than what was there before.
            Begun::Stale(_, Some(error)) if error.is_lease_lost() => return Err(error.into()),
            Begun::Fresh(stream) | Begun::Stale(stream, _) => stream,
            Begun::Absent => return Err(Failure::Absent(entry.path())),
            Begun::Refresh(refresh) => match self.produce(refresh, &args.producer) {
                Ok(_) => entry
                    .open()?
                    .ok_or_else(|| Failure::Missing(entry.path()))?,
                // Whoever ends this run wants no answer; and to whom nothing was given nothing failed.
                Err(failure) if failure.is_final() => return Err(failure),
                Err(failure) => match entry.stale_if_error(&policy, &failure) {
                    Some(stream) => stream,
                    None => return Err(failure),
                },
            },
        };
        self.control.idle()?;
        if args.path {
            report::path(&entry.path())?;
        } else {
            report::payload(stream)?;
        }
        Ok(exit::OK)
    }

    fn refresh(&self, args: &RefreshArgs) -> Result<u8, Failure> {
        let entry = self.entry(&args.place, Access::Write)?;
        if args.producer.command.is_empty() {
            producer::check_input()?;
        } else {
            command::check(&args.producer.command)?;
        }
        let mut refresh = entry.refresh().map_err(|error| self.waited(error))?;
        if let Some(len) = args.expect_len {
            refresh.expect_len(len);
        }
        let (waited, epoch) = (refresh.waited(), refresh.epoch());
        let (produced, published) = self.produce(refresh, &args.producer)?;
        if self.settings.json() {
            let line = json!({
                "path": entry.path().display().to_string(),
                "generation": published.generation,
                "modified": produced == Produced::New,
                "length": published.len,
                "written_ms": report::unix_ms(published.written),
                "waited_ms": report::ms(waited),
                "epoch": epoch,
            });
            report::json(&line)?;
        }
        Ok(exit::OK)
    }

    fn read(&self, place: &Place, path: bool) -> Result<u8, Failure> {
        let entry = self.entry(place, Access::Read)?;
        self.control.idle()?;
        let stream = match entry.lookup()? {
            Lookup::Value(stream) => stream,
            Lookup::Absent { until } if SystemTime::now() < until => {
                return Err(Failure::Absent(entry.path()));
            }
            Lookup::Absent { .. } | Lookup::Missing => return Err(Failure::Missing(entry.path())),
        };
        if path {
            report::path(&entry.path())?;
        } else {
            report::payload(stream)?;
        }
        Ok(exit::OK)
    }

    fn lock(&self, dir: &Path, command: &[OsString]) -> Result<u8, Failure> {
        command::check(command)?;
        let cache = self.open(dir, Access::Write)?;
        let mut lock = cache.lock().map_err(|error| self.waited(error))?;
        let status = command::run(command, self.control, &mut lock)?;
        // COMMAND may have ended while this process stood still, and the loss not be noticed yet.
        let lost = lock.check_held().is_err_and(|error| error.is_lease_lost());
        self.control.check()?;
        if lost {
            return Err(Failure::Lost);
        }
        Ok(process::exit_code(status))
    }

    fn status(&self, path: &Path, cache: Option<&Path>, verbose: bool) -> Result<u8, Failure> {
        self.control.idle()?;
        let once = || {
            let (dir, file) = status::target(path, cache)?;
            let cache = self.open(&dir, Access::Read)?;
            let entry = file.map(|name| cache.entry(&name)).transpose()?;
            status::run(&cache, entry.as_ref(), &self.settings, verbose)
        };
        match once() {
            // It was missing and so taken for an entry, and somebody has made a cache of it since.
            Err(Failure::Cache(error)) if error.kind() == ErrorKind::NotAFile && path.is_dir() => {
                once()
            }
            result => result,
        }
    }

    fn sweep(&self, dir: &Path) -> Result<u8, Failure> {
        let cache = self.open(dir, Access::Write)?;
        cache.sweep().map_err(|error| self.waited(error))?;
        if self.settings.json() {
            let line = json!({ "path": cache.path().display().to_string(), "swept": true });
            report::json(&line)?;
        }
        Ok(exit::OK)
    }

    fn break_lock(&self, dir: &Path) -> Result<u8, Failure> {
        let cache = self.open(dir, Access::Write)?;
        let holder = cache.break_lock().map_err(|error| self.waited(error))?;
        let path = cache.path().display();
        if self.settings.json() {
            let holder = holder.as_ref().map(report::holder);
            let line = json!({ "path": path.to_string(), "removed": holder });
            report::json(&line)?;
        } else if !self.settings.quiet() {
            match holder {
                Some(holder) => report::said(&format!("removed {holder} from the lock of {path}"))?,
                None => report::said(&format!("nobody held the lock of {path}"))?,
            }
        }
        Ok(exit::OK)
    }
}
