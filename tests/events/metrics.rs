//! Counters and histograms: what is counted, where it lands, and for whom.

use std::io::Write;
use std::time::Duration;

use cachelock::platform::memory::{Op, World};
use cachelock::{Cache, Error, Histogram, Metrics, Policy};

use super::listen::Told;
use super::scenarios;
use super::stage::{Stage, by_main, get, hold, sleep, together};
use super::support::{begin, publish};

const MS: Duration = Duration::from_millis(1);

fn acquired(metrics: &Metrics) -> u64 {
    metrics.acquired_by_gate + metrics.acquired_by_lease
}

/// How many durations are in the bucket whose upper bound is `bound`.
#[track_caller]
fn in_bucket(histogram: &Histogram, bound: Duration) -> u64 {
    let mut before = 0;
    for (upper, below) in histogram.buckets() {
        if upper == bound {
            return below - before;
        }
        before = below;
    }
    panic!("{bound:?} is no bound");
}

/// What the events of these names add up to in one of their fields, in milliseconds.
fn sum_ms(told: &[Told], names: &[&str], field: &str) -> (u64, u64) {
    let values = told
        .iter()
        .filter(|told| names.contains(&&*told.name))
        .filter_map(|told| told.fields.get(field))
        .map(|value| value.parse::<u64>().expect("a number"));
    values.fold((0, 0), |(count, sum), value| (count + 1, sum + value))
}

#[test]
fn whatever_happens_counters_and_events_agree() {
    for (name, scenario) in scenarios::ALL {
        let stage = scenario();
        let told = stage.told();
        let metrics = stage.metrics();
        let events = |name: &str, backend: Option<&str>| {
            told.iter()
                .filter(|told| told.name == name)
                .filter(|told| backend.is_none_or(|backend| told.field("backend") == backend))
                .count() as u64
        };
        let sum = |of: fn(&Metrics) -> u64| metrics.iter().map(of).sum::<u64>();
        for (counted, told) in [
            (
                sum(|m| m.acquired_by_gate),
                events("lock_acquired", Some("gate")),
            ),
            (
                sum(|m| m.acquired_by_lease),
                events("lock_acquired", Some("lease")),
            ),
            (sum(|m| m.contended), events("lock_contended", None)),
            (sum(|m| m.timeouts), events("lock_timeout", None)),
            (sum(|m| m.cancelled), events("lock_cancelled", None)),
            (sum(|m| m.takeovers), events("lease_taken_over", None)),
            (sum(|m| m.leases_lost), events("lease_lost", None)),
            (
                sum(|m| m.heartbeats_failed),
                events("heartbeat_failed", None),
            ),
            (sum(|m| m.published), events("refresh_published", None)),
            (sum(|m| m.skipped), events("refresh_skipped", None)),
            (sum(|m| m.served_stale), events("served_stale", None)),
            (sum(|m| m.corrupt), events("entry_corrupt", None)),
            (sum(|m| m.recovered), events("recovered", None)),
            (sum(|m| m.fallbacks), events("fallback_to_lease", None)),
            (sum(|m| m.observer_panics), 0),
        ] {
            assert_eq!(counted, told, "{name}: {metrics:?}");
        }
        let ends = [
            "lock_acquired",
            "lock_timeout",
            "lock_cancelled",
            "refresh_skipped",
        ];
        let ms = |of: fn(&Metrics) -> &Histogram| {
            let all = metrics.iter().map(of);
            all.fold((0, 0), |(count, sum), histogram| {
                (
                    count + histogram.count(),
                    sum + histogram.sum().as_millis() as u64,
                )
            })
        };
        // The simulated clock moves in whole milliseconds here.
        assert_eq!(
            ms(|m| &m.wait),
            sum_ms(&told, &ends, "waited_ms"),
            "{name}: waits"
        );
        assert_eq!(
            ms(|m| &m.hold),
            sum_ms(&told, &["lock_released"], "held_ms"),
            "{name}: holds"
        );
    }
}

#[test]
fn a_lock_that_was_free_counts_as_a_wait_and_not_as_contended() {
    let stage = Stage::new();
    stage.world.set_step_time(Duration::from_micros(1));
    let a = stage.native("a");
    stage
        .run(&a, |cache| publish(cache, b"a"))
        .expect("nobody is in the way");
    let metrics = a.1.metrics();
    assert_eq!((metrics.contended, acquired(&metrics)), (0, 1));
    assert_eq!(metrics.wait.count(), 1);
    assert_eq!(
        in_bucket(&metrics.wait, Duration::from_micros(100)),
        1,
        "{metrics:?}"
    );
    assert!(
        metrics.wait.sum() > Duration::ZERO,
        "acquiring takes its steps"
    );
}

#[test]
fn waits_and_holds_land_in_the_bucket_that_has_their_length() {
    let stage = Stage::new();
    let (a, b) = (stage.native("a"), stage.native("b"));
    let holds = hold(&stage, &a, 300 * MS);
    let waits = stage.spawn(&b, |cache| cache.lock().map(drop));
    let (held, waited) = together(&stage, holds, waits);
    held.and(waited).expect("nobody stays too long");
    let (a, b) = (a.1.metrics(), b.1.metrics());
    assert_eq!(in_bucket(&a.wait, Duration::from_micros(100)), 1, "{a:?}");
    assert_eq!(in_bucket(&a.hold, 500 * MS), 1, "{a:?}");
    assert_eq!(a.hold.sum(), 300 * MS);
    assert_eq!(in_bucket(&b.wait, 500 * MS), 1, "{b:?}");
    assert_eq!(b.wait.sum(), 300 * MS);
    assert_eq!(in_bucket(&b.hold, Duration::from_micros(100)), 1, "{b:?}");
    assert_eq!(b.contended, 1);
}

#[test]
fn a_wait_that_ends_with_somebody_elses_refresh_is_counted_once() {
    // Satisfied before the lock was had: only `refresh_skipped` tells of the wait.
    let stage = Stage::new();
    let (a, b) = (stage.native("a"), stage.native("b"));
    let process = a.0.clone();
    let publishes = stage.spawn(&a, move |cache| {
        let refresh = begin(cache, b"a")?;
        sleep(&process, 300 * MS);
        Ok::<_, Error>(refresh.publish()?)
    });
    stage
        .world
        .run_to(&publishes, |call| by_main(call, Op::Wait));
    let waits = stage.spawn(&b, get);
    let (published, got) = together(&stage, publishes, waits);
    published.expect("nobody is in the way");
    got.expect("the lock becomes free");
    let metrics = b.1.metrics();
    assert_eq!(
        (acquired(&metrics), metrics.skipped, metrics.published),
        (0, 1, 0)
    );
    assert_eq!((metrics.wait.count(), metrics.wait.sum()), (1, 300 * MS));
    assert_eq!(metrics.hold.count(), 0, "it never had the lock");

    // Satisfied under the lock: `lock_acquired` tells of it.
    let stage = Stage::new();
    let (a, b) = (stage.native("a"), stage.native("b"));
    let late = stage.spawn(&b, get);
    stage.world.run_to(&late, |call| call.name == "cache.lock");
    stage
        .run(&a, |cache| publish(cache, b"a"))
        .expect("nobody is in the way");
    stage.world.finish(late).expect("the lock is free");
    let metrics = b.1.metrics();
    assert_eq!(
        (acquired(&metrics), metrics.skipped, metrics.published),
        (1, 1, 0)
    );
    assert_eq!((metrics.wait.count(), metrics.hold.count()), (1, 1));
}

#[test]
fn every_hold_is_counted_whatever_it_was_for() {
    let stage = Stage::new();
    let a = stage.native("a");
    stage
        .run(&a, |cache| {
            publish(cache, b"a")?;
            begin(cache, b"b")?.abandon()?;
            drop(begin(cache, b"c")?);
            cache.sweep()?;
            drop(cache.lock()?);
            cache.break_lock().map(drop)
        })
        .expect("nobody is in the way");
    let metrics = a.1.metrics();
    assert_eq!(
        (metrics.hold.count(), acquired(&metrics), metrics.published),
        (6, 6, 1)
    );
}

#[test]
fn clones_entries_and_locks_count_together_and_another_cache_for_itself() {
    let stage = Stage::new();
    let a = stage.native("a");
    let other = stage.open(&a.0, |builder| builder);
    stage
        .run(&a, |cache| {
            let clone = cache.clone();
            let entry = clone.entry("entry")?;
            drop(clone);
            let lock = cache.lock()?;
            let mut refresh = lock.refresh(&entry)?;
            refresh
                .write_all(b"a")
                .expect("so few bytes stay in the buffer");
            refresh.publish()?;
            Ok::<_, Error>(())
        })
        .expect("nobody is in the way");
    assert_eq!(
        (a.1.metrics().published, a.1.clone().metrics().hold.count()),
        (1, 1)
    );
    assert_eq!(other.metrics().published, 0);
    assert_eq!(
        other.metrics(),
        stage.native("b").1.metrics(),
        "nothing has happened to it"
    );
}

#[test]
fn reads_that_find_what_they_should_change_no_number() {
    let stage = Stage::new();
    let a = stage.native("a");
    stage
        .run(&a, |cache| publish(cache, b"a"))
        .expect("nobody is in the way");
    let before = a.1.metrics();
    stage
        .run(&a, |cache| {
            let entry = cache.entry("entry")?;
            entry.read()?;
            entry.open()?;
            entry.reader().read()?;
            cache.entry("missing")?.read()?;
            entry.begin(&Policy::any_age()).map(drop)
        })
        .expect("it is there");
    assert_eq!(a.1.metrics(), before);
}

/// The histogram of holds of these lengths, one after the other.
fn holds(lengths: &[Duration]) -> Histogram {
    let stage = Stage::new();
    let a = stage.native("a");
    let (process, lengths) = (a.0.clone(), lengths.to_vec());
    stage.run(&a, move |cache| {
        for length in lengths {
            let lock = cache.lock().expect("nobody is in the way");
            sleep(&process, length);
            drop(lock);
        }
    });
    a.1.metrics().hold
}

#[test]
fn a_duration_that_is_equal_to_a_bound_is_below_it() {
    let histogram = holds(Histogram::BOUNDS);
    for (index, (bound, below)) in histogram.buckets().enumerate() {
        assert_eq!(below, index as u64 + 1, "at most {bound:?}");
    }
    let beyond = holds(&[Histogram::BOUNDS[18] + MS]);
    assert!(beyond.buckets().all(|(_, below)| below == 0), "{beyond:?}");
    assert_eq!(beyond.count(), 1);
}

#[test]
fn quantiles_are_read_off_the_buckets() {
    let none = holds(&[]);
    assert_eq!((none.count(), none.quantile(0.5)), (0, None));

    let mut lengths = vec![7 * MS; 90];
    lengths.extend([Duration::from_secs(7); 10]);
    let histogram = holds(&lengths);
    // Spread evenly from 5 to 10 ms, and from 5 to 10 s.
    for (quantile, expected) in [
        (0.0, 5 * MS),
        (0.45, Duration::from_micros(7500)),
        (0.9, 10 * MS),
        (0.95, Duration::from_millis(7500)),
        (1.0, Duration::from_secs(10)),
    ] {
        assert_eq!(histogram.quantile(quantile), Some(expected), "{quantile}");
    }
    for no_share in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert_eq!(histogram.quantile(no_share), None, "{no_share}");
    }
    let beyond = holds(&[Duration::from_secs(400)]);
    assert_eq!(
        beyond.quantile(0.5),
        Some(Duration::from_secs(300)),
        "the last bound"
    );
}

#[test]
fn of_many_threads_no_event_is_lost() {
    let world = World::live();
    let builder = Cache::builder("/live").platform(world.process("live"));
    let cache = builder
        .timeout(Duration::from_secs(60))
        .open()
        .expect("nothing is touched");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    drop(cache.lock().expect("everybody gets a turn"));
                }
            });
        }
    });
    let metrics = cache.metrics();
    assert_eq!(acquired(&metrics), 400);
    assert_eq!((metrics.wait.count(), metrics.hold.count()), (400, 400));
}
