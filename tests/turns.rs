//! How often whoever waits for the lease looks at it: often enough to notice a release, and no more than that takes. What is
//! decided depends on none of this.

use std::sync::Arc;
use std::time::Duration;

use cachelock::Locking;
use cachelock::platform::memory::{Op, Process, Task, World};

use support::{builder, make_remote};

mod support;

const MS: Duration = Duration::from_millis(1);
/// Long enough for pauses to grow until they are the longest.
const LEASE: Duration = Duration::from_secs(2);

/// A task that takes the lock as `locking` says, and gives it back.
fn locks(world: &World, process: &Arc<Process>, locking: Locking) -> Task<()> {
    let cache = builder(process).lease(LEASE).locking(locking).open();
    let cache = cache.expect("nothing is touched");
    world.spawn(process, "main", move || {
        drop(cache.lock().expect("it waits for long enough"));
    })
}

/// When `process` has begun to look at the lease, as far back as the trace goes.
fn looks(world: &World, process: &Process) -> Vec<Duration> {
    let looks = format!(" {}/main: Stat /cache/.cachelock/head", process.name());
    let trace = world.trace();
    let times = trace.lines().filter(|line| line.contains(&looks));
    let times = times.map(|line| line.split_whitespace().next()?.parse().ok());
    let times = times.map(|time| Duration::from_secs_f64(time.expect("seconds")));
    times.collect()
}

/// The pauses between the looks of `process` at the lease of somebody who stands still, until that has expired.
fn pauses(world: &World, process: &Arc<Process>, locking: Locking) -> Vec<Duration> {
    let frozen = world.process("frozen");
    let held = locks(world, &frozen, Locking::Lease);
    world.run_to(&held, |call| call.is(Op::Unlink, "claim-"));
    world.finish(locks(world, process, locking));
    let looks = looks(world, process);
    let pauses = looks.windows(2).map(|two| two[1] - two[0]);
    // Without those that are no pause: before a watch is trusted, and once the lease has expired.
    pauses.filter(|pause| !pause.is_zero()).collect()
}

/// Pauses begin with the shortest and grow by half until they are the longest. Each is up to a quarter shorter, by chance.
#[track_caller]
fn assert_polls(
    world: &World,
    process: &Arc<Process>,
    locking: Locking,
    shortest: u32,
    longest: u32,
) {
    let (mut most, longest) = (shortest * MS, longest * MS);
    let mut pauses = pauses(world, process, locking);
    pauses.pop().expect("what was left of the lease");
    let (mut cut_short, mut shares) = (0, Vec::new());
    for pause in &pauses {
        let share = pause.as_secs_f64() / most.as_secs_f64();
        assert!(share < 1.000_001, "{pause:?} of {most:?}: {pauses:?}");
        match share > 0.749_999 {
            true => shares.push(share),
            false => cut_short += 1,
        }
        most = (most * 3 / 2).min(longest);
    }
    assert!(cut_short <= 3, "by nothing but reports: {pauses:?}");
    // As if drawn from all of the quarter.
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    assert!((0.84..0.91).contains(&mean), "{mean}: {pauses:?}");
    shares.sort_by(f64::total_cmp);
    let (first, last) = (shares[0], shares[shares.len() - 1]);
    assert!(first < 0.8 && last > 0.95, "{first} to {last}");
}

#[test]
fn who_can_only_poll_does_so_less_often_the_longer_it_waits() {
    let world = World::simulated();
    assert_polls(&world, &world.guest("guest"), Locking::Lease, 5, 12);
    let world = World::simulated();
    make_remote(&world);
    assert_polls(&world, &world.process("native"), Locking::Lease, 5, 50);
    // There is only one that has the gate, so it may look more often.
    let world = World::simulated();
    make_remote(&world);
    assert_polls(&world, &world.process("native"), Locking::Auto, 1, 20);
}

#[test]
fn no_two_poll_at_the_same_times() {
    let world = World::simulated();
    let mut seen = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let first = pauses(&world, &world.guest(name), Locking::Lease)[0];
        assert!(!seen.contains(&first), "{name}: {first:?}");
        seen.push(first);
    }
}

/// It is woken when something happens, and looks by itself because that may be lost.
#[test]
fn a_native_looks_each_eighth_of_a_lease() {
    for locking in [Locking::Lease, Locking::Auto] {
        let world = World::simulated();
        let pauses = pauses(&world, &world.process("native"), locking);
        // One more for each report, and the first.
        assert!((8..=11).contains(&pauses.len()), "{pauses:?}");
    }
}

#[test]
fn who_has_lost_a_race_comes_back_in_less_than_two_milliseconds() {
    let world = World::simulated();
    let mut seen = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let slow = world.guest(name);
        let loses = locks(&world, &slow, Locking::Lease);
        // It has seen the lease free, and does not go on before another has taken it and given it back.
        world.run_to(&loses, |call| call.is(Op::CreateNew, "claim-"));
        let quick = world.process("quick");
        world.finish(locks(&world, &quick, Locking::Lease));
        let lost = world.now();
        world.finish(loses);
        let after = looks(&world, &slow).into_iter().find(|look| *look > lost);
        let pause = after.expect("it looks again after a moment") - lost;
        assert!(pause < 2 * MS && !seen.contains(&pause), "{pause:?}");
        seen.push(pause);
    }
}

/// Each time is a write, and on such a disk a server's work.
#[test]
fn who_has_the_gate_shows_its_patience_each_eighth_of_a_lease() {
    let world = World::simulated();
    make_remote(&world);
    let looks = pauses(&world, &world.process("native"), Locking::Auto).len();
    let trace = world.trace();
    let touches = trace.matches(" native/main: Touch /cache/.cachelock/cache.lock");
    let touches = touches.count();
    assert!(
        (8..=9).contains(&touches) && looks > 100,
        "{touches}, {looks}"
    );
}
