//! Where kernel locks cannot be trusted: on a real FUSE mount, alone and beside natives that reach the same directory
//! without it. And that each kind of file system is known for what it is.
//!
//! The mount is `bindfs`, which lets the kernel repeat for a second what it was told: that is what makes it hard. Each test
//! runs in a mount namespace of its own, which takes its mounts along when it ends. That needs root, `unshare` and `setpriv`
//! (util-linux), `bindfs` and `/dev/fuse`.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

mod alone;
mod beside;
mod kinds;
mod names;
mod parts;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cachelock");

/// Set for a copy of this binary that runs one test inside its namespace: where it says that it did.
const INSIDE: &str = "CACHELOCK_TEST_INSIDE";

/// Runs `test`, which is all of the calling test, in a mount namespace of its own. Skips it where that cannot be had.
#[track_caller]
fn apart<Test: FnOnce(&Path)>(tools: &[&str], test: Test) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    if let Some(mark) = std::env::var_os(INSIDE) {
        test(dir.path());
        fs::write(mark, "").expect("writable");
        return;
    }
    // `fuse::module::test::{{closure}}`
    let name = std::any::type_name::<Test>()
        .split("::")
        .collect::<Vec<_>>();
    let name = name[1..name.len() - 1].join("::");
    if let Some(missing) = missing(tools) {
        assert!(std::env::var_os("CI").is_none(), "{name} needs {missing}");
        eprintln!("skipped: {name} needs {missing}");
        return;
    }
    let mark = dir.path().join("done");
    let out = unshare()
        .arg(std::env::current_exe().expect("this binary"))
        .args(["--exact", &name, "--nocapture"])
        .env(INSIDE, &mark)
        .output()
        .expect("unshare runs");
    let said = [stdout(&out), stderr(&out)].concat();
    assert!(out.status.success(), "in its namespace:\n{said}");
    assert!(mark.exists(), "{name} did not run:\n{said}");
}

/// Another program in a mount namespace of its own.
fn unshare() -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "--"]);
    unshare
}

fn missing<'a>(tools: &[&'a str]) -> Option<&'a str> {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    if id.stdout != b"0\n" {
        return Some("root");
    }
    let may_mount = unshare().arg("true").output();
    if !may_mount.is_ok_and(|out| out.status.success()) {
        return Some("unshare, and the right to mount");
    }
    let is_there = |tool: &str| {
        let mut command = Command::new(tool);
        command.arg("-V").stdin(Stdio::null());
        Path::new(tool).exists() || command.output().is_ok()
    };
    tools.iter().copied().find(|tool| !is_there(tool))
}

const FUSE: [&str; 2] = ["/dev/fuse", "bindfs"];

/// One directory, reached by its own path and through FUSE.
struct Mirror {
    plain: PathBuf,
    fuse: PathBuf,
    server: Child,
}

impl Mirror {
    /// As `bindfs` mounts it by itself.
    #[track_caller]
    fn mount(place: &Path) -> Self {
        Self::mount_with(place, &[])
    }

    #[track_caller]
    fn mount_with(place: &Path, options: &[&str]) -> Self {
        let (plain, fuse) = (place.join("plain"), place.join("fuse"));
        fs::create_dir(&plain).expect("a directory");
        fs::create_dir(&fuse).expect("a directory");
        // In the foreground, and dead when this process is: nobody else would end it.
        let server = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "bindfs", "-f"])
            .args(options)
            .args([&plain, &fuse])
            .spawn()
            .expect("bindfs starts");
        let mirror = Mirror {
            plain,
            fuse,
            server,
        };
        eventually("the mount is there", || is_mounted(&mirror.fuse));
        mirror
    }

    /// The cache by its own path.
    fn plain(&self) -> Place {
        Place::in_dir(&self.plain)
    }

    /// The same cache through the mount.
    fn fuse(&self) -> Place {
        Place::in_dir(&self.fuse)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.fuse).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let _ = self.server.kill();
        }
        let _ = self.server.wait();
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is there");
    let path = path.to_str().expect("UTF-8");
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(path))
}

/// A cache as one of its users names it.
struct Place {
    cache: PathBuf,
}

impl Place {
    fn in_dir(dir: &Path) -> Self {
        Place {
            cache: dir.join("cache"),
        }
    }

    fn entry(&self) -> PathBuf {
        self.cache.join("entry")
    }

    /// The program's arguments, with FILE and DIR for the entry and the cache.
    fn arguments(&self, command: &mut Command, words: &[&str]) {
        for word in words {
            match *word {
                "FILE" => command.arg(self.entry()),
                "DIR" => command.arg(&self.cache),
                word => command.arg(word),
            };
        }
        command
            .env("CACHELOCK_CONFIG", "")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    fn start(&self, words: &[&str]) -> Child {
        let mut command = Command::new(PROGRAM);
        self.arguments(&mut command, words);
        command.spawn().expect("the program starts")
    }

    fn run(&self, words: &[&str]) -> Output {
        self.start(words).wait_with_output().expect("it ends")
    }

    #[track_caller]
    fn publish(&self, payload: &str) {
        let out = self.run(&["refresh", "FILE", "--", "printf", "%s", payload]);
        assert_eq!(code(&out), 0, "{}", stderr(&out));
    }

    #[track_caller]
    fn assert_holds(&self, payload: &str) {
        let out = self.run(&["read", "FILE"]);
        assert_eq!((code(&out), &*stdout(&out)), (0, payload));
    }

    #[track_caller]
    fn status(&self) -> Value {
        json(&stdout(&self.run(&["status", "FILE", "--json"])))
    }

    /// Nothing is left but what stays.
    #[track_caller]
    fn assert_clean(&self) {
        let names = fs::read_dir(self.cache.join(".cachelock")).expect("a control directory");
        let left: Vec<_> = names
            .map(|name| name.expect("a name").file_name())
            .filter(|name| name != "head" && name != "tags" && name != "cache.lock")
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn code(out: &Output) -> i32 {
    out.status.code().unwrap_or(-1)
}

fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[track_caller]
fn json(text: &str) -> Value {
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        let waited = started.elapsed();
        assert!(waited < Duration::from_secs(20), "never came true: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn signal(name: &str, child: &Child) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(status.expect("kill runs").success());
}
