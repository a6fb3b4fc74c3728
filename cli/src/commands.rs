//! The commands, one function each.

mod status;

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use cachelock::platform::process;
use cachelock::{Begun, Cache, CacheBuilder, Entry, ErrorKind, Policy, Refresh, Timeout};
use serde_json::json;

use crate::args::{Args, Command, Locks, Output, Place};
use crate::control::Control;
use crate::exit::{self, Failure};
use crate::feedback::Feedback;
use crate::input::{self, Message, PIECE};
use crate::{command, report};

/// A timeout above this is probably a mistake.
const LONG: Duration = Duration::from_secs(3600);

/// Runs what `args` ask for; `Ok` has the exit code.
pub(crate) fn run(args: &Args, control: &Arc<Control>) -> Result<u8, Failure> {
    let output = &args.output;
    let to_lock =
        |dir: &Path, locks: &Locks| with_locks(builder(dir, output, control, true), locks, output);
    match &args.command {
        Command::Get {
            place,
            fresh_for,
            path,
            writing,
            locks,
            producer,
        } => {
            let cache = to_lock(&place.cache_dir()?, locks).durability(writing.durability);
            let cache = open(cache)?;
            let entry = cache.entry(&place.name()?)?;
            let policy = fresh_for.map_or_else(Policy::any_age, Policy::fresh_for);
            get(&entry, &policy, *path, &producer.command, locks, control)
        }
        Command::Refresh {
            place,
            expect_len,
            writing,
            locks,
            producer,
        } => {
            let cache = to_lock(&place.cache_dir()?, locks).durability(writing.durability);
            let cache = open(cache)?;
            let entry = cache.entry(&place.name()?)?;
            let command = &producer.command;
            refresh(&entry, *expect_len, command, locks, output, control)
        }
        Command::Read { place, path } => {
            let cache = open(builder(&place.cache_dir()?, output, control, false))?;
            read(&cache.entry(&place.name()?)?, *path, control)
        }
        Command::Lock {
            dir,
            locks,
            command,
        } => lock(&open(to_lock(dir, locks))?, command, locks, control),
        Command::Status { path, cache } => {
            control.idle()?;
            let once = || {
                let (dir, file) = status::target(path, cache.as_deref())?;
                let cache = open(builder(&dir, output, control, false))?;
                let entry = file.map(|name| cache.entry(&name)).transpose()?;
                status::run(&cache, entry.as_ref(), output)
            };
            match once() {
                // It was missing and so taken for an entry, and somebody has made a cache of it since.
                Err(Failure::Cache(error))
                    if error.kind() == ErrorKind::NotAFile && path.is_dir() =>
                {
                    once()
                }
                result => result,
            }
        }
        Command::Sweep { dir, locks } => sweep(&open(to_lock(dir, locks))?, locks, output, control),
        Command::Break { dir, locks } => {
            break_lock(&open(to_lock(dir, locks))?, locks, output, control)
        }
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

fn builder(
    dir: &Path,
    output: &Output,
    control: &Arc<Control>,
    says_corrupt: bool,
) -> CacheBuilder {
    Cache::builder(dir)
        .allow_shared(output.allow_shared)
        .cancel(control.cancel_token())
        .observer(Feedback::new(output, control, says_corrupt))
}

fn with_locks(builder: CacheBuilder, locks: &Locks, output: &Output) -> CacheBuilder {
    if let Timeout::After(timeout) = locks.timeout
        && timeout > LONG
    {
        let message = format!(
            "--timeout {} is more than an hour; say infinite if there should be no limit",
            locks.timeout
        );
        report::warning(output, &message);
    }
    builder
        .timeout(locks.timeout)
        .locking(locks.locking)
        .lease(locks.lease)
}

fn open(builder: CacheBuilder) -> Result<Cache, Failure> {
    builder.open().map_err(|error| match error.kind() {
        ErrorKind::Limit => Failure::Usage(error.to_string()),
        _ => error.into(),
    })
}

/// What a wait for the lock failed with.
fn waited(error: cachelock::Error, locks: &Locks, control: &Control) -> Failure {
    match error.kind() {
        ErrorKind::Timeout => Failure::Timeout(error, locks.timeout),
        // Nothing but a signal cancels.
        ErrorKind::Cancelled => control.check().err().unwrap_or(Failure::Cache(error)),
        _ => Failure::Cache(error),
    }
}

fn get(
    entry: &Entry,
    policy: &Policy,
    path: bool,
    command: &[OsString],
    locks: &Locks,
    control: &Control,
) -> Result<u8, Failure> {
    let begun = entry
        .begin(policy)
        .map_err(|error| waited(error, locks, control))?;
    let fresh = match begun {
        Begun::Fresh(stream) | Begun::Stale(stream, _) => Some(stream),
        Begun::Absent => return Err(Failure::Absent(entry.path())),
        Begun::Refresh(mut refresh) => {
            produce(&mut refresh, command, control)?;
            refresh.publish()?;
            None
        }
    };
    control.idle()?;
    if path {
        report::path(&entry.path())?;
        return Ok(exit::OK);
    }
    let stream = match fresh {
        Some(stream) => stream,
        None => entry
            .open()?
            .ok_or_else(|| Failure::Missing(entry.path()))?,
    };
    report::payload(stream)?;
    Ok(exit::OK)
}

fn refresh(
    entry: &Entry,
    expect_len: Option<u64>,
    command: &[OsString],
    locks: &Locks,
    output: &Output,
    control: &Control,
) -> Result<u8, Failure> {
    if command.is_empty() {
        check_input()?;
    }
    let mut refresh = entry
        .refresh()
        .map_err(|error| waited(error, locks, control))?;
    if let Some(len) = expect_len {
        refresh.expect_len(len);
    }
    let (waited, epoch) = (refresh.waited(), refresh.epoch());
    produce(&mut refresh, command, control)?;
    let published = refresh.publish()?;
    if output.json {
        let line = json!({
            "path": entry.path().display().to_string(),
            "generation": published.generation,
            "length": published.len,
            "written_ms": report::unix_ms(published.written),
            "waited_ms": report::ms(waited),
            "epoch": epoch,
        });
        report::line(&line.to_string())?;
    }
    Ok(exit::OK)
}

/// A person at a terminal does not expect to type a payload.
fn check_input() -> Result<(), Failure> {
    if std::io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "nothing to publish: give a COMMAND after `--`, or the payload on standard input"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The payload from COMMAND or from standard input. After an error nothing may be published.
fn produce(refresh: &mut Refresh, command: &[OsString], control: &Control) -> Result<(), Failure> {
    if command.is_empty() {
        check_input()?;
        from_input(refresh, control)
    } else {
        command::produce(command, control, &mut |piece| write(refresh, piece))
    }
}

fn write(refresh: &mut Refresh, piece: &[u8]) -> Result<(), Failure> {
    refresh
        .write_all(piece)
        .map_err(|error| Failure::io("write the payload", error))
}

fn from_input(refresh: &mut Refresh, control: &Control) -> Result<(), Failure> {
    let (bell, messages) = mpsc::channel();
    control.wake(bell.clone());
    let Ok(pieces) = input::read_in_background(std::io::stdin(), bell) else {
        return from_input_here(refresh);
    };
    loop {
        control.check()?;
        match messages.recv() {
            Ok(Message::Data(piece)) => {
                write(refresh, &piece)?;
                pieces.give_back(piece);
            }
            Ok(Message::End(result)) => {
                result.map_err(|error| Failure::Io("read standard input", error))?;
                return control.check();
            }
            Ok(Message::Wake) => {}
            Err(_) => {
                let error = std::io::ErrorKind::UnexpectedEof.into();
                return Err(Failure::Io("read standard input", error));
            }
        }
    }
}

/// Where there are no threads: nobody else shows that this holder is alive.
fn from_input_here(refresh: &mut Refresh) -> Result<(), Failure> {
    const BEAT_EVERY: Duration = Duration::from_millis(30);

    let mut input = std::io::stdin().lock();
    let mut piece = vec![0; PIECE];
    let mut beaten = Instant::now();
    loop {
        let read = match std::io::Read::read(&mut input, &mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::Io("read standard input", error)),
        };
        write(refresh, &piece[..read])?;
        if beaten.elapsed() >= BEAT_EVERY {
            refresh.heartbeat()?;
            beaten = Instant::now();
        }
    }
}

fn read(entry: &Entry, path: bool, control: &Control) -> Result<u8, Failure> {
    control.idle()?;
    let stream = entry
        .open()?
        .ok_or_else(|| Failure::Missing(entry.path()))?;
    if path {
        report::path(&entry.path())?;
    } else {
        report::payload(stream)?;
    }
    Ok(exit::OK)
}

fn lock(
    cache: &Cache,
    command: &[OsString],
    locks: &Locks,
    control: &Control,
) -> Result<u8, Failure> {
    let lock = cache
        .lock()
        .map_err(|error| waited(error, locks, control))?;
    let status = command::run(command, control)?;
    // COMMAND may have ended while this process stood still, and the loss not be noticed yet. A stage can only be had
    // by who holds the lease.
    let lost = lock.check().is_err_and(|error| error.is_lease_lost());
    control.check()?;
    if lost {
        return Err(Failure::Lost);
    }
    Ok(process::exit_code(status))
}

fn sweep(cache: &Cache, locks: &Locks, output: &Output, control: &Control) -> Result<u8, Failure> {
    cache
        .sweep()
        .map_err(|error| waited(error, locks, control))?;
    if output.json {
        let line = json!({ "path": cache.path().display().to_string(), "swept": true });
        report::line(&line.to_string())?;
    }
    Ok(exit::OK)
}

fn break_lock(
    cache: &Cache,
    locks: &Locks,
    output: &Output,
    control: &Control,
) -> Result<u8, Failure> {
    let holder = cache
        .break_lock()
        .map_err(|error| waited(error, locks, control))?;
    let path = cache.path().display();
    if output.json {
        let holder = holder.as_ref().map(report::holder);
        let line = json!({ "path": path.to_string(), "removed": holder });
        report::line(&line.to_string())?;
    } else if !output.quiet {
        match holder {
            Some(holder) => report::line(&format!("removed {holder} from the lock of {path}"))?,
            None => report::line(&format!("nobody held the lock of {path}"))?,
        }
    }
    Ok(exit::OK)
}
