//! Wall clocks that are set, or differ: an entry ages all the same, and is never fresh for ever.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cachelock::platform::memory::{Stopped, World};
use cachelock::{Error, Policy};

use support::{begin, builder};

mod support;

const YEAR: i64 = 365 * 86_400;
const FRESH_FOR: Duration = Duration::from_secs(3600);

/// Asks for the entry, and tells whether the producer had to run.
fn asks(world: &World, name: &str, skew: i64) -> bool {
    let process = world.process(name);
    world.set_wall_skew(&process, skew);
    let cache = builder(&process).open().expect("good settings");
    let produced = Arc::new(AtomicUsize::new(0));
    let counter = produced.clone();
    let task = world.spawn(&process, "main", move || {
        let policy = Policy::fresh_for(FRESH_FOR);
        let answer =
            cache
                .entry("entry")
                .expect("a good name")
                .get_or_refresh(&policy, |refresh| {
                    counter.fetch_add(1, Ordering::SeqCst);
                    refresh.write_all(b"asked for")
                });
        answer.expect("the producer answers").is_some()
    });
    world.finish(task);
    produced.load(Ordering::SeqCst) == 1
}

/// Asserts that what is there is asked for again after its time, and what replaces it is fresh for just as long.
#[track_caller]
fn assert_is_not_fresh_for_ever(world: &World, why: &str) {
    for round in ["as it was left", "replaced"] {
        world.advance(FRESH_FOR);
        assert!(
            asks(world, &format!("later, {round}"), 0),
            "{why}, {round}: it is fresh for longer than its time\n{}",
            world.trace()
        );
        assert!(
            !asks(world, &format!("at once, {round}"), 0),
            "{why}, {round}: what was fetched now is not fresh\n{}",
            world.trace()
        );
    }
}

#[derive(Debug, Clone, Copy)]
enum What {
    Value,
    Absent,
}

/// Publishes, and sets the clock by so many seconds before the `n`-th call; `false` if it ended before that.
fn publishes(world: &World, what: What, n: usize, seconds: i64) -> bool {
    let process = world.process("publisher");
    let cache = builder(&process).open().expect("good settings");
    let task = world.spawn(&process, "main", move || {
        let refresh = begin(&cache, b"value")?;
        let published = match what {
            What::Value => refresh.publish(),
            What::Absent => refresh.publish_absent(FRESH_FOR),
        };
        published.map_err(Error::from)
    });
    let mut calls = 0;
    let stopped = world.run_until(&task, move |_| {
        calls += 1;
        calls > n
    });
    world.step_wall(seconds);
    match world.finish(task) {
        Ok(published) => assert_eq!(published.generation, 1),
        Err(error) => panic!(
            "{what:?}, call {n}, {seconds} s: nobody disturbed it: {error}\n{}",
            world.trace()
        ),
    }
    stopped != Stopped::Finished
}

#[test]
fn whenever_the_wall_clock_is_set_during_a_publish_the_entry_ages() {
    for what in [What::Value, What::Absent] {
        for seconds in [-YEAR, YEAR] {
            for is_set_right_again in [false, true] {
                for n in 0.. {
                    let world = World::simulated();
                    let more = publishes(&world, what, n, seconds);
                    if is_set_right_again {
                        world.step_wall(-seconds);
                    }
                    let why = format!(
                        "{what:?}, set by {seconds} s at call {n}, and back: {is_set_right_again}"
                    );
                    assert_is_not_fresh_for_ever(&world, &why);
                    if !more {
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn a_file_from_the_future_that_was_there_before_ages_too() {
    let world = World::simulated();
    world.step_wall(YEAR);
    world.plant_file("/cache/entry", b"by hand");
    world.step_wall(-YEAR);
    assert_is_not_fresh_for_ever(&world, "a file without a tag");
}

#[test]
fn processes_whose_wall_clocks_differ_refresh_too_often_rather_than_never() {
    for first in [-YEAR, YEAR] {
        let world = World::simulated();
        assert!(asks(&world, "skewed", first), "there is nothing yet");
        assert!(
            !asks(&world, "skewed alike", first),
            "by its own clock it is fresh"
        );
        assert!(
            asks(&world, "right", 0),
            "a year old or from the next year: it is not fresh"
        );
        assert_is_not_fresh_for_ever(&world, "published with another clock");
    }
}
