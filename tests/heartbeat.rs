//! The task that beats leases: it beats what is held for long, and lets who holds for a moment alone.

use std::sync::Arc;
use std::time::Duration;

use cachelock::Cache;
use cachelock::platform::Platform;
use cachelock::platform::memory::{Process, World};

use support::{LEASE, builder};

mod support;

/// Waits as somebody does who has other things to do than to call the library.
fn sleep(process: &Process, time: Duration) {
    let until = process.monotonic() + time;
    let never = process.event();
    while process.monotonic() < until {
        never.wait_until(Some(until));
    }
}

/// How often the task of `process` has been woken, by time or by somebody, as far back as the trace goes.
fn wakes(world: &World, process: &Process) -> usize {
    let waits = format!(" {}/cachelock-beat: Wait = ", process.name());
    world.trace().matches(&waits).count()
}

/// Takes the lock `holds` times, for `held` each, with `pause` after it; tells how often the task was woken meanwhile, and in how
/// many thirds of a lease that was.
fn wakes_for(holds: u32, held: Duration, pause: Duration) -> (usize, usize) {
    let world = World::simulated();
    let process = world.process("holder");
    let cache = builder(&process).open().expect("nothing is touched");
    let own = process.clone();
    let task = world.spawn(&process, "main", move || {
        for _ in 0..holds {
            let lock = cache.lock().expect("nobody else is there");
            sleep(&own, held);
            lock.check().expect("it was not lost");
            drop(lock);
            sleep(&own, pause);
        }
    });
    world.finish(task);
    // A trace keeps its end only.
    let trace = world.trace();
    let began = trace.split_whitespace().next().expect("not empty");
    let began = Duration::from_secs_f64(began.parse().expect("seconds"));
    let thirds = (world.now() - began).as_millis() * 3 / LEASE.as_millis();
    (wakes(&world, &process), thirds as usize)
}

#[test]
fn a_lease_that_is_held_is_beaten_in_time() {
    // Each third of a lease.
    let (woken, _) = wakes_for(1, 10 * LEASE, Duration::ZERO);
    assert!((28..=32).contains(&woken), "woken {woken} times");
}

/// They begin one after the other, so that the task finds some due and others not.
#[test]
fn all_leases_of_a_process_are_beaten_and_each_in_time() {
    let world = World::simulated();
    let process = world.process("holder");
    let own = process.clone();
    let task = world.spawn(&process, "main", move || {
        let lock = |path: &str| {
            let cache = Cache::builder(path).platform(own.clone()).lease(LEASE);
            let lock = cache.open().and_then(|cache| cache.lock());
            sleep(&own, LEASE / 12);
            lock.expect("nobody else is there")
        };
        let locks = ["/a", "/b", "/c"].map(lock);
        sleep(&own, 10 * LEASE);
        locks.map(|lock| lock.check())
    });
    let before = world.now();
    for checked in world.finish(task) {
        checked.expect("it was not lost");
    }
    let thirds = (world.now() - before).as_millis() * 3 / LEASE.as_millis();
    for path in ["/a", "/b", "/c"] {
        let beat = format!(" holder/cachelock-beat: Touch {path}/");
        let beats = world.trace().matches(&beat).count() as u128;
        assert!(
            (thirds - 2..=thirds).contains(&beats),
            "{path}: {beats} in {thirds} thirds of a lease"
        );
    }
}

#[test]
fn many_short_holds_wake_the_task_at_most_twice_as_often_as_a_long_one() {
    for held in [Duration::ZERO, LEASE / 1000] {
        let (woken, thirds) = wakes_for(1000, held, LEASE / 200);
        assert!(thirds > 6, "the trace is of {thirds} thirds of a lease");
        // When it finds nothing to beat it sleeps until the next hold wakes it.
        assert!(
            woken <= 2 * thirds + 2,
            "{held:?}: woken {woken} times in {thirds} thirds of a lease"
        );
    }
}

#[test]
fn when_nothing_is_held_the_task_sleeps_for_ever() {
    let world = World::simulated();
    let process = world.process("holder");
    let cache = builder(&process).open().expect("nothing is touched");
    let task = world.spawn(&process, "main", move || drop(cache.lock().unwrap()));
    world.finish(task);
    let rest = |time| {
        let own = Arc::clone(&process);
        world.finish(world.spawn(&process, "sleeper", move || sleep(&own, time)));
    };
    rest(LEASE);
    let before = wakes(&world, &process);
    rest(100 * LEASE);
    assert_eq!(wakes(&world, &process), before, "nothing is to be beaten");
}
