//! What the tests of the program share.
#![allow(dead_code, reason = "no test needs all of it")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_cachelock");

/// A cache, and a folder of its own around it.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Place { dir }
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    pub(crate) fn entry(&self) -> PathBuf {
        self.cache().join("entry")
    }

    /// A file beside the cache.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program with nothing set, neither by this process nor by whoever runs the tests.
    pub(crate) fn program(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"CACHELOCK_") {
                command.env_remove(name);
            }
        }
        command
            .env("CACHELOCK_CONFIG", "")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The program's arguments, with FILE and DIR for the entry and the cache.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.program();
        for word in words {
            match *word {
                "FILE" => command.arg(self.entry()),
                "DIR" => command.arg(self.cache()),
                word => command.arg(word),
            };
        }
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Output {
        started(|| self.command(words).output()).expect("the program runs")
    }

    pub(crate) fn start(&self, words: &[&str]) -> Child {
        started(|| self.command(words).spawn()).expect("the program starts")
    }

    /// Somebody who holds the lock until it is killed or its `release` is called.
    pub(crate) fn hold(&self) -> Holder {
        let child = self.start(&[
            "lock",
            "DIR",
            "--",
            "sh",
            "-c",
            "touch held; exec sleep 600",
        ]);
        let held = self.beside("held");
        eventually("the lock is held", || exists(&held));
        fs::remove_file(held).expect("ours");
        Holder(child)
    }

    /// Runs a copy of the program with this environment, as a user to whom permissions apply.
    #[cfg(unix)]
    pub(crate) fn run_unprivileged(&self, words: &[&str], variables: &[(&str, &str)]) -> Output {
        use std::os::unix::fs::PermissionsExt as _;

        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        // Where others may run it, too.
        let program = self.beside("program");
        if !exists(&program) {
            // Not by this process: a child that another test starts meanwhile would inherit the file, open for writing,
            // and what is open for writing cannot be run.
            let copied = Command::new("cp").arg(PROGRAM).arg(&program).status();
            assert!(copied.expect("cp runs").success());
        }
        let id = Command::new("id").arg("-u").output().expect("id runs");
        let mut command = if id.stdout == b"0\n" {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
            command.arg(&program);
            command
        } else {
            Command::new(&program)
        };
        command
            .args(words)
            .env_clear()
            .envs(variables.iter().copied())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        // `setpriv` is looked for in this process's own path.
        command.output().expect("it runs")
    }

    pub(crate) fn publish(&self, payload: &str) {
        let out = self.run(&["refresh", "FILE", "--", "printf", "%s", payload]);
        assert_eq!(code(&out), 0, "{}", stderr(&out));
    }

    /// Nothing but what stays.
    pub(crate) fn assert_clean(&self) {
        let mut names: Vec<_> = fs::read_dir(self.cache().join(".cachelock"))
            .expect("a control directory")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .filter(|name| !matches!(&**name, "cache.lock" | "head" | "tags"))
            .collect();
        names.sort();
        assert!(names.is_empty(), "{names:?}");
    }
}

/// What `start` says, which Wine 8 refuses now and then with its error 1359, before anything of the program has run.
fn started<T>(mut start: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    const INTERNAL_ERROR: i32 = 1359;
    for _ in 0..3 {
        match start() {
            Err(error) if error.raw_os_error() == Some(INTERNAL_ERROR) => {
                thread::sleep(Duration::from_millis(100));
            }
            started => return started,
        }
    }
    start()
}

#[track_caller]
pub(crate) fn run(mut command: Command) -> Output {
    command.output().expect("the program runs")
}

pub(crate) fn code(out: &Output) -> i32 {
    out.status.code().unwrap_or(-1)
}

pub(crate) fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

pub(crate) fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

pub(crate) fn json(text: &str) -> Value {
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn signal(name: &str, child: &Child) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(status.expect("kill runs").success());
}

/// How long the program says that it has waited in vain, in seconds.
#[track_caller]
pub(crate) fn timed_out_after(line: &str) -> f64 {
    let seconds = line
        .strip_prefix("cachelock: timed out after ")
        .and_then(|rest| rest.split_once(" s waiting for "))
        .and_then(|(seconds, _)| seconds.parse().ok());
    seconds.unwrap_or_else(|| panic!("no timeout: {line:?}"))
}

pub(crate) fn exists(path: &Path) -> bool {
    path.exists()
}

/// Whether `tool` is there. Where all must be, it is a failure that it is not.
#[track_caller]
pub(crate) fn has(tool: &str) -> bool {
    let look = format!("command -v {tool} > /dev/null");
    let status = Command::new("sh").args(["-c", &look]).status();
    let found = status.expect("sh runs").success();
    assert!(
        found || std::env::var_os("CI").is_none(),
        "this test needs {tool}"
    );
    if !found {
        eprintln!("skipped: there is no {tool}");
    }
    found
}

/// The commands of the program, and the long options of each, as its own help has them.
pub(crate) fn commands(place: &Place) -> Vec<(String, Vec<String>)> {
    let help = |words: &[&str]| {
        let out = place.run(words);
        assert_eq!(code(&out), 0, "{}", stderr(&out));
        stdout(&out)
    };
    let overview = help(&["help"]);
    let commands = overview
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // What is indented more is the rest of a line.
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help");
    let options = |command: &str| {
        let help = help(&[command, "--help"]);
        help.lines()
            .map(str::trim_start)
            .filter(|line| line.starts_with('-'))
            .filter_map(|line| line.split_once("--"))
            .map(|(_, rest)| {
                let end = rest.find(['[', ' ', '.']).unwrap_or(rest.len());
                rest[..end].to_owned()
            })
            .filter(|option| !option.is_empty())
            .collect::<Vec<_>>()
    };
    let found: Vec<_> = commands
        .map(|command| (command.to_owned(), options(command)))
        .collect();
    assert!(
        found.len() > 8 && found.iter().all(|(_, options)| options.len() > 4),
        "{found:?}"
    );
    found
}

/// Somebody who holds the lock.
pub(crate) struct Holder(Child);

impl Holder {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Lets the lock go, and waits until it is free.
    pub(crate) fn release(mut self) {
        signal("TERM", &self.0);
        let status = self.0.wait().expect("it ends");
        assert_eq!(status.code(), Some(143), "the holder ends as asked");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Both fail only after `release`.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
