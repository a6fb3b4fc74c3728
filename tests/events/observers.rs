//! Whoever listens cannot change what it listens to: not by a panic, not by calling back.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};

use cachelock::platform::memory::{Call, IS_ONE_THREAD, Op, Outcome};
use cachelock::{Cache, ErrorKind, Event, EventKind, Metrics, Refresh, WriteLock};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

use super::scenarios;
use super::stage::{Stage, sleep, with_observers_that};
use super::support::{LEASE, publish};

/// A panic without the message on standard error.
fn panics(_: &Cache) {
    resume_unwind(Box::new("an observer panics"));
}

/// A panic here is counted, and [`assert_no_panics`] finds it. A process that was killed can do nothing, and says so.
fn calls_back(cache: &Cache) {
    let entry = cache.entry("entry").expect("a good name");
    match entry.read() {
        Ok(_) => {}
        Err(error) => assert!(
            error.is_corrupt() || error.kind() == ErrorKind::Io,
            "{error}"
        ),
    }
    let mut refused = vec![cache.lock().map(drop), entry.refresh().map(drop)];
    // Where there is nothing, there is nothing to do.
    if cache.status().is_ok_and(|status| status.is_some()) {
        // Not by force either.
        refused.extend([cache.sweep(), cache.break_lock().map(drop)]);
    }
    for refused in refused {
        let error = refused.expect_err("the thread may be the one that has the lock");
        assert_eq!(error.kind(), ErrorKind::NoLock, "{error}");
    }
    let _ = cache.metrics();
}

fn sum(metrics: &[Metrics], of: fn(&Metrics) -> u64) -> u64 {
    metrics.iter().map(of).sum()
}

#[track_caller]
fn assert_no_panics(stage: &Stage) {
    assert_eq!(
        sum(&stage.metrics(), |metrics| metrics.observer_panics),
        0,
        "an assertion in an observer failed; its message is on standard error"
    );
}

#[test]
fn observers_that_panic_at_each_event_change_nothing() {
    for (name, scenario) in scenarios::ALL {
        let stage = with_observers_that(panics, scenario);
        let panics = sum(&stage.metrics(), |metrics| metrics.observer_panics);
        assert_eq!(
            panics,
            stage.told().len() as u64,
            "{name}: each panic is counted"
        );
    }
}

#[test]
fn observers_that_call_back_at_each_event_change_nothing() {
    // Whoever calls back is known by its thread.
    if IS_ONE_THREAD {
        eprintln!("skipped: simulated threads are coroutines here; test this package alone");
        return;
    }
    for (_, scenario) in scenarios::ALL {
        assert_no_panics(&with_observers_that(calls_back, scenario));
    }
}

#[test]
fn a_holder_that_panics_releases_the_lock_although_its_observer_panics_too() {
    let stage = Stage::new();
    let a = with_observers_that(panics, || stage.native("a"));
    let task = stage.spawn(&a, |cache| {
        let _lock = cache.lock();
        resume_unwind(Box::new("the holder panics"));
    });
    stage.world.run_until(&task, |_| false);
    assert_eq!(
        task.outcome(),
        Some(Outcome::<()>::Panicked("the holder panics".into())),
        "the panic is the holder's own"
    );
    assert_eq!(stage.names(), ["lock_acquired", "lock_released"]);
    let b = stage.native("b");
    let waited = stage.run(&b, |cache| cache.lock().map(|lock| lock.waited()));
    assert_eq!(
        waited.expect("it is free").as_millis(),
        0,
        "nobody had to wait for a lease"
    );
}

#[test]
fn a_lock_may_be_dropped_by_the_observer_that_hears_of_its_loss() {
    let stage = Stage::new();
    let slot: Arc<Mutex<Option<WriteLock>>> = Arc::default();
    let gives_back = slot.clone();
    let (process, cache) = stage.native_with("a", |builder| {
        builder.observer(move |event: &Event<'_>| {
            if event.kind == EventKind::LeaseLost {
                let lock = gives_back.lock().expect("no one panics with it").take();
                drop(lock);
            }
        })
    });
    let platform = process.clone();
    let task = stage.spawn(&(process, cache.clone()), move |cache| {
        let lock = cache.lock().expect("it is free");
        *slot.lock().expect("no one panics with it") = Some(lock);
        sleep(&platform, 2 * LEASE);
        slot.lock().expect("no one panics with it").is_none()
    });
    stage.world.run_to(&task, |call| call.op == Op::Wait);
    let b = stage.guest("b");
    stage
        .run(&b, |cache| cache.break_lock().map(drop))
        .expect("force waits for nobody");
    assert!(
        stage.world.finish(task),
        "the heartbeat noticed, and the observer gave the lock back"
    );
    let metrics = cache.metrics();
    assert_eq!(
        (
            metrics.leases_lost,
            metrics.hold.count(),
            metrics.observer_panics
        ),
        (1, 1, 0)
    );
}

/// Under one lock one publish waits for the other, and what is told in the middle of one is told by the thread that makes it.
#[test]
fn an_observer_may_publish_under_the_lock_that_it_hears_of_but_not_in_the_middle_of_a_publish() {
    for (kind, expected) in [
        (EventKind::RefreshPublished, None),
        (EventKind::LeaseLost, Some(ErrorKind::NoLock)),
    ] {
        let stage = Stage::new();
        let slot: Arc<Mutex<Option<Refresh>>> = Arc::default();
        let result: Arc<Mutex<Option<Option<ErrorKind>>>> = Arc::default();
        let (takes, notes) = (slot.clone(), result.clone());
        let (process, cache) = stage.native_with("a", |builder| {
            builder.observer(move |event: &Event<'_>| {
                if event.kind == kind
                    && let Some(second) = takes.lock().expect("no one panics with it").take()
                {
                    let failed = second.publish().err().map(|failed| failed.error.kind());
                    *notes.lock().expect("no one panics with it") = Some(failed);
                }
            })
        });
        let task = stage.spawn(&(process, cache), move |cache| {
            let lock = cache.lock().expect("it is free");
            let begin = |name| lock.refresh(&cache.entry(name).expect("a good name"));
            let first = begin("first").expect("it is held");
            *slot.lock().expect("no one panics with it") =
                Some(begin("second").expect("it is held"));
            first.publish().is_ok()
        });
        if expected.is_some() {
            let renames = |call: &Call| call.is(Op::Rename, "stage-");
            stage.world.run_to(&task, renames);
            let b = stage.guest("b");
            let broken = stage.run(&b, |cache| cache.break_lock().map(drop));
            broken.expect("force waits for nobody");
        }
        assert_eq!(stage.world.finish(task), expected.is_none());
        let result = result.lock().expect("no one panics with it").take();
        assert_eq!(result, Some(expected), "{kind:?}");
    }
}

#[test]
fn what_an_observer_brings_about_is_counted_and_not_told() {
    let stage = with_observers_that(calls_back, || {
        let stage = Stage::new();
        let a = stage.native("a");
        stage
            .run(&a, |cache| publish(cache, b"a"))
            .expect("nobody is in the way");
        stage.world.plant_file(&stage.path("entry"), b"b");
        let error = stage.run(&a, |cache| cache.entry("entry")?.read().map(drop));
        assert!(error.expect_err("its bytes were changed").is_corrupt());
        stage
    });
    stage.the("entry_corrupt");
    assert_eq!(sum(&stage.metrics(), |metrics| metrics.corrupt), 2);
    assert_no_panics(&stage);
}

#[test]
fn an_observer_may_ask_for_the_status_and_is_refused_the_lock_of_another_cache_too() {
    let stage = Stage::new();
    let process = stage.world.process("a");
    let other = Cache::builder("/other").platform(process.clone());
    let other = other.open().expect("nothing is touched");
    let (asked, asking) = (
        Arc::new(Mutex::new(Vec::new())),
        stage.open(&process, |builder| builder),
    );
    let answers = asked.clone();
    let cache = stage.open(&process, |builder| {
        builder.observer(move |_: &Event<'_>| {
            let epoch = asking
                .status()
                .map(|status| status.map(|status| status.epoch));
            let refused = other.lock().map_err(|error| error.kind());
            answers
                .lock()
                .expect("no one panics with it")
                .push((epoch.ok().flatten(), refused.err()));
        })
    });
    stage
        .run(&(process, cache), |cache| cache.lock().map(drop))
        .expect("it is free");
    let expected = (Some(1), Some(ErrorKind::NoLock));
    assert_eq!(
        *asked.lock().expect("no one panics with it"),
        [expected, expected],
        "acquired and released"
    );
}

struct PanickingSubscriber;

impl Subscriber for PanickingSubscriber {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn event(&self, _: &tracing::Event<'_>) {
        resume_unwind(Box::new("a subscriber panics"));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn a_subscriber_that_panics_changes_nothing_and_the_observer_hears_all_the_same() {
    let world = cachelock::platform::memory::World::live();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    let cache = Cache::builder("/subscriber")
        .platform(world.process("a"))
        .observer(move |event: &Event<'_>| {
            hears
                .lock()
                .expect("no one panics with it")
                .push(event.kind.name());
        })
        .open()
        .expect("nothing is touched");
    tracing::subscriber::with_default(PanickingSubscriber, || publish(&cache, b"a"))
        .expect("nobody is in the way");
    assert_eq!(
        *heard.lock().expect("no one panics with it"),
        ["lock_acquired", "refresh_published", "lock_released"]
    );
    assert_eq!(cache.metrics().observer_panics, 3);
    publish(&cache, b"b").expect("the lock was given back");
}
