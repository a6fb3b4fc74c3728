//! Beats that fail: the disk is full for a while, a write stops half-way, there is no thread to beat from. A holder that
//! comes back in time keeps its lease; one that does not is overtaken and publishes nothing; and what it has written is
//! never cut short by a beat that failed.

use std::io::{ErrorKind as IoError, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cachelock::platform::Platform;
use cachelock::platform::memory::{Call, Fault, Op, Process, Target, Task, World, seeded};
use cachelock::{Error, Event, EventKind, Published, Refresh, Timeout};

use support::{LEASE, begin, builder, publish, read, residue, sleep};

mod support;

const STEPS: u64 = 200_000;

/// Whether it writes a claim's record; the first such call of a holder is no beat, but the claim itself.
fn writes_claim(call: &Call) -> bool {
    call.is(Op::Write, "claim-")
}

/// A holder that sleeps for so many twelfths of its lease, with whatever is wrong with it; and somebody who waits.
struct Scene {
    world: World,
    holder: Arc<Process>,
    takeovers: Arc<AtomicUsize>,
}

type Publishes = Result<Published, Error>;

impl Scene {
    fn new(guest: bool) -> Self {
        let world = World::simulated();
        let holder = match guest {
            false => world.process("holder"),
            true => world.guest("holder"),
        };
        Scene {
            world,
            holder,
            takeovers: Arc::default(),
        }
    }

    /// Makes beats fail with a full disk: `spared` work, and then `times` do not.
    fn fail_beats(&self, spared: usize, times: usize) {
        let mut seen = 0;
        self.world.inject(
            move |call| {
                seen += usize::from(writes_claim(call));
                writes_claim(call) && seen > spared
            },
            Fault::Error(IoError::StorageFull),
            times,
        );
    }

    /// Acquires, and stops there.
    fn holds(
        &self,
        lease: Duration,
        work: impl FnOnce(&Process, Refresh) -> Publishes + Send + 'static,
    ) -> Task<Publishes> {
        let cache = builder(&self.holder).lease(lease).open();
        let cache = cache.expect("good settings");
        let own = self.holder.clone();
        let task = self.world.spawn(&self.holder, "main", move || {
            work(&own, begin(&cache, b"held")?)
        });
        self.world.run_to(&task, |call| call.op == Op::Wait);
        task
    }

    /// Somebody waits for as long as it takes, and both run to their ends.
    fn end(&self, held: Task<Publishes>) -> (Publishes, Publishes) {
        let waiter = self.world.process("waiter");
        let counter = self.takeovers.clone();
        let cache = builder(&waiter)
            .timeout(Timeout::Infinite)
            .observer(move |event: &Event<'_>| {
                let taken_over = event.kind == EventKind::LeaseTakenOver;
                counter.fetch_add(usize::from(taken_over), Ordering::SeqCst);
            })
            .open()
            .expect("good settings");
        let waited = self
            .world
            .spawn(&waiter, "main", move || publish(&cache, b"waited"));
        let tasks: [&dyn Target; 2] = [&held, &waited];
        self.world
            .run_together(&tasks, seeded(1), STEPS)
            .unwrap_or_else(|unfinished| panic!("{unfinished}"));
        (self.world.finish(held), self.world.finish(waited))
    }

    #[track_caller]
    fn assert_kept(&self, ended: (Publishes, Publishes), why: &str) {
        let generations = match &ended {
            (Ok(held), Ok(waited)) => Some((held.generation, waited.generation)),
            _ => None,
        };
        assert_eq!(
            (generations, self.takeovers.load(Ordering::SeqCst)),
            (Some((1, 2)), 0),
            "{why}: {ended:?}\n{}",
            self.world.trace()
        );
        assert_eq!(residue(&self.world), [""; 0], "{why}");
    }

    #[track_caller]
    fn assert_lost(&self, ended: (Publishes, Publishes), why: &str) {
        let lost = matches!(&ended.0, Err(error) if error.is_lease_lost());
        assert!(lost, "{why}: {ended:?}\n{}", self.world.trace());
        let waited = ended.1.expect("the other one goes on");
        let found = read(&self.world, "reader").expect("it is whole");
        assert_eq!(
            found,
            Some((b"waited".to_vec(), Some(waited.generation))),
            "{why}\n{}",
            self.world.trace()
        );
        assert_eq!(self.takeovers.load(Ordering::SeqCst), 1, "{why}");
        assert_eq!(residue(&self.world), [""; 0], "{why}");
    }
}

/// Sleeps, with beats of its own if it is a guest, and publishes.
fn works_for(time: Duration) -> impl FnOnce(&Process, Refresh) -> Publishes + Send {
    move |own, refresh| {
        let until = own.monotonic() + time;
        while own.monotonic() < until {
            sleep(own, LEASE / 12);
            match refresh.heartbeat() {
                Err(error) if error.is_lease_lost() => return Err(error),
                _ => {}
            }
        }
        Ok(refresh.publish()?)
    }
}

#[test]
fn a_holder_whose_disk_is_full_for_less_than_a_lease_keeps_it() {
    for guest in [false, true] {
        // The first is due a third of the lease after the claim, and then one each twelfth.
        for times in 1..=7 {
            let scene = Scene::new(guest);
            let held = scene.holds(LEASE, works_for(LEASE * 2));
            scene.fail_beats(0, times);
            let ended = scene.end(held);
            scene.assert_kept(ended, &format!("{times} beats failed, guest: {guest}"));
        }
    }
}

#[test]
fn the_shorter_the_lease_the_sooner_a_failed_beat_is_tried_again() {
    let lease = LEASE / 4;
    let scene = Scene::new(false);
    let held = scene.holds(lease, works_for(LEASE));
    let tries = Arc::new(AtomicUsize::new(0));
    let counter = tries.clone();
    let fails = move |call: &Call| {
        counter.fetch_add(usize::from(writes_claim(call)), Ordering::SeqCst);
        writes_claim(call)
    };
    let full = Fault::Error(IoError::StorageFull);
    scene.world.inject(fails, full, usize::MAX);
    scene.world.finish(held).expect("nobody else is there");
    // Each twelfth of the lease, after the first third.
    let tries = tries.load(Ordering::SeqCst);
    assert!((48..=50).contains(&tries), "{tries}");
}

#[test]
fn a_holder_whose_disk_is_full_for_longer_is_overtaken_and_publishes_nothing() {
    for guest in [false, true] {
        for spared in 0..3 {
            let scene = Scene::new(guest);
            let held = scene.holds(LEASE, works_for(LEASE * 3));
            // Only the holder's: the waiter's own claim is on the same disk.
            let mut seen = 0;
            scene.world.inject(
                move |call| {
                    let own = writes_claim(call) && &*call.process == "holder";
                    seen += usize::from(own);
                    own && seen > spared
                },
                Fault::Error(IoError::StorageFull),
                usize::MAX,
            );
            let ended = scene.end(held);
            scene.assert_lost(ended, &format!("{spared} beats, guest: {guest}"));
        }
    }
}

#[test]
fn a_beat_that_comes_just_after_the_release_is_no_loss() {
    for seed in 0..100 {
        let scene = Scene::new(false);
        let told = Arc::new(AtomicUsize::new(0));
        let counter = told.clone();
        let cache = builder(&scene.holder)
            .observer(move |event: &Event<'_>| {
                let bad = [EventKind::LeaseLost, EventKind::HeartbeatFailed];
                counter.fetch_add(usize::from(bad.contains(&event.kind)), Ordering::SeqCst);
            })
            .open()
            .expect("good settings");
        let own = scene.holder.clone();
        let held = scene.world.spawn(&scene.holder, "main", move || {
            let lock = cache.lock()?;
            // The beat is due at the same moment.
            sleep(&own, LEASE / 3);
            drop(lock);
            sleep(&own, LEASE);
            Ok::<_, Error>(())
        });
        scene
            .world
            .run_together(&[&held], seeded(seed), STEPS)
            .unwrap_or_else(|unfinished| panic!("{unfinished}"));
        scene.world.finish(held).expect("nobody is in the way");
        assert_eq!(told.load(Ordering::SeqCst), 0, "seed {seed}");
    }
}

#[test]
fn where_nobody_waits_a_holder_may_miss_all_its_beats() {
    for guest in [false, true] {
        let scene = Scene::new(guest);
        let held = scene.holds(LEASE, works_for(LEASE * 5));
        scene.fail_beats(0, usize::MAX);
        let published = scene.world.finish(held).expect("nobody has overtaken it");
        assert_eq!(published.generation, 1);
    }
}

/// A record that is half the old and half the new one says nothing, and others respect it for 250 ms only.
#[test]
fn a_beat_that_stops_half_way_is_made_good_before_anybody_loses_patience() {
    for lease in [LEASE, LEASE * 5, LEASE * 60] {
        let scene = Scene::new(false);
        let held = scene.holds(lease, works_for(lease * 2));
        scene.world.inject(writes_claim, Fault::Short(100), 1);
        let mut seen = 0;
        scene.world.inject(
            move |call| {
                seen += usize::from(writes_claim(call));
                // The first is the short one.
                writes_claim(call) && seen == 1
            },
            Fault::Error(IoError::StorageFull),
            1,
        );
        let ended = scene.end(held);
        scene.assert_kept(ended, &format!("a lease of {lease:?}"));
    }
}

/// A guest beats when it writes and when it publishes. That its beat fails is no reason to lose a byte.
#[test]
fn a_failed_beat_cuts_no_payload_short() {
    // A small one stays in the buffer until it is published, and its writes beat all the same.
    for (words, pieces) in [
        (3_u32, 1),
        (3, 2),
        (200_000, 1),
        (200_000, 5),
        (200_000, 16),
    ] {
        let payload: Vec<u8> = (0..words).flat_map(u32::to_le_bytes).collect();
        for spared in 0..4 {
            let scene = Scene::new(true);
            let cache = builder(&scene.holder).open().expect("good settings");
            let (own, bytes) = (scene.holder.clone(), payload.clone());
            let task = scene.world.spawn(&scene.holder, "main", move || {
                let mut refresh = cache.entry("entry")?.refresh()?;
                for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
                    sleep(&own, LEASE / 2);
                    refresh.write_all(piece).expect("the stage's disk has room");
                }
                sleep(&own, LEASE / 2);
                match refresh.publish() {
                    Ok(published) => Ok(published),
                    // As its documentation says: without producing again.
                    Err(failed) => Ok(failed.refresh.expect("not lost").publish()?),
                }
            });
            scene.world.run_to(&task, |call| call.op == Op::Wait);
            scene.fail_beats(spared, 1);
            let published: Publishes = scene.world.finish(task);
            let why = format!("{words} words in {pieces} pieces, {spared} beats");
            assert_eq!(
                published.expect("nobody has overtaken it").len,
                payload.len() as u64,
                "{why}"
            );
            let found = read(&scene.world, "reader").expect("it is whole");
            assert!(
                found == Some((payload.clone(), Some(1))),
                "{why}: another payload than the one that was written"
            );
        }
    }
}

/// Also where they only gather: whoever writes a little now and then must not have to know how much that is.
#[test]
fn small_writes_keep_a_guests_lease() {
    let scene = Scene::new(true);
    let held = scene.holds(LEASE, |own, mut refresh| {
        for byte in 0..16 {
            sleep(own, LEASE / 4);
            refresh.write_all(&[byte]).expect("it stays in the buffer");
        }
        Ok(refresh.publish()?)
    });
    let ended = scene.end(held);
    scene.assert_kept(ended, "it wrote a byte four times in each lease");
}

/// Refuses to start the thread that beats, so many times.
fn refuse_threads(world: &World, times: usize) {
    world.inject(
        |call| call.is(Op::Spawn, "cachelock-beat"),
        Fault::Error(IoError::WouldBlock),
        times,
    );
}

#[test]
fn a_holder_without_a_heartbeat_thread_beats_from_its_own_calls() {
    let scene = Scene::new(false);
    refuse_threads(&scene.world, 1);
    let held = scene.holds(LEASE, works_for(LEASE * 3));
    let ended = scene.end(held);
    scene.assert_kept(ended, "it called heartbeat() all the time");
}

#[test]
fn a_holder_without_a_heartbeat_thread_that_makes_no_call_is_overtaken() {
    let scene = Scene::new(false);
    refuse_threads(&scene.world, 1);
    let held = scene.holds(LEASE, |own, refresh| {
        sleep(own, LEASE * 3);
        Ok(refresh.publish()?)
    });
    let ended = scene.end(held);
    scene.assert_lost(ended, "nothing beat for it");
}

#[test]
fn the_next_acquire_tries_again_to_start_the_heartbeat_thread() {
    let scene = Scene::new(false);
    refuse_threads(&scene.world, 1);
    let cache = builder(&scene.holder).open().expect("good settings");
    let first = scene
        .world
        .spawn(&scene.holder, "main", move || cache.lock().map(drop));
    scene.world.finish(first).expect("it needs no thread");
    let held = scene.holds(LEASE, |own, refresh| {
        sleep(own, LEASE * 3);
        Ok(refresh.publish()?)
    });
    let ended = scene.end(held);
    scene.assert_kept(ended, "the thread beats");
}

/// Two threads of one process take the locks of two caches at once, and the first is to start the thread that beats for both.
#[test]
fn who_relied_on_anothers_heartbeat_thread_that_did_not_start_beats_itself() {
    let scene = Scene::new(false);
    let elsewhere = cachelock::Cache::builder("/elsewhere")
        .platform(scene.holder.clone())
        .open()
        .expect("good settings");
    let starter = scene
        .world
        .spawn(&scene.holder, "starter", move || elsewhere.lock().map(drop));
    scene
        .world
        .run_to(&starter, |call| call.is(Op::Spawn, "cachelock-beat"));
    refuse_threads(&scene.world, 1);
    let cache = builder(&scene.holder).open().expect("good settings");
    let own = scene.holder.clone();
    let work = works_for(LEASE * 3);
    let held = scene.world.spawn(&scene.holder, "main", move || {
        work(&own, begin(&cache, b"held")?)
    });
    // The scheduler is fair: that one has acquired, and then the starter fails.
    scene
        .world
        .run_to(&held, |call| &*call.thread == "main" && call.op == Op::Wait);
    scene.world.finish(starter).expect("it needs no thread");
    let ended = scene.end(held);
    scene.assert_kept(ended, "it called heartbeat() all the time");
}
