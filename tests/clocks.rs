//! Clocks that jump while somebody holds the lock and somebody waits for it: the machine sleeps for hours, or the wall clock
//! is set. That hangs nobody, and overtakes no live holder unless its waiter cannot stay to see it alive.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cachelock::platform::memory::{Op, Process, Runnable, Target, Task, World, seeded};
use cachelock::{CacheBuilder, Error, Event, EventKind, Locking, Published, Timeout};

use support::{LEASE, begin, builder, publish, read, residue, sleep};

mod support;

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;
const STEPS: u64 = 500_000;

/// What happens to the clocks. The file system's is a wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Jump {
    /// The machine sleeps for three hours, and the monotonic clock goes on.
    Slept,
    /// The machine sleeps for three hours, and the monotonic clock stands still, as on Linux.
    SleptStill,
    /// Somebody sets the wall clock.
    Set(i64),
}

const JUMPS: [Jump; 4] = [
    Jump::Slept,
    Jump::SleptStill,
    Jump::Set(-YEAR),
    Jump::Set(YEAR),
];

impl Jump {
    fn happen(self, world: &World) {
        match self {
            Jump::Slept => world.suspend(Duration::from_secs(3 * HOUR.unsigned_abs())),
            Jump::SleptStill => world.step_wall(3 * HOUR),
            Jump::Set(seconds) => world.step_wall(seconds),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Native,
    /// A native that uses the lease alone.
    LeaseOnly,
    /// A sandboxed guest, without threads.
    Guest,
}

const KINDS: [Kind; 3] = [Kind::Native, Kind::LeaseOnly, Kind::Guest];

/// A holder that lives, a waiter, and a jump of the clocks meanwhile.
#[derive(Debug, Clone, Copy)]
struct Scene {
    holder: Kind,
    waiter: Kind,
    timeout: Timeout,
    jump: Jump,
    /// When the waiter comes, after the holder.
    comes: Duration,
    /// When the clocks jump.
    at: Duration,
    /// Who runs first when both can, if not anybody.
    first: Option<&'static str>,
    seed: u64,
}

/// What became of both.
struct Ended {
    world: World,
    held: Result<Published, Error>,
    waited: Result<Published, Error>,
    takeovers: usize,
}

impl Scene {
    fn spawn(
        &self,
        world: &World,
        (name, kind): (&'static str, Kind),
        takeovers: &Arc<AtomicUsize>,
        work: impl FnOnce(&Process, CacheBuilder) -> Result<Published, Error> + Send + 'static,
    ) -> Task<Result<Published, Error>> {
        let process = match kind {
            Kind::Guest => world.guest(name),
            Kind::Native | Kind::LeaseOnly => world.process(name),
        };
        let counter = takeovers.clone();
        let mut builder = builder(&process).observer(move |event: &Event<'_>| {
            let taken_over = event.kind == EventKind::LeaseTakenOver;
            counter.fetch_add(usize::from(taken_over), Ordering::SeqCst);
        });
        if kind != Kind::Native {
            builder = builder.locking(Locking::Lease);
        }
        let own = process.clone();
        world.spawn(&process, "main", move || work(&own, builder))
    }

    fn run(self) -> Ended {
        let world = World::simulated_from(self.seed);
        let takeovers = Arc::new(AtomicUsize::new(0));
        let held = self.spawn(
            &world,
            ("holder", self.holder),
            &takeovers,
            |own, builder| {
                let refresh = begin(&builder.open()?, b"held")?;
                // For three leases of being awake.
                for _ in 0..12 {
                    sleep(own, LEASE / 4);
                    refresh.heartbeat()?;
                }
                Ok(refresh.publish()?)
            },
        );
        // It holds now: nobody waits before that.
        world.run_to(&held, |call| call.op == Op::Wait);
        let waited = self.spawn(
            &world,
            ("waiter", self.waiter),
            &takeovers,
            move |own, builder| {
                sleep(own, self.comes);
                publish(&builder.timeout(self.timeout).open()?, b"waited")
            },
        );
        let (machine, clocks) = (world.process("machine"), world.clone());
        let jumps = world.spawn(&machine.clone(), "main", move || {
            sleep(&machine, self.at);
            self.jump.happen(&clocks);
        });
        let tasks: [&dyn Target; 3] = [&held, &waited, &jumps];
        let mut random = seeded(self.seed);
        let choose = move |options: &[Runnable]| {
            let first = |one: &Runnable| Some(&*one.call.process) == self.first;
            let any = random(options);
            options.iter().position(first).unwrap_or(any)
        };
        if let Err(unfinished) = world.run_together(&tasks, choose, STEPS) {
            panic!("{self:?} hangs: {unfinished}");
        }
        let (held, waited) = (world.finish(held), world.finish(waited));
        Ended {
            world,
            held,
            waited,
            takeovers: takeovers.load(Ordering::SeqCst),
        }
    }

    /// Both kinds, and moments from before the waiter's coming until after its timeout.
    fn all(timeout: Timeout, jump: Jump) -> impl Iterator<Item = Scene> {
        let firsts = [Some("waiter"), Some("holder"), None];
        (0..20).flat_map(move |n| {
            KINDS.into_iter().flat_map(move |holder| {
                KINDS.into_iter().map(move |waiter| Scene {
                    holder,
                    waiter,
                    timeout,
                    jump,
                    comes: Duration::ZERO,
                    at: Duration::from_millis(n * 137),
                    first: firsts[usize::try_from(n).expect("small") % 3],
                    seed: n,
                })
            })
        })
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ended {
            world,
            held,
            waited,
            takeovers,
        } = self;
        write!(
            f,
            "the holder: {held:?}\nthe waiter: {waited:?}\n{takeovers} takeovers\n{}",
            world.trace()
        )
    }
}

#[test]
fn no_jump_makes_a_waiter_that_would_stay_overtake_a_live_holder() {
    // Shorter than the hold, so that waiters time out, too, and longer than the lease.
    let impatient = Timeout::After(LEASE * 3 / 2);
    for jump in JUMPS {
        for timeout in [impatient, Timeout::Infinite] {
            let mut timeouts = 0;
            for scene in Scene::all(timeout, jump) {
                let ended = scene.run();
                assert_eq!(ended.takeovers, 0, "{scene:?}\n{ended}");
                assert!(
                    matches!(&ended.held, Ok(published) if published.generation == 1),
                    "{scene:?}\n{ended}"
                );
                match &ended.waited {
                    Ok(published) => assert_eq!(published.generation, 2, "{scene:?}\n{ended}"),
                    Err(error) if error.is_timeout() => timeouts += 1,
                    Err(_) => panic!("{scene:?}\n{ended}"),
                }
                assert_eq!(residue(&ended.world), [""; 0], "{scene:?}\n{ended}");
            }
            assert_eq!(
                timeouts > 0,
                timeout == impatient,
                "{timeouts} waiters timed out of {jump:?} with a timeout of {timeout}"
            );
        }
    }
}

/// The other side of the same coin: who does not come to stay may guess wrong, and that costs the holder a retry.
#[test]
fn a_wrong_guess_by_the_file_clock_costs_a_retry_and_no_data() {
    let mut takeovers = 0;
    for jump in JUMPS {
        for timeout in [Timeout::TryOnce, Timeout::After(LEASE * 3 / 4)] {
            for scene in Scene::all(timeout, jump) {
                // The worst moment: the clocks have jumped, and the holder has not yet beaten.
                let comes = scene.at + Duration::from_millis(scene.seed % 2);
                let ended = Scene { comes, ..scene }.run();
                takeovers += ended.takeovers;
                let stands = match (&ended.held, &ended.waited) {
                    (Ok(held), Err(error)) if error.is_timeout() => (&b"held"[..], held),
                    (Ok(held), Ok(waited)) if held.generation == 1 => (&b"waited"[..], waited),
                    (Err(error), Ok(waited)) if error.is_lease_lost() => (&b"waited"[..], waited),
                    _ => panic!("{scene:?}\n{ended}"),
                };
                let found = read(&ended.world, "reader").expect("it is whole");
                assert_eq!(
                    found,
                    Some((stands.0.to_vec(), Some(stands.1.generation))),
                    "{scene:?}: an acknowledged publish is not what is read\n{ended}"
                );
                assert_eq!(residue(&ended.world), [""; 0], "{scene:?}\n{ended}");
            }
        }
    }
    println!("{takeovers} live holders were overtaken, without loss");
    assert!(takeovers > 0, "nobody was overtaken: this shows nothing");
}

/// A guest dies with the lease, and the disk is as it left it.
fn with_a_dead_guest() -> World {
    let world = World::simulated();
    let guest = world.guest("dies");
    let cache = builder(&guest).open().expect("good settings");
    let task = world.spawn(&guest, "main", move || publish(&cache, b"dead"));
    world.run_to(&task, |call| call.renames_to("entry"));
    world.kill(&guest);
    world
}

#[test]
fn a_dead_holder_is_overtaken_after_its_lease_whatever_the_wall_clock_does() {
    for jump in JUMPS {
        for n in 0..20 {
            let world = with_a_dead_guest();
            let (process, machine) = (world.process("waiter"), world.process("machine"));
            let cache = builder(&process).timeout(Timeout::Infinite).open();
            let cache = cache.expect("good settings");
            let waits = world.spawn(&process, "main", move || publish(&cache, b"next"));
            let clocks = world.clone();
            let jumps = world.spawn(&machine.clone(), "main", move || {
                sleep(&machine, LEASE * n / 20);
                jump.happen(&clocks);
            });
            let tasks: [&dyn Target; 2] = [&waits, &jumps];
            world
                .run_together(&tasks, seeded(n.into()), STEPS)
                .unwrap_or_else(|unfinished| panic!("{jump:?} {n}: {unfinished}"));
            world.finish(waits).expect("the dead must give way");
            let slept = match jump {
                Jump::Slept => Duration::from_secs(3 * HOUR.unsigned_abs()),
                _ => Duration::ZERO,
            };
            let awake = world.now() - slept;
            assert!(
                awake <= LEASE * 5 / 4,
                "{jump:?} {n}: it took {awake:?}\n{}",
                world.trace()
            );
        }
    }
}

/// It pauses for longer than an eighth of such a lease, and each pause counts in full.
#[test]
fn who_polls_waits_for_the_shortest_lease_and_no_longer() {
    let lease = Duration::from_millis(100);
    let world = World::simulated();
    let run = |name: &str| {
        let guest = world.guest(name);
        let cache = builder(&guest).lease(lease).open().expect("good settings");
        world.spawn(&guest, "main", move || publish(&cache, b"payload"))
    };
    let dies = run("dies");
    world.run_to(&dies, |call| call.renames_to("entry"));
    let waits = run("waits");
    let began = world.now();
    world.finish(waits).expect("the dead must give way");
    let took = world.now() - began;
    assert!(took >= lease && took <= lease * 21 / 20, "{took:?}");
}

/// A native waits for events, and beats make none. Still it looks often enough to know when the last one was.
#[test]
fn who_waits_for_events_sees_beats_and_when_they_end() {
    let world = World::simulated();
    let guest = world.guest("beats");
    let cache = builder(&guest).open().expect("good settings");
    let own = guest.clone();
    let beats = world.spawn(&guest, "main", move || {
        let refresh = begin(&cache, b"beats")?;
        for _ in 0..5 {
            sleep(&own, LEASE * 3 / 7);
            refresh.heartbeat()?;
        }
        // As if it had been killed.
        std::mem::forget(refresh);
        Ok::<_, Error>(())
    });
    world.run_to(&beats, |call| call.op == Op::Wait);
    let process = world.process("waiter");
    let cache = builder(&process).timeout(Timeout::Infinite).open();
    let cache = cache.expect("good settings");
    let began = world.now();
    let waits = world.spawn(&process, "main", move || publish(&cache, b"next"));
    let tasks: [&dyn Target; 2] = [&beats, &waits];
    world
        .run_together(&tasks, seeded(1), STEPS)
        .unwrap_or_else(|unfinished| panic!("{unfinished}"));
    world.finish(beats).expect("it is alive all the time");
    world.finish(waits).expect("the dead must give way");
    let stood_still = (world.now() - began) - 5 * (LEASE * 3 / 7);
    assert!(
        stood_still >= LEASE && stood_still <= LEASE * 9 / 8,
        "it was overtaken {stood_still:?} after its last beat"
    );
}

#[test]
fn whoever_cannot_stay_for_the_lease_gets_past_a_holder_that_died_long_ago() {
    let kinds = [Timeout::TryOnce, LEASE.into(), (LEASE * 6 / 5).into()];
    for timeout in kinds {
        for minutes in [0, 60] {
            let world = with_a_dead_guest();
            world.advance(Duration::from_secs(60 * minutes));
            let process = world.process("caller");
            let cache = builder(&process).timeout(timeout).open();
            let cache = cache.expect("good settings");
            let began = world.now();
            let task = world.spawn(&process, "main", move || publish(&cache, b"next"));
            let result = world.finish(task);
            let took = world.now() - began;
            match minutes {
                0 if timeout == Timeout::TryOnce => assert!(
                    result.is_err_and(|error| error.is_timeout()),
                    "nobody can know yet that it died"
                ),
                0 => {}
                _ => {
                    let published = result.expect("it stands still since an hour");
                    assert_eq!(published.generation, 1);
                    assert_eq!(took, Duration::ZERO, "there is nothing to wait for");
                }
            }
        }
    }
}
