//! The thread that waits for the kernel lock: how many there are, when they end, and that none keeps what nobody wants.

use std::collections::BTreeMap;
use std::io::ErrorKind as IoError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachelock::platform::memory::{
    Call, Fault, Op, Process, Runnable, Target, Task, World, seeded,
};
use cachelock::platform::{FileSystem, Platform};
use cachelock::{Backend, Cache, CancelToken, Error, Event, EventKind, Timeout, WaitingFor};

use support::{LEASE, builder};

mod support;

const GATE: &str = "/cache/.cachelock/cache.lock";
const HELPER: &str = "cachelock-gate";
/// For how long a helper stays without work, as it is documented.
const IDLE: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);
const STEPS: u64 = 1_000_000;

/// A process and its handle on a cache.
type Who = (Arc<Process>, Cache);

fn who(world: &World, name: &str) -> Who {
    let process = world.process(name);
    let cache = builder(&process).open().expect("nothing is touched");
    (process, cache)
}

/// A task that takes the lock and gives it back.
fn locks((process, cache): &Who, world: &World) -> Task<Result<Backend, Error>> {
    let cache = cache.clone();
    world.spawn(process, "main", move || Ok(cache.lock()?.backend()))
}

/// Somebody who takes the lock and gives it back if that takes no wait.
fn tries_once(world: &World) -> Result<Backend, Error> {
    let process = world.process("hasty");
    let cache = builder(&process).timeout(Timeout::TryOnce).open();
    let cache = cache.expect("nothing is touched");
    world.finish(locks(&(process, cache), world))
}

/// The same, as far as having the lock: a holder that stands still from here on.
#[track_caller]
fn holds(who: &Who, world: &World) -> Task<Result<Backend, Error>> {
    let task = locks(who, world);
    world.run_to(&task, |call| call.is(Op::Unlink, "claim-"));
    task
}

/// The same, as far as waiting for the gate.
#[track_caller]
fn waits(who: &Who, world: &World) -> Task<Result<Backend, Error>> {
    let task = locks(who, world);
    world.run_to(&task, |call| call.op == Op::Wait && &*call.thread == "main");
    task
}

/// `holder` holds, `waiter` waits for it, and both come to their ends.
#[track_caller]
fn contend(holder: &Who, waiter: &Who, world: &World) {
    let held = holds(holder, world);
    let waiting = waits(waiter, world);
    finish_both(held, waiting, world);
}

#[track_caller]
fn finish_both(
    held: Task<Result<Backend, Error>>,
    waiting: Task<Result<Backend, Error>>,
    world: &World,
) {
    if let Err(unfinished) = world.run_together(&[&held, &waiting], |_| 0, STEPS) {
        panic!("{unfinished}");
    }
    for task in [held, waiting] {
        let backend = world.finish(task).expect("both wait for long enough");
        assert_eq!(
            backend,
            Backend::Gate,
            "both have the gate\n{}",
            world.trace()
        );
    }
}

/// Lets `process` do whatever it does in the background, for so long.
fn rest(process: &Arc<Process>, world: &World, time: Duration) {
    let clock = process.clone();
    let sleeper = world.spawn(process, "sleeper", move || {
        let until = clock.monotonic() + time;
        let never = clock.event();
        while clock.monotonic() < until {
            never.wait_until(Some(until));
        }
    });
    world.finish(sleeper);
}

/// How many threads that wait for a kernel lock each process has started.
#[derive(Clone, Default)]
struct Started(Arc<Mutex<BTreeMap<String, usize>>>);

impl Started {
    fn count(world: &World) -> Self {
        let started = Started::default();
        let counter = started.clone();
        let look = move |call: &Call| {
            if call.is(Op::Spawn, HELPER) {
                *counter
                    .0
                    .lock()
                    .unwrap()
                    .entry(call.process.to_string())
                    .or_default() += 1;
            }
            false
        };
        world.inject(look, Fault::Short(1), 1);
        started
    }

    fn by(&self, process: &str) -> usize {
        self.0.lock().unwrap().get(process).copied().unwrap_or(0)
    }
}

/// How many of them it has now.
fn alive(world: &World, process: &str) -> usize {
    let report = world.report();
    let threads = report.split("the last calls:").next().unwrap_or_default();
    threads
        .lines()
        .filter(|line| line.contains(&format!(" {process}/{HELPER}: ")))
        .count()
}

#[test]
fn a_thousand_waits_need_one_thread_in_each_process() {
    let world = World::simulated();
    let started = Started::count(&world);
    let waited = Arc::new(AtomicUsize::new(0));
    let tasks = ["a", "b"].map(|name| {
        let process = world.process(name);
        let counter = waited.clone();
        let count = move |event: &Event<'_>| {
            if event.kind == EventKind::LockContended && event.waiting_for == Some(WaitingFor::Gate)
            {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        };
        let cache = builder(&process).observer(count).open().unwrap();
        world.spawn(&process, "main", move || {
            for _ in 0..1200 {
                drop(cache.lock().expect("nobody holds for long"));
            }
        })
    });
    if let Err(unfinished) = world.run_together(&[&tasks[0], &tasks[1]], seeded(1), STEPS) {
        panic!("{unfinished}");
    }
    let waited = waited.load(Ordering::SeqCst);
    assert!(waited >= 1000, "only {waited} waits: too little to tell");
    for process in ["a", "b"] {
        assert_eq!(started.by(process), 1, "threads of {process}, for {waited}");
    }
}

#[test]
fn without_work_a_helper_sleeps_and_ends_after_ten_seconds() {
    let world = World::simulated();
    let started = Started::count(&world);
    let (holder, waiter) = (who(&world, "holder"), who(&world, "waiter"));
    contend(&holder, &waiter, &world);
    rest(&waiter.0, &world, MS);
    let calls = |world: &World| {
        let trace = world.trace();
        let of_helper = format!(" waiter/{HELPER}: ");
        trace
            .lines()
            .filter(|line| line.contains(&of_helper))
            .count()
    };
    let before = calls(&world);
    rest(&waiter.0, &world, IDLE - 2 * MS);
    assert_eq!(alive(&world, "waiter"), 1, "it stays for ten seconds");
    assert_eq!(
        calls(&world),
        before,
        "and has nothing to do meanwhile\n{}",
        world.trace()
    );
    contend(&holder, &waiter, &world);
    assert_eq!(started.by("waiter"), 1, "the same one served again");
    rest(&waiter.0, &world, IDLE - MS);
    assert_eq!(alive(&world, "waiter"), 1, "its time began anew");
    rest(&waiter.0, &world, 2 * MS);
    assert_eq!(alive(&world, "waiter"), 0, "that was long enough");
    contend(&holder, &waiter, &world);
    assert_eq!(started.by("waiter"), 2, "the next wait has one of its own");
}

#[test]
fn a_wait_that_was_given_up_serves_the_next_caller() {
    let world = World::simulated();
    let started = Started::count(&world);
    let (holder, waiter) = (who(&world, "holder"), world.process("waiter"));
    let held = holds(&holder, &world);
    let hasty = builder(&waiter).timeout(2 * MS).open().unwrap();
    let task = world.spawn(&waiter, "main", move || {
        (0..100).all(|_| hasty.lock().is_err_and(|error| error.is_timeout()))
    });
    assert!(world.finish(task), "somebody else has it");
    assert_eq!(
        started.by("waiter"),
        1,
        "a hundred callers waited for one answer of the kernel"
    );
    let patient = (waiter.clone(), builder(&waiter).open().unwrap());
    let waiting = waits(&patient, &world);
    finish_both(held, waiting, &world);
    assert_eq!(started.by("waiter"), 1, "and the last one got it");
}

#[test]
fn a_lock_that_nobody_wants_any_more_is_given_back_at_once() {
    let world = World::simulated();
    let (holder, waiter) = (who(&world, "holder"), world.process("waiter"));
    let held = holds(&holder, &world);
    let hasty = builder(&waiter).timeout(2 * MS).open().unwrap();
    let task = world.spawn(&waiter, "main", move || hasty.lock().map(drop));
    world.finish(task).expect_err("somebody else has it");
    world.finish(held).expect("it was alone");
    rest(&waiter, &world, MS);
    assert_eq!(world.lock_holder(GATE), None, "{}", world.trace());
    assert_eq!(alive(&world, "waiter"), 1, "the helper stays for the next");
    let once = world.process("once");
    let once = (
        once.clone(),
        builder(&once).timeout(Timeout::TryOnce).open().unwrap(),
    );
    let backend = world.finish(locks(&once, &world)).expect("it is free");
    assert_eq!(backend, Backend::Gate);
}

#[test]
fn a_lock_that_is_granted_to_whom_is_just_giving_up_is_given_back() {
    let world = World::simulated();
    let (holder, waiter) = (who(&world, "holder"), world.process("waiter"));
    let token = CancelToken::new();
    let cache = builder(&waiter).cancel(token.clone()).open().unwrap();
    let held = holds(&holder, &world);
    let waiting = waits(&(waiter.clone(), cache), &world);
    world.finish(held).expect("it was alone");
    // The helper has the lock and has told its client, which has not come to look.
    world.run_to(&waiting, |call| {
        call.op == Op::Wait && &*call.thread == HELPER
    });
    assert_eq!(world.lock_holder(GATE).as_deref(), Some("waiter"));
    token.cancel();
    let error = world.finish(waiting).expect_err("it was cancelled");
    assert!(error.is_cancelled(), "{error}");
    assert_eq!(world.lock_holder(GATE), None, "{}", world.trace());
    assert!(
        world.trace().contains(" waiter/main: Unlock "),
        "explicitly: closing leaves it with the copies in forked children\n{}",
        world.trace()
    );
    assert_eq!(alive(&world, "waiter"), 1, "the helper stays for the next");
}

#[test]
fn a_process_finds_out_once_that_the_gate_is_stuck() {
    let world = World::simulated();
    let (holder, waiter) = (who(&world, "holder"), who(&world, "waiter"));
    let frozen = holds(&holder, &world);
    for (least, most) in [(LEASE, 2 * LEASE), (Duration::ZERO, 50 * MS)] {
        let before = world.now();
        let backend = world.finish(locks(&waiter, &world)).expect("it is frozen");
        assert_eq!(backend, Backend::Lease, "past the gate");
        let took = world.now() - before;
        assert!(
            (least..=most).contains(&took),
            "it took {took:?}, not {least:?} to {most:?}\n{}",
            world.trace()
        );
    }
    world.finish(frozen).expect("it had the lock, once");
    rest(&waiter.0, &world, MS);
    let backend = world.finish(locks(&waiter, &world)).expect("it is free");
    assert_eq!(backend, Backend::Gate, "the kernel has granted since");
}

/// However short they hold, which leaves nothing to see for those who look a moment later; and so do those who come then.
#[test]
fn all_go_past_a_stuck_gate_when_one_has_waited() {
    let world = World::simulated();
    let frozen = holds(&who(&world, "holder"), &world);
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let waiters = names.map(|name| who(&world, name));
    let before = world.now();
    let come = |waiter| {
        rest(&waiters[0].0, &world, 3 * MS);
        waits(waiter, &world)
    };
    let tasks: Vec<_> = waiters.iter().map(come).collect();
    let all: Vec<&dyn Target> = tasks.iter().map(|task| task as &dyn Target).collect();
    if let Err(unfinished) = world.run_together(&all, seeded(7), STEPS) {
        panic!("{unfinished}");
    }
    let took = world.now() - before;
    for task in tasks {
        let backend = world.finish(task).expect("it is frozen");
        assert_eq!(backend, Backend::Lease, "past the gate");
    }
    let most = LEASE + LEASE / 8 + 100 * MS;
    assert!((LEASE..most).contains(&took), "{took:?}\n{}", world.trace());
    let before = world.now();
    let late = world.finish(locks(&who(&world, "late"), &world));
    assert_eq!(late.expect("it is frozen"), Backend::Lease);
    // Who has no time at all, too.
    let hasty = tries_once(&world);
    assert_eq!(hasty.expect("it is frozen"), Backend::Lease);
    let took = world.now() - before;
    assert!(took < 50 * MS, "{took:?}\n{}", world.trace());
    world.finish(frozen).expect("it had the lock, once");
    assert!(!world.read_file(GATE).expect("it stays").is_empty());
    for _ in 0..2 {
        let next = world.finish(locks(&who(&world, "next"), &world));
        assert_eq!(next.expect("it is free"), Backend::Gate);
        assert_eq!(world.read_file(GATE).expect("it stays"), [0; 0]);
    }
}

/// Somebody was wrong, or has said so too late: of a holder that has acquired since it is not believed.
#[test]
fn a_holder_of_the_gate_that_has_acquired_since_is_not_stuck() {
    for len in [1, 2] {
        let world = World::simulated();
        let (holder, waiter) = (who(&world, "holder"), who(&world, "waiter"));
        world.finish(locks(&holder, &world)).expect("it is free");
        // Of epoch 2.
        let held = holds(&holder, &world);
        let waiting = waits(&waiter, &world);
        world.plant_file(GATE, &vec![0; len]);
        // It comes when that is said already.
        let late = who(&world, "late");
        let coming = waits(&late, &world);
        let waits = world.trace().contains("late/main: Spawn cachelock-gate");
        assert!(waits, "for the gate, {len}\n{}", world.trace());
        let hasty = tries_once(&world).expect_err("somebody has it, and lives");
        assert!(hasty.is_timeout(), "{hasty}");
        world.finish(held).expect("it had the lock");
        for task in [waiting, coming] {
            world.finish(task).expect("it is their turn");
        }
        let next = world.finish(locks(&who(&world, "next"), &world));
        assert_eq!(next.expect("it is free"), Backend::Gate);
        assert_eq!(world.read_file(GATE).expect("it stays"), [0; 0]);
    }
}

#[test]
fn a_helper_on_a_file_that_lost_its_name_is_replaced_and_ends() {
    let world = World::simulated();
    let started = Started::count(&world);
    let (old, new) = (who(&world, "old"), who(&world, "new"));
    let waiter = who(&world, "waiter");
    let frozen = holds(&old, &world);
    let hasty = builder(&waiter.0).timeout(2 * MS).open().unwrap();
    let task = world.spawn(&waiter.0, "main", move || hasty.lock().map(drop));
    world.finish(task).expect_err("somebody else has it");
    world.remove(GATE);
    let held = holds(&new, &world);
    let waiting = waits(&waiter, &world);
    assert_eq!(
        started.by("waiter"),
        2,
        "the first one cannot be called off"
    );
    finish_both(held, waiting, &world);
    rest(&waiter.0, &world, MS);
    assert_eq!(alive(&world, "waiter"), 2, "the first one is blocked still");
    world.finish(frozen).expect("it had the lock, once");
    rest(&waiter.0, &world, MS);
    assert_eq!(alive(&world, "waiter"), 1, "{}", world.report());
    contend(&new, &waiter, &world);
    assert_eq!(started.by("waiter"), 2, "the second one stays");
    assert_eq!(world.lock_holder(GATE), None, "nothing is left locked");
}

#[test]
fn a_waiter_notices_that_the_file_lost_its_name() {
    let world = World::simulated();
    let (holder, waiter) = (who(&world, "holder"), who(&world, "waiter"));
    let frozen = holds(&holder, &world);
    let waiting = waits(&waiter, &world);
    world.remove(GATE);
    let before = world.now();
    let backend = world.finish(waiting).expect("the lease expires");
    assert_eq!(backend, Backend::Gate, "on the new file");
    let took = world.now() - before;
    assert!(took <= 2 * LEASE, "it took {took:?}\n{}", world.trace());
    world.finish(frozen).expect("it had the lock, once");
    rest(&waiter.0, &world, IDLE + MS);
    assert_eq!(alive(&world, "waiter"), 0, "{}", world.report());
}

#[test]
fn two_caches_of_a_process_are_waited_for_apart() {
    let world = World::simulated();
    let started = Started::count(&world);
    let (holders, waiter) = ([world.process("x"), world.process("y")], world.process("w"));
    let at = |process: &Arc<Process>, path: &str| {
        let cache = Cache::builder(path)
            .platform(process.clone())
            .lease(LEASE)
            .timeout(support::TIMEOUT);
        (process.clone(), cache.open().unwrap())
    };
    let held = [
        holds(&at(&holders[0], "/one"), &world),
        holds(&at(&holders[1], "/two"), &world),
    ];
    let one = waits(&at(&waiter, "/one"), &world);
    let two = waits(&at(&waiter, "/two"), &world);
    let [held_one, held_two] = held;
    let before = world.now();
    finish_both(held_two, two, &world);
    assert_eq!(
        world.now(),
        before,
        "the other cache's holder is nothing to wait for"
    );
    assert!(!one.has_ended(), "its cache is held still");
    finish_both(held_one, one, &world);
    assert_eq!(started.by("w"), 2, "one thread for each");
    rest(&waiter, &world, IDLE + MS);
    assert_eq!(alive(&world, "w"), 0, "both end");
}

#[test]
fn a_thread_that_cannot_be_started_is_told_and_the_next_caller_tries_again() {
    let world = World::simulated();
    let (holder, waiter) = (who(&world, "holder"), who(&world, "waiter"));
    let held = holds(&holder, &world);
    world.inject(
        |call| call.is(Op::Spawn, HELPER),
        Fault::Error(IoError::OutOfMemory),
        1,
    );
    let error = world
        .finish(locks(&waiter, &world))
        .expect_err("no thread, no wait");
    let text = error.to_string();
    for part in ["start a thread that waits for", GATE] {
        assert!(text.contains(part), "{text}");
    }
    let waiting = waits(&waiter, &world);
    finish_both(held, waiting, &world);
}

#[test]
fn who_has_little_time_passes_a_gate_whose_holder_stands_still_without_a_claim() {
    // Frozen before its claim is made, and after it was given back.
    for frozen_at in [Op::CreateNew, Op::Unlock] {
        for timeout in [Timeout::TryOnce, Timeout::After(LEASE / 2)] {
            let world = World::simulated();
            let first = who(&world, "first");
            world.finish(locks(&first, &world)).expect("it is free");
            world.advance(4 * LEASE);
            let holder = who(&world, "holder");
            let frozen = locks(&holder, &world);
            let is_there = move |call: &Call| match frozen_at {
                Op::Unlock => call.op == Op::Unlock,
                op => call.is(op, "claim-"),
            };
            world.run_to(&frozen, is_there);
            let process = world.process("hurried");
            let cache = builder(&process).timeout(timeout).open().unwrap();
            let hurried = (process, cache);
            if frozen_at == Op::Unlock {
                let error = world
                    .finish(locks(&hurried, &world))
                    .expect_err("it was acquired just now");
                assert!(error.is_timeout(), "{error}");
                world.advance(4 * LEASE);
            }
            let backend = world.finish(locks(&hurried, &world));
            let case = format!("frozen at {frozen_at:?}, {timeout}");
            assert_eq!(
                backend.unwrap_or_else(|error| panic!("{case}: {error}")),
                Backend::Lease,
                "{case}"
            );
            // Which says so, and is the last acquire that there was.
            let again = world.finish(locks(&hurried, &world));
            assert_eq!(again.expect("at once"), Backend::Lease, "{case}");
            world.finish(frozen).expect("its time comes, too");
        }
    }
}

#[test]
fn a_holder_that_has_not_yet_written_its_claim_is_passed_after_a_lease_and_not_before() {
    let world = World::simulated();
    let (holder, waiter) = (who(&world, "holder"), who(&world, "waiter"));
    let frozen = locks(&holder, &world);
    world.run_to(&frozen, |call| call.is(Op::Write, "claim-"));
    let before = world.now();
    let backend = world.finish(locks(&waiter, &world));
    assert_eq!(backend.expect("it waits for long enough"), Backend::Lease);
    let waited = world.now() - before;
    assert!(waited >= LEASE && waited < LEASE * 5 / 4, "{waited:?}");
    let backend = world.finish(frozen).expect("it starts over");
    assert_eq!(backend, Backend::Gate);
    let residue = support::residue(&world);
    assert!(residue.is_empty(), "{residue:?}");
}

#[test]
fn past_a_gate_that_an_operator_has_broken_the_next_caller_goes_at_once() {
    let world = World::simulated();
    let (holder, waiter) = (who(&world, "holder"), who(&world, "waiter"));
    let (process, operator) = who(&world, "operator");
    let frozen = holds(&holder, &world);
    let broken = world.spawn(&process, "main", move || operator.break_lock());
    let removed = world.finish(broken).expect("force waits for nobody");
    assert!(removed.is_some(), "it was held");
    let before = world.now();
    let backend = world.finish(locks(&waiter, &world)).expect("it is free");
    assert_eq!((backend, world.now()), (Backend::Lease, before), "at once");
    world.finish(frozen).expect("it had the lock, once");
    let after = who(&world, "after");
    assert_eq!(
        world.finish(locks(&after, &world)).expect("free"),
        Backend::Gate
    );
    let residue = support::residue(&world);
    assert!(residue.is_empty(), "{residue:?}");
}

/// What is left once a holder that was overtaken has seen that and given the gate back. It is overtaken by an operator, or else
/// somebody goes past it; `past` is the epoch of whoever does, and still holds.
#[track_caller]
fn assert_left_by_the_overtaken(operator: bool, past: Option<u64>) {
    let world = World::simulated();
    let (holder, waiter) = (who(&world, "holder"), who(&world, "waiter"));
    let (own, cache) = holder.clone();
    let frozen = world.spawn(&holder.0, "main", move || {
        let lock = cache.lock()?;
        own.event().wait_until(Some(own.monotonic() + LEASE));
        lock.check_held()
    });
    world.run_to(&frozen, |call| {
        call.op == Op::Wait && &*call.thread == "main"
    });
    if operator {
        let (process, operator) = who(&world, "operator");
        let broken = world.spawn(&process, "main", move || operator.break_lock());
        world.finish(broken).expect("force waits for nobody");
    }
    let claim = past.map(|epoch| format!("claim-{epoch:020}"));
    let past = claim.clone().map(|claim| {
        let past = locks(&waiter, &world);
        world.run_to(&past, move |call| call.is(Op::Unlink, &claim));
        past
    });
    let error = world.finish(frozen).expect_err("it was overtaken");
    assert!(error.is_lease_lost(), "{error}");
    let expected: Vec<_> = claim.into_iter().collect();
    assert_eq!(support::residue(&world), expected, "of who is there");
    if let Some(past) = past {
        world.finish(past).expect("it still has the lock");
    }
}

#[test]
fn who_was_overtaken_removes_what_the_operator_has_left_and_nobodys_claim() {
    assert_left_by_the_overtaken(true, None);
    assert_left_by_the_overtaken(true, Some(3));
    assert_left_by_the_overtaken(false, Some(2));
}

/// The gate is not its own, so others may still need to go past whoever has it.
#[test]
fn who_was_overtaken_without_the_gate_leaves_what_the_operator_has_left() {
    let world = World::simulated();
    let guest = world.guest("guest");
    let cache = builder(&guest).open().expect("nothing is touched");
    let holds = world.spawn(&guest, "main", move || cache.lock());
    let lock = world.finish(holds).expect("it is free");
    let _frozen = waits(&who(&world, "frozen"), &world);
    assert_eq!(world.lock_holder(GATE).as_deref(), Some("frozen"));
    let (process, operator) = who(&world, "operator");
    let broken = world.spawn(&process, "main", move || operator.break_lock());
    world.finish(broken).expect("force waits for nobody");
    let left = support::residue(&world);
    assert_eq!(left.len(), 1, "{left:?}");
    let error = lock.check_held().expect_err("it was overtaken");
    assert!(error.is_lease_lost(), "{error}");
    drop(lock);
    assert_eq!(support::residue(&world), left);
    let before = world.now();
    let backend = world.finish(locks(&who(&world, "next"), &world));
    assert_eq!(backend.expect("it is free"), Backend::Lease);
    assert_eq!(world.now(), before, "at once");
}

#[test]
fn a_caller_that_only_tries_starts_no_thread() {
    let world = World::simulated();
    let holder = who(&world, "holder");
    let held = holds(&holder, &world);
    let process = world.process("tries");
    let cache = builder(&process).timeout(Timeout::TryOnce).open();
    let tries = (process, cache.expect("nothing is touched"));
    let error = world.finish(locks(&tries, &world)).expect_err("it is held");
    assert!(error.is_timeout(), "{error}");
    assert!(error.holder().is_some(), "it says who holds: {error}");
    let trace = world.trace();
    assert!(
        !trace.contains(HELPER),
        "no thread is needed to learn that: {trace}"
    );
    drop(held);
}

#[test]
fn a_thread_that_waits_for_another_one_in_vain_is_told_who_has_the_lock() {
    let world = World::simulated();
    let (process, cache) = who(&world, "tool");
    let own = process.clone();
    let held = world.spawn(&process, "main", move || {
        let lock = cache.lock();
        own.event().wait_until(Some(own.monotonic() + LEASE));
        drop(lock);
    });
    world.run_to(&held, |call| call.op == Op::Wait && &*call.thread == "main");
    let hasty = builder(&process).timeout(2 * MS).open().unwrap();
    let second = world.spawn(&process, "second", move || hasty.lock().map(drop));
    let error = world.finish(second).expect_err("another thread has it");
    assert!(error.to_string().contains("another thread"), "{error}");
    let holder = error.holder().expect("the claim says it");
    assert_eq!(holder.epoch, 1, "{error}");
}

/// It has the kernel lock for an instant, to see whether anybody has it.
#[test]
fn whoever_only_asks_for_the_status_keeps_nobody_from_the_lock_and_is_not_seen_to_hold_it() {
    let world = World::simulated();
    // The gate is there.
    let first = who(&world, "first");
    world
        .finish(locks(&first, &world))
        .expect("nobody else is there");
    let asks = |name: &str| {
        let (process, cache) = who(&world, name);
        world.spawn(&process, "main", move || {
            let status = cache.status()?.expect("a cache");
            Ok::<_, Error>(status.locked)
        })
    };
    for (number, tries) in [true, false].into_iter().enumerate() {
        let asked = asks(&format!("asks {number}"));
        world.run_to(&asked, |call| call.op == Op::Unlock);
        let process = world.process(&format!("tries {number}"));
        let cache = builder(&process).timeout(Timeout::TryOnce).open();
        let cache = cache.expect("nothing is touched");
        let another = world.spawn(&process, "main", move || match tries {
            true => cache.lock().map(|_| None),
            false => cache.status().map(|status| status.expect("a cache").locked),
        });
        // Whoever has the lock only goes on when nobody else can.
        let other_first = |options: &[Runnable]| {
            let other = options
                .iter()
                .position(|one| !one.call.process.starts_with("asks"));
            other.unwrap_or_default()
        };
        let tasks: [&dyn Target; 2] = [&asked, &another];
        let ran = world.run_together(&tasks, other_first, STEPS);
        ran.unwrap_or_else(|unfinished| panic!("{unfinished}"));
        assert_eq!(world.finish(asked).expect("no error"), Some(false));
        let said = world.finish(another).expect("nobody holds it");
        assert_eq!(said, (!tries).then_some(false));
    }
}

/// It may be held for an instant only, by whoever asks: so there are a few more looks, and no more than that.
#[test]
fn a_gate_that_is_held_without_a_claim_is_said_to_be_held_after_five_milliseconds() {
    for tries in [true, false] {
        let world = World::simulated();
        let frozen = locks(&who(&world, "frozen"), &world);
        world.run_to(&frozen, |call| call.is(Op::CreateNew, "claim-"));
        let process = world.process("another");
        let cache = builder(&process).timeout(Timeout::TryOnce).open().unwrap();
        let before = world.now();
        let another = world.spawn(&process, "main", move || match tries {
            true => cache.lock().expect_err("somebody has it").is_timeout(),
            false => {
                let status = cache.status().expect("readable");
                status.expect("a cache").locked == Some(true)
            }
        });
        assert!(world.finish(another), "it is held");
        let took = world.now() - before;
        assert!(took <= 5 * MS, "{took:?}");
    }
}

#[test]
fn that_kernel_locks_do_not_count_here_is_said_once() {
    let world = World::simulated();
    world.set_file_system(FileSystem {
        name: "nfs".into(),
        kernel_locks: false,
        remote: true,
    });
    let process = world.process("a");
    let said = Arc::new(AtomicUsize::new(0));
    let counter = said.clone();
    let count = move |event: &Event<'_>| {
        let falls_back = event.kind == EventKind::FallbackToLease;
        counter.fetch_add(usize::from(falls_back), Ordering::SeqCst);
    };
    let cache = builder(&process).observer(count).open().unwrap();
    for _ in 0..3 {
        let backend = world.finish(locks(&(process.clone(), cache.clone()), &world));
        assert_eq!(backend.expect("nobody else is there"), Backend::Lease);
    }
    assert_eq!(said.load(Ordering::SeqCst), 1, "for three locks");
    let (process, cache) = who(&world, "asks");
    world.plant_file(GATE, b"");
    let asked = world.spawn(&process, "main", move || cache.status());
    let status = world.finish(asked).expect("readable").expect("a cache");
    assert_eq!(status.locked, None, "nobody asks for what does not count");
}

#[test]
fn a_system_without_kernel_locks_is_no_error_and_one_that_fails_to_lock_is() {
    let lock = |error: IoError| {
        let world = World::simulated();
        let process = world.process("a");
        let fault = Fault::Error(error);
        world.inject(|call| call.op == Op::TryLock, fault, 1);
        let said = Arc::new(Mutex::new(Vec::new()));
        let telling = said.clone();
        let observe = move |event: &Event<'_>| {
            if event.kind == EventKind::FallbackToLease {
                let what = (event.backend, event.detail.map(str::to_owned));
                telling.lock().unwrap().push(what);
            }
        };
        let cache = builder(&process).observer(observe).open().unwrap();
        let backend = world.finish(locks(&(process, cache), &world));
        let said = std::mem::take(&mut *said.lock().unwrap());
        (backend, said)
    };
    let (backend, said) = lock(IoError::Unsupported);
    assert_eq!(backend.expect("the lease is enough"), Backend::Lease);
    let reason = std::io::Error::from(IoError::Unsupported).to_string();
    assert_eq!(said, [(Some(Backend::Lease), Some(reason))]);
    let (backend, said) = lock(IoError::Other);
    let error = backend.expect_err("nobody can tell what that means");
    assert!(error.to_string().contains(GATE), "{error}");
    assert_eq!(said, []);
}

/// Whoever may read it could lock it.
#[test]
fn the_gate_is_made_private_again_and_left_alone_if_it_is() {
    for (mode, sets) in [(0o644, true), (0o601, true), (0o700, true), (0o600, false)] {
        let world = World::simulated();
        let one = who(&world, "one");
        world.finish(locks(&one, &world)).expect("it is free");
        world.set_mode(GATE, mode);
        let before = world.trace().len();
        let backend = world.finish(locks(&one, &world));
        assert_eq!(backend.expect("it is free"), Backend::Gate);
        let set = world.trace()[before..].contains(&format!("SetMode {GATE}"));
        assert_eq!(set, sets, "{mode:o}");
        assert_eq!(world.metadata(GATE).and_then(|gate| gate.mode), Some(0o600));
    }
}

/// What happened in a random schedule.
#[derive(Debug, Default)]
struct GaveUp {
    held: usize,
    gave_up: usize,
    /// The kernel granted what nobody wanted any more.
    too_late: usize,
}

/// Three processes take the lock again and again, with timeouts and cancellations by chance. If `deletes`, somebody deletes
/// the gate's name now and then.
fn give_up(seed: u64, deletes: bool) -> GaveUp {
    let world = World::simulated_from(seed);
    world.set_step_time(MS / 10);
    let started = Started::count(&world);
    let inside = Arc::new(AtomicBool::new(false));
    let ended = Arc::new(AtomicBool::new(false));
    let processes = ["a", "b", "c"].map(|name| world.process(name));
    let tasks = processes.each_ref().map(|process| {
        let token = Arc::new(Mutex::new(CancelToken::new()));
        let (own, to_cancel) = (process.clone(), token.clone());
        let ended = ended.clone();
        world.spawn(process, "canceller", move || {
            while !ended.load(Ordering::SeqCst) {
                let never = own.event();
                never.wait_until(Some(own.monotonic() + by_chance(&own, 40)));
                to_cancel.lock().unwrap().cancel();
            }
        });
        let (own, inside) = (process.clone(), inside.clone());
        world.spawn(process, "main", move || {
            let (mut gate, mut lease, mut gave_up) = (0, 0, 0);
            for _ in 0..10 {
                let fresh = CancelToken::new();
                *token.lock().unwrap() = fresh.clone();
                let cache = builder(&own).timeout(by_chance(&own, 40)).cancel(fresh);
                match cache.open().unwrap().lock() {
                    Ok(lock) if lock.backend() == Backend::Gate => {
                        gate += 1;
                        let alone = !inside.swap(true, Ordering::SeqCst);
                        assert!(alone || deletes, "two have the kernel lock");
                        let _ = lock.check();
                        inside.store(false, Ordering::SeqCst);
                    }
                    Ok(_) => lease += 1,
                    Err(error) if error.is_timeout() || error.is_cancelled() => gave_up += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            (gate, lease, gave_up)
        })
    });
    let targets: Vec<&dyn Target> = tasks.iter().map(|task| task as &dyn Target).collect();
    let (mut choose, mut turns, vandal) = (seeded(seed), 0, world.clone());
    let schedule = move |options: &[Runnable]| {
        turns += 1;
        if deletes && turns % 200 == 0 && vandal.exists(GATE) {
            vandal.remove(GATE);
        }
        choose(options)
    };
    if let Err(unfinished) = world.run_together(&targets, schedule, STEPS) {
        panic!("seed {seed}: {unfinished}\n{}", world.trace());
    }
    ended.store(true, Ordering::SeqCst);
    let mut all = GaveUp::default();
    for (process, task) in processes.iter().zip(tasks) {
        let (gate, lease, gave_up) = world.finish(task);
        rest(process, &world, MS);
        let (name, trace) = (process.name(), world.trace());
        all.held += gate + lease;
        all.gave_up += gave_up;
        all.too_late += trace.matches(&format!(" {name}/{HELPER}: Unlock ")).count();
        let started = started.by(name);
        assert!(
            deletes || started <= 1,
            "seed {seed}: {name} started {started} threads\n{trace}"
        );
    }
    for process in &processes {
        rest(process, &world, IDLE + MS);
        let left = alive(&world, process.name());
        assert_eq!(left, 0, "seed {seed}: threads\n{}", world.report());
    }
    let last = who(&world, "last");
    let backend = world.finish(locks(&last, &world));
    assert_eq!(
        backend.expect("nobody holds"),
        Backend::Gate,
        "seed {seed}: a kernel lock was left\n{}",
        world.report()
    );
    all
}

/// Less than so many milliseconds, by the world's seed.
fn by_chance(process: &Process, most: u128) -> Duration {
    let random = process.random().expect("the simulation has randomness");
    MS * (random % most) as u32
}

#[test]
fn whoever_gives_up_when_leaves_nothing_locked() {
    let mut all = GaveUp::default();
    for seed in 0..100 {
        for deletes in [false, true] {
            let one = give_up(seed, deletes);
            all.held += one.held;
            all.gave_up += one.gave_up;
            all.too_late += one.too_late;
        }
    }
    let counts = [all.held, all.gave_up, all.too_late];
    assert!(
        counts.iter().all(|&count| count > 100),
        "some state was hardly visited: {all:?}"
    );
}
