//! A simulated world with caches in it whose events are heard twice, by an observer and through `tracing`, and compared.

use std::cell::Cell;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use cachelock::platform::Platform;
use cachelock::platform::memory::{Call, Op, Process, Task, World, seeded};
use cachelock::{Cache, CacheBuilder, Error, Event, GetError, Metrics, Policy, Snapshot};

use super::documented;
use super::listen::{self, Told, lock};
use super::support::{LEASE, TIMEOUT};

thread_local! {
    static ALSO: Cell<fn(&Cache)> = const { Cell::new(|_| {}) };
}

/// Runs a test in which all observers do this, too, whenever they are told something.
pub(crate) fn with_observers_that<T>(also: fn(&Cache), test: impl FnOnce() -> T) -> T {
    let before = ALSO.replace(also);
    let result = test();
    ALSO.set(before);
    result
}

/// A simulated world, and a cache in it that no other test has.
pub(crate) struct Stage {
    pub(crate) world: World,
    path: String,
    observed: Arc<Mutex<Vec<Told>>>,
    caches: Mutex<Vec<Cache>>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        listen::begin();
        static STAGES: AtomicUsize = AtomicUsize::new(0);
        Stage {
            world: World::simulated(),
            path: format!("/stage-{}", STAGES.fetch_add(1, Ordering::Relaxed)),
            observed: Arc::default(),
            caches: Mutex::default(),
        }
    }

    /// A path in the cache directory.
    pub(crate) fn path(&self, below: &str) -> String {
        format!("{}/{below}", self.path)
    }

    /// One more cache in this process.
    pub(crate) fn open(
        &self,
        process: &Arc<Process>,
        set: impl FnOnce(CacheBuilder) -> CacheBuilder,
    ) -> Cache {
        let (observed, also) = (self.observed.clone(), ALSO.get());
        let itself = Arc::new(OnceLock::new());
        let cache = itself.clone();
        let builder = Cache::builder(&self.path)
            .platform(process.clone())
            .lease(LEASE)
            .timeout(TIMEOUT)
            .observer(move |event: &Event<'_>| {
                lock(&observed).push(Told::by_observer(event));
                if let Some(cache) = cache.get() {
                    also(cache);
                }
            });
        let cache = set(builder).open().expect("nothing is touched");
        // A cache and its observer keep each other alive; a test may leave that.
        itself.set(cache.clone()).expect("it was empty");
        lock(&self.caches).push(cache.clone());
        cache
    }

    pub(crate) fn native(&self, name: &str) -> (Arc<Process>, Cache) {
        self.native_with(name, |builder| builder)
    }

    pub(crate) fn native_with(
        &self,
        name: &str,
        set: impl FnOnce(CacheBuilder) -> CacheBuilder,
    ) -> (Arc<Process>, Cache) {
        let process = self.world.process(name);
        let cache = self.open(&process, set);
        (process, cache)
    }

    pub(crate) fn guest(&self, name: &str) -> (Arc<Process>, Cache) {
        let process = self.world.guest(name);
        let cache = self.open(&process, |builder| builder);
        (process, cache)
    }

    /// The numbers of each cache that was opened here.
    pub(crate) fn metrics(&self) -> Vec<Metrics> {
        lock(&self.caches).iter().map(Cache::metrics).collect()
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        (process, cache): &(Arc<Process>, Cache),
        work: impl FnOnce(&Cache) -> T + Send + 'static,
    ) -> Task<T> {
        let cache = cache.clone();
        self.world.spawn(process, "main", move || work(&cache))
    }

    /// Does it from begin to end, while all other processes stand still.
    #[track_caller]
    pub(crate) fn run<T: Send + 'static>(
        &self,
        who: &(Arc<Process>, Cache),
        work: impl FnOnce(&Cache) -> T + Send + 'static,
    ) -> T {
        self.world.finish(self.spawn(who, work))
    }

    /// What was said, after making sure that both listeners heard the same, as documented.
    #[track_caller]
    pub(crate) fn told(&self) -> Vec<Told> {
        let observed = lock(&self.observed).clone();
        let mine = listen::traced(&self.path);
        for (told, level) in &mine {
            documented::check(told, *level);
        }
        let traced: Vec<_> = mine.into_iter().map(|(told, _)| told).collect();
        assert_eq!(
            observed, traced,
            "observer and tracing heard different things"
        );
        observed
    }

    /// The names of what was said, once each in a row.
    #[track_caller]
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.told().into_iter().map(|told| told.name).collect();
        names.dedup();
        names
    }

    /// The one event of this name.
    #[track_caller]
    pub(crate) fn the(&self, name: &str) -> Told {
        let mut told = self.told();
        told.retain(|told| told.name == name);
        assert_eq!(told.len(), 1, "{name} was not said once: {told:?}");
        told.remove(0)
    }
}

/// Whether the test's own thread is about to make this call; a process has others that beat and wait.
pub(crate) fn by_main(call: &Call, op: Op) -> bool {
    &*call.thread == "main" && call.op == op
}

/// Lets time pass for this thread of a simulated process.
pub(crate) fn sleep(process: &Arc<Process>, time: Duration) {
    let until = process.monotonic() + time;
    let event = process.event();
    while process.monotonic() < until {
        event.wait_until(Some(until));
    }
}

/// Holds the lock for so long; returns once it is held.
pub(crate) fn hold(
    stage: &Stage,
    who: &(Arc<Process>, Cache),
    time: Duration,
) -> Task<Result<(), Error>> {
    let process = who.0.clone();
    let task = stage.spawn(who, move |cache| {
        let lock = cache.lock()?;
        sleep(&process, time);
        drop(lock);
        Ok(())
    });
    stage.world.run_to(&task, |call| by_main(call, Op::Wait));
    task
}

/// Runs two processes together until both tasks have ended.
#[track_caller]
pub(crate) fn together<A, B>(stage: &Stage, a: Task<A>, b: Task<B>) -> (A, B) {
    stage
        .world
        .run_together(&[&a, &b], seeded(1), 100_000)
        .unwrap_or_else(|unfinished| panic!("{unfinished}"));
    (stage.world.finish(a), stage.world.finish(b))
}

pub(crate) fn get(cache: &Cache) -> Result<Option<Snapshot>, Error> {
    let entry = cache.entry("entry")?;
    let got = entry.get_or_refresh(&Policy::any_age(), |refresh| refresh.write_all(b"produced"));
    got.map_err(|error| match error {
        GetError::Cache(error) => error,
        GetError::Produce(error) => panic!("the stage takes so few bytes: {error}"),
    })
}
