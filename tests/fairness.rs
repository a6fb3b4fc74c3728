//! Fairness: who waits gets its turn after a bounded number of others' holds, whatever the order of everybody's calls.
//!
//! Natives hand the gate to each other back to back, guests have the lease alone, and each comes back as soon as it has
//! released. The scheduler is random, or as unkind to one side as it can be. What is counted is how many holds of others
//! pass between a caller's first look and its own hold; the bounds follow from the rules and are derived at [`Scene`].
//! With [`Mutation::NoCourtesy`] the same scenes starve, so the bounds are the courtesy's doing.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachelock::platform::memory::{Fault, Op, Process, Runnable, Target, World, seeded};
use cachelock::{Cache, CacheBuilder, Locking, Mutation, Timeout};

use support::{LEASE, builder, publish, residue, sleep};

mod support;

/// How long natives hold, one hold after the other.
const HOLDS_MS: [&[u64]; 4] = [&[1], &[20], &[200], &[1, 20, 200]];
/// Holds after which a scene in which somebody still waits is given up as starving.
const ENOUGH: usize = 200;
const STEPS: u64 = 2_000_000;
/// How often each guest holds in one scene.
const ROUNDS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Native,
    /// A native that uses the lease alone and is woken by changes in the directory.
    Watching,
    /// The same where watches cannot be had: it polls.
    Polling,
    /// A sandboxed guest: neither kernel locks nor watches nor background tasks.
    Guest,
}

const LEASE_ONLY: [Kind; 3] = [Kind::Watching, Kind::Polling, Kind::Guest];

/// Who has the next turn of those that could run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Schedule {
    /// Anybody.
    Random,
    /// Mostly whoever ran last, as on a machine where waking up takes longer than taking the lease again.
    Sticky,
    /// A native if there is one: guests get what natives leave them.
    NativesFirst,
    /// The other way round.
    GuestsFirst,
}

const SCHEDULES: [Schedule; 4] = [
    Schedule::Random,
    Schedule::Sticky,
    Schedule::NativesFirst,
    Schedule::GuestsFirst,
];

impl Schedule {
    fn chooser(self, seed: u64) -> impl FnMut(&[Runnable]) -> usize + Send + 'static {
        let mut random = seeded(seed);
        let mut turns = 0;
        move |options| {
            turns += 1;
            let any = random(options);
            let native = |one: &Runnable| one.call.process.starts_with("native");
            let wanted = |one: &Runnable| match self {
                Schedule::Random => true,
                Schedule::Sticky => one.ran_last || turns % 16 == 0,
                Schedule::NativesFirst => native(one),
                Schedule::GuestsFirst => !native(one),
            };
            let mut from_any = (0..options.len()).map(|step| (any + step) % options.len());
            from_any
                .find(|&index| wanted(&options[index]))
                .unwrap_or(any)
        }
    }
}

/// Natives and guests on one cache.
///
/// # How many holds may pass
///
/// By the rules of `src/lock/want.rs`, where those who pass hold for `h` at least, and the longest hold of all is `H`:
///
/// - A caller puts its want up when it has found the lease taken for the second time. What it can miss of that is the time
///   between two looks. If something wakes it at each release it misses one release, when it loses a race. If it can only
///   poll, its pauses grow by half from 5 ms to 12 ms, so none is longer than 5 ms and two thirds of what it has waited for
///   the first holder: `pause = min(12 ms, 5 ms + 2H/3)`. So until then at most `2 + pause / h` holds begin.
/// - Once it is up, whoever finds the lease free and has waited for less than the want says leaves it to the want. What the
///   want says is old by one beat: 5 ms if its owner polls, `h` if it is woken at each release. Only those still pass whose
///   own wait began before that: one wait of each other caller. Their next waits are younger than the want.
/// - One more may hold already.
///
/// That makes `others + 3 + pause / h`, for natives that pass a guest, for guests that pass a guest, and for guests that
/// pass the native at the gate: it puts up a want, too. The order among natives is the kernel's, here the scheduler's.
#[derive(Debug, Clone)]
struct Scene {
    natives: usize,
    native_ms: &'static [u64],
    guests: Vec<Kind>,
    guest_ms: u64,
    schedule: Schedule,
    /// How long each call takes, in µs.
    step_us: u64,
    mutation: Option<Mutation>,
}

/// What was seen in some scenes, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Passed {
    /// Holds of natives that passed a waiting guest.
    guest_by_natives: usize,
    /// Holds of other guests that passed a waiting guest.
    guest_by_guests: usize,
    /// Holds of guests in a row while natives waited.
    natives_by_guests: usize,
}

impl Passed {
    fn is_within(self, bounds: Passed) -> bool {
        self.or(bounds) == bounds
    }

    fn or(self, other: Passed) -> Passed {
        Passed {
            guest_by_natives: self.guest_by_natives.max(other.guest_by_natives),
            guest_by_guests: self.guest_by_guests.max(other.guest_by_guests),
            natives_by_guests: self.natives_by_guests.max(other.natives_by_guests),
        }
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a waiting guest was passed by {} holds of natives and {} of guests, waiting natives by {} holds of guests in a \
             row",
            self.guest_by_natives, self.guest_by_guests, self.natives_by_guests
        )
    }
}

/// What the callers do, in order.
#[derive(Default)]
struct Log {
    events: Mutex<Vec<Event>>,
    stop: AtomicBool,
    guests_left: AtomicUsize,
}

enum Event {
    Waits(usize),
    Holds(usize),
}

impl Log {
    fn push(&self, event: Event) {
        let mut events = self.events.lock().expect("nobody panics with it");
        events.push(event);
        if events.len() >= 2 * ENOUGH {
            self.stop.store(true, Ordering::SeqCst);
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn passed(&self, kinds: &[Kind]) -> Passed {
        let mut passed = Passed::default();
        let mut waiting = vec![None; kinds.len()];
        let mut in_a_row = 0;
        let mut see = |holds: Option<(usize, usize)>| {
            if let Some((by_natives, by_guests)) = holds {
                passed.guest_by_natives = passed.guest_by_natives.max(by_natives);
                passed.guest_by_guests = passed.guest_by_guests.max(by_guests);
            }
        };
        let mut most_in_a_row = 0;
        for event in &*self.events.lock().expect("nobody panics with it") {
            match *event {
                Event::Waits(who) if kinds[who] != Kind::Native => waiting[who] = Some((0, 0)),
                Event::Waits(_) => {}
                Event::Holds(who) => {
                    let native = kinds[who] == Kind::Native;
                    if !native {
                        see(waiting[who].take());
                    }
                    for (by_natives, by_guests) in waiting.iter_mut().flatten() {
                        *(if native { by_natives } else { by_guests }) += 1;
                    }
                    in_a_row = if native { 0 } else { in_a_row + 1 };
                    most_in_a_row = most_in_a_row.max(in_a_row);
                }
            }
        }
        // Whoever still waits was passed, too.
        waiting.into_iter().for_each(see);
        passed.natives_by_guests = most_in_a_row;
        passed
    }
}

impl Scene {
    /// Another scene for each seed.
    fn new(seed: u64) -> Self {
        let mut left = seed;
        let mut any = |of: usize| {
            let index = usize::try_from(left).expect("seeds are small") % of;
            left /= of as u64;
            index
        };
        let schedule = SCHEDULES[any(4)];
        let native_ms = HOLDS_MS[any(4)];
        let natives = 2 + any(5);
        let kind = LEASE_ONLY[any(3)];
        let guests = match any(3) {
            0 => vec![kind],
            1 => vec![kind, Kind::Guest],
            _ => vec![kind, Kind::Guest, kind, Kind::Watching],
        };
        Scene {
            natives,
            native_ms,
            guests,
            guest_ms: [1, 20, 200][any(3)],
            schedule,
            step_us: [0, 20][any(2)],
            mutation: None,
        }
    }

    fn bounds(&self) -> Passed {
        let native_ms = |pick: fn(u64, u64) -> u64| self.native_ms.iter().copied().reduce(pick);
        let shortest = native_ms(u64::min).expect("natives hold");
        let longest = native_ms(u64::max).map_or(self.guest_ms, |ms| ms.max(self.guest_ms));
        let pause = (5 + (2 * longest).div_ceil(3)).min(12);
        let most = |others: usize, hold_ms: u64| {
            let missed = usize::try_from(pause.div_ceil(hold_ms)).expect("pauses are short");
            others + 3 + missed
        };
        let guests = self.guests.len();
        Passed {
            guest_by_natives: most(self.natives, shortest),
            guest_by_guests: most(guests - 1, self.guest_ms),
            natives_by_guests: most(guests, self.guest_ms),
        }
    }

    fn builder(&self, process: &Arc<Process>, kind: Kind) -> CacheBuilder {
        let mut builder = Cache::builder("/cache")
            .platform(process.clone())
            .timeout(Timeout::Infinite);
        if kind != Kind::Native {
            builder = builder.locking(Locking::Lease);
        }
        match self.mutation {
            Some(mutation) => builder.mutation(mutation),
            None => builder,
        }
    }

    /// Runs until each guest has had its `rounds` holds, or until that takes too many.
    fn run(&self, seed: u64, rounds: usize) -> Passed {
        let world = World::simulated_from(seed);
        world.set_step_time(Duration::from_micros(self.step_us));
        let mut kinds = vec![Kind::Native; self.natives];
        kinds.extend(&self.guests);
        let log = Arc::new(Log::default());
        log.guests_left.store(self.guests.len(), Ordering::SeqCst);
        let mut tasks = Vec::new();
        for (who, kind) in kinds.iter().copied().enumerate() {
            let name = format!("{kind:?} {who}").to_lowercase();
            let process = match kind {
                Kind::Guest => world.guest(&name),
                _ => world.process(&name),
            };
            if kind == Kind::Polling {
                world.inject(
                    move |call| call.op == Op::Watch && *call.process == *name,
                    Fault::Error(std::io::ErrorKind::Unsupported),
                    usize::MAX,
                );
            }
            let cache = self.builder(&process, kind).open().expect("good settings");
            let (holds, rounds) = match kind {
                Kind::Native => (self.native_ms.to_vec(), usize::MAX),
                _ => (vec![self.guest_ms], rounds),
            };
            // Guests come when natives are at it.
            let delay = Duration::from_micros(self.native_ms[0] * (seed * 37 % 100) * 20);
            let (log, own) = (log.clone(), process.clone());
            tasks.push(world.spawn(&process, "main", move || {
                let pause = |time| sleep(&own, time);
                if kind != Kind::Native {
                    pause(delay);
                }
                for (_, hold) in (0..rounds).zip(holds.iter().cycle()) {
                    if log.is_over() {
                        break;
                    }
                    log.push(Event::Waits(who));
                    let lock = cache.lock().expect("it waits for ever");
                    log.push(Event::Holds(who));
                    pause(Duration::from_millis(*hold));
                    drop(lock);
                }
                if kind != Kind::Native && log.guests_left.fetch_sub(1, Ordering::SeqCst) == 1 {
                    log.stop.store(true, Ordering::SeqCst);
                }
            }));
        }
        let targets: Vec<&dyn Target> = tasks.iter().map(|task| task as &dyn Target).collect();
        if let Err(unfinished) = world.run_together(&targets, self.schedule.chooser(seed), STEPS) {
            panic!("seed {seed}, {self:?}: {unfinished}");
        }
        log.passed(&kinds)
    }
}

/// The seeds of a test, spread over all scenes.
fn seeds(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|seed| seed * 97)
}

#[test]
fn nobody_who_waits_is_passed_by_more_than_a_bounded_number_of_holds() {
    let mut most = [(Passed::default(), Passed::default()); 4];
    for seed in seeds(100) {
        let scene = Scene::new(seed);
        let (passed, bound) = (scene.run(seed, ROUNDS), scene.bounds());
        assert!(
            passed.is_within(bound),
            "seed {seed}, {scene:?}:\n{passed}\nwhere these are the most:\n{bound}"
        );
        for (ms, (most, bounds)) in HOLDS_MS.into_iter().zip(&mut most) {
            if ms == scene.native_ms {
                (*most, *bounds) = (most.or(passed), bounds.or(bound));
            }
        }
    }
    for (ms, (most, bounds)) in HOLDS_MS.iter().zip(most) {
        println!(
            "natives hold for {ms:?} ms in turn: {most}\n    the largest of the bounds: {bounds}"
        );
    }
}

/// The scene in which one guest waits for natives that hold for so long, with an unkind scheduler.
fn against_natives(native_ms: &'static [u64], guest: Kind) -> Scene {
    Scene {
        natives: 6,
        native_ms,
        guests: vec![guest],
        guest_ms: native_ms[0],
        schedule: Schedule::NativesFirst,
        step_us: 0,
        mutation: None,
    }
}

#[test]
fn a_guest_gets_its_turn_among_natives_and_starves_without_their_courtesy() {
    for native_ms in HOLDS_MS {
        for guest in LEASE_ONLY {
            let mut most = 0;
            for natives in 2..=6 {
                let scene = Scene {
                    natives,
                    ..against_natives(native_ms, guest)
                };
                let seed = natives as u64;
                let passed = scene.run(seed, ROUNDS);
                assert!(
                    passed.is_within(scene.bounds()),
                    "seed {seed}, {scene:?}:\n{passed}"
                );
                most = most.max(passed.guest_by_natives);
            }
            let rude = Scene {
                mutation: Some(Mutation::NoCourtesy),
                ..against_natives(native_ms, guest)
            };
            let starved = rude.run(0, ROUNDS).guest_by_natives;
            println!(
                "{guest:?}, natives hold for {native_ms:?} ms in turn: passed by {most} holds, without courtesy by {starved}"
            );
            assert!(
                starved >= ENOUGH - rude.natives,
                "{rude:?} served its guest after {starved} holds: the scene shows nothing"
            );
        }
    }
}

#[test]
fn natives_get_their_turn_among_guests_and_starve_without_their_courtesy() {
    for holds_ms in &HOLDS_MS[..3] {
        let guest_ms = holds_ms[0];
        for guest in LEASE_ONLY {
            let scene = Scene {
                natives: 3,
                native_ms: holds_ms,
                guests: vec![guest; 3],
                guest_ms,
                schedule: Schedule::GuestsFirst,
                step_us: 0,
                mutation: None,
            };
            let passed = scene.run(0, 30);
            assert!(passed.is_within(scene.bounds()), "{scene:?}:\n{passed}");
            let rude = Scene {
                mutation: Some(Mutation::NoCourtesy),
                ..scene
            };
            let starved = rude.run(0, usize::MAX).natives_by_guests;
            println!(
                "natives among three {guest:?} that hold for {guest_ms} ms: passed by {} holds in a row, without courtesy by {starved}",
                passed.natives_by_guests
            );
            assert!(
                starved >= ENOUGH - rude.natives,
                "{rude:?} served natives after {starved} holds: the scene shows nothing"
            );
        }
    }
}

/// What a waiter leaves that was killed after it had waited for so long.
const DEAD_WANT: &str = "want-0123456789abcdef0123456789abcdef";

fn with_a_dead_want(waited_ms: u64) -> World {
    let world = World::simulated();
    let path = format!("/cache/.cachelock/{DEAD_WANT}");
    world.plant_file(&path, format!("{waited_ms:020}\n").as_bytes());
    world
}

#[test]
fn a_dead_waiter_delays_the_next_caller_once_and_briefly() {
    for (waited_ms, guest) in [60_000, 60, 1]
        .into_iter()
        .flat_map(|waited_ms| [(waited_ms, false), (waited_ms, true)])
    {
        let world = with_a_dead_want(waited_ms);
        for (name, most_ms) in [("first", 150), ("second", 0)] {
            let process = match guest {
                false => world.process(name),
                true => world.guest(name),
            };
            let cache = builder(&process).open().expect("good settings");
            let began = world.now();
            let task = world.spawn(&process, "main", move || publish(&cache, b"bytes"));
            world.finish(task).expect("nobody holds the lease");
            let took = world.now() - began;
            assert!(
                took <= Duration::from_millis(most_ms),
                "the {name} caller took {took:?} (want: {waited_ms} ms, guest: {guest})\n{}",
                world.trace()
            );
        }
        assert_eq!(
            residue(&world),
            [""; 0],
            "want: {waited_ms} ms, guest: {guest}"
        );
    }
}

#[test]
fn a_want_that_nobody_gives_way_to_is_swept_whichever_way_the_clock_was_set() {
    for (set, refreshes) in [(0, 2), (3600, 1), (-3600, 1)] {
        // It has not waited for a millisecond when it was killed, so nobody has waited for less.
        let world = with_a_dead_want(0);
        world.step_wall(set);
        for n in 0..refreshes {
            let process = world.process(&format!("caller {n}"));
            let cache = builder(&process).open().expect("good settings");
            let task = world.spawn(&process, "main", move || publish(&cache, b"bytes"));
            world.finish(task).expect("nobody holds the lease");
            world.advance(LEASE * 4);
        }
        assert_eq!(residue(&world), [""; 0], "a clock set by {set} s");
    }
}

#[test]
fn a_dead_waiter_never_stops_callers_that_cannot_wait() {
    for timeout in [Timeout::TryOnce, Duration::from_millis(20).into()] {
        let world = with_a_dead_want(60_000);
        for n in 0..3 {
            let process = world.process(&format!("caller {n}"));
            let cache = builder(&process)
                .timeout(timeout)
                .open()
                .expect("good settings");
            let task = world.spawn(&process, "main", move || publish(&cache, b"bytes"));
            if let Err(error) = world.finish(task) {
                panic!("nobody holds the lease, and a timeout of {timeout}: {error}");
            }
        }
    }
}

#[test]
fn callers_that_cannot_wait_remove_a_dead_want_after_three_leases() {
    for (leases, stays) in [(2, true), (3, true), (4, false)] {
        let world = with_a_dead_want(60_000);
        world.advance(LEASE * leases);
        let process = world.process("hurried");
        let cache = builder(&process).timeout(Timeout::TryOnce).open();
        let cache = cache.expect("good settings");
        let task = world.spawn(&process, "main", move || publish(&cache, b"bytes"));
        world.finish(task).expect("nobody holds the lease");
        let expected: &[&str] = if stays { &[DEAD_WANT] } else { &[] };
        assert_eq!(residue(&world), expected, "after {leases} leases");
    }
}

#[test]
fn who_lives_and_has_waited_longer_is_given_way_to_for_half_a_second() {
    let world = World::simulated();
    let (owner, caller) = (world.process("owner"), world.guest("caller"));
    let beaten = world.clone();
    let beats = world.spawn(&owner.clone(), "main", move || {
        let path = format!("/cache/.cachelock/{DEAD_WANT}");
        for beat in 0..50 {
            beaten.plant_file(&path, format!("{:020}\n", 60_000 + beat).as_bytes());
            sleep(&owner, Duration::from_millis(20));
        }
        // It was not removed meanwhile, and put up again: else the last beat would be all of it.
        beaten.exists(&path)
    });
    let cache = builder(&caller).open().expect("good settings");
    let looked = world.clone();
    let acquires = world.spawn(&caller.clone(), "main", move || {
        // The want is there by then.
        sleep(&caller, Duration::from_millis(1));
        let lock = cache.lock().expect("it is free");
        (
            lock.waited(),
            residue(&looked).contains(&DEAD_WANT.to_owned()),
        )
    });
    let tasks: [&dyn Target; 2] = [&beats, &acquires];
    let ran = world.run_together(&tasks, seeded(1), STEPS);
    ran.unwrap_or_else(|unfinished| panic!("{unfinished}"));
    assert!(world.finish(beats), "a live want was removed");
    let (took, is_there) = world.finish(acquires);
    let expected = Duration::from_millis(500)..Duration::from_millis(520);
    assert!(expected.contains(&took) && is_there, "{took:?}, {is_there}");
}

#[test]
fn who_has_waited_longer_than_a_want_says_takes_the_lease_as_soon_as_it_is_free() {
    let world = World::simulated();
    let (holder, caller) = (world.process("holder"), world.guest("caller"));
    let cache = builder(&holder).open().expect("good settings");
    let holds = world.spawn(&holder.clone(), "main", move || {
        let lock = cache.lock().expect("it is free soon");
        sleep(&holder, Duration::from_millis(300));
        drop(lock);
    });
    world.run_to(&holds, |call| {
        call.op == Op::Wait && call.thread.as_ref() == "main"
    });
    let cache = builder(&caller).open().expect("good settings");
    let acquires = world.spawn(&caller, "main", move || {
        cache.lock().expect("it is free at last").waited()
    });
    // Put up by somebody who has died since.
    let path = format!("/cache/.cachelock/{DEAD_WANT}");
    world.plant_file(&path, format!("{:020}\n", 10).as_bytes());
    let tasks: [&dyn Target; 2] = [&holds, &acquires];
    let ran = world.run_together(&tasks, seeded(1), STEPS);
    ran.unwrap_or_else(|unfinished| panic!("{unfinished}"));
    let took = world.finish(acquires);
    let expected = Duration::from_millis(150)..Duration::from_millis(320);
    assert!(expected.contains(&took), "it took {took:?}");
}
