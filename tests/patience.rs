//! The gate's holder may itself have to wait, for guests, and those may come back for ever. Whoever queues up behind it must
//! tell such patience from a freeze: to go past a living holder costs the natives what the gate is for.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cachelock::platform::Platform;
use cachelock::platform::memory::{
    Call, Fault, Op, Process, Runnable, Target, Task, World, seeded,
};
use cachelock::{Backend, Cache, Locking, Timeout};

use support::{LEASE, builder};

mod support;

const STEPS: u64 = 2_000_000;
const GATE: &str = "/cache/.cachelock/cache.lock";

fn cache(process: &Arc<Process>) -> Cache {
    let guest = process.name().starts_with("guest");
    let builder = builder(process).timeout(Timeout::Infinite);
    let builder = match guest {
        true => builder.locking(Locking::Lease),
        false => builder,
    };
    builder.open().expect("good settings")
}

/// Takes the lock again and again, until it is told to stop, and at least once. Returns what it got it by.
fn comes_back(
    world: &World,
    process: &Arc<Process>,
    hold: Duration,
    stop: &Arc<AtomicBool>,
) -> Task<Vec<Backend>> {
    let (cache, own, stop) = (cache(process), process.clone(), stop.clone());
    world.spawn(process, "main", move || {
        let mut backends = Vec::new();
        while backends.is_empty() || !stop.load(Ordering::SeqCst) {
            let lock = cache.lock().expect("it waits for ever");
            backends.push(lock.backend());
            // A guest beats from its calls.
            for _ in 0..4 {
                own.event().wait_until(Some(own.monotonic() + hold / 4));
                lock.check().expect("nobody overtakes it");
            }
            drop(lock);
        }
        backends
    })
}

/// Ends the others after so long.
fn ends_after(world: &World, time: Duration, stop: &Arc<AtomicBool>) -> Task<()> {
    let (timer, stop) = (world.process("timer"), stop.clone());
    world.spawn(&timer.clone(), "main", move || {
        timer.event().wait_until(Some(timer.monotonic() + time));
        stop.store(true, Ordering::SeqCst);
    })
}

#[test]
fn nobody_goes_past_a_gate_whose_holder_waits_for_guests() {
    for guests in [1, 3] {
        // In parts of the lease, and how long each call takes, in µs.
        for (guests_hold, natives_hold, step_us) in [
            (1.0 / 3.0, 1.0 / 12.0, 0),
            (1.0, 1.0 / 12.0, 0),
            (2.0, 1.0 / 12.0, 0),
            (1.0, 1.0 / 48.0, 200),
        ] {
            for seed in 0..3 {
                let world = World::simulated_from(seed);
                world.set_step_time(Duration::from_micros(step_us));
                let stop = Arc::default();
                let mut tasks = Vec::new();
                for n in 0..guests {
                    let guest = world.guest(&format!("guest {n}"));
                    let hold = LEASE.mul_f64(guests_hold);
                    tasks.push(comes_back(&world, &guest, hold, &stop));
                }
                for n in 0..4 {
                    let native = world.process(&format!("native {n}"));
                    let hold = LEASE.mul_f64(natives_hold);
                    tasks.push(comes_back(&world, &native, hold, &stop));
                }
                let timer = ends_after(&world, LEASE * 16, &stop);
                let mut targets: Vec<&dyn Target> = vec![&timer];
                targets.extend(tasks.iter().map(|task| task as &dyn Target));
                let why = format!(
                    "seed {seed}, {guests} guests hold for {guests_hold} leases, natives for {natives_hold}, a call takes {step_us} µs"
                );
                if let Err(unfinished) = world.run_together(&targets, seeded(seed), STEPS) {
                    panic!("{why}: {unfinished}");
                }
                let natives = tasks.into_iter().skip(guests);
                let natives: Vec<Backend> = natives.flat_map(|task| world.finish(task)).collect();
                let past = natives.iter().filter(|by| **by == Backend::Lease).count();
                assert_eq!(
                    past,
                    0,
                    "{why}: of {} holds of natives so many went past the gate",
                    natives.len()
                );
            }
        }
    }
}

#[test]
fn behind_a_frozen_holder_of_the_gate_natives_wait_for_a_lease_though_guests_come_and_go() {
    for guests in [1, 3] {
        for (hold, seed) in [LEASE / 12, LEASE / 2, LEASE]
            .into_iter()
            .flat_map(|hold| (0..16).map(move |seed| (hold, seed)))
        {
            let world = World::simulated_from(seed);
            let stop = Arc::default();
            let mut tasks = Vec::new();
            for n in 0..guests {
                let guest = world.guest(&format!("guest {n}"));
                tasks.push(comes_back(&world, &guest, hold, &stop));
            }
            let mut targets: Vec<&dyn Target> =
                tasks.iter().map(|task| task as &dyn Target).collect();
            // Until one of them holds.
            let begun = world.run_together(&targets, seeded(1 + 2 * seed), 200);
            assert!(begun.is_err(), "they come back until they are stopped");
            // It gets the gate, has to wait for a guest or even holds the lease, and is never run again.
            let frozen = world.process("frozen");
            let freezes = comes_back(&world, &frozen, hold, &stop);
            world.run_to(&freezes, |call| call.op == Op::Wait);
            assert_eq!(world.lock_holder(GATE).as_deref(), Some("frozen"));

            let waiter = world.process("waiter");
            let (cache, own, done) = (cache(&waiter), waiter.clone(), stop.clone());
            let waits = world.spawn(&waiter, "main", move || {
                let began = own.monotonic();
                let lock = cache.lock().expect("it waits for ever");
                done.store(true, Ordering::SeqCst);
                (lock.backend(), own.monotonic() - began)
            });
            targets.push(&waits);
            if let Err(unfinished) = world.run_together(&targets, seeded(2 + 2 * seed), STEPS) {
                panic!("seed {seed}, {guests} guests that hold for {hold:?}: {unfinished}");
            }
            let (backend, waited) = world.finish(waits);
            assert_eq!(backend, Backend::Lease, "the gate is not to be had");
            // A lease, seen in eighths; two turns more; and the turns of those who have waited for longer.
            let most = LEASE * 5 / 4 + hold * (guests + 3);
            assert!(
                waited <= most,
                "seed {seed}, {guests} guests that hold for {hold:?}: it waited for {waited:?}, and {most:?} is the most"
            );
        }
    }
}

/// The gate's time may be refused, or seen late. Then whoever waits behind its holder only sees who has the lease.
#[test]
fn a_holder_of_the_gate_that_cannot_show_its_patience_is_given_two_turns_of_others() {
    let world = World::simulated();
    let refused = Fault::Error(ErrorKind::PermissionDenied);
    let shows_it = |call: &Call| call.is(Op::Touch, "cache.lock");
    world.inject(shows_it, refused, usize::MAX);
    let guest = world.guest("guest");
    let (other, own) = (cache(&guest), guest.clone());
    let other = world.spawn(&guest, "main", move || {
        for _ in 0..2 {
            let lock = other.lock().expect("it waits for ever");
            for _ in 0..12 {
                own.event().wait_until(Some(own.monotonic() + LEASE / 8));
                lock.check().expect("nobody overtakes it");
            }
        }
    });
    world.run_to(&other, |call| call.op == Op::Wait);
    let locks = |name| {
        let process = world.process(name);
        let cache = cache(&process);
        world.spawn(&process, "main", move || {
            cache.lock().expect("it waits for ever").backend()
        })
    };
    let first = locks("first");
    world.run_to(&first, |call| call.op == Op::Wait);
    assert_eq!(world.lock_holder(GATE).as_deref(), Some("first"));
    let second = locks("second");
    // The guest comes back before anybody else notices that it has gone.
    let guest_first = |options: &[Runnable]| {
        let guest = options.iter().position(|one| &*one.call.process == "guest");
        guest.unwrap_or_default()
    };
    let tasks: [&dyn Target; 3] = [&other, &first, &second];
    world
        .run_together(&tasks, guest_first, STEPS)
        .unwrap_or_else(|unfinished| panic!("{unfinished}"));
    world.finish(other);
    for task in [first, second] {
        assert_eq!(world.finish(task), Backend::Gate, "{}", world.trace());
    }
}

/// A native waits for events, with no need to look more often than an eighth of the lease. Its want must be beaten all the same.
#[test]
fn a_native_that_waits_for_events_beats_its_want() {
    let world = World::simulated();
    let beats = Arc::new(AtomicUsize::new(0));
    let counter = beats.clone();
    let counts = move |call: &Call| {
        let ours = &*call.process == "native" && call.is(Op::Write, "want-");
        counter.fetch_add(usize::from(ours), Ordering::SeqCst);
        false
    };
    world.inject(counts, Fault::Short(1), 1);
    let stop = Arc::new(AtomicBool::new(false));
    let guests = ["guest a", "guest b", "guest c"].map(|name| world.process(name));
    let guests = guests.map(|guest| comes_back(&world, &guest, LEASE, &stop));
    let native = world.process("native");
    let timer = ends_after(&world, 20 * LEASE, &stop);
    let native = comes_back(&world, &native, LEASE, &stop);
    let [a, b, c] = &guests;
    let tasks: [&dyn Target; 5] = [a, b, c, &native, &timer];
    world
        .run_together(&tasks, seeded(1), STEPS)
        .unwrap_or_else(|unfinished| panic!("{unfinished}"));
    let beats = beats.load(Ordering::SeqCst);
    // It has waited with a want for half of the time at least. Beats are 50 ms apart at most, and not much less.
    assert!((200..=600).contains(&beats), "{beats} in 20 leases");
}
