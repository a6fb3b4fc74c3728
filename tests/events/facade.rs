//! The cargo feature `metrics`: a recorder gets the same numbers as [`cachelock::Metrics`], by the documented names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use cachelock::platform::memory::World;
use cachelock::{Cache, Locking, Timeout};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit, with_local_recorder,
};

use super::documented;
use super::support::publish;

type Numbers = Arc<Mutex<BTreeMap<String, Vec<f64>>>>;

/// Keeps what each key was given, and the unit and the help of each name.
#[derive(Default)]
struct Keep {
    numbers: Numbers,
    described: Mutex<BTreeMap<String, (Unit, String)>>,
}

struct Handle(String, Numbers);

impl Handle {
    fn push(&self, value: f64) {
        let mut numbers = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.entry(self.0.clone()).or_default().push(value);
    }
}

impl CounterFn for Handle {
    fn increment(&self, value: u64) {
        self.push(value as f64);
    }

    fn absolute(&self, _: u64) {
        unreachable!("the library counts");
    }
}

impl HistogramFn for Handle {
    fn record(&self, value: f64) {
        self.push(value);
    }
}

impl Keep {
    fn handle(&self, key: &Key) -> Arc<Handle> {
        let labels: String = key
            .labels()
            .map(|label| format!(" {}={}", label.key(), label.value()))
            .collect();
        Arc::new(Handle(
            format!("{}{labels}", key.name()),
            self.numbers.clone(),
        ))
    }

    fn describe(&self, key: &KeyName, unit: Option<Unit>, help: &SharedString) {
        let unit = unit.expect("each has a unit");
        let mut described = self
            .described
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        described.insert(key.as_str().to_owned(), (unit, help.to_string()));
    }

    /// The sum of what this key was given.
    #[track_caller]
    fn sum(&self, key: &str) -> f64 {
        self.values(key).iter().sum()
    }

    #[track_caller]
    fn values(&self, key: &str) -> Vec<f64> {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let values = numbers.get(key);
        values
            .unwrap_or_else(|| panic!("no {key} in {numbers:?}"))
            .clone()
    }
}

impl Recorder for Keep {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(&key, unit, &help);
    }

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        unreachable!("the library has no gauge");
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe(&key, unit, &help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.handle(key))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        unreachable!("the library has no gauge");
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.handle(key))
    }
}

#[test]
fn a_recorder_hears_of_every_documented_name_and_of_no_other() {
    let recorder = Keep::default();
    with_local_recorder(&recorder, || {
        Cache::open("/nowhere").expect("nothing is touched");
    });
    let described = recorder
        .described
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let names: BTreeSet<_> = described.keys().cloned().collect();
    assert_eq!(names, documented::recorded());
    for (name, (unit, help)) in described.iter() {
        let expected = if name.ends_with("_seconds") {
            Unit::Seconds
        } else {
            Unit::Count
        };
        assert_eq!(*unit, expected, "{name}");
        assert!(
            help.ends_with('.') && !help.starts_with(' '),
            "{name}: {help:?}"
        );
    }
}

#[test]
fn a_recorder_gets_the_numbers_that_the_cache_has() {
    let recorder = Keep::default();
    let world = World::live();
    let caches = with_local_recorder(&recorder, || {
        let open = |process: &str, locking| {
            Cache::builder("/cache")
                .platform(world.process(process))
                .locking(locking)
                .timeout(Timeout::TryOnce)
                .open()
                .expect("nothing is touched")
        };
        let (a, b) = (open("a", Locking::Auto), open("b", Locking::Lease));
        for cache in [&a, &b, &a] {
            publish(cache, b"payload").expect("the lock is free");
        }
        let lock = b.lock().expect("the lock is free");
        let error = a.lock().expect_err("it is held");
        assert!(error.is_timeout(), "{error}");
        drop(lock);
        [a, b]
    });
    let numbers = caches.map(|cache| cache.metrics());
    let sum = |of: fn(&cachelock::Metrics) -> u64| numbers.iter().map(of).sum::<u64>() as f64;
    for (key, expected, ours) in [
        (
            "cachelock_lock_acquired_total backend=gate",
            2.0,
            sum(|m| m.acquired_by_gate),
        ),
        (
            "cachelock_lock_acquired_total backend=lease",
            2.0,
            sum(|m| m.acquired_by_lease),
        ),
        ("cachelock_lock_contended_total", 1.0, sum(|m| m.contended)),
        ("cachelock_lock_timeout_total", 1.0, sum(|m| m.timeouts)),
        (
            "cachelock_refresh_published_total",
            3.0,
            sum(|m| m.published),
        ),
        ("cachelock_lease_lost_total", 0.0, sum(|m| m.leases_lost)),
    ] {
        assert_eq!((recorder.sum(key), ours), (expected, expected), "{key}");
    }
    for (key, expected, histograms) in [
        (
            "cachelock_lock_wait_seconds",
            5,
            numbers.each_ref().map(|m| m.wait.clone()),
        ),
        (
            "cachelock_lock_hold_seconds",
            4,
            numbers.each_ref().map(|m| m.hold.clone()),
        ),
    ] {
        let values = recorder.values(key);
        assert_eq!(values.len(), expected, "{key}");
        let count: u64 = histograms.iter().map(|histogram| histogram.count()).sum();
        assert_eq!(count, expected as u64, "{key}");
        let sum: f64 = histograms
            .iter()
            .map(|histogram| histogram.sum().as_secs_f64())
            .sum();
        assert!(
            (values.iter().sum::<f64>() - sum).abs() < 1e-6,
            "{key}: {values:?} and {sum}"
        );
    }
}
