//! Four writers and two readers on one cache, and what must be true of it at each moment.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use cachelock::{Cache, Entry, Snapshot, Verification};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::readers::Readers;
use super::writer::{ENTRY, Orders, Said, Style, cache_in, log_in, strays, whole_lines};
use crate::layers;
use crate::payload::{Origin, make, origin_of};
use crate::process::last_claimer;
use crate::random::Random;

const WRITERS: usize = 4;

/// A broken promise.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    pub(super) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// The entry is not the whole payload of one writer.
    Torn,
    /// A generation was given twice, went back, or is another's.
    Generation,
    /// Something was left behind.
    Stray,
    /// The next caller had to wait for a dead holder.
    Slow,
    /// A writer or the ground itself does not work.
    Failed,
}

impl FaultKind {
    pub(super) fn with(self, text: impl Into<String>) -> Fault {
        let text = text.into();
        Fault { kind: self, text }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        FaultKind::Failed.with(error.to_string())
    }
}

impl From<rustix::io::Errno> for Fault {
    fn from(error: rustix::io::Errno) -> Self {
        FaultKind::Failed.with(error.to_string())
    }
}

/// How a ground is set up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) style: Style,
    pub(super) lease: Duration,
    /// Whether writers are only killed, and none is ever overtaken alive.
    pub(super) alone: bool,
    pub(super) seed: u64,
}

/// For how long an acquire has waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Waited {
    pub(super) whole: Duration,
    /// The longest part of it in which nobody published and no holder lived: those who live may take their time, and disks theirs.
    pub(super) idle: Duration,
}

pub(super) struct Writer {
    number: u64,
    child: Child,
}

impl Writer {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What each of its threads does, as the kernel tells it: for whoever has to find out why they wait.
    fn doing(&self) -> String {
        let process = format!("/proc/{}/task", self.pid());
        let threads = fs::read_dir(process).into_iter().flatten().flatten();
        let of_thread = |thread: fs::DirEntry| {
            let read =
                |name: &str| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            let stat = read("stat");
            let state = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.chars().next());
            let calls = read("stack")
                .lines()
                .take(4)
                .collect::<Vec<_>>()
                .join(" < ");
            format!(
                " {} {} [{calls}]",
                read("comm").trim(),
                state.unwrap_or('?')
            )
        };
        let threads: String = threads.map(of_thread).collect();
        format!("{} ({}):{threads}; ", self.number, self.pid())
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), Fault> {
        signal_to(self.pid(), signal)
    }

    /// After a stop: until it stands.
    pub(super) fn wait_stopped(&self) -> Result<(), Fault> {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid_of(self.pid())?), options)?;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Both fail only for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid_of(pid: u32) -> Result<Pid, Fault> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| FaultKind::Failed.with("a process without a number"))
}

pub(super) fn signal_to(pid: u32, signal: Signal) -> Result<(), Fault> {
    Ok(kill_process(pid_of(pid)?, signal)?)
}

/// See the module.
pub(super) struct Ground {
    dir: PathBuf,
    setup: Setup,
    pub(super) writers: Vec<Writer>,
    started: u64,
    log: File,
    /// Of the log, what is no whole line yet.
    unread: String,
    pub(super) entry: Entry,
    /// Whose payload each of the last generations is, as far as that is known.
    known: BTreeMap<u64, Origin>,
    /// The last payload of each writer that was acknowledged.
    acknowledged: BTreeMap<u64, u64>,
    /// No read may give an older one: the last that was acknowledged or seen.
    pub(super) floor: u64,
    published: u64,
    /// How long a refresh takes here, with nobody else who wants the lock.
    pub(super) refresh: Duration,
    /// Whoever has said something since this was last emptied.
    pub(super) heard: Vec<u64>,
    pub(super) random: Random,
    readers: Readers,
}

impl Ground {
    /// In the empty directory `dir`.
    pub(super) fn new(dir: &Path, setup: Setup) -> Result<Self, Fault> {
        let log = log_in(dir);
        File::create(&log)?;
        let cache = Cache::builder(cache_in(dir))
            .timeout(Duration::from_secs(60))
            .lease(setup.lease)
            .open()
            .map_err(failed)?;
        let entry = cache.entry(ENTRY).map_err(failed)?;
        let mut ground = Ground {
            dir: dir.to_owned(),
            setup,
            writers: Vec::new(),
            started: 0,
            log: File::open(&log)?,
            unread: String::new(),
            entry: entry.clone(),
            known: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            floor: 0,
            published: 0,
            refresh: Duration::ZERO,
            heard: Vec::new(),
            random: Random::new(setup.seed),
            readers: Readers::default(),
        };
        let mut took = Vec::new();
        for _ in 0..9 {
            let began = Instant::now();
            ground.publish(false)?;
            took.push(began.elapsed());
        }
        took.sort();
        ground.refresh = took[took.len() / 2];
        ground.readers = Readers::start(&entry)?;
        for _ in 0..WRITERS {
            let writer = ground.start_writer()?;
            ground.writers.push(writer);
        }
        Ok(ground)
    }

    pub(super) fn start_writer(&mut self) -> Result<Writer, Fault> {
        self.started += 1;
        let orders = Orders {
            dir: self.dir.clone(),
            writer: self.started,
            lease: self.setup.lease,
            style: self.setup.style,
            alone: self.setup.alone,
        };
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args([layers::PART, super::PART])
            .args(orders.words());
        Ok(Writer {
            number: self.started,
            child: command.spawn()?,
        })
    }

    /// Kills a writer and puts another one in its place; `seen` is called when the first is dead.
    pub(super) fn replace<T>(
        &mut self,
        index: usize,
        seen: impl FnOnce(&mut Self, u64) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let writer = &mut self.writers[index];
        let number = writer.number;
        writer.child.kill()?;
        let status = writer.child.wait()?;
        if status.code().is_some() {
            self.take_log()?;
            let what = format!("writer {number} ended by itself, with {status}");
            return Err(FaultKind::Failed.with(what));
        }
        let seen = seen(self, number)?;
        self.writers[index] = self.start_writer()?;
        Ok(seen)
    }

    /// The lock's holder, as far as its record tells: the place of a writer.
    pub(super) fn holder(&self) -> Option<usize> {
        let pid = last_claimer(&self.control_dir())?;
        self.writers.iter().position(|writer| writer.pid() == pid)
    }

    pub(super) fn control_dir(&self) -> PathBuf {
        cache_in(&self.dir).join(".cachelock")
    }

    /// The names in the control directory, sorted.
    pub(super) fn control(&self) -> Result<Vec<String>, Fault> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.control_dir())? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn acknowledged(&self, origin: Origin) -> bool {
        self.acknowledged.get(&origin.writer) == Some(&origin.number)
    }

    /// Takes in what the writers have said.
    pub(super) fn take_log(&mut self) -> Result<(), Fault> {
        self.log.read_to_string(&mut self.unread)?;
        let whole = self.unread.rfind('\n').map_or(0, |at| at + 1);
        let lines: String = self.unread.drain(..whole).collect();
        for line in whole_lines(&lines) {
            match Said::parse(line) {
                Some(Said::Acknowledged { origin, generation }) => {
                    self.acknowledged.insert(origin.writer, origin.number);
                    self.heard.push(origin.writer);
                    self.is_origin(generation, origin, "was acknowledged")?;
                    self.floor = self.floor.max(generation);
                }
                Some(Said::Lost { .. }) if self.setup.alone => {
                    let text = format!("a live holder was overtaken: {line}");
                    return Err(FaultKind::Generation.with(text));
                }
                Some(Said::Lost { writer }) => self.heard.push(writer),
                Some(Said::Stray { writer, name }) => {
                    let text = format!("writer {writer} holds and finds {name}");
                    return Err(FaultKind::Stray.with(text));
                }
                _ => {
                    let doing = self.writers.iter().map(Writer::doing).collect::<String>();
                    let what = format!("a writer says: {line}; what they all do: {doing}");
                    return Err(FaultKind::Failed.with(what));
                }
            }
        }
        self.readers.set_floor(self.floor);
        // Only a frozen one is listened for.
        if self.setup.alone {
            self.heard.clear();
        }
        Ok(())
    }

    /// Each generation is one payload of one writer, whoever says so.
    fn is_origin(&mut self, generation: u64, origin: Origin, what: &str) -> Result<(), Fault> {
        let known = *self.known.entry(generation).or_insert(origin);
        if known != origin {
            let text =
                format!("generation {generation} is {known:?}'s, and {what} as {origin:?}'s");
            return Err(FaultKind::Generation.with(text));
        }
        // Enough for whoever is late.
        while self.known.len() > 10_000 {
            self.known.pop_first();
        }
        Ok(())
    }

    fn read(&self) -> Result<Snapshot, Fault> {
        let torn = |why: &dyn fmt::Display| FaultKind::Torn.with(format!("a read says: {why}"));
        let snapshot = self.entry.read().map_err(|error| torn(&error))?;
        let snapshot = snapshot.ok_or_else(|| torn(&"there is nothing"))?;
        match snapshot.meta().verification {
            Verification::Verified => Ok(snapshot),
            other => Err(torn(&other.name())),
        }
    }

    /// Reads the entry: whole, and not older than what was acknowledged or seen before. Its generation, and whose it is.
    pub(super) fn look(&mut self) -> Result<(u64, Origin), Fault> {
        self.readers.check()?;
        self.take_log()?;
        let bytes = fs::read(self.entry.path())?;
        origin_of(&bytes).map_err(|why| FaultKind::Torn.with(format!("the payload: {why}")))?;
        let snapshot = self.read()?;
        let origin = origin_of(&snapshot)
            .map_err(|why| FaultKind::Torn.with(format!("a verified payload: {why}")))?;
        let generation = snapshot.meta().generation.unwrap_or_default();
        if generation < self.floor {
            let text = format!("generation {generation} is there after {}", self.floor);
            return Err(FaultKind::Generation.with(text));
        }
        self.is_origin(generation, origin, "is there")?;
        self.floor = generation;
        Ok((generation, origin))
    }

    /// Acquires, looks, publishes and releases: what must hold under the lock. How long it waited.
    pub(super) fn publish(&mut self, look: bool) -> Result<Waited, Fault> {
        let began = Instant::now();
        let mut refresh = self.entry.refresh().map_err(failed)?;
        let waited = Waited {
            whole: refresh.waited(),
            idle: self.readers.silence_since(began),
        };
        if self.setup.alone {
            let left = strays(&cache_in(&self.dir), refresh.epoch())?;
            if !left.is_empty() {
                let text = format!("the checker holds and finds {}", left.join(", "));
                return Err(FaultKind::Stray.with(text));
            }
        }
        let before = if look { Some(self.look()?.0) } else { None };
        self.published += 1;
        let origin = Origin {
            writer: 0,
            number: self.published,
        };
        std::io::Write::write_all(&mut refresh, &make(origin))?;
        let published = refresh.publish();
        let generation = match published {
            Ok(published) => published.generation,
            // The checker itself may be slow, and then it is overtaken like anybody.
            Err(failed) if failed.error.is_lease_lost() && !self.setup.alone => return Ok(waited),
            Err(other) => return Err(failed(other.error)),
        };
        if let (true, Some(before)) = (self.setup.alone, before)
            && generation != before + 1
        {
            let text = format!("{generation} was published over {before}");
            return Err(FaultKind::Generation.with(text));
        }
        self.is_origin(generation, origin, "was acknowledged")?;
        self.floor = self.floor.max(generation);
        Ok(waited)
    }

    pub(super) fn lease(&self) -> Duration {
        self.setup.lease
    }

    pub(super) fn reads(&self) -> u64 {
        self.readers.reads()
    }
}

fn failed(error: cachelock::Error) -> Fault {
    let kind = match error.kind() {
        cachelock::ErrorKind::Timeout => FaultKind::Slow,
        cachelock::ErrorKind::Corrupt => FaultKind::Torn,
        _ => FaultKind::Failed,
    };
    kind.with(error.to_string())
}
