//! What the tests of the program on hostile and failing systems have in common: a place that other users can reach, the
//! program run as another user and with a limit of time, and what must be true of a cache afterwards.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fmt;
use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) mod disk;
pub(crate) mod planted;

/// The user that most of these tests run the program as.
pub(crate) const USER: u32 = planted::USER;
/// Another one.
pub(crate) const STRANGER: u32 = planted::STRANGER;

/// No run of the program may take longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

pub(crate) const OLD: &str = "the old payload";
pub(crate) const NEW: &str = "the new one";
pub(crate) const NEXT: &str = "and the next";

/// What must be there, as root or as the tools, or the test is skipped; where `CI` is set, it fails.
pub(crate) fn lacks(what: &str, there: bool) -> bool {
    if !there {
        assert!(std::env::var_os("CI").is_none(), "this test needs {what}");
        eprintln!("skipped: this test needs {what}");
    }
    !there
}

pub(crate) fn lacks_root() -> bool {
    lacks("root", myself() == 0)
}

pub(crate) fn lacks_tool(name: &str) -> bool {
    lacks(name, Command::new(name).arg("-V").output().is_ok())
}

/// A copy of the program where every user may run it; gone with its last user.
pub(crate) struct Program {
    dir: TempDir,
}

impl Program {
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Program>> = Mutex::new(Weak::new());
        let mut shared = SHARED
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(program) = shared.upgrade() {
            return program;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("it is ours");
        let program = Arc::new(Program { dir });
        fs::copy(env!("CARGO_BIN_EXE_cachelock"), program.path()).expect("a copy of the program");
        *shared = Arc::downgrade(&program);
        program
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("cachelock")
    }
}

/// The user that runs the tests.
pub(crate) fn myself() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn run_as(command: &mut Command, user: u32) {
    if user != myself() {
        planted::run_as(command, user);
    }
}

/// A directory of one user, with a cache in it.
pub(crate) struct Ground {
    dir: TempDir,
    program: Arc<Program>,
    pub(crate) user: u32,
}

impl Ground {
    pub(crate) fn of(user: u32) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ground = Ground {
            dir,
            program: Program::shared(),
            user,
        };
        ground.own(ground.path());
        fs::set_permissions(ground.path(), Permissions::from_mode(0o755)).expect("it is ours");
        ground
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.path().join("cache")
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.cache().join(".cachelock")
    }

    pub(crate) fn entry(&self) -> PathBuf {
        self.cache().join("entry")
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.program.path()
    }

    /// Gives `path` to the ground's user.
    pub(crate) fn own(&self, path: &Path) {
        if self.user != myself() {
            chown(path, Some(self.user), Some(self.user)).expect("root may do that");
        }
    }

    /// The program with these arguments, FILE and DIR standing for the entry and the cache, as the ground's user.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        self.command_of(self.user, words)
    }

    pub(crate) fn command_of(&self, user: u32, words: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        self.arguments(&mut command, words);
        run_as(&mut command, user);
        command
    }

    /// The same, run by `wrapper`, which takes a command line.
    pub(crate) fn wrapped(&self, wrapper: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(self.program());
        self.arguments(&mut command, words);
        run_as(&mut command, self.user);
        command
    }

    fn arguments(&self, command: &mut Command, words: &[&str]) {
        for word in words {
            match *word {
                "FILE" => command.arg(self.entry()),
                "DIR" => command.arg(self.cache()),
                word => command.arg(word),
            };
        }
        // Where every user may be.
        command.current_dir("/").env("CACHELOCK_CONFIG", "");
    }

    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        run(&mut self.command(words))
    }

    #[track_caller]
    pub(crate) fn publish(&self, payload: &str) {
        let ran = self.run(&["refresh", "FILE", "--", "printf", "%s", payload]);
        assert_eq!(ran.code(), 0, "{ran}");
    }

    /// The next refresh, by a user who does nothing else about it, works and leaves nothing but what stays.
    #[track_caller]
    pub(crate) fn assert_next_refresh_works(&self, why: &dyn fmt::Display) {
        let ran = self.run(&["refresh", "FILE", "--", "printf", NEXT]);
        assert_eq!(ran.code(), 0, "{why}: the next refresh: {ran}");
        let ran = self.run(&["read", "FILE"]);
        assert_eq!((ran.code(), &*ran.stdout), (0, NEXT), "{why}: {ran}");
        assert_eq!(
            names(&self.control()),
            ["cache.lock", "head", "tags"],
            "{why}: something is left"
        );
    }
}

/// A run of the program that has ended.
pub(crate) struct Ran {
    what: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Ran {
    /// -1 if a signal ended it.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    pub(crate) fn command(&self) -> &str {
        &self.what
    }

    /// Whatever it was, it was said as the documentation promises: one of its exit codes, a message that names a path, no
    /// panic.
    #[track_caller]
    pub(crate) fn assert_clear(&self, path: &Path) {
        const CODES: [i32; 10] = [0, 1, 2, 65, 66, 69, 74, 75, 76, 77];
        assert!(!self.stderr.contains("panicked"), "{self}");
        assert!(CODES.contains(&self.code()), "an undocumented code: {self}");
        if self.code() != 0 {
            let path = path.display().to_string();
            let line = self.stderr.lines().last().unwrap_or_default();
            assert!(line.starts_with("cachelock: "), "no message: {self}");
            assert!(line.contains(&path), "{path} is not named: {self}");
            assert!(line.ends_with(']'), "the error has no name: {self}");
        }
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ended with {} after {:?}; it printed {:?} and said {:?}",
            self.what, self.status, self.took, self.stdout, self.stderr
        )
    }
}

/// A child that is killed if the test ends before it.
pub(crate) struct Running {
    what: String,
    started: Instant,
    pub(crate) child: Child,
}

impl Running {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let what = format!("{command:?}");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        Running {
            what,
            started: Instant::now(),
            child,
        }
    }

    pub(crate) fn id(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process number")
    }

    /// Whether it is blocked in a kernel lock, as whoever waits for the gate is.
    pub(crate) fn is_blocked(&self) -> bool {
        let id = self.id().to_string();
        let locks = fs::read_to_string("/proc/locks").expect("the kernel's list of locks");
        locks.lines().any(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.get(1) == Some(&"->") && words.get(5) == Some(&&*id)
        })
    }

    /// Whether it watches a directory, as whoever waits for a lease does.
    pub(crate) fn watches(&self) -> bool {
        let Ok(files) = fs::read_dir(format!("/proc/{}/fd", self.id())) else {
            return false;
        };
        files
            .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
            .any(|file| file.as_os_str() == "anon_inode:inotify")
    }

    /// Its end, which must come within `limit` of now.
    #[track_caller]
    pub(crate) fn finish_within(mut self, limit: Duration) -> Ran {
        let until = Instant::now() + limit;
        let mut pause = Duration::from_micros(500);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                break status;
            }
            assert!(Instant::now() < until, "{} does not end", self.what);
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        };
        let took = self.started.elapsed();
        // So little is printed that it is all in the pipes by now.
        let mut said = [Vec::new(), Vec::new()];
        if let Some(stdout) = &mut self.child.stdout {
            stdout.read_to_end(&mut said[0]).expect("a pipe");
        }
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_end(&mut said[1]).expect("a pipe");
        }
        let [stdout, stderr] = said.map(|said| String::from_utf8_lossy(&said).into_owned());
        Ran {
            what: std::mem::take(&mut self.what),
            status,
            stdout,
            stderr,
            took,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a child that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs it to its end, with nothing on its standard input.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Ran {
    Running::start(command.stdin(Stdio::null())).finish_within(LIMIT)
}

#[track_caller]
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let listing = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut names: Vec<_> = listing
        .map(|entry| {
            entry
                .expect("a name")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// Waits for what another process is about to do.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
