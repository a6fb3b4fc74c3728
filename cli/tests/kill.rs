//! A thousand forced ends of `refresh`, at the system calls that a dry run recorded and at random moments: the next refresh
//! acquires at once, the entry is whole, and nothing is left behind.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_cachelock");

/// Kills for each phase of a refresh, by `strace`.
const PER_PHASE: usize = 100;
/// Kills of a waiter, and kills at random moments.
const WAITING: usize = 100;
const RANDOM: usize = 400;

struct Cache {
    dir: tempfile::TempDir,
    refreshed: u64,
    recoveries: Vec<Duration>,
    /// What the recovering programs say themselves: how long they waited for the lock, in whole milliseconds.
    acquires: Vec<u64>,
}

impl Cache {
    fn new() -> Self {
        let cache = Cache {
            dir: tempfile::tempdir().unwrap(),
            refreshed: 0,
            recoveries: Vec::new(),
            acquires: Vec::new(),
        };
        assert!(
            cache.finish(cache.refresh(), b"old").success(),
            "the first refresh works"
        );
        cache
    }

    fn entry(&self) -> std::path::PathBuf {
        self.dir.path().join("entry")
    }

    fn refresh(&self) -> Child {
        self.refresh_command().spawn().unwrap()
    }

    fn refresh_command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(["refresh", "--quiet"])
            .arg(self.entry())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn finish(&self, mut child: Child, payload: &[u8]) -> std::process::ExitStatus {
        // A killed child may not take it.
        let _ = child.stdin.take().unwrap().write_all(payload);
        child.wait().unwrap()
    }

    /// What must hold after a kill, whatever it hit.
    #[track_caller]
    fn check_after_kill(&mut self, killed: Instant, what: &str) {
        let found = fs::read(self.entry()).unwrap();
        assert!(
            found == b"old" || found == b"new",
            "{what}: the entry is {found:?}"
        );
        let read = Command::new(PROGRAM)
            .arg("read")
            .arg(self.entry())
            .env("CACHELOCK_CONFIG", "")
            .output()
            .unwrap();
        assert!(
            read.status.success() && read.stdout == found,
            "{what}: a read says {read:?}"
        );

        let began = Instant::now();
        let mut next = self.refresh_command();
        let mut next = next.arg("--json").stdout(Stdio::piped()).spawn().unwrap();
        next.stdin.take().unwrap().write_all(b"old").unwrap();
        let next = next.wait_with_output().unwrap();
        let took = began.elapsed();
        assert!(
            next.status.success(),
            "{what}: the next refresh ended with {}",
            next.status
        );
        let said: serde_json::Value = serde_json::from_slice(&next.stdout).unwrap();
        self.acquires.push(said["waited_ms"].as_u64().unwrap());
        assert!(
            killed.elapsed() < Duration::from_secs(1) + (began - killed),
            "{what}: it took {took:?}"
        );
        self.recoveries.push(took);
        self.refreshed += 1;

        assert_eq!(fs::read(self.entry()).unwrap(), b"old", "{what}");
        assert_eq!(
            control(self.dir.path()),
            ["cache.lock", "head", "tags"],
            "{what}: something is left"
        );
        assert_eq!(
            names(self.dir.path()),
            [".cachelock", "entry"],
            "{what}: something is left"
        );
    }
}

fn spawn(command: &mut Command) -> Child {
    command
        .env("CACHELOCK_CONFIG", "")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn control(dir: &Path) -> Vec<String> {
    names(&dir.join(".cachelock"))
}

/// One system call of the main thread: its name, how many of that name came before it, and the phase it is in.
type Point = (String, usize, &'static str);

/// Runs one refresh under `strace` and names its calls. The phases begin at what they are known by.
fn dry_run(cache: &Cache) -> Vec<Point> {
    let log = cache.dir.path().with_extension("strace");
    let child = spawn(
        Command::new("strace")
            .arg("-o")
            .arg(&log)
            .args(["-s", "200", PROGRAM, "refresh", "--quiet"])
            .arg(cache.entry()),
    );
    assert!(cache.finish(child, b"old").success(), "the dry run works");
    let text = fs::read_to_string(&log).unwrap();
    fs::remove_file(&log).unwrap();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut phase = "start";
    let mut stages = 0;
    let mut points = Vec::new();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once('(') else {
            continue;
        };
        if name.contains(' ') || name.starts_with(['+', '-']) {
            continue;
        }
        let creates = name == "openat" && rest.contains("O_EXCL");
        if creates && rest.contains("\"stage-") {
            stages += 1;
            phase = if stages == 1 { "stage" } else { "tag" };
        } else if creates && rest.contains("\"claim-") {
            phase = "claim";
        } else if name.starts_with("rename")
            && rest.contains("\"stage-")
            && rest.contains("\"entry\"")
            && stages == 2
        {
            // The tag's rename has the same name in another folder: the payload's is the second.
            stages = 3;
        } else if name.starts_with("rename") && rest.contains("\"stage-") && stages == 3 {
            phase = "publish";
        } else if name.starts_with("unlink") && rest.contains("\"claim-") && phase == "publish" {
            phase = "release";
        }
        let count = seen.entry(name).or_default();
        *count += 1;
        if phase != "start" && name != "exit_group" {
            points.push((name.to_owned(), *count, phase));
        }
    }
    points
}

/// The calls that several dry runs have in common. How often the main thread waits for another, and whether it looks meanwhile
/// if its lock is still held, is a matter of scheduling: a kill at such a call might never come.
fn certain_points(cache: &Cache) -> Vec<Point> {
    let mut points = dry_run(cache);
    for _ in 0..4 {
        let again = dry_run(cache);
        points.retain(|point| again.contains(point));
    }
    points
}

#[test]
fn a_refresh_killed_anywhere_blocks_nobody_and_leaves_nothing() {
    if Command::new("strace").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "this test needs strace");
        eprintln!("skipped: there is no strace");
        return;
    }
    let mut cache = Cache::new();
    let points = certain_points(&cache);
    for phase in ["claim", "stage", "tag", "publish", "release"] {
        let of_phase: Vec<_> = points.iter().filter(|point| point.2 == phase).collect();
        assert!(
            !of_phase.is_empty(),
            "the dry run shows the phase {phase}: {points:?}"
        );
        let mut fired = 0;
        for (name, ordinal, _) in of_phase.iter().cycle().take(PER_PHASE) {
            let inject = format!("inject={name}:signal=KILL:when={ordinal}");
            let child = spawn(
                Command::new("strace")
                    .args([
                        "-o",
                        "/dev/null",
                        "-e",
                        &inject,
                        PROGRAM,
                        "refresh",
                        "--quiet",
                    ])
                    .arg(cache.entry()),
            );
            let status = cache.finish(child, b"new");
            fired += usize::from(!status.success());
            cache.check_after_kill(Instant::now(), &format!("{phase}: {name} {ordinal}"));
        }
        println!(
            "{phase}: {fired} of {PER_PHASE} were killed at {} system calls",
            of_phase.len()
        );
        // Which calls a run makes varies a little with the scheduling of its threads.
        assert!(
            fired >= PER_PHASE * 9 / 10,
            "{phase}: only {fired} injections fired"
        );
    }
    kill_waiters(&mut cache);
    kill_at_random(&mut cache);

    println!(
        "{} kills; the next refresh waited {} for the lock, and took {} from its start to its end",
        cache.refreshed,
        distribution(&mut cache.acquires, |ms| format!("{ms} ms")),
        distribution(&mut cache.recoveries, |took| format!("{took:.1?}")),
    );
    let median = cache.acquires[cache.acquires.len() / 2];
    assert!(median < 20, "it waited {median} ms for a dead holder");
}

fn distribution<T: Ord>(all: &mut [T], show: impl Fn(&T) -> String) -> String {
    all.sort();
    let at = |percent: usize| show(&all[(all.len() - 1) * percent / 100]);
    format!(
        "{} (median), {} (99th percentile), {} (most)",
        at(50),
        at(99),
        at(100)
    )
}

fn kill_waiters(cache: &mut Cache) {
    for n in 0..WAITING {
        // Dies when its input is closed.
        let mut holder = spawn(
            Command::new(PROGRAM)
                .arg("lock")
                .arg(cache.dir.path())
                .args(["--", "cat"]),
        );
        while !control(cache.dir.path())
            .iter()
            .any(|name| name.starts_with("claim-"))
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut waiter = cache.refresh();
        std::thread::sleep(Duration::from_micros(500 * (n as u64 % 20)));
        waiter.kill().unwrap();
        waiter.wait().unwrap();
        drop(holder.stdin.take());
        assert!(holder.wait().unwrap().success(), "the holder ends well");
        cache.check_after_kill(Instant::now(), "waiting");
    }
}

fn kill_at_random(cache: &mut Cache) {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for n in 0..RANDOM {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut child = cache.refresh();
        let _ = child.stdin.take().unwrap().write_all(b"new");
        std::thread::sleep(Duration::from_micros(random % 12_000));
        child.kill().unwrap();
        child.wait().unwrap();
        cache.check_after_kill(Instant::now(), &format!("random kill {n}"));
    }
}
