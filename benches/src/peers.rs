//! Others that poll: a lock file tried after 10 ms, doubled up to 1 s, Python's `filelock` and npm's `proper-lockfile`. And what
//! is left where nobody polls: a blocking `flock` under holds as long, and the lock's steps in a process that has rested as long.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cachelock::Durability;
use cachelock_bench::cache;

use crate::child::{self, Worker, now};
use crate::report::{Goal, Row};
use crate::run::Run;
use crate::sample::{sums, timed};
use crate::waiter::plain;

/// A program of `peers/` in one of its roles.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    interpreter: PathBuf,
    script: &'static str,
    path_variable: &'static str,
    packages: PathBuf,
}

impl Peer {
    pub(crate) fn command(&self, role: &str, file: &Path) -> Command {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let mut command = Command::new(&self.interpreter);
        command.arg(scripts.join(self.script)).arg(role).arg(file);
        command.env(self.path_variable, &self.packages);
        command
    }
}

/// What `python3` stands for: where that is a script that chooses among several, the choice takes longer than the rest.
fn python_itself() -> PathBuf {
    let ask = ["-c", "import sys; print(sys.executable)"];
    let output = Command::new("python3").args(ask).output();
    output.map_or("python3".into(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().into()
    })
}

/// Those that were fetched.
pub(crate) fn peers(run: &Run) -> Vec<Peer> {
    let python = run.tools.python.clone().map(|packages| Peer {
        name: "filelock",
        interpreter: python_itself(),
        script: "file_lock.py",
        path_variable: "PYTHONPATH",
        packages,
    });
    let node = run.tools.node.clone().map(|packages| Peer {
        name: "proper-lockfile",
        interpreter: "node".into(),
        script: "proper-lockfile.js",
        path_variable: "NODE_PATH",
        packages: packages.join("node_modules"),
    });
    let found: Vec<_> = python.into_iter().chain(node).collect();
    if found.len() < 2 {
        println!("no filelock or no proper-lockfile: their lines are left out");
    }
    found
}

/// Under holds of one second: long enough for those that double their pauses, and what a download takes.
pub(crate) fn hand_off(run: &Run) -> Vec<Row> {
    const HOLD: Duration = Duration::from_secs(1);
    let dirs = run.dirs(&run.disk, ["polls"]);
    let [dir] = dirs.paths();
    let held = cache(&dir.join("cache"), Durability::None);
    let file = plain(dir);
    let python_lock = dir.join("python");
    let node_lock = dir.join("node");
    let mut ours = Worker::start(child::copy("wait", dir, None));
    let mut poll = Worker::start(child::copy("wait", dir, None));
    let other_dir = dir.join("other");
    fs::create_dir(&other_dir).unwrap();
    let blocking = plain(&other_dir);
    let mut flock = Worker::start(child::copy("wait", &other_dir, None));
    let other_cache = cache(&other_dir.join("cache"), Durability::None);
    let mut rested = Worker::start(child::copy("wait", &other_dir, None));
    let peers = peers(run);
    let mut theirs: Vec<_> = peers
        .iter()
        .map(|peer| {
            let lock = match peer.name {
                "proper-lockfile" => &node_lock,
                _ => &python_lock,
            };
            Worker::start(peer.command("wait", lock))
        })
        .collect();
    let mut times = vec![Vec::new(); 3 + peers.len()];
    let mut bare = Vec::new();
    for round in 0..run.rounds(12) {
        // All wait at the same time, each for a lock of its own, and get it one after the other.
        let lock = held.lock().unwrap();
        let steps = other_cache.lock().unwrap();
        file.lock().unwrap();
        blocking.lock().unwrap();
        let python = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&python_lock)
            .unwrap();
        python.lock().unwrap();
        // proper-lockfile's lock is a directory whose time says that its holder lives.
        let node = node_lock.with_extension("lock");
        fs::create_dir(&node).unwrap();
        ours.order("lock");
        poll.order("poll");
        flock.order("flock");
        theirs.iter_mut().for_each(|worker| worker.order(""));
        // Not in step with anybody's pauses.
        std::thread::sleep(HOLD + Duration::from_millis(37) * (round as u32));
        let mut got = |index: usize, release: &mut dyn FnMut(), worker: &mut Worker| {
            let released = now();
            release();
            times[index].push(worker.answer().saturating_sub(released));
        };
        let mut lock = Some(lock);
        let mut steps = Some(steps);
        let mut bare_steps = || {
            let released = timed(|| drop(steps.take()));
            rested.order("bare");
            bare.push(released + rested.answer());
        };
        // Whoever comes first finds processors and caches at rest.
        if round % 2 == 0 {
            bare_steps();
        }
        got(0, &mut || drop(lock.take()), &mut ours);
        if round % 2 == 1 {
            bare_steps();
        }
        got(1, &mut || blocking.unlock().unwrap(), &mut flock);
        got(2, &mut || file.unlock().unwrap(), &mut poll);
        for (index, (peer, worker)) in peers.iter().zip(&mut theirs).enumerate() {
            match peer.name {
                "proper-lockfile" => got(3 + index, &mut || fs::remove_dir(&node).unwrap(), worker),
                _ => got(3 + index, &mut || python.unlock().unwrap(), worker),
            }
        }
        let _ = fs::remove_dir(&node);
        // node answers before it has released.
        std::thread::sleep(Duration::from_millis(50));
    }
    let what = "hand-off of the whole lock, holds of 1 s";
    let names = ["poll, 10 ms to 1 s"]
        .into_iter()
        .chain(peers.iter().map(|peer| peer.name));
    let row = |(name, theirs): (&str, &Vec<Duration>)| {
        Row::of(what, &times[0], (name, theirs), Goal::AtMost(1.0 / 300.0))
    };
    let mut rows: Vec<_> = names.zip(&times[2..]).map(row).collect();
    let steps = sums(&[(1.0, &times[1]), (1.0, &bare)]);
    let steps = ("flock and bare steps", &steps[..]);
    rows.push(Row::of(what, &times[0], steps, Goal::None));
    rows
}
