//! A program that uses the library and forks without executing another: its child has copies of all that it holds, and can
//! neither give it back nor use it.
//!
//! Each test runs in a process of its own, which no other test's threads disturb: what the child does with a lock that
//! another thread held at the moment of the fork is not promised.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cachelock::{Backend, Cache, Error, Refresh, Timeout};

/// Which part a copy of this binary plays, and where.
const ROLE: &str = "CACHELOCK_TEST_ROLE";
const PLACE: &str = "CACHELOCK_TEST_PLACE";

const LEASE: Duration = Duration::from_millis(500);

/// More than the library keeps to itself before it writes.
const MUCH: usize = 300_000;

fn cache(dir: &Path, timeout: impl Into<Timeout>) -> Cache {
    let cache = Cache::builder(dir.join("cache")).timeout(timeout);
    cache.open().expect("a cache")
}

/// Runs `test`, which is all of the test `name`, in a process of its own.
#[track_caller]
fn alone(name: &str, test: impl FnOnce(&Path)) {
    if let Some(place) = std::env::var_os(PLACE) {
        test(Path::new(&place));
        fs::write(Path::new(&place).join("done"), "").expect("writable");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = copy(name, dir.path()).output().expect("this binary starts");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "in its own process:\n{said}");
    assert!(dir.path().join("done").exists(), "{name} did not run");
}

/// This binary again, for one test on the main thread.
fn copy(test: &str, place: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(PLACE, place);
    command
}

/// A child made by `fork`; waited for when it has done its part.
struct Forked(libc::pid_t);

/// Runs `child` in a forked child, which ends right after.
#[allow(unsafe_code, reason = "this is about fork itself")]
#[track_caller]
fn fork(child: impl FnOnce()) -> Forked {
    // SAFETY: the child runs `child` and ends without a destructor or an exit handler of its parent's. The only other
    // threads of this process are the library's, asleep; the C library keeps its allocator usable.
    match unsafe { libc::fork() } {
        -1 => panic!("no fork: {}", io::Error::last_os_error()),
        0 => {
            let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            // SAFETY: it takes a number and does not return.
            unsafe { libc::_exit(if played.is_ok() { 0 } else { 1 }) }
        }
        pid => Forked(pid),
    }
}

impl Forked {
    #[allow(unsafe_code, reason = "the child is none of std's")]
    #[track_caller]
    fn finish(self) {
        let mut status = 0;
        // SAFETY: `status` is writable, and the child is ours and not yet waited for.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        assert_eq!((waited, status), (self.0, 0), "the child says why");
    }
}

/// Tells the other side of a fork to go on.
struct Bell {
    hear: io::PipeReader,
    ring: io::PipeWriter,
}

impl Bell {
    fn new() -> Self {
        let (hear, ring) = io::pipe().expect("a pipe");
        Bell { hear, ring }
    }

    fn ring(&self) {
        (&self.ring).write_all(b".").expect("a byte");
    }

    fn wait(&self) {
        (&self.hear).read_exact(&mut [0]).expect("a byte");
    }
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        let waited = started.elapsed();
        assert!(waited < Duration::from_secs(20), "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a process that has nothing to do with this one gets when it tries the lock once.
#[track_caller]
fn tried_elsewhere(dir: &Path) -> String {
    let out = copy("role", dir).env(ROLE, "try").output();
    let said = String::from_utf8(out.expect("it runs").stdout).expect("text");
    let outcome = said.lines().find_map(|line| line.strip_prefix("tried: "));
    outcome.expect("an outcome").to_owned()
}

/// Not a test of its own: what the copies do.
#[test]
fn role() {
    let (Ok(role), Ok(place)) = (std::env::var(ROLE), std::env::var(PLACE)) else {
        return;
    };
    let place = Path::new(&place);
    if role == "try" {
        let outcome = match cache(place, Timeout::TryOnce).lock() {
            Ok(lock) => lock.backend().name(),
            Err(error) => error.kind().name(),
        };
        println!("\ntried: {outcome}");
        return;
    }
    let builder = Cache::builder(place.join("cache")).lease(LEASE);
    let cache = builder.open().expect("a cache");
    let _lock = cache.lock().expect("nobody has it");
    let wait_for_end_of_input = || {
        let _ = io::stdin().read(&mut [0]);
    };
    fork(wait_for_end_of_input);
    println!("\nforked");
    wait_for_end_of_input();
}

#[test]
fn a_childs_copy_of_a_lock_gives_nothing_back() {
    alone("a_childs_copy_of_a_lock_gives_nothing_back", |dir| {
        let cache = cache(dir, Timeout::TryOnce);
        let lock = cache.lock().expect("nobody has it");
        let mut copy = Some(lock);
        fork(|| drop(copy.take())).finish();
        fork(|| std::process::exit(0)).finish();

        let lock = copy.expect("the child took its own");
        assert_eq!(tried_elsewhere(dir), "timeout", "it is still held");
        let status = cache.status().expect("readable").expect("it is there");
        let holder = status.holder.expect("a holder").pid;
        assert_eq!(holder, Some(std::process::id()), "by this process");
        lock.check().expect("it is not lost");
    });
}

#[test]
fn a_lock_that_is_given_back_is_free_although_a_child_has_a_copy() {
    let name = "a_lock_that_is_given_back_is_free_although_a_child_has_a_copy";
    alone(name, |dir| {
        let lock = cache(dir, Timeout::TryOnce).lock().expect("nobody has it");
        let bell = Bell::new();
        let child = fork(|| bell.wait());
        drop(lock);
        assert_eq!(tried_elsewhere(dir), "gate", "it is free, gate and all");
        bell.ring();
        child.finish();
    });
}

/// A refresh with some of its payload in the stage and some still in memory.
#[track_caller]
fn begin(cache: &Cache) -> Refresh {
    let entry = cache.entry("entry").expect("a name");
    let mut refresh = entry.refresh().expect("nobody has it");
    refresh.write_all(&vec![b'a'; MUCH]).expect("a write");
    refresh
}

/// The rest of the payload, from the parent.
#[track_caller]
fn assert_published_by_parent(cache: &Cache, mut refresh: Refresh) {
    refresh.write_all(&vec![b'b'; MUCH]).expect("a write");
    let published = refresh.publish().expect("it is this process's");
    assert_eq!(published.generation, 1, "nobody else has published");
    let entry = cache.entry("entry").expect("a name").read();
    let expected = [vec![b'a'; MUCH], vec![b'b'; MUCH]].concat();
    assert_eq!(entry.expect("whole").as_deref(), Some(&*expected));
}

#[test]
fn a_child_leaves_the_stage_to_its_parent() {
    alone("a_child_leaves_the_stage_to_its_parent", |dir| {
        let cache = cache(dir, Timeout::TryOnce);
        let mut copy = Some(begin(&cache));
        fork(|| drop(copy.take())).finish();
        fork(|| std::process::exit(0)).finish();
        assert_published_by_parent(&cache, copy.expect("the child took its own"));
    });
}

#[test]
fn a_child_can_do_nothing_with_what_its_parent_holds() {
    alone("a_child_can_do_nothing_with_what_its_parent_holds", |dir| {
        let cache = cache(dir, Timeout::TryOnce);
        let mut copy = Some(begin(&cache));
        fork(|| {
            let mut refresh = copy.take().expect("a copy");
            refresh.heartbeat().expect_err("it is not its own");
            refresh.write_all(&vec![b'x'; MUCH]).expect_err("nor this");
            refresh.restart().expect_err("nor this");
            let failed = refresh.publish().expect_err("nor this");
            let error = Error::from(failed).to_string();
            assert!(error.contains("before a fork"), "it says why: {error}");
        })
        .finish();
        assert_published_by_parent(&cache, copy.take().expect("a refresh"));

        let mut copy = Some(begin(&cache));
        fork(|| {
            let refresh = copy.take().expect("a copy");
            refresh.publish_absent(LEASE).expect_err("nor this");
        })
        .finish();
        drop(copy);

        let lock = cache.lock().expect("nobody has it");
        let entry = cache.entry("entry").expect("a name");
        fork(|| {
            lock.check().expect_err("it is not its own");
            lock.refresh(&entry).expect_err("nor this");
        })
        .finish();
        lock.check().expect("the parent's");
    });
}

#[test]
fn a_child_waits_for_its_parent_as_anybody_does() {
    alone("a_child_waits_for_its_parent_as_anybody_does", |dir| {
        let own = cache(dir, Timeout::Infinite);
        let lock = own.lock().expect("nobody has it");
        let parent = std::process::id();
        let (waits, go_on) = (Bell::new(), Bell::new());
        let child = fork(|| {
            let error = cache(dir, Duration::from_millis(50)).lock();
            let error = error.expect_err("the parent has it");
            assert!(error.is_timeout(), "{error}");
            let holder = format!("process {parent}");
            assert!(error.to_string().contains(&holder), "{error}");
            waits.ring();
            // The cache that the parent has opened serves as well.
            let lock = own.lock().expect("the parent gives it back");
            lock.check().expect("it is not lost");
            waits.ring();
            go_on.wait();
        });
        waits.wait();
        drop(lock);
        waits.wait();
        assert_eq!(tried_elsewhere(dir), "timeout", "the child has it");
        go_on.ring();
        child.finish();
        let lock = own.lock().expect("the child is dead, and so free");
        assert_eq!(lock.backend(), Backend::Gate);
    });
}

#[test]
fn a_child_beats_a_lock_of_its_own() {
    alone("a_child_beats_a_lock_of_its_own", |dir| {
        let builder = Cache::builder(dir.join("cache")).lease(LEASE);
        let cache = builder.open().expect("a cache");
        // So that the parent has a thread that beats, and the child only the memory of one.
        drop(cache.lock().expect("nobody has it"));
        let (held, go_on) = (Bell::new(), Bell::new());
        let child = fork(|| {
            let entry = cache.entry("entry").expect("a name");
            let mut refresh = entry.refresh().expect("nobody has it");
            held.ring();
            go_on.wait();
            refresh.write_all(b"payload").expect("a write");
            refresh.publish().expect("it is not lost");
        });
        held.wait();
        let claim = dir.join("cache/.cachelock/claim-00000000000000000002");
        for _ in 0..3 {
            let before = fs::read(&claim).expect("a claim");
            eventually("the claim beats", || {
                fs::read(&claim).is_ok_and(|now| now != before)
            });
        }
        go_on.ring();
        child.finish();
    });
}

#[test]
fn a_child_that_outlives_a_killed_holder_holds_others_up_for_one_lease() {
    let name = "a_child_that_outlives_a_killed_holder_holds_others_up_for_one_lease";
    alone(name, |dir| {
        let mut holder = copy("role", dir)
            .env(ROLE, "hold and fork")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        // The child ends when nobody has the other end of its input any more.
        let input = holder.stdin.take();
        let output = BufReader::new(holder.stdout.take().expect("a pipe"));
        let mut lines = output.lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "forked"), "it says so");
        holder.kill().expect("it is there");
        holder.wait().expect("it is gone");

        let builder = Cache::builder(dir.join("cache")).lease(LEASE);
        let cache = builder.open().expect("a cache");
        let lock = cache.lock().expect("not for ever");
        assert_eq!(lock.backend(), Backend::Lease, "the child has the gate");
        assert!(lock.waited() >= LEASE, "it is found out by waiting");
        assert!(lock.waited() < 4 * LEASE, "it waited {:?}", lock.waited());
        drop((lock, input));
        eventually("the gate is back when the child has ended", || {
            let lock = cache.lock().expect("nobody has it");
            lock.backend() == Backend::Gate
        });
    });
}
