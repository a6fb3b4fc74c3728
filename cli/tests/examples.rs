//! The examples for build systems, run: a Makefile whose parallel rules share one fetched index, outside and inside of a
//! sandbox, with the cache writable and read-only.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::{PROGRAM, Place, code, stderr, stdout};

fn example() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/make")
}

/// `false`, said, where a tool is missing; in CI that is a failure.
fn has(tool: &str, test: &[&str]) -> bool {
    let there = Command::new(tool)
        .args(test)
        .output()
        .is_ok_and(|out| out.status.success());
    assert!(
        there || std::env::var_os("CI").is_none(),
        "{tool} is needed, or cannot be used here"
    );
    if !there {
        eprintln!("skipped: {tool} is needed, or cannot be used here");
    }
    there
}

struct Build {
    place: Place,
    log: PathBuf,
}

impl Build {
    fn new() -> Self {
        let place = Place::new();
        let log = place.beside("fetches");
        fs::create_dir(place.cache()).expect("its folder is there");
        fs::write(&log, "").expect("its folder is there");
        Build { place, log }
    }

    fn make(&self, mut command: Command) -> Output {
        command
            .args(["make", "-j8", "-C"])
            .arg(example())
            .arg(format!("CACHELOCK={PROGRAM}"))
            .arg(format!("CACHE={}", self.place.cache().display()))
            .arg(format!("OUT={}", self.place.beside("out").display()))
            .env("FETCH_LOG", &self.log)
            .env("CACHELOCK_CONFIG", "")
            .env_remove("MAKEFLAGS")
            .output()
            .expect("it runs")
    }

    /// In a sandbox that shows everything read-only but the cache's parent folder, and the cache as `bind` says.
    fn sandboxed(&self, bind: &str) -> Output {
        let mut command = Command::new("bwrap");
        command
            .args([
                "--ro-bind",
                "/",
                "/",
                "--dev",
                "/dev",
                "--unshare-pid",
                "--die-with-parent",
                "--bind",
            ])
            .args([self.place.dir.path(), self.place.dir.path()])
            .arg(bind)
            .args([self.place.cache(), self.place.cache()]);
        self.make(command)
    }

    fn clean(&self) {
        fs::remove_dir_all(self.place.beside("out")).expect("it was built");
    }

    #[track_caller]
    fn assert_built(&self, out: &Output) {
        assert_eq!(code(out), 0, "{}\n{}", stdout(out), stderr(out));
        for part in 1..=8 {
            let made =
                fs::read_to_string(self.place.beside("out").join(format!("part-{part}.txt")));
            assert_eq!(
                made.expect("it was made"),
                format!("part {part} of the index\n")
            );
        }
    }

    fn fetches(&self) -> usize {
        fs::read_to_string(&self.log)
            .expect("it is there")
            .lines()
            .count()
    }

    /// Makes the index two hours old: as a file without a tag, whose age is its modification time.
    fn age(&self) {
        let tag = self.place.cache().join(".cachelock/tags/index.txt");
        fs::remove_file(tag).expect("it was published");
        let entry = fs::File::open(self.place.cache().join("index.txt")).expect("it was published");
        let before = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
        entry.set_modified(before).expect("it is ours");
    }
}

/// `env` does nothing but run what follows.
fn plainly() -> Command {
    Command::new("env")
}

#[test]
fn eight_parallel_rules_fetch_their_index_once() {
    if !has("make", &["--version"]) {
        return;
    }
    let build = Build::new();
    build.assert_built(&build.make(plainly()));
    assert_eq!(build.fetches(), 1, "eight rules asked");
    build.clean();
    build.assert_built(&build.make(plainly()));
    assert_eq!(build.fetches(), 1, "it is fresh for ten minutes");
}

#[test]
fn sandboxed_builds_share_a_cache_that_they_may_write_to() {
    let sandbox = ["--ro-bind", "/", "/", "--unshare-pid", "true"];
    if !has("make", &["--version"]) || !has("bwrap", &sandbox) {
        return;
    }
    let build = Build::new();
    build.assert_built(&build.sandboxed("--bind"));
    assert_eq!(build.fetches(), 1);
    build.clean();
    build.assert_built(&build.make(plainly()));
    assert_eq!(build.fetches(), 1, "inside and outside are one cache");
}

#[test]
fn sandboxed_builds_read_a_cache_that_they_may_not_write_to() {
    let sandbox = ["--ro-bind", "/", "/", "--unshare-pid", "true"];
    if !has("make", &["--version"]) || !has("bwrap", &sandbox) {
        return;
    }
    let build = Build::new();
    let empty = build.sandboxed("--ro-bind");
    assert_ne!(
        code(&empty),
        0,
        "there is nothing, and nothing can be put there"
    );
    assert!(
        stderr(&empty).contains("a read-only cache can be read but not refreshed"),
        "{}",
        stderr(&empty)
    );
    assert_eq!(build.fetches(), 0, "what could not be kept is not fetched");

    build.assert_built(&build.make(plainly()));
    build.clean();
    let fresh = build.sandboxed("--ro-bind");
    build.assert_built(&fresh);
    assert_eq!(stderr(&fresh), "");
    build.clean();
    build.age();
    let old = build.sandboxed("--ro-bind");
    build.assert_built(&old);
    assert!(
        stderr(&old).contains("the old payload is used"),
        "that it is old is no secret: {}",
        stderr(&old)
    );
    assert_eq!(build.fetches(), 1);
}
