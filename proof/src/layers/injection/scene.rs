//! A scene: a cache as it is before a run, the run, and what must be true after it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, chmod, stat};

use super::holder::Holder;
use super::trace::{self, Point};
use crate::layer::Guest;
use crate::program::Ran;

pub(super) const OLD: &str = "the old payload";
pub(super) const NEW: &str = "the new one";
const NEXT: &str = "and the next";

/// The payload's mode.
const PRIVATE: u32 = 0o600;

/// No run may take longer.
const LIMIT: Duration = Duration::from_secs(20);

/// How long a dead guest holds others up.
const SHORT_LEASE: &str = "100ms";
const SHORT: Duration = Duration::from_millis(100);

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Runner {
    Native,
    Guest,
    /// A planted defect: `cp` in the program's place.
    InPlace,
}

/// What is there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Before {
    /// An old entry.
    Entry,
    /// And what a native has left that was killed between its two renames.
    DeadNative,
    /// The same of a holder without the kernel lock.
    DeadGuest,
    /// The same, and the run waits for its lease.
    DyingGuest,
    /// An old entry, and a native that has the lock: the run waits for it.
    Held,
}

/// A kind of run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scene {
    pub(super) runner: Runner,
    pub(super) before: Before,
    pub(super) durability: &'static str,
}

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Injected {
    Kill,
    Error(&'static str),
}

/// What came of an injection.
#[derive(Debug)]
pub(super) enum Ended {
    /// It hit, and all is well.
    Well,
    /// It was never reached.
    NeverFired,
}

/// The programs.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    pub(super) native: PathBuf,
    pub(super) guest: Guest,
}

/// A file of the cache as it was.
struct Kept {
    path: PathBuf,
    /// `None` for a directory.
    bytes: Option<Vec<u8>>,
    mode: u32,
    modified: SystemTime,
}

/// The scene in a directory of its own.
pub(super) struct Stage {
    dir: PathBuf,
    scene: Scene,
    programs: Programs,
    kept: Vec<Kept>,
}

type Result<T, E = String> = std::result::Result<T, E>;

fn said<T>(what: &Path, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|error| format!("{}: {error}", what.display()))
}

fn mode_of(path: &Path) -> Result<u32> {
    let found = said(path, stat(path).map_err(Into::into))?;
    Ok(Mode::from_raw_mode(found.st_mode).as_raw_mode() & 0o777)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    said(
        path,
        chmod(path, Mode::from_raw_mode(mode)).map_err(Into::into),
    )
}

impl Stage {
    /// Sets the scene in `dir`, which does not exist.
    pub(super) fn set(dir: PathBuf, scene: Scene, programs: &Programs) -> Result<Self> {
        said(&dir, fs::create_dir_all(dir.join("cache")))?;
        for (name, text) in [("old", OLD), ("new", NEW), ("next", NEXT)] {
            said(&dir, fs::write(dir.join(name), text))?;
        }
        let mut stage = Stage {
            dir,
            scene,
            programs: programs.clone(),
            kept: Vec::new(),
        };
        let mut first = stage.native(&["refresh", "FILE"]);
        let ran = Ran::of(&mut first, Some(&stage.dir.join("old")), LIMIT)?;
        if ran.code() != 0 {
            return Err(format!("the first refresh: {ran}"));
        }
        set_mode(&stage.entry(), PRIVATE)?;
        if !matches!(scene.before, Before::Entry | Before::Held) {
            stage.die_between_renames()?;
        }
        stage.kept = stage.keep(&stage.cache())?;
        Ok(stage)
    }

    fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    fn entry(&self) -> PathBuf {
        self.cache().join("entry")
    }

    fn control(&self) -> PathBuf {
        self.cache().join(".cachelock")
    }

    fn native(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.native);
        self.arguments(&mut command, words, &self.cache());
        command
    }

    fn arguments(&self, command: &mut Command, words: &[&str], cache: &Path) {
        for word in words {
            match *word {
                "FILE" => command.arg(cache.join("entry")),
                "DIR" => command.arg(cache),
                word => command.arg(word),
            };
        }
        command.env("CACHELOCK_CONFIG", "");
        // Failed calls would read the program's symbols.
        command.env_remove("RUST_BACKTRACE");
    }

    /// The run of this scene, under `strace`, which writes to `log`.
    fn traced(&self, strace: &[&str], log: &Path) -> Command {
        let mut command = Command::new("strace");
        command.arg("-o").arg(log).args(["-s", "300"]).args(strace);
        let mut words = vec!["refresh", "FILE", "--durability", self.scene.durability];
        match self.scene.before {
            Before::Entry | Before::DeadNative if self.scene.runner == Runner::Guest => {
                words.extend(["--lease", SHORT_LEASE]);
            }
            Before::Entry | Before::DeadNative | Before::Held => {}
            // Too short to see it stand still, so the file system's clock must tell.
            Before::DeadGuest => words.extend(["--lease", SHORT_LEASE, "--timeout", "110ms"]),
            Before::DyingGuest => words.extend(["--lease", SHORT_LEASE]),
        }
        match self.scene.runner {
            Runner::Native => {
                command.arg(&self.programs.native);
                self.arguments(&mut command, &words, &self.cache());
            }
            Runner::Guest => {
                let mut grant = self.cache().into_os_string();
                grant.push("::/cache");
                command.arg(&self.programs.guest.wasmtime);
                command.args(["run", "--allow-precompiled", "--dir"]);
                command.arg(grant).arg(&self.programs.guest.program);
                self.arguments(&mut command, &words, Path::new("/cache"));
            }
            Runner::InPlace => {
                command
                    .arg("cp")
                    .arg(self.dir.join("new"))
                    .arg(self.entry());
            }
        }
        command
    }

    fn run(&self, strace: &[&str]) -> Result<(Ran, String)> {
        let log = self.dir.join("log");
        let mut command = self.traced(strace, &log);
        let input = self.dir.join("new");
        let mut run = || Ran::of(&mut command, Some(&input), LIMIT);
        let ran = match self.scene.before {
            Before::Held => {
                let holder = Holder::start(&mut self.native(&["lock", "DIR"]))?;
                let is_want = |name: &String| name.starts_with("want-");
                let waits = || names(&self.control()).is_ok_and(|all| all.iter().any(is_want));
                holder.during(waits, run)?
            }
            _ => run(),
        }?;
        Ok((ran, said(&log, fs::read_to_string(&log))?))
    }

    /// Leaves what a holder leaves that was killed between its two renames.
    fn die_between_renames(&self) -> Result<()> {
        let lease = match self.scene.before {
            Before::DeadNative => vec!["refresh", "FILE"],
            _ => vec![
                "refresh",
                "FILE",
                "--locking",
                "lease",
                "--lease",
                SHORT_LEASE,
            ],
        };
        let run = |strace: &[&str]| -> Result<(Ran, String)> {
            let log = self.dir.join("log");
            let mut command = Command::new("strace");
            command.arg("-o").arg(&log).args(strace);
            command.arg(&self.programs.native);
            self.arguments(&mut command, &lease, &self.cache());
            let ran = Ran::of(&mut command, Some(&self.dir.join("old")), LIMIT)?;
            Ok((ran, said(&log, fs::read_to_string(&log))?))
        };
        let (_, log) = run(&[])?;
        let points = trace::points(&log, |_, _| true);
        let renames = |point: &&Point| point.call.starts_with("rename");
        let last = points.iter().rfind(renames).ok_or("it renames nothing")?;
        let inject = format!("inject={}:signal=KILL:when={}", last.call, last.ordinal);
        let (ran, log) = run(&["-e", &inject])?;
        let names = names(&self.control())?;
        let has = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
        if !trace::was_killed(&log) || !has("claim-") || !has("stage-") {
            return Err(format!("it was not killed between its renames: {ran}"));
        }
        if self.scene.before == Before::DeadGuest {
            let long_ago = SystemTime::now() - Duration::from_secs(3600);
            for name in names {
                let path = self.control().join(name);
                if path.is_file() {
                    let file = said(&path, File::options().write(true).open(&path))?;
                    said(&path, file.set_modified(long_ago))?;
                }
            }
        }
        Ok(())
    }

    /// All that is below `dir`, but for the gate: a record may name its inode.
    fn keep(&self, dir: &Path) -> Result<Vec<Kept>> {
        let mut kept = Vec::new();
        for name in names(dir)? {
            let path = dir.join(&name);
            let metadata = said(&path, fs::symlink_metadata(&path))?;
            let is_dir = metadata.is_dir();
            if name == "cache.lock" {
                continue;
            }
            kept.push(Kept {
                bytes: match is_dir {
                    true => None,
                    false => Some(said(&path, fs::read(&path))?),
                },
                mode: mode_of(&path)?,
                modified: said(&path, metadata.modified())?,
                path: path.clone(),
            });
            if is_dir {
                kept.extend(self.keep(&path)?);
            }
        }
        Ok(kept)
    }

    /// As at the beginning.
    fn reset(&self) -> Result<()> {
        for dir in [self.cache(), self.control()] {
            for name in names(&dir)? {
                let path = dir.join(&name);
                match (&*name, path.is_dir()) {
                    (".cachelock" | "cache.lock", _) => Ok(()),
                    (_, true) => fs::remove_dir_all(&path),
                    (_, false) => fs::remove_file(&path),
                }
                .map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        for kept in &self.kept {
            let path = &kept.path;
            match &kept.bytes {
                None => {
                    if !path.is_dir() {
                        said(path, fs::create_dir(path))?;
                    }
                }
                Some(bytes) => {
                    said(path, fs::write(path, bytes))?;
                    let file = said(path, File::options().write(true).open(path))?;
                    // Whoever is to see it stand still must not find it long dead.
                    if self.scene.before != Before::DyingGuest {
                        said(path, file.set_modified(kept.modified))?;
                    }
                }
            }
            set_mode(path, kept.mode)?;
        }
        Ok(())
    }

    /// The calls that each of several runs makes, from the one that reaches the cache on.
    pub(super) fn points(&self) -> Result<Vec<Point>> {
        let mut certain: Option<Vec<Point>> = None;
        for _ in 0..4 {
            self.reset()?;
            let (ran, log) = self.run(&[])?;
            if ran.code() != 0 {
                return Err(format!("a run in which nothing fails: {ran}"));
            }
            let cache = format!("\"{}", self.cache().display());
            let runner = self.scene.runner;
            let points = trace::points(&log, |name, rest| match runner {
                // The runtime itself opens the directory that is granted; the guest's first look is for the control directory.
                Runner::Guest => rest.contains("\".cachelock\""),
                _ => name.starts_with("open") && rest.contains(&cache),
            });
            certain = Some(match certain {
                None => points,
                Some(before) => before
                    .into_iter()
                    .filter(|point| points.contains(point))
                    .collect(),
            });
        }
        Ok(certain.unwrap_or_default())
    }

    /// One injection, and all that must hold after it. `meanwhile` comes between the run and the checks.
    pub(super) fn inject(
        &self,
        injected: Injected,
        point: &Point,
        meanwhile: impl FnOnce(&Path),
    ) -> Result<Ended> {
        self.reset()?;
        let Point { call, ordinal } = point;
        let what = match injected {
            Injected::Kill => "signal=KILL".to_owned(),
            Injected::Error(error) => format!("error={error}"),
        };
        let inject = format!("inject={call}:{what}:when={ordinal}");
        let trace = format!("trace={call}");
        let (ran, log) = self.run(&["-e", &trace, "-e", &inject])?;
        let fired = match injected {
            Injected::Kill => trace::was_killed(&log),
            Injected::Error(_) => trace::has_failed_one(&log),
        };
        if !fired {
            return Ok(Ended::NeverFired);
        }
        meanwhile(&self.entry());
        let context =
            |why: String| format!("{:?}, {injected:?} at {call} {ordinal}: {why}", self.scene);
        self.check(injected, point, &ran).map_err(context)?;
        Ok(Ended::Well)
    }

    fn check(&self, injected: Injected, point: &Point, ran: &Ran) -> Result<()> {
        let payload = said(&self.entry(), fs::read_to_string(self.entry()))?;
        let expected: &[&str] = match injected {
            Injected::Kill => &[OLD, NEW],
            Injected::Error(error) => {
                self.is_said(error, point, ran)?;
                match ran.code() == 0 || ran.stderr.contains("was published, but") {
                    true => &[NEW],
                    false => &[OLD],
                }
            }
        };
        if !expected.contains(&&*payload) {
            return Err(format!("the payload is {payload:?}: {ran}"));
        }
        let keeps_mode = mode_of(&self.entry())? == PRIVATE;
        // A guest cannot set modes.
        if !keeps_mode && self.scene.runner != Runner::Guest {
            return Err(format!("the payload is not private any more: {ran}"));
        }
        let read = Ran::of(&mut self.native(&["read", "FILE"]), None, LIMIT)?;
        if read.code() != 0 || read.stdout != payload {
            return Err(format!("{payload:?} is there, but {read}; after {ran}"));
        }
        self.next_refresh_works()
            .map_err(|why| format!("{why}; after {ran}"))
    }

    /// The error is clear: what failed, where, and what to do where something can be done.
    fn is_said(&self, error: &str, point: &Point, ran: &Ran) -> Result<()> {
        let cache = match self.scene.runner {
            Runner::Guest => PathBuf::from("/cache"),
            _ => self.cache(),
        };
        ran.is_clear(&cache)?;
        let of_guest = self.scene.runner == Runner::Guest;
        if error == "EINTR" && point.is_interruptible() && !of_guest && ran.code() != 0 {
            return Err(format!("an interrupted call was not made again: {ran}"));
        }
        // A guest's system has errors and words of its own.
        if ran.code() == 0 || of_guest || ran.stderr.contains("was published, but") {
            return Ok(());
        }
        // Who has so little time gives up where it cannot be told that the holder is dead.
        let in_time = self.scene.before != Before::DeadGuest;
        if !in_time && ran.code() == 75 && ran.stderr.contains("timed out") {
            return Ok(());
        }
        let (codes, says): (&[i32], &[&str]) = match error {
            "ENOSPC" => (&[74], &["free some space"]),
            "EACCES" => (&[74, 77], &["check who owns it"]),
            "EMFILE" => (&[74], &["raise the limit of open files"]),
            "EIO" => (&[74], &["Input/output error"]),
            "ENOLCK" => (&[69, 74], &["No locks available"]),
            // Some systems answer so when a socket is opened.
            "EOPNOTSUPP" => (&[69, 74], &["not supported", "is a socket or a device"]),
            _ => (&[74], &["Interrupted system call"]),
        };
        let is_said = says.iter().any(|says| ran.stderr.contains(says));
        if !codes.contains(&ran.code()) || !is_said {
            return Err(format!("{codes:?} and {says:?} are expected: {ran}"));
        }
        Ok(())
    }

    /// By somebody who does nothing else about it: at once, or after the lease of a dead guest.
    fn next_refresh_works(&self) -> Result<()> {
        let of_guest = self.scene.runner == Runner::Guest
            || matches!(self.scene.before, Before::DeadGuest | Before::DyingGuest);
        // Less than any lease that is not to be waited for, and more than a busy machine adds.
        let (lease, most) = match of_guest {
            true => (SHORT_LEASE, Duration::from_secs(3)),
            false => ("10s", Duration::from_millis(2500)),
        };
        let words = ["refresh", "FILE", "--json", "--lease", lease];
        let next = Ran::of(
            &mut self.native(&words),
            Some(&self.dir.join("next")),
            LIMIT,
        )?;
        let waited = next.stdout.split_once("\"waited_ms\":");
        let waited = waited.and_then(|(_, rest)| rest.split([',', '}']).next()?.parse().ok());
        match (next.code(), waited.map(Duration::from_millis)) {
            (0, Some(waited)) if waited < most => {}
            (0, Some(waited)) => return Err(format!("the next refresh waited {waited:?}")),
            _ => return Err(format!("the next refresh: {next}")),
        }
        let read = Ran::of(&mut self.native(&["read", "FILE"]), None, LIMIT)?;
        if (read.code(), &*read.stdout) != (0, NEXT) {
            return Err(format!("after the next refresh: {read}"));
        }
        let mut left = self.left()?;
        if left.iter().any(|name| name.starts_with("want-")) {
            // Somebody may still be alive and want its turn, for three leases of whoever looks.
            thread::sleep(SHORT * 4);
            let words = ["sweep", "DIR", "--lease", SHORT_LEASE];
            let swept = Ran::of(&mut self.native(&words), None, LIMIT)?;
            if swept.code() != 0 {
                return Err(format!("a sweep: {swept}"));
            }
            left = self.left()?;
        }
        match left.is_empty() {
            true => Ok(()),
            false => Err(format!("after the next refresh there is {left:?}")),
        }
    }

    /// What is there and does not belong there.
    fn left(&self) -> Result<Vec<String>> {
        let stays = ["cache.lock", "head", "tags", ".cachelock", "entry"];
        let mut left = [names(&self.control())?, names(&self.cache())?].concat();
        left.retain(|name| !stays.contains(&&**name));
        Ok(left)
    }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in said(dir, fs::read_dir(dir))? {
        let name = said(dir, entry)?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
