//! Replays, on the real code, the traces on which changes to the lease protocol break.
//!
//! Each trace passes with the rules as they are. With the one deliberate defect that it was made for, it must fail: so these
//! tests show that the rules are needed *and* that a test would notice. The names are those of the table in
//! `docs/architecture.md`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cachelock::platform::memory::{Call, Op, Process, Runnable, Stopped, Task, World};
use cachelock::{Cache, CacheBuilder, Error, Event, EventKind, Mutation, Published};

use support::{builder, on_payload, publish, read, renames_payload};

mod support;

const SECOND: Duration = Duration::from_secs(1);
const HEAD: &str = "/cache/.cachelock/head";
const GATE: &str = "/cache/.cachelock/cache.lock";

type Trace = fn(&Stage) -> Result<(), String>;

/// One run of one trace: a world, and the defect that its caches have.
struct Stage {
    world: World,
    mutation: Option<Mutation>,
}

impl Stage {
    fn builder(&self, process: &Arc<Process>) -> CacheBuilder {
        match self.mutation {
            Some(mutation) => builder(process).mutation(mutation),
            None => builder(process),
        }
    }

    fn cache(&self, process: &Arc<Process>) -> Cache {
        self.builder(process).open().expect("nothing is touched")
    }

    /// A guest: it has the lease alone, and no background task that beats it.
    fn guest(&self, name: &str) -> (Arc<Process>, Cache) {
        let process = self.world.guest(name);
        let cache = self.cache(&process);
        (process, cache)
    }

    fn native(&self, name: &str) -> (Arc<Process>, Cache) {
        let process = self.world.process(name);
        let cache = self.cache(&process);
        (process, cache)
    }

    fn spawn<T: Send + 'static>(
        &self,
        (process, cache): &(Arc<Process>, Cache),
        work: impl FnOnce(&Cache) -> T + Send + 'static,
    ) -> Task<T> {
        let cache = cache.clone();
        self.world.spawn(process, "main", move || work(&cache))
    }

    fn publisher(
        &self,
        who: &(Arc<Process>, Cache),
        bytes: &'static [u8],
    ) -> Task<Result<Published, Error>> {
        self.spawn(who, move |cache| publish(cache, bytes))
    }

    fn absent_publisher(&self, who: &(Arc<Process>, Cache)) -> Task<Result<Published, Error>> {
        self.spawn(who, |cache| {
            let refresh = cache.entry("entry")?.refresh()?;
            Ok(refresh.publish_absent(60 * SECOND)?)
        })
    }

    /// Publishes from begin to end, while everybody else stands still.
    fn publish(&self, name: &str, bytes: &'static [u8]) -> Result<Published, String> {
        let who = self.native(name);
        self.world
            .finish(self.publisher(&who, bytes))
            .map_err(|error| format!("{name} could not publish: {error}"))
    }

    /// Overtakes whoever has the lease, in no time: no beat falls due, so that nothing but the fence and the checks stand
    /// between an overtaken holder and the entry. Then publishes.
    fn overtake(&self, name: &str, bytes: &'static [u8]) -> Result<Published, String> {
        let guest = self.guest(name);
        let task = self.spawn(&guest, move |cache| {
            cache.break_lock()?;
            publish(cache, bytes)
        });
        self.world
            .finish(task)
            .map_err(|error| format!("{name} could not overtake: {error}"))
    }

    fn lost<T>(&self, who: &str, result: Result<T, Error>) -> Result<(), String> {
        match result {
            Err(error) if error.is_lease_lost() => Ok(()),
            Err(error) => Err(format!("{who} failed, but not as overtaken: {error}")),
            Ok(_) => Err(format!("{who} was overtaken and published all the same")),
        }
    }

    fn reads(&self, bytes: &[u8], generation: u64) -> Result<(), String> {
        match read(&self.world, "reader") {
            Ok(Some(found)) if found == (bytes.to_vec(), Some(generation)) => Ok(()),
            Ok(found) => Err(format!(
                "a reader finds {found:?} and not generation {generation}"
            )),
            Err(error) => Err(format!("a reader finds no whole entry: {error}")),
        }
    }

    fn head(&self) -> u64 {
        self.world.metadata(HEAD).map_or(0, |metadata| metadata.len)
    }
}

/// Holds for the call after the first one for which `first` holds.
fn after(first: impl Fn(&Call) -> bool + Send + 'static) -> impl FnMut(&Call) -> bool + Send {
    let mut seen = false;
    move |call| {
        let now = seen;
        seen = seen || first(call);
        now
    }
}

/// Holds for the `n`-th call for which `each` does.
fn nth(
    n: usize,
    each: impl Fn(&Call) -> bool + Send + 'static,
) -> impl FnMut(&Call) -> bool + Send {
    let mut count = 0;
    move |call| {
        count += usize::from(each(call));
        each(call) && count == n
    }
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

/// A holder sleeps right before it creates its tag's stage and is overtaken meanwhile. It publishes an absence: the stage of a
/// payload, which is fenced, would tell it.
fn m1_stage_not_checked(stage: &Stage) -> Result<(), String> {
    let a = stage.guest("a");
    let old = stage.absent_publisher(&a);
    stage
        .world
        .run_to(&old, nth(2, |call| call.is(Op::CreateNew, "stage-")));
    let published = stage.overtake("b", b"bb")?;
    stage.lost("a", stage.world.finish(old))?;
    stage.reads(b"bb", published.generation)
}

/// A caller sleeps between its look and its claim, which others have claimed, held and collected meanwhile.
fn m2_head_not_checked(stage: &Stage) -> Result<(), String> {
    let a = stage.guest("a");
    let late = stage.publisher(&a, b"a");
    stage
        .world
        .run_to(&late, |call| call.is(Op::CreateNew, "claim-"));
    stage.publish("b", b"bb")?;
    stage.publish("c", b"ccc")?;
    let before = stage.head();
    let published = stage
        .world
        .finish(late)
        .map_err(|error| error.to_string())?;
    let head = stage.head();
    require(head > before, || {
        format!("the head went from {before} to {head} with an acquire")
    })?;
    stage.reads(b"a", published.generation)
}

/// A holder looks at head and claim while its successor comes and goes in between.
fn m3_check_reversed(stage: &Stage) -> Result<(), String> {
    let world = &stage.world;
    let a = stage.guest("a");
    let old = stage.absent_publisher(&a);
    // The tag's stage is the last one: nothing is checked any more that would show what is missed here.
    world.run_to(&old, nth(2, |call| call.is(Op::CreateNew, "stage-")));
    let b = stage.guest("b");
    let taker = stage.spawn(&b, |cache| cache.break_lock().map(drop));
    world.run_to(&taker, |call| call.renames_to("head"));
    if world.run_until(&old, |call| call.is(Op::Stat, "claim-")) == Stopped::Finished {
        // It never looked, and was done before the other had acquired: that is early enough.
        return Ok(());
    }
    world.finish(taker).map_err(|error| error.to_string())?;
    stage.lost("a", world.finish(old))
}

/// The taker dies before its fence; the next one must remove the stages of both epochs.
fn m4_fence_one_epoch(stage: &Stage) -> Result<(), String> {
    let world = &stage.world;
    let a = stage.guest("a");
    let old = stage.publisher(&a, b"a");
    world.run_to(&old, |call| call.renames_to("entry"));
    let b = stage.guest("b");
    let dies = stage.spawn(&b, |cache| cache.break_lock().map(drop));
    world.run_to(&dies, after(|call| call.is(Op::CreateNew, "claim-")));
    world.kill(&b.0);
    let published = stage.overtake("c", b"ccc")?;
    stage.lost("a", world.finish(old))?;
    stage.reads(b"ccc", published.generation)
}

/// An overtaken caller is about to rename its next head.
fn m5_head_before_fence(stage: &Stage) -> Result<(), String> {
    let world = &stage.world;
    let a = stage.guest("a");
    let old = stage.publisher(&a, b"a");
    world.run_to(&old, |call| call.renames_to("head"));
    let b = stage.guest("b");
    let new = stage.spawn(&b, |cache| cache.break_lock().map(drop));
    world.run_to(&new, after(|call| call.renames_to("head")));
    let before = stage.head();
    // It may end before the next call of this kind: all that counts is that it has made this one.
    world.run_until(&old, after(|call| call.renames_to("head")));
    require(stage.head() >= before, || {
        format!("the head went from {before} back to {}", stage.head())
    })
}

/// Three claims, of which the lower ones are given up before the head has moved.
fn m6_loser_unlinks(stage: &Stage) -> Result<(), String> {
    let world = &stage.world;
    let (a, c, d) = (stage.guest("a"), stage.guest("c"), stage.guest("d"));
    let first = stage.publisher(&a, b"a");
    world.run_to(&first, after(|call| call.is(Op::Write, "claim-")));
    let second = stage.publisher(&c, b"ccc");
    world.run_to(&second, |call| call.renames_to("head"));
    let third = stage.publisher(&d, b"dddd");
    world.run_to(&third, |call| call.is(Op::CreateNew, "head-"));
    world.run_until(&second, |call| call.op == Op::Wait);
    world.kill(&c.0);
    // It has listed the directory before the third one's next head is there, and acquires only then.
    world.run_until(&first, |call| call.is(Op::CreateNew, "head-"));
    world.run_to(&third, |call| call.renames_to("head"));
    // Whatever it had to do to get there, it must not publish after the other has acquired.
    world.run_until(&first, |call| call.renames_to("entry"));
    let published = world.finish(third).map_err(|error| error.to_string())?;
    stage.lost("a", world.finish(first))?;
    stage.reads(b"dddd", published.generation)
}

/// An overtaken holder is about to make the payload of an absent entry go away.
fn m7_remove_by_unlink(stage: &Stage) -> Result<(), String> {
    stage.publish("first", b"old")?;
    let a = stage.guest("a");
    let absent = stage.absent_publisher(&a);
    let renames = |call: &Call| call.renames_to("entry") || on_payload(call, Op::Unlink);
    stage.world.run_to(&absent, nth(2, renames));
    let published = stage.overtake("b", b"bb")?;
    // Its tag was published before: whether it says so is its own affair, what counts is the newer entry.
    let _ = stage.world.finish(absent);
    stage.reads(b"bb", published.generation)
}

/// Two holders die, one after the other, between the renames of tag and payload.
fn m8_previous_from_next(stage: &Stage) -> Result<(), String> {
    stage.publish("first", b"old")?;
    for (name, bytes) in [("a", &b"aaaaaa"[..]), ("b", b"bbbbbbbb")] {
        let who = stage.native(name);
        let dies = stage.publisher(&who, bytes);
        stage
            .world
            .run_to(&dies, nth(2, |call| call.renames_to("entry")));
        stage.world.kill(&who.0);
    }
    stage.reads(b"old", 1)
}

/// Another one publishes between a caller's first look and its acquire.
fn m9_state_read_early(stage: &Stage) -> Result<(), String> {
    let a = stage.guest("a");
    let late = stage.publisher(&a, b"a");
    stage
        .world
        .run_to(&late, |call| call.is(Op::CreateNew, "claim-"));
    let before = stage.publish("b", b"bb")?;
    let published = stage
        .world
        .finish(late)
        .map_err(|error| error.to_string())?;
    require(published.generation == before.generation + 1, || {
        format!(
            "generation {} was followed by {}",
            before.generation, published.generation
        )
    })?;
    stage.reads(b"a", published.generation)
}

/// The same bytes are published twice.
fn m10_previous_wins(stage: &Stage) -> Result<(), String> {
    stage.publish("a", b"same")?;
    let published = stage.publish("b", b"same")?;
    require(published.generation == 2, || {
        format!("the second publish is generation {}", published.generation)
    })?;
    let c = stage.native("c");
    let reader = stage.spawn(&c, |cache| {
        let snapshot = cache.entry("entry")?.read()?;
        Ok(snapshot.and_then(|snapshot| snapshot.meta().generation))
    });
    let found: Result<_, Error> = stage.world.finish(reader);
    let found = found.map_err(|error| error.to_string())?;
    require(found == Some(2), || {
        format!("generation 2 was acknowledged and {found:?} is read")
    })
}

/// A holder is in the middle of its release when another one comes.
fn m11_gate_released_first(stage: &Stage) -> Result<(), String> {
    let world = &stage.world;
    let a = stage.native("a");
    let first = stage.publisher(&a, b"a");
    world.run_to(&first, |call| call.is(Op::Unlink, "claim-"));
    let taken_over = Arc::new(AtomicUsize::new(0));
    let counter = taken_over.clone();
    let process = world.process("b");
    let observed = stage
        .builder(&process)
        .observer(move |event: &Event<'_>| {
            if event.kind == EventKind::LeaseTakenOver {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        })
        .open()
        .expect("nothing is touched");
    let second = stage.publisher(&(process, observed), b"bb");
    let b_first = |options: &[Runnable]| {
        let b = options.iter().position(|one| &*one.call.process == "b");
        b.unwrap_or(0)
    };
    world
        .run_together(&[&first, &second], b_first, 10_000)
        .map_err(|unfinished| unfinished.to_string())?;
    world.finish(first).map_err(|error| error.to_string())?;
    let published = world.finish(second).map_err(|error| error.to_string())?;
    require(taken_over.load(Ordering::SeqCst) == 0, || {
        "a holder that was alive, releasing, was judged dead".into()
    })?;
    stage.reads(b"bb", published.generation)
}

/// Somebody deletes the gate under a live holder.
fn m12_gate_not_compared(stage: &Stage) -> Result<(), String> {
    let world = &stage.world;
    let a = stage.native("a");
    let first = stage.publisher(&a, b"a");
    world.run_to(&first, |call| call.renames_to("entry"));
    world.remove(GATE);
    let process = world.process("b");
    let hasty = stage
        .builder(&process)
        .timeout(Duration::from_millis(500))
        .open()
        .expect("nothing is touched");
    let second = stage.publisher(&(process, hasty), b"bb");
    match world.finish(second) {
        Err(error) if error.is_timeout() => {}
        other => return Err(format!("half a lease after its beat: {other:?}")),
    }
    let published = world.finish(first).map_err(|error| error.to_string())?;
    stage.reads(b"a", published.generation)
}

/// The holder of the gate is frozen, with its claim.
fn m13_gate_wait_blind(stage: &Stage) -> Result<(), String> {
    let world = &stage.world;
    let a = stage.native("a");
    let frozen = stage.publisher(&a, b"a");
    world.run_to(&frozen, |call| call.renames_to("entry"));
    for (name, bytes) in [("b", &b"bb"[..]), ("c", b"ccc")] {
        let before = world.now();
        stage.publish(name, bytes)?;
        let waited = world.now() - before;
        require(waited <= 2 * SECOND, || {
            format!("{name} waited {waited:?} for a frozen process, with a lease of a second")
        })?;
    }
    stage.lost("a", world.finish(frozen))?;
    stage.reads(b"ccc", 2)
}

/// A holder died between the creation of its claim and its record.
fn m14_empty_waits_lease(stage: &Stage) -> Result<(), String> {
    let world = &stage.world;
    world.plant_file("/cache/.cachelock/claim-00000000000000000001", b"");
    let published = stage.publish("a", b"a")?;
    require(world.now() < SECOND / 2, || {
        format!("it took {:?} to get past an empty claim", world.now())
    })?;
    stage.reads(b"a", published.generation)
}

/// Several publishes pass during a read.
fn m15_tag_read_late(stage: &Stage) -> Result<(), String> {
    stage.publish("first", b"first")?;
    let reader = stage.native("slow");
    let slow = stage.spawn(&reader, |cache| {
        let snapshot = cache.entry("entry")?.read()?;
        Ok(snapshot.map(|snapshot| snapshot.to_vec()))
    });
    let mut newer = [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"].into_iter();
    while stage
        .world
        .run_until(&slow, |call| on_payload(call, Op::Read))
        != Stopped::Finished
    {
        for _ in 0..2 {
            let bytes = newer
                .next()
                .ok_or("publishes cost a read more than one repetition")?;
            stage.publish("writer", bytes)?;
        }
    }
    let found: Result<_, Error> = stage.world.finish(slow);
    let found = found.map_err(|error| format!("false corruption: {error}"))?;
    require(found.is_some(), || "there always was an entry".into())
}

/// A power loss has left the claim of a later epoch. A holder sleeps after it has listed it, and wakes when that epoch is
/// somebody's.
fn m16_later_claims_collected(stage: &Stage) -> Result<(), String> {
    let world = &stage.world;
    world.plant_dir("/cache");
    world.plant_dir("/cache/.cachelock");
    world.plant_file("/cache/.cachelock/claim-00000000000000000004", b"");
    let (a, b) = (stage.guest("a"), stage.guest("b"));
    let (c, d) = (stage.guest("c"), stage.guest("d"));
    let first = stage.publisher(&a, b"a");
    world.run_to(&first, after(|call| call.renames_to("head")));
    let next = stage.spawn(&b, |cache| {
        cache.break_lock()?;
        publish(cache, b"bb")
    });
    // It comes to the claim of epoch 4, or not.
    let _ = world.finish(next);
    let late = stage.publisher(&c, b"ccc");
    world.run_to(&late, |call| call.is(Op::CreateNew, "head-"));
    stage.lost("a", world.finish(first))?;
    let same = stage.publisher(&d, b"dddd");
    // Neither has listed the other's next head.
    world.run_to(&same, |call| call.is(Op::CreateNew, "head-"));
    world.run_to(&late, |call| call.renames_to("head"));
    world.run_to(&same, |call| call.renames_to("entry"));
    match (world.finish(late), world.finish(same)) {
        (Ok(published), same) => {
            stage.lost("d", same)?;
            stage.reads(b"ccc", published.generation)
        }
        (late, Ok(published)) => {
            stage.lost("c", late)?;
            stage.reads(b"dddd", published.generation)
        }
        (Err(late), Err(same)) => Err(format!("neither has published: {late}; {same}")),
    }
}

/// A reader sleeps with an old payload open. Its bytes come again, and that publisher dies before they are there.
fn m17_payload_not_compared(stage: &Stage) -> Result<(), String> {
    let world = &stage.world;
    stage.publish("first", b"A")?;
    let slow = stage.spawn(&stage.native("slow"), |cache| {
        let snapshot = cache.entry("entry")?.read()?;
        Ok(snapshot.map(|snapshot| (snapshot.to_vec(), snapshot.meta().generation)))
    });
    world.run_to(&slow, |call| {
        call.is(Op::OpenRead, "entry") && !on_payload(call, Op::OpenRead)
    });
    stage.publish("second", b"B")?;
    let dies = stage.native("dies");
    let third = stage.publisher(&dies, b"A");
    world.run_to(&third, renames_payload());
    world.kill(&dies.0);
    let found: Result<_, Error> = world.finish(slow);
    let found = found.map_err(|error| error.to_string())?;
    require(found == Some((b"B".to_vec(), Some(2))), || {
        format!("it was not published yet: {found:?}")
    })
}

const TRACES: [(Mutation, Trace); 17] = [
    (Mutation::StageNotChecked, m1_stage_not_checked),
    (Mutation::HeadNotChecked, m2_head_not_checked),
    (Mutation::CheckReversed, m3_check_reversed),
    (Mutation::FenceOneEpoch, m4_fence_one_epoch),
    (Mutation::HeadBeforeFence, m5_head_before_fence),
    (Mutation::LoserUnlinks, m6_loser_unlinks),
    (Mutation::RemoveByUnlink, m7_remove_by_unlink),
    (Mutation::PreviousFromNext, m8_previous_from_next),
    (Mutation::StateReadEarly, m9_state_read_early),
    (Mutation::PreviousWins, m10_previous_wins),
    (Mutation::GateReleasedFirst, m11_gate_released_first),
    (Mutation::GateNotCompared, m12_gate_not_compared),
    (Mutation::GateWaitBlind, m13_gate_wait_blind),
    (Mutation::EmptyWaitsLease, m14_empty_waits_lease),
    (Mutation::TagReadLate, m15_tag_read_late),
    (Mutation::LaterClaimsCollected, m16_later_claims_collected),
    (Mutation::PayloadNotCompared, m17_payload_not_compared),
];

/// Runs a trace; a panic in the simulation is a failure, too.
fn replay(trace: Trace, mutation: Option<Mutation>) -> Result<(), String> {
    let stage = Stage {
        world: World::simulated(),
        mutation,
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| trace(&stage)));
    let failed = match outcome {
        Ok(result) => result,
        Err(panic) => Err(panic
            .downcast_ref::<String>()
            .cloned()
            .unwrap_or_else(|| "a panic".into())),
    };
    failed.map_err(|reason| format!("{reason}\n{}", stage.world.trace()))
}

#[test]
fn the_rules_as_they_are_survive_every_trace() {
    for (made_for, trace) in TRACES {
        if let Err(reason) = replay(trace, None) {
            panic!("the trace for {made_for:?} fails without any defect: {reason}");
        }
    }
}

#[test]
fn each_defect_is_noticed_by_its_trace() {
    let unnoticed: Vec<_> = TRACES
        .into_iter()
        .filter(|(mutation, trace)| replay(*trace, Some(*mutation)).is_ok())
        .map(|(mutation, _)| mutation)
        .collect();
    assert!(
        unnoticed.is_empty(),
        "their traces pass with these defects, so they show nothing: {unnoticed:?}"
    );
}

#[test]
fn each_trace_fails_with_its_own_defect_only() {
    let mut wrong = String::new();
    for (made_for, trace) in TRACES {
        for (other, _) in TRACES {
            let known = [
                // Whoever meets a claim that nobody holds and unlinks its own meets it again for ever.
                (Mutation::LaterClaimsCollected, Mutation::LoserUnlinks),
                // A tag that is read late is read after the comparison, too.
                (Mutation::PayloadNotCompared, Mutation::TagReadLate),
            ];
            if other == made_for || known.contains(&(made_for, other)) {
                continue;
            }
            if let Err(reason) = replay(trace, Some(other)) {
                let reason = reason.lines().next().unwrap_or_default();
                wrong += &format!("the trace for {made_for:?} fails with {other:?}: {reason}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
