//! What a cache promises, once for each platform: on the real one in a real directory, and in the memory of a live world.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
#[cfg(unix)]
use std::time::SystemTime;
use std::time::{Duration, Instant};

use cachelock::platform::{Access, Dir, Platform};
#[cfg(unix)]
use cachelock::platform::{Event, Identity, Monotonic, Slot, Task, native};
use cachelock::{
    Backend, Cache, CacheBuilder, CancelToken, Durability, Entry, ErrorKind, GetError, Locking,
    Policy, Timeout, Verification,
};

/// A place for a cache, and two processes that share it.
struct Ground {
    platform: Arc<dyn Platform>,
    other: Arc<dyn Platform>,
    path: PathBuf,
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
            _dir: None,
        }
    }

    #[cfg(unix)]
    fn native() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Ground {
            platform: native(),
            other: Arc::new(OtherProcess::default()),
            path: dir.path().join("cache"),
            _dir: Some(dir),
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
#[cfg(unix)]
#[derive(Default)]
struct OtherProcess {
    slot: Arc<Slot>,
}

#[cfg(unix)]
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
    assert_eq!(ground.control(), ["cache.lock", "head", "tags"]);
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
        let before = Instant::now();
        let holder = operator.break_lock().expect("force");
        assert!(before.elapsed() < Duration::from_secs(2), "not at once");
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
            error.holder().is_some_and(|holder| holder.gated),
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
        _dir: None,
    };
    publish(&entry(&inner.cache(), "entry"), b"inner");
    assert_eq!(
        refused(&ground.cache(), "inner/entry"),
        ErrorKind::InvalidName
    );
    assert_reads(&entry(&inner.cache(), "entry"), b"inner", 1);
}

macro_rules! on_each_platform {
    ($($claim:ident),+ $(,)?) => {
        mod memory {
            $(#[test]
            fn $claim() {
                super::$claim(&super::Ground::memory());
            })+
        }

        #[cfg(unix)]
        mod native {
            $(#[test]
            fn $claim() {
                super::$claim(&super::Ground::native());
            })+
        }
    };
}

on_each_platform!(
    what_is_published_is_read,
    nested_names_are_entries_of_their_own,
    a_large_payload_streams,
    a_reader_shares_what_has_not_changed,
    a_file_that_was_there_is_generation_one,
    a_changed_payload_is_corrupt_until_refreshed,
    a_missing_payload_is_missing,
    known_absent_is_believed,
    another_length_than_announced_is_refused,
    a_dropped_refresh_leaves_nothing,
    without_a_timeout_a_held_lock_is_told_at_once,
    a_wait_can_be_cancelled,
    threads_exclude_each_other,
    one_lock_covers_several_entries,
    of_many_callers_one_produces,
    a_broken_lock_publishes_nothing,
    processes_exclude_each_other,
    a_timeout_says_who_holds_the_lock,
    the_lease_alone_will_do,
    full_durability_publishes,
    names_that_cannot_be_are_refused,
    a_cache_in_a_cache_is_refused,
);
