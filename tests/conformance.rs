//! What a cache promises, once for each platform: on the real one in a real directory, and in the memory of a live world,
//! for natives and for guests.
//!
//! It also runs as a WASI guest and on the web, all but the claims that take threads: `cargo xtask test wasi`, and `web`.

#![cfg_attr(
    target_family = "wasm",
    allow(dead_code, reason = "claims that take threads are left out")
)]

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
#[cfg(any(unix, windows, target_family = "wasm"))]
use std::time::SystemTime;
use std::time::{Duration, Instant};

use cachelock::platform::{Access, Dir, FileKind, Platform};
#[cfg(any(unix, windows, target_family = "wasm"))]
use cachelock::platform::{Event, Identity, Monotonic, Slot, Task, native};
use cachelock::{
    Backend, Cache, CacheBuilder, CancelToken, Durability, Entry, ErrorKind, GetError, Locking,
    Policy, Timeout, Verification,
};

use hell::colliding;

#[path = "support/hell.rs"]
mod hell;

/// A place for a cache, and two processes that share it.
struct Ground {
    platform: Arc<dyn Platform>,
    other: Arc<dyn Platform>,
    path: PathBuf,
    /// Whether kernel locks are used.
    gated: bool,
    /// Removed with this.
    _dir: Option<tempfile::TempDir>,
}

impl Ground {
    fn memory() -> Self {
        let world = cachelock::platform::memory::World::live();
        Ground {
            platform: world.process("process"),
            other: world.process("other"),
            path: "/cache".into(),
            gated: true,
            _dir: None,
        }
    }

    /// Simulated guests, whose handles are names.
    fn guest() -> Self {
        let world = cachelock::platform::memory::World::live();
        Ground {
            platform: world.guest("guest"),
            other: world.guest("other"),
            path: "/cache".into(),
            gated: false,
            _dir: None,
        }
    }

    #[cfg(any(unix, windows, target_family = "wasm"))]
    fn native() -> Self {
        let dir = if cfg!(any(unix, windows)) {
            Some(tempfile::tempdir().expect("a temporary directory"))
        } else if cfg!(target_os = "wasi") {
            // A guest has no such place; its host grants it one.
            Some(tempfile::tempdir_in("/scratch").expect("the host grants a directory /scratch"))
        } else {
            // The web's one disk is all the tests'.
            None
        };
        let path = dir.as_ref().map_or_else(
            || format!("/{:x}", native().random().expect("there is randomness")).into(),
            |dir| dir.path().to_owned(),
        );
        Ground {
            platform: native(),
            other: Arc::new(OtherProcess::default()),
            path: path.join("cache"),
            gated: !cfg!(target_os = "wasi"),
            _dir: dir,
        }
    }

    fn builder(&self) -> CacheBuilder {
        Cache::builder(&self.path).platform(self.platform.clone())
    }

    fn cache(&self) -> Cache {
        self.builder().open().expect("nothing is touched")
    }

    /// The same cache in another process.
    fn elsewhere(&self) -> CacheBuilder {
        Cache::builder(&self.path).platform(self.other.clone())
    }

    #[track_caller]
    fn dir(&self, below: &str) -> Arc<dyn Dir> {
        let path = self.path.join(below);
        self.platform
            .create_dir_all(&path)
            .expect("the directory can be made");
        self.platform.open_dir(&path).expect("it was just made")
    }

    /// Gives the cache's directory another name, so that its path names nothing.
    #[track_caller]
    fn move_away(&self) {
        let parent = self.path.parent().expect("a directory below another");
        let parent = self.platform.open_dir(parent).expect("it is there");
        parent
            .rename("cache", &*parent, "moved away")
            .expect("nothing is in the way");
    }

    /// Writes a file past the library.
    #[track_caller]
    fn plant(&self, name: &str, bytes: &[u8]) {
        let dir = self.dir("");
        let file = dir
            .open(name, Access::Write)
            .or_else(|_| dir.open(name, Access::CreateNew(0o644)))
            .expect("the file can be written to");
        file.set_len(0).expect("and cut");
        assert_eq!(file.write_at(bytes, 0).expect("and written"), bytes.len());
    }

    /// What the control directory holds, sorted.
    fn control(&self) -> Vec<String> {
        let mut names = self.dir(".cachelock").list().expect("it can be listed");
        names.sort();
        names
    }
}

/// This process as another one would be: the library's state is its own, so only files and kernel locks stand between them.
#[cfg(any(unix, windows, target_family = "wasm"))]
#[derive(Default)]
struct OtherProcess {
    slot: Arc<Slot>,
}

#[cfg(any(unix, windows, target_family = "wasm"))]
impl Platform for OtherProcess {
    fn slot(&self) -> Arc<Slot> {
        self.slot.clone()
    }

    fn name(&self) -> &'static str {
        native().name()
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        native().absolute(path)
    }

    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        native().open_dir(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        native().create_dir_all(path)
    }

    fn monotonic(&self) -> Monotonic {
        native().monotonic()
    }

    fn can_wait(&self) -> bool {
        native().can_wait()
    }

    fn wall(&self) -> SystemTime {
        native().wall()
    }

    fn random(&self) -> io::Result<u128> {
        native().random()
    }

    fn event(&self) -> Arc<dyn Event> {
        native().event()
    }

    fn spawn(&self, name: &str, task: Task) -> io::Result<()> {
        native().spawn(name, task)
    }

    fn identity(&self) -> Identity {
        native().identity()
    }

    fn process_id(&self) -> u32 {
        native().process_id()
    }

    fn is_busy(&self, error: &io::Error) -> bool {
        native().is_busy(error)
    }

    fn default_mode(&self) -> Option<u32> {
        native().default_mode()
    }
}

#[track_caller]
fn publish(entry: &Entry, bytes: &[u8]) -> u64 {
    let mut refresh = entry.refresh().expect("the lock is free");
    refresh.write_all(bytes).expect("the stage takes bytes");
    let published = refresh.publish().expect("nothing is in the way");
    assert_eq!(published.len, bytes.len() as u64);
    published.generation
}

#[track_caller]
fn entry(cache: &Cache, name: &str) -> Entry {
    cache.entry(name).expect("a good name")
}

#[track_caller]
fn assert_reads(entry: &Entry, bytes: &[u8], generation: u64) {
    let snapshot = entry.read().expect("readable").expect("there");
    assert_eq!(&snapshot[..], bytes);
    assert_eq!(snapshot.meta().generation, Some(generation));
    assert_eq!(snapshot.meta().verification, Verification::Verified);
}

fn what_is_published_is_read(ground: &Ground) {
    let cache = ground.cache();
    let entry = entry(&cache, "entry");
    for (bytes, generation) in [(&b"one"[..], 1), (b"two", 2), (b"", 3), (b"four", 4)] {
        assert_eq!(publish(&entry, bytes), generation);
        assert_reads(&entry, bytes, generation);
        assert_reads(&self::entry(&ground.cache(), "entry"), bytes, generation);
    }
}

fn nested_names_are_entries_of_their_own(ground: &Ground) {
    let cache = ground.cache();
    for name in ["a/b/c", "a/b/d", "a/e", "f"] {
        assert_eq!(publish(&entry(&cache, name), name.as_bytes()), 1, "{name}");
    }
    for name in ["a/b/c", "a/b/d", "a/e", "f"] {
        assert_reads(&entry(&cache, name), name.as_bytes(), 1);
    }
}

fn names_that_differ_in_case_are_two_entries_or_one_and_never_a_mixture(ground: &Ground) {
    let cache = ground.cache();
    let [upper, lower] = ["Name", "name"].map(|name| entry(&cache, name));
    assert_eq!(publish(&upper, b"upper"), 1);
    if lower.read().expect("no error").is_none() {
        assert_eq!(publish(&lower, b"lower"), 1);
        assert_reads(&upper, b"upper", 1);
        assert_reads(&lower, b"lower", 1);
    } else {
        // The file system ignores case.
        assert_reads(&lower, b"upper", 1);
        assert_eq!(publish(&lower, b"lower"), 2);
        assert_reads(&upper, b"lower", 2);
        assert_reads(&lower, b"lower", 2);
    }
}

fn a_large_payload_streams(ground: &Ground) {
    let bytes: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let entry = entry(&ground.cache(), "large");
    assert_eq!(publish(&entry, &bytes), 1);
    let mut stream = entry.open().expect("readable").expect("there");
    assert_eq!(stream.meta().len, 1 << 20);
    // A stream stays what it was.
    assert_eq!(publish(&entry, b"small"), 2);
    let mut read = Vec::new();
    stream.read_to_end(&mut read).expect("to its end");
    assert!(read == bytes, "the stream is another payload");
}

fn a_reader_shares_what_has_not_changed(ground: &Ground) {
    let entry = entry(&ground.cache(), "entry");
    let mut reader = entry.reader();
    assert!(reader.read().expect("no error").is_none(), "nothing yet");
    publish(&entry, b"one");
    let first = reader.read().expect("readable").expect("there").bytes();
    let again = reader.read().expect("readable").expect("there").bytes();
    assert!(Arc::ptr_eq(&first, &again), "read again for nothing");
    publish(&entry, b"two");
    let second = reader.read().expect("readable").expect("there").bytes();
    assert_eq!((&first[..], &second[..]), (&b"one"[..], &b"two"[..]));
}

fn a_file_that_was_there_is_generation_one(ground: &Ground) {
    ground.plant("entry", b"by hand");
    let entry = entry(&ground.cache(), "entry");
    let snapshot = entry.read().expect("readable").expect("there");
    assert_eq!(&snapshot[..], b"by hand");
    assert_eq!(snapshot.meta().verification, Verification::Untagged);
    assert_eq!(publish(&entry, b"published"), 2);
    assert_reads(&entry, b"published", 2);
}

fn a_changed_payload_is_corrupt_until_refreshed(ground: &Ground) {
    let entry = entry(&ground.cache(), "entry");
    publish(&entry, b"good");
    ground.plant("entry", b"evil");
    let error = entry.read().expect_err("these are not the published bytes");
    assert!(error.is_corrupt(), "{error}");
    let generation = publish(&entry, b"good again");
    assert!(generation > 1, "generation {generation} was there before");
    assert_reads(&entry, b"good again", generation);
}

fn a_payload_of_an_absurd_length_is_corrupt_without_being_read(ground: &Ground) {
    let entry = entry(&ground.cache(), "entry");
    publish(&entry, b"good");
    let file = ground.dir("").open("entry", Access::Write);
    // A hole: to read a tebibyte would take minutes, and to hold it more memory than there is.
    file.and_then(|file| file.set_len(1 << 40))
        .expect("holes take no space");
    for error in [
        entry.read().expect_err("too long"),
        entry.open().expect_err("too long"),
    ] {
        assert!(error.is_corrupt(), "{error}");
    }
}

/// Of one that a killed publish has left, whatever was done to it since.
fn the_payload_of_what_is_absent_is_not_read(ground: &Ground) {
    let entry = entry(&ground.cache(), "entry");
    publish(&entry, b"good");
    let refresh = entry.refresh().expect("nobody holds the lock");
    refresh
        .publish_absent(Duration::from_secs(60))
        .expect("nothing is in the way");
    for len in [5, 1 << 40] {
        ground.plant("entry", b"");
        let file = ground.dir("").open("entry", Access::Write);
        file.and_then(|file| file.set_len(len))
            .expect("holes take no space");
        assert!(entry.read().expect("absent").is_none(), "{len}");
        let until = entry.known_absent_until().expect("absent");
        assert!(until.is_some(), "{len}");
    }
}

fn what_was_verified_and_changed_then_is_no_snapshot(ground: &Ground) {
    let large = vec![b'g'; 300_000];
    let entry = entry(&ground.cache(), "entry");
    for damage in [&large[1..], &[b'e'; 300_000]] {
        publish(&entry, &large);
        let stream = entry.open().expect("verified").expect("there");
        ground.plant("entry", damage);
        match stream.into_snapshot() {
            // It was in memory.
            Ok(snapshot) => assert!(snapshot[..] == large, "{} bytes", damage.len()),
            Err(error) => assert!(error.is_corrupt(), "{error}"),
        }
    }
}

fn a_control_directory_that_was_moved_away_is_opened_anew(ground: &Ground) {
    let entry = entry(&ground.cache(), "entry");
    publish(&entry, b"before");
    assert_reads(&entry, b"before", 1);
    let dir = ground.dir("");
    dir.rename(".cachelock", &*dir, "elsewhere")
        .expect("nothing is in the way");
    let cache = ground.elsewhere().open().expect("nothing is touched");
    let generation = publish(&self::entry(&cache, "entry"), b"after");
    assert_reads(&entry, b"after", generation);
}

fn a_missing_payload_is_missing(ground: &Ground) {
    let entry = entry(&ground.cache(), "entry");
    assert!(entry.read().expect("no error").is_none(), "no directory");
    assert!(!exists(ground), "reading creates nothing");
    publish(&entry, b"one");
    publish(&entry, b"two");
    ground.dir("").unlink("entry").expect("it is there");
    assert!(entry.read().expect("no error").is_none(), "removed");
    let generation = publish(&entry, b"three");
    assert!(generation > 2, "generation {generation} was there before");
    assert_reads(&entry, b"three", generation);
}

fn exists(ground: &Ground) -> bool {
    ground.platform.open_dir(&ground.path).is_ok()
}

fn known_absent_is_believed(ground: &Ground) {
    let entry = entry(&ground.cache(), "entry");
    publish(&entry, b"one");
    let hour = Duration::from_secs(3600);
    let published = entry
        .refresh()
        .expect("the lock is free")
        .publish_absent(hour)
        .expect("nothing is in the way");
    assert_eq!(published.generation, 2);
    assert!(entry.read().expect("no error").is_none());
    let answer = entry.get_or_refresh(&Policy::any_age(), |_| Err::<(), _>("asked all the same"));
    assert!(matches!(answer, Ok(None)), "{answer:?}");
    assert_eq!(publish(&entry, b"three"), 3);
    assert_reads(&entry, b"three", 3);
}

fn another_length_than_announced_is_refused(ground: &Ground) {
    let entry = entry(&ground.cache(), "entry");
    publish(&entry, b"old");
    let mut refresh = entry.refresh().expect("the lock is free");
    refresh.expect_len(4);
    refresh.write_all(b"123").expect("the stage takes bytes");
    let failed = refresh.publish().expect_err("3 bytes are not 4");
    assert_eq!(failed.error.kind(), ErrorKind::LengthMismatch);
    assert_reads(&entry, b"old", 1);
    let mut refresh = failed.refresh.expect("what is missing can follow");
    refresh.write_all(b"4").expect("the stage takes bytes");
    refresh.publish().expect("4 bytes are");
    assert_reads(&entry, b"1234", 2);
}

fn a_dropped_refresh_leaves_nothing(ground: &Ground) {
    let entry = entry(&ground.cache(), "entry");
    publish(&entry, b"old");
    let mut refresh = entry.refresh().expect("the lock is free");
    refresh
        .write_all(&[7; 1 << 20])
        .expect("the stage takes bytes");
    drop(refresh);
    assert_reads(&entry, b"old", 1);
    let mut expected = vec!["head", "tags"];
    if ground.gated {
        expected.insert(0, "cache.lock");
    }
    assert_eq!(ground.control(), expected);
}

fn without_a_timeout_a_held_lock_is_told_at_once(ground: &Ground) {
    let _held = ground.cache().lock().expect("it is free");
    let other = ground
        .builder()
        .timeout(Timeout::TryOnce)
        .open()
        .expect("nothing is touched");
    let error = other.lock().expect_err("it is held");
    assert!(error.is_timeout(), "{error}");
    let (all, without) = (error.to_string(), format!("{error:#}"));
    let remedy = all.strip_prefix(&without);
    let expected = match ground.platform.can_wait() {
        true => "; it was tried once, allow a timeout to wait",
        false => "; nobody lets go while this thread waits, try again later",
    };
    assert_eq!(remedy, Some(expected));
    let status = other
        .status()
        .expect("no error")
        .expect("it was written to");
    assert!(status.holder.is_some(), "somebody holds it: {status:?}");
}

fn a_wait_can_be_cancelled(ground: &Ground) {
    let held = ground.cache().lock().expect("it is free");
    let token = CancelToken::new();
    let other = ground
        .builder()
        .timeout(Timeout::Infinite)
        .cancel(token.clone())
        .open()
        .expect("nothing is touched");
    let waiter = thread::spawn(move || other.lock().map(drop));
    thread::sleep(Duration::from_millis(30));
    let before = Instant::now();
    token.cancel();
    let error = waiter
        .join()
        .expect("no panic")
        .expect_err("it was cancelled");
    assert!(error.is_cancelled(), "{error}");
    assert!(before.elapsed() < Duration::from_secs(2), "not at once");
    drop(held);
}

fn threads_exclude_each_other(ground: &Ground) {
    exclude_each_other([ground.builder(), ground.builder()]);
}

fn one_lock_covers_several_entries(ground: &Ground) {
    let cache = ground.cache();
    let lock = cache.lock().expect("it is free");
    for name in ["one", "two"] {
        let mut refresh = lock.refresh(&entry(&cache, name)).expect("it is held");
        refresh
            .write_all(name.as_bytes())
            .expect("the stage takes bytes");
        refresh.publish().expect("nothing is in the way");
    }
    drop(lock);
    for name in ["one", "two"] {
        assert_reads(&entry(&cache, name), name.as_bytes(), 1);
    }
}

fn publishes_under_one_lock_come_one_after_the_other(ground: &Ground) {
    let cache = ground.cache();
    let entry = entry(&cache, "entry");
    for round in 0..50_u64 {
        let lock = cache.lock().expect("nobody has it");
        let barrier = Barrier::new(2);
        let mut generations: Vec<_> = thread::scope(|scope| {
            let publishing = [b"one".as_slice(), b"other and longer"].map(|bytes| {
                let mut refresh = lock.refresh(&entry).expect("it is held");
                let barrier = &barrier;
                scope.spawn(move || {
                    refresh.write_all(bytes).expect("the stage takes bytes");
                    barrier.wait();
                    refresh.publish().expect("it is held").generation
                })
            });
            publishing
                .map(|thread| thread.join().expect("no panic"))
                .into()
        });
        generations.sort_unstable();
        assert_eq!(generations, [2 * round + 1, 2 * round + 2], "each its own");
        let found = entry.read().expect("whole").expect("published");
        assert_eq!(found.meta().generation, Some(2 * round + 2));
    }
}

fn a_replaced_directory_is_noticed_by_the_next_refresh(ground: &Ground) {
    let cache = ground.cache();
    let entry = entry(&cache, "entry");
    let policy = Policy::fresh_for(Duration::ZERO);
    let fetch = |bytes: &'static [u8]| {
        let fetched = entry.get_or_refresh(&policy, |refresh| refresh.write_all(bytes));
        fetched.expect("nothing is in the way")
    };
    assert_eq!(fetch(b"before").as_deref(), Some(&b"before"[..]));
    ground.move_away();
    assert_eq!(fetch(b"after").as_deref(), Some(&b"after"[..]));
    assert_reads(&entry, b"after", 1);
    let elsewhere = ground.elsewhere().open().expect("nothing is touched");
    assert_reads(&elsewhere.entry("entry").expect("a name"), b"after", 1);
}

fn one_directory_by_two_paths_is_one_cache(ground: &Ground) {
    let cache = ground.cache();
    let lock = cache.lock().expect("it is free");
    let spelled = Cache::builder(ground.path.join("."))
        .platform(ground.platform.clone())
        .open()
        .expect("nothing is touched");
    let by_another_path = entry(&spelled, "entry");
    let refresh = lock.refresh(&by_another_path).expect("the lock covers it");
    refresh.publish().expect("nothing is in the way");
    let other = Cache::builder(ground.path.join("other"))
        .platform(ground.platform.clone())
        .open()
        .expect("nothing is touched");
    let refused = lock.refresh(&entry(&other, "entry"));
    let error = refused.expect_err("that is another cache");
    assert_eq!(error.kind(), ErrorKind::InvalidName, "{error}");
}

fn of_many_callers_one_produces(ground: &Ground) {
    let produced = AtomicUsize::new(0);
    let barrier = Barrier::new(16);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let entry = entry(&ground.cache(), "entry");
                barrier.wait();
                let snapshot = entry
                    .get_or_refresh(&Policy::any_age(), |refresh| {
                        produced.fetch_add(1, Ordering::SeqCst);
                        refresh.write_all(b"once")
                    })
                    .unwrap_or_else(|error: GetError<io::Error>| panic!("{error}"));
                assert_eq!(snapshot.as_deref(), Some(&b"once"[..]));
            });
        }
    });
    assert_eq!(produced.load(Ordering::SeqCst), 1, "fetched more than once");
}

fn a_broken_lock_publishes_nothing(ground: &Ground) {
    // The operator may be a thread of the holder's own process.
    for (name, operator) in [
        ("robbed by another", ground.elsewhere()),
        ("by itself", ground.builder()),
    ] {
        let entry = entry(&ground.cache(), name);
        publish(&entry, b"old");
        let mut refresh = entry.refresh().expect("the lock is free");
        refresh.write_all(b"late").expect("the stage takes bytes");
        let operator = operator.open().expect("nothing is touched");
        let before = ground.platform.monotonic();
        let holder = operator.break_lock().expect("force");
        let took = ground.platform.monotonic() - before;
        assert!(took < Duration::from_secs(2), "not at once");
        assert!(holder.is_some(), "somebody was robbed");
        let failed = refresh.publish().expect_err("it was robbed");
        assert!(failed.error.is_lease_lost(), "{failed}");
        assert!(failed.refresh.is_none(), "to try again is hopeless");
        drop(failed);
        assert_reads(&entry, b"old", 1);
        assert_eq!(publish(&entry, b"new"), 2);
    }
}

fn processes_exclude_each_other(ground: &Ground) {
    exclude_each_other([ground.builder(), ground.elsewhere()]);
}

#[track_caller]
fn exclude_each_other(callers: [CacheBuilder; 2]) {
    let inside = AtomicUsize::new(0);
    let inside = &inside;
    thread::scope(|scope| {
        for builder in callers {
            scope.spawn(move || {
                let cache = builder.open().expect("nothing is touched");
                for _ in 0..50 {
                    let lock = cache.lock().expect("it gets free");
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(lock);
                }
            });
        }
    });
}

fn a_timeout_says_who_holds_the_lock(ground: &Ground) {
    let _held = ground.cache().lock().expect("it is free");
    for (timeout, locking) in [
        (Timeout::TryOnce, Locking::Auto),
        (Timeout::TryOnce, Locking::Lease),
        (Duration::from_millis(20).into(), Locking::Auto),
        (Duration::from_millis(20).into(), Locking::Lease),
    ] {
        let other = ground.elsewhere().timeout(timeout).locking(locking);
        let error = other
            .open()
            .expect("nothing is touched")
            .lock()
            .expect_err("it is held");
        assert!(error.is_timeout(), "{error}");
        assert!(
            error
                .holder()
                .is_some_and(|holder| holder.gated == ground.gated),
            "{timeout}, {locking}: the error does not say who holds it: {error}"
        );
    }
}

fn the_lease_alone_will_do(ground: &Ground) {
    let cache = ground
        .builder()
        .locking(Locking::Lease)
        .open()
        .expect("nothing is touched");
    let lock = cache.lock().expect("it is free");
    assert_eq!(lock.backend(), Backend::Lease);
    drop(lock);
    let entry = entry(&cache, "entry");
    for generation in 1..=3 {
        assert_eq!(publish(&entry, b"leased"), generation);
        assert_reads(&entry, b"leased", generation);
    }
}

fn full_durability_publishes(ground: &Ground) {
    let cache = ground
        .builder()
        .durability(Durability::Full)
        .open()
        .expect("nothing is touched");
    let entry = entry(&cache, "a/b");
    assert_eq!(publish(&entry, b"durable"), 1);
    assert_reads(&entry, b"durable", 1);
}

/// The kind of error of an attempt to publish into the entry `name`.
#[track_caller]
fn refused(cache: &Cache, name: &str) -> ErrorKind {
    let attempt = || -> cachelock::Result<()> {
        cache.entry(name)?.refresh()?.publish()?;
        Ok(())
    };
    attempt().expect_err("it is refused").kind()
}

fn names_that_cannot_be_are_refused(ground: &Ground) {
    let cache = ground.cache();
    publish(&entry(&cache, "a"), b"file");
    assert_eq!(refused(&cache, "a/b"), ErrorKind::InvalidName);
    publish(&entry(&cache, "c/d"), b"file");
    assert_eq!(refused(&cache, "c"), ErrorKind::NotAFile);
    let error = entry(&cache, "c").read().expect_err("a directory");
    assert_eq!(error.kind(), ErrorKind::NotAFile);
    assert_reads(&entry(&cache, "a"), b"file", 1);
    assert_reads(&entry(&cache, "c/d"), b"file", 1);
}

fn a_cache_in_a_cache_is_refused(ground: &Ground) {
    let inner = Ground {
        platform: ground.platform.clone(),
        other: ground.other.clone(),
        path: ground.path.join(Path::new("inner")),
        gated: ground.gated,
        _dir: None,
    };
    publish(&entry(&inner.cache(), "entry"), b"inner");
    assert_eq!(
        refused(&ground.cache(), "inner/entry"),
        ErrorKind::InvalidName
    );
    assert_reads(&entry(&inner.cache(), "entry"), b"inner", 1);
}

/// All files at and below `path`, with what is in them, sorted.
#[track_caller]
fn files(ground: &Ground, path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![path.to_owned()];
    while let Some(path) = folders.pop() {
        let dir = ground.platform.open_dir(&path).expect("it was listed");
        for name in dir.list().expect("it can be listed") {
            let path = path.join(&name);
            let metadata = dir.stat(&name).expect("it was listed");
            if metadata.kind == FileKind::Directory {
                folders.push(path);
                continue;
            }
            let file = dir.open(&name, Access::Read).expect("it was listed");
            let len = usize::try_from(metadata.len).expect("it was just written");
            let mut bytes = vec![0; len];
            let mut at = 0;
            while at < len {
                let read = file.read_at(&mut bytes[at..], at as u64);
                at += read.expect("readable").max(1);
            }
            files.insert(path, bytes);
        }
    }
    files
}

/// A cache in a folder of its own, beside a canary.
fn caged(ground: &Ground) -> Ground {
    ground.plant("canary", b"alive");
    Ground {
        platform: ground.platform.clone(),
        other: ground.other.clone(),
        path: ground.path.join("cage").join("cache"),
        gated: ground.gated,
        _dir: None,
    }
}

/// Asserts that there is nothing but the canary, these payloads, and the control directory.
#[track_caller]
fn assert_holds_only(ground: &Ground, caged: &Ground, payloads: BTreeMap<PathBuf, Vec<u8>>) {
    let control = caged.path.join(".cachelock");
    let tags = control.join("tags");
    let mut expected = payloads;
    let tagged: Vec<PathBuf> = expected
        .keys()
        .map(|path| tags.join(path.strip_prefix(&caged.path).expect("it is in the cache")))
        .collect();
    expected.insert(ground.path.join("canary"), b"alive".to_vec());
    let mut found = files(ground, ground.path.parent().expect("it is not the root"));
    for path in tagged {
        assert!(found.remove(&path).is_some(), "no tag at {path:?}");
    }
    for name in ["cache.lock", "head"] {
        found.remove(&control.join(name));
    }
    for (path, bytes) in &expected {
        assert_eq!(found.remove(path).as_ref(), Some(bytes), "at {path:?}");
    }
    assert_eq!(found, BTreeMap::new(), "nobody asked for these");
}

/// Under Wine a call takes a hundred times as long.
const FROM_HELL: usize = if cfg!(windows) { 500 } else { 10_000 };
const SEED: u64 = 20_261_127;

/// Publishes very many entries: not synced, under one lock.
fn in_bulk(ground: &Ground) -> Cache {
    let builder = ground.builder().durability(Durability::None);
    builder.open().expect("nothing is touched")
}

fn any_bytes_are_a_key_of_their_own(ground: &Ground) {
    let caged = caged(ground);
    let cache = in_bulk(&caged);
    let keys = hell::keys(SEED, FROM_HELL);
    let mut payloads = BTreeMap::new();
    let lock = cache.lock().expect("it is free");
    for (n, key) in keys.iter().enumerate() {
        let entry = cache
            .entry_for_key(key)
            .unwrap_or_else(|error| panic!("seed {SEED}, key {n}: {error}"));
        let bytes = [&n.to_le_bytes(), &**key].concat();
        let mut refresh = lock.refresh(&entry).expect("it is held");
        refresh.write_all(&bytes).expect("the stage takes bytes");
        let published = refresh.publish().expect("nothing is in the way");
        assert_eq!(published.generation, 1, "seed {SEED}, key {n}: {entry:?}");
        payloads.insert(entry.path(), bytes);
    }
    drop(lock);
    let cache = caged.cache();
    for (n, key) in keys.iter().enumerate() {
        let entry = cache.entry_for_key(key).expect("it was good before");
        assert_eq!(entry.key(), Some(&**key));
        let snapshot = entry
            .read()
            .unwrap_or_else(|error| panic!("seed {SEED}, key {n}: {error}"))
            .unwrap_or_else(|| panic!("seed {SEED}, key {n}: {entry:?} is missing"));
        assert!(
            snapshot[..] == [&n.to_le_bytes(), &**key].concat(),
            "seed {SEED}, key {n}: {entry:?} is another's"
        );
        let name = cache.entry(entry.name()).expect("its name is a good one");
        assert_eq!((name.path(), name.key()), (entry.path(), None));
    }
    assert_eq!(payloads.len(), FROM_HELL, "seed {SEED}: two have one file");
    assert_holds_only(ground, &caged, payloads);
}

fn a_key_is_too_long_or_kept_whole(ground: &Ground) {
    let cache = ground.cache();
    let longest = vec![b'%'; hell::KEY_MAX];
    let entry = cache.entry_for_key(&longest).expect("it is just allowed");
    let of_name = self::entry(&cache, entry.name());
    // The tag has room for two of them and the most validators that there can be.
    for (bytes, generation) in [(b"one", 1), (b"two", 2)] {
        let validator = ("etag".to_owned(), "\n".repeat(8 * 1024 - 4));
        let mut refresh = entry.refresh().expect("the lock is free");
        refresh
            .set_validators([validator].into())
            .expect("they are just allowed");
        refresh.write_all(bytes).expect("the stage takes bytes");
        let published = refresh.publish().expect("nothing is in the way");
        assert_eq!(published.generation, generation);
    }
    assert_reads(&entry, b"two", 2);
    assert_reads(&of_name, b"two", 2);

    let longer = vec![b'%'; hell::KEY_MAX + 1];
    let error = cache.entry_for_key(longer).expect_err("one byte too many");
    assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    assert!(error.to_string().contains("%%%"), "{error}");
    assert!(error.to_string().len() < 300, "{error}");
}

fn for_key(cache: &Cache, key: impl AsRef<[u8]>) -> Entry {
    cache.entry_for_key(key).expect("it is short enough")
}

/// Two entries of which the other's payload replaces the one's.
#[track_caller]
fn two_in_one_file(cache: &Cache) -> [Entry; 2] {
    let [one, other] = [1, 2].map(|n| for_key(cache, colliding(n)));
    assert_ne!(one.key(), other.key());
    assert_eq!(one.path(), other.path(), "they do not collide");
    [one, other]
}

#[track_caller]
fn assert_missing(entry: &Entry) {
    let found = entry.read().expect("no error");
    assert_eq!(found.as_deref(), None, "{entry:?} gets what is not its own");
    assert!(entry.open().expect("no error").is_none(), "{entry:?}");
}

fn keys_with_one_hash_replace_each_other_and_never_get_each_others_bytes(ground: &Ground) {
    let cache = ground.cache();
    let [one, other] = two_in_one_file(&cache);
    let by_name = entry(&cache, one.name());
    assert_eq!(publish(&one, b"one"), 1);
    assert_missing(&other);
    assert_eq!(publish(&other, b"other"), 2);
    assert_missing(&one);
    assert_reads(&other, b"other", 2);
    // The same bytes are still another key's.
    assert_eq!(publish(&one, b"other"), 3);
    assert_missing(&other);
    assert_reads(&one, b"other", 3);
    assert_eq!(publish(&one, b"one"), 4);
    assert_reads(&by_name, b"one", 4);
    // What one is known to lack the other may have.
    let hour = Duration::from_secs(3600);
    let refresh = other.refresh().expect("the lock is free");
    refresh.publish_absent(hour).expect("nothing is in the way");
    let any = Policy::any_age();
    let absent = other.get_or_refresh(&any, |_| Err::<(), _>("asked all the same"));
    assert!(matches!(absent, Ok(None)), "{absent:?}");
    let got = one
        .get_or_refresh(&any, |refresh| refresh.write_all(b"one"))
        .expect("nothing is in the way");
    assert_eq!(got.as_deref(), Some(&b"one"[..]));
    assert_reads(&one, b"one", 6);
    assert_missing(&other);
}

fn a_key_keeps_nothing_of_another(ground: &Ground) {
    let cache = ground.cache();
    let [one, other] = two_in_one_file(&cache);
    publish(&one, b"one");
    let mut refresh = other.refresh().expect("the lock is free");
    let previous = refresh.previous().expect("readable");
    assert!(previous.is_none(), "the producer is given {previous:?}");
    let failed = refresh
        .publish_not_modified()
        .expect_err("what would it be?");
    assert_eq!(failed.error.kind(), ErrorKind::Missing, "{failed}");
    drop(failed);
    // Nor is it better than an error.
    let hour = Duration::from_secs(3600);
    let old = Policy::fresh_for(Duration::ZERO)
        .stale_for(hour)
        .error_for(hour);
    let answer = other.get_or_refresh(&old, |_| Err::<(), _>("cannot be fetched"));
    assert!(matches!(answer, Err(GetError::Produce(_))), "{answer:?}");
    assert_reads(&one, b"one", 1);
    let refresh = one.refresh().expect("the lock is free");
    refresh.publish_not_modified().expect("its own is there");
    assert_reads(&one, b"one", 1);
    assert_missing(&other);
}

fn a_reader_of_a_key_forgets_what_another_key_replaced(ground: &Ground) {
    let cache = ground.cache();
    let [one, other] = two_in_one_file(&cache);
    let mut reader = one.reader();
    for round in 0..3 {
        let read = reader.read().expect("no error");
        assert_eq!(read.as_deref(), None, "round {round}");
        publish(&one, b"same");
        let read = reader.read().expect("no error");
        assert_eq!(read.as_deref(), Some(&b"same"[..]), "round {round}");
        publish(&other, b"same");
    }
}

fn a_key_does_not_get_what_no_key_was_published_for(ground: &Ground) {
    let cache = ground.cache();
    let entry = for_key(&cache, "key");
    let by_name = self::entry(&cache, entry.name());
    let (folder, file) = entry.name().rsplit_once('/').expect("it is in a folder");
    let elsewhere = Ground {
        platform: ground.platform.clone(),
        other: ground.other.clone(),
        path: ground.path.join(folder),
        gated: ground.gated,
        _dir: None,
    };
    elsewhere.plant(file, b"by hand");
    assert_missing(&entry);
    assert!(by_name.read().expect("no error").is_some(), "it is there");
    assert_eq!(publish(&entry, b"its own"), 2);
    assert_reads(&entry, b"its own", 2);
    assert_eq!(publish(&by_name, b"by name"), 3);
    assert_missing(&entry);
    assert_reads(&by_name, b"by name", 3);
    assert_eq!(publish(&entry, b"its own"), 4);
    assert_reads(&entry, b"its own", 4);
}

fn an_error_tells_the_key_and_the_path(ground: &Ground) {
    let cache = ground.cache();
    let entry = for_key(&cache, "https://example.org/\n?q=1");
    publish(&entry, b"good");
    let debug = format!("{entry:?}");
    let mut told = vec![debug];
    let (folder, file) = entry.name().rsplit_once('/').expect("it is in a folder");
    let folder = ground.dir(folder);
    let payload = folder.open(file, Access::Write).expect("it is there");
    payload.write_at(b"evil", 0).expect("it can be written to");
    let corrupt = entry.read().expect_err("these are not the published bytes");
    assert!(corrupt.is_corrupt(), "{corrupt}");
    assert_eq!(corrupt.path(), Some(&*entry.path()));
    told.push(corrupt.to_string());
    let mut refresh = entry.refresh().expect("the lock is free");
    refresh.expect_len(1);
    let failed = refresh.publish().expect_err("0 bytes are not 1");
    assert_eq!(failed.error.kind(), ErrorKind::LengthMismatch);
    told.push(failed.to_string());
    for told in told {
        let path = entry.path();
        for part in ["https://example.org/\\n?q=1", path.to_str().expect("ASCII")] {
            // Debug output doubles the separators of Windows.
            let told = told.replace(r"\\", r"\");
            let part = part.replace(r"\\", r"\");
            assert!(told.contains(&part), "{told:?} does not tell {part:?}");
        }
    }
}

fn of_many_callers_for_a_key_one_replaces_anothers_payload(ground: &Ground) {
    let [one, other] = two_in_one_file(&ground.cache());
    publish(&other, b"other");
    let produced = AtomicUsize::new(0);
    let barrier = Barrier::new(16);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let one = for_key(&ground.cache(), one.key().expect("it has one"));
                barrier.wait();
                let snapshot = one
                    .get_or_refresh(&Policy::any_age(), |refresh| {
                        produced.fetch_add(1, Ordering::SeqCst);
                        refresh.write_all(b"one")
                    })
                    .unwrap_or_else(|error: GetError<io::Error>| panic!("{error}"));
                assert_eq!(snapshot.as_deref(), Some(&b"one"[..]));
            });
        }
    });
    assert_eq!(produced.load(Ordering::SeqCst), 1, "fetched more than once");
    assert_reads(&one, b"one", 2);
}

fn keys_that_fight_for_a_file_get_their_own_bytes_or_none(ground: &Ground) {
    const ROUNDS: usize = 40;
    let got = AtomicUsize::new(0);
    thread::scope(|scope| {
        for n in 0..4 {
            let builder = match n % 2 {
                0 => ground.builder(),
                _ => ground.elsewhere(),
            };
            let builder = builder.durability(Durability::None);
            let cache = builder.open().expect("nothing is touched");
            let entry = for_key(&cache, colliding(n));
            // All of one length, so that nothing but the hash tells payloads apart; and some are equal.
            let bytes =
                move |round: usize| format!("{:>8}", if round.is_multiple_of(4) { 0 } else { n });
            let is_own =
                move |read: &[u8]| read == bytes(0).as_bytes() || read == bytes(1).as_bytes();
            let reader = entry.clone();
            let got = &got;
            let writer = scope.spawn(move || {
                for round in 0..ROUNDS {
                    let policy = match round % 2 {
                        0 => Policy::any_age(),
                        _ => Policy::fresh_for(Duration::ZERO),
                    };
                    let answer = entry.get_or_refresh(&policy, |refresh| {
                        refresh.write_all(bytes(round).as_bytes())
                    });
                    match answer {
                        Ok(Some(read)) => assert!(is_own(&read), "{entry:?} got {read:?}"),
                        Ok(None) => panic!("{entry:?}: nobody said that it is absent"),
                        // Replaced between publish and read.
                        Err(error) => assert!(error.to_string().contains("gone again"), "{error}"),
                    }
                }
            });
            scope.spawn(move || {
                let mut kept = reader.reader();
                while !writer.is_finished() {
                    for read in [reader.read(), kept.read()] {
                        if let Some(read) = read.expect("whole or missing") {
                            assert!(is_own(&read), "{reader:?} read {read:?}");
                            got.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    // Where no open file can be replaced, somebody must close it now and then.
                    thread::sleep(Duration::from_millis(if cfg!(windows) { 5 } else { 0 }));
                }
            });
        }
    });
    assert!(got.into_inner() > 0, "no reader ever saw its own payload");
}

/// The rules for names once more, as a user is told them.
fn may_be_a_name(name: &str) -> bool {
    let is_control = |segment: &str| segment.eq_ignore_ascii_case(".cachelock");
    !name.contains(['\\', ':', '<', '>', '"', '|', '?', '*'])
        && !name.contains(char::is_control)
        && name.split('/').all(|segment| {
            !["", ".", ".."].contains(&segment)
                && !segment.ends_with(['.', ' '])
                && !is_control(segment)
                && segment.len() <= 255
        })
}

fn a_name_is_refused_or_is_exactly_its_file(ground: &Ground) {
    let caged = caged(ground);
    let cache = in_bulk(&caged);
    let mut payloads = BTreeMap::new();
    let mut refused = [0, 0];
    let lock = cache.lock().expect("it is free");
    // Where case does not count, two names that differ in nothing else are one file.
    let mut folded = HashSet::new();
    let is_another = |name: &String| {
        !cfg!(any(windows, target_os = "macos")) || folded.insert(name.to_lowercase())
    };
    for name in hell::names(SEED, FROM_HELL).into_iter().filter(is_another) {
        let entry = match cache.entry(&name) {
            Ok(entry) => entry,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidName, "{name:?}: {error}");
                refused[0] += 1;
                continue;
            }
        };
        assert!(may_be_a_name(&name), "seed {SEED}: {name:?} was taken");
        assert_eq!(entry.name(), name);
        assert_eq!(entry.path(), caged.path.join(&name));
        let publish = || -> cachelock::Result<()> {
            let mut refresh = lock.refresh(&entry)?;
            refresh
                .write_all(name.as_bytes())
                .expect("the stage takes bytes");
            refresh.publish()?;
            Ok(())
        };
        match publish() {
            Ok(()) => {
                let read = entry.read().expect("readable").expect("there");
                assert!(
                    &*read == name.as_bytes(),
                    "seed {SEED}: {name:?} is another's"
                );
                payloads.insert(entry.path(), name.into_bytes());
            }
            // Beside one that is a folder to it, or in one that is its file.
            Err(error) => {
                let beside = [ErrorKind::InvalidName, ErrorKind::NotAFile];
                assert!(
                    beside.contains(&error.kind()),
                    "seed {SEED}, {name:?}: {error}"
                );
                refused[1] += 1;
            }
        }
    }
    drop(lock);
    assert!(
        payloads.len() > FROM_HELL / 10 && refused.iter().all(|n| *n > 10),
        "seed {SEED}: {} good, {refused:?} not: too one-sided",
        payloads.len()
    );
    assert_holds_only(ground, &caged, payloads);
}

macro_rules! on_each_platform {
    (alone: $($alone:ident),+; with threads: $($threaded:ident),+ $(,)?) => {
        on_each_platform!(memory, not(target_os = "wasi"); $($alone),+; $($threaded),+);
        on_each_platform!(guest, not(target_os = "wasi"); $($alone),+; $($threaded),+);
        on_each_platform!(native, any(unix, windows, target_family = "wasm"); $($alone),+; $($threaded),+);
    };
    ($platform:ident, $there:meta; $($alone:ident),+; $($threaded:ident),+) => {
        #[cfg($there)]
        mod $platform {
            // Elsewhere it would run nothing, and say so to nobody.
            #[cfg(all(target_family = "wasm", target_os = "unknown"))]
            use wasm_bindgen_test::wasm_bindgen_test as test;

            $(#[test]
            fn $alone() {
                super::super::$alone(&super::super::Ground::$platform());
            })+

            $(#[cfg(not(target_family = "wasm"))]
            #[test]
            fn $threaded() {
                super::super::$threaded(&super::super::Ground::$platform());
            })+
        }
    };
}

/// The names of the tests begin with this module's and the backend's: `cargo xtask test` counts them.
mod conformance {
    on_each_platform!(
        alone:
        what_is_published_is_read,
        nested_names_are_entries_of_their_own,
        names_that_differ_in_case_are_two_entries_or_one_and_never_a_mixture,
        a_large_payload_streams,
        a_reader_shares_what_has_not_changed,
        a_file_that_was_there_is_generation_one,
        a_changed_payload_is_corrupt_until_refreshed,
        a_payload_of_an_absurd_length_is_corrupt_without_being_read,
        the_payload_of_what_is_absent_is_not_read,
        what_was_verified_and_changed_then_is_no_snapshot,
        a_control_directory_that_was_moved_away_is_opened_anew,
        a_missing_payload_is_missing,
        known_absent_is_believed,
        another_length_than_announced_is_refused,
        a_dropped_refresh_leaves_nothing,
        without_a_timeout_a_held_lock_is_told_at_once,
        one_lock_covers_several_entries,
        a_replaced_directory_is_noticed_by_the_next_refresh,
        one_directory_by_two_paths_is_one_cache,
        a_broken_lock_publishes_nothing,
        a_timeout_says_who_holds_the_lock,
        the_lease_alone_will_do,
        full_durability_publishes,
        names_that_cannot_be_are_refused,
        a_cache_in_a_cache_is_refused,
        any_bytes_are_a_key_of_their_own,
        a_key_is_too_long_or_kept_whole,
        keys_with_one_hash_replace_each_other_and_never_get_each_others_bytes,
        a_key_keeps_nothing_of_another,
        a_reader_of_a_key_forgets_what_another_key_replaced,
        a_key_does_not_get_what_no_key_was_published_for,
        an_error_tells_the_key_and_the_path,
        a_name_is_refused_or_is_exactly_its_file;
        with threads:
        a_wait_can_be_cancelled,
        threads_exclude_each_other,
        publishes_under_one_lock_come_one_after_the_other,
        of_many_callers_one_produces,
        processes_exclude_each_other,
        of_many_callers_for_a_key_one_replaces_anothers_payload,
        keys_that_fight_for_a_file_get_their_own_bytes_or_none,
    );
}
