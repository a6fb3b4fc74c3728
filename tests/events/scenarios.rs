//! Each kind of event, brought about by what it tells of. [`Stage::told`] compares what the two listeners heard.

use std::collections::BTreeSet;
use std::io::ErrorKind as IoError;
use std::sync::Arc;
use std::time::Duration;

use cachelock::platform::memory::{Call, Fault, Op, Process};
use cachelock::platform::{FileSystem, Platform};
use cachelock::{Cache, CancelToken, Error, EventKind, Locking, Policy, Snapshot, Timeout};

use super::stage::{Stage, by_main, get, hold, sleep, together};
use super::support::{LEASE, begin, publish};

const MOMENT: Duration = Duration::from_millis(300);

fn a_publish_is_acquired_published_released() -> Stage {
    let stage = Stage::new();
    let a = stage.native("a");
    stage
        .run(&a, |cache| publish(cache, b"a"))
        .expect("nobody is in the way");
    assert_eq!(
        stage.names(),
        ["lock_acquired", "refresh_published", "lock_released"]
    );
    let published = stage.the("refresh_published");
    assert_eq!(published.field("entry"), "entry");
    assert_eq!(published.field("backend"), "gate");
    assert_eq!(
        (published.number("epoch"), published.number("generation")),
        (1, 1)
    );
    stage
}

fn a_wait_is_contended_and_goes_on_and_ends() -> Stage {
    let stage = Stage::new();
    let (a, b) = (stage.native("a"), stage.native("b"));
    let holds = hold(&stage, &a, Duration::from_millis(1200));
    let waits = stage.spawn(&b, |cache| cache.lock().map(|lock| lock.waited()));
    let (held, waited) = together(&stage, holds, waits);
    held.expect("nobody is in the way");
    let waited = waited.expect("the holder lets go before the timeout");
    assert_eq!(waited, Duration::from_millis(1200));

    let contended = stage.the("lock_contended");
    assert_eq!(contended.field("waiting_for"), "gate");
    assert_eq!(contended.number("waited_ms"), 0);
    let told = stage.told();
    let waits: Vec<_> = told
        .iter()
        .filter(|told| told.name == "lock_waiting")
        .collect();
    let when: Vec<_> = waits.iter().map(|told| told.number("waited_ms")).collect();
    assert_eq!(when, [50, 1050], "after 50 ms, then each second");
    assert!(waits[0].field("holder").starts_with("process"), "{waits:?}");
    assert_eq!(waits[0].number("remaining_ms"), 10_000 - 50);
    let acquired: Vec<_> = told
        .iter()
        .filter(|told| told.name == "lock_acquired")
        .collect();
    assert_eq!(acquired[1].number("waited_ms"), 1200);
    let released: Vec<_> = told
        .iter()
        .filter(|told| told.name == "lock_released")
        .collect();
    assert_eq!(released[0].number("held_ms"), 1200);
    stage
}

fn threads_of_one_process_wait_for_each_other() -> Stage {
    let stage = Stage::new();
    let a = stage.native("a");
    let holds = hold(&stage, &a, MOMENT);
    let waits = stage.spawn(&a, |cache| cache.lock().map(drop));
    stage
        .world
        .finish(waits)
        .expect("the holder lets go before the timeout");
    stage.world.finish(holds).expect("nobody is in the way");
    assert_eq!(stage.the("lock_contended").field("waiting_for"), "thread");
    stage
}

fn a_timeout_is_told() -> Stage {
    let stage = Stage::new();
    let a = stage.native("a");
    let _holds = hold(&stage, &a, LEASE);
    let hasty = stage.native_with("b", |builder| builder.timeout(MOMENT));
    let error = stage
        .run(&hasty, |cache| cache.lock().map(drop))
        .expect_err("the holder stands still, for less than its lease");
    assert!(error.is_timeout(), "{error}");
    assert_eq!(
        stage.names(),
        [
            "lock_acquired",
            "lock_contended",
            "lock_waiting",
            "lock_timeout"
        ]
    );
    let timeout = stage.the("lock_timeout");
    assert_eq!(
        (timeout.number("waited_ms"), timeout.number("remaining_ms")),
        (300, 0)
    );
    assert_eq!(timeout.field("waiting_for"), "gate");
    stage
}

fn one_try_is_contended_too() -> Stage {
    let stage = Stage::new();
    let a = stage.native("a");
    let _holds = hold(&stage, &a, LEASE);
    let once = stage.native_with("b", |builder| builder.timeout(Timeout::TryOnce));
    let error = stage
        .run(&once, |cache| cache.lock().map(drop))
        .expect_err("it is held");
    assert!(error.is_timeout(), "{error}");
    assert_eq!(
        stage.names(),
        ["lock_acquired", "lock_contended", "lock_timeout"]
    );
    stage
}

fn a_cancelled_wait_is_told() -> Stage {
    let stage = Stage::new();
    let a = stage.native("a");
    let _holds = hold(&stage, &a, LEASE);
    let token = CancelToken::new();
    let patient = stage.native_with("b", |builder| {
        builder.cancel(token.clone()).timeout(Timeout::Infinite)
    });
    let waits = stage.spawn(&patient, |cache| cache.lock().map(drop));
    stage.world.run_to(&waits, |call| by_main(call, Op::Wait));
    token.cancel();
    let error = stage.world.finish(waits).expect_err("it was cancelled");
    assert!(error.is_cancelled(), "{error}");
    assert_eq!(
        stage.names(),
        ["lock_acquired", "lock_contended", "lock_cancelled"]
    );
    let cancelled = stage.the("lock_cancelled");
    assert!(
        !cancelled.fields.contains_key("remaining_ms"),
        "there was no limit: {cancelled:?}"
    );
    stage
}

fn a_killed_holder_is_taken_over_and_its_leftovers_removed() -> Stage {
    let stage = Stage::new();
    let (a, b) = (stage.guest("a"), stage.native("b"));
    let dies = stage.spawn(&a, |cache| begin(cache, b"a").map(drop));
    stage
        .world
        .run_to(&dies, |call| call.is(Op::Unlink, "stage-"));
    stage.world.kill(&a.0);
    stage
        .run(&b, |cache| publish(cache, b"b"))
        .expect("the dead one's lease expires");
    assert_eq!(stage.the("lock_contended").field("waiting_for"), "lease");
    let taken_over = stage.the("lease_taken_over");
    assert_eq!(taken_over.number("epoch"), 2);
    assert_eq!(Duration::from_millis(taken_over.number("held_ms")), LEASE);
    assert!(taken_over.fields.contains_key("holder"), "{taken_over:?}");
    assert_eq!(
        stage.the("recovered").field("detail"),
        "removed 2 stray files"
    );
    stage
}

fn of_two_dead_holders_the_later_one_is_named() -> Stage {
    let stage = Stage::new();
    let by_lease = |name: &str| stage.native_with(name, |builder| builder.locking(Locking::Lease));
    let (first, second, third) = (by_lease("first"), by_lease("second"), by_lease("third"));
    let dies = stage.spawn(&first, |cache| cache.lock().map(drop));
    stage
        .world
        .run_to(&dies, |call| call.is(Op::Unlink, "claim-"));
    stage.world.kill(&first.0);
    let dies = stage.spawn(&second, |cache| cache.lock().map(drop));
    // It has become the holder, and not yet removed the first one's claim.
    stage.world.run_to(&dies, |call| {
        call.is(Op::OpenRead, "claim-00000000000000000001")
    });
    stage
        .world
        .run_to(&dies, |call| call.is(Op::Unlink, "claim-"));
    stage.world.kill(&second.0);
    stage
        .run(&third, |cache| cache.lock().map(drop))
        .expect("both leases expire");
    let taken_over = stage.the("lease_taken_over");
    let process = second.0.identity().pid.expect("natives have one");
    let holder = taken_over.field("holder");
    assert!(
        holder.starts_with(&format!("process {process} ")),
        "{holder}"
    );
    assert_eq!(
        stage.the("recovered").field("detail"),
        "removed 2 stray files"
    );
    stage
}

fn what_a_power_loss_has_left_is_removed() -> Stage {
    let stage = Stage::new();
    let a = stage.native("a");
    stage
        .run(&a, |cache| publish(cache, b"a"))
        .expect("nobody is in the way");
    let stray = format!(".cachelock/stage-{:020}-{:032x}-0", 7, 1);
    stage.world.plant_file(&stage.path(&stray), b"");
    stage
        .run(&a, |cache| publish(cache, b"a"))
        .expect("nobody is in the way");
    assert_eq!(
        stage.the("recovered").field("detail"),
        "removed 1 stray files"
    );
    stage
}

fn an_overtaken_publish_loses_its_lease() -> Stage {
    let stage = Stage::new();
    let (a, b) = (stage.guest("a"), stage.guest("b"));
    let sleeps = stage.spawn(&a, |cache| publish(cache, b"a"));
    stage.world.run_to(&sleeps, |call| call.renames_to("entry"));
    stage
        .run(&b, |cache| cache.break_lock().map(drop))
        .expect("force waits for nobody");
    let error = stage.world.finish(sleeps).expect_err("it was overtaken");
    assert!(error.is_lease_lost(), "{error}");
    let lost = stage.the("lease_lost");
    assert_eq!(lost.number("epoch"), 1);
    assert_eq!(lost.field("detail"), "a later holder has taken over");
    stage
}

fn a_heartbeat_notices_that_the_lease_is_lost() -> Stage {
    let stage = Stage::new();
    let (a, b) = (stage.native("a"), stage.guest("b"));
    let sleeps = hold(&stage, &a, LEASE);
    stage
        .run(&b, |cache| cache.break_lock().map(drop))
        .expect("force waits for nobody");
    stage.world.finish(sleeps).expect("it published nothing");
    assert_eq!(
        stage.the("lease_lost").field("detail"),
        "a later holder has taken over"
    );
    let names = stage.names();
    assert!(
        !names.contains(&"heartbeat_failed".to_owned()),
        "a lease that is lost is no beat that failed: {names:?}"
    );
    // The one who broke it gave it back at once; the loser's hold ends later, and is told all the same.
    let released: Vec<_> = stage
        .told()
        .into_iter()
        .filter(|told| told.name == "lock_released")
        .collect();
    let epochs: Vec<_> = released.iter().map(|told| told.number("epoch")).collect();
    assert_eq!(epochs, [2, 1]);
    stage
}

fn a_beat_that_fails_is_told_and_tried_again() -> Stage {
    let stage = beats_fail(1);
    assert_eq!(stage.the("heartbeat_failed").number("epoch"), 1);
    stage
}

fn beats_that_fail_in_a_row_are_told_once() -> Stage {
    beats_fail(2)
}

fn beats_fail(times: usize) -> Stage {
    let stage = Stage::new();
    let a = stage.native("a");
    let beats = |call: &Call| call.is(Op::OpenWrite, "claim-") && &*call.thread == "cachelock-beat";
    stage
        .world
        .inject(beats, Fault::Error(IoError::StorageFull), times);
    let holds = hold(&stage, &a, 2 * LEASE);
    stage.world.finish(holds).expect("the next beat is in time");
    let names: Vec<_> = stage.told().into_iter().map(|told| told.name).collect();
    assert_eq!(
        names,
        ["lock_acquired", "heartbeat_failed", "lock_released"]
    );
    stage
}

fn a_release_that_fails_says_why() -> Stage {
    let stage = Stage::new();
    let a = stage.native("a");
    let gives_back =
        |call: &Call| call.is(Op::Unlink, "claim-") || (call.is(Op::OpenWrite, "claim-"));
    stage
        .world
        .inject(gives_back, Fault::Error(IoError::StorageFull), usize::MAX);
    stage
        .run(&a, |cache| cache.lock().map(drop))
        .expect("it could be acquired");
    let released = stage.the("lock_released");
    assert!(
        released.field("detail").starts_with("cannot open"),
        "{released:?}"
    );
    stage
}

fn who_waited_for_somebody_elses_refresh_skips_its_own() -> Stage {
    let stage = Stage::new();
    let (a, b) = (stage.native("a"), stage.native("b"));
    let process = a.0.clone();
    let publishes = stage.spawn(&a, move |cache| {
        let refresh = begin(cache, b"a")?;
        sleep(&process, MOMENT);
        Ok::<_, Error>(refresh.publish()?)
    });
    stage
        .world
        .run_to(&publishes, |call| by_main(call, Op::Wait));
    let waits = stage.spawn(&b, get);
    let (published, got) = together(&stage, publishes, waits);
    published.expect("nobody is in the way");
    let got = got.expect("the lock becomes free").expect("published");
    assert_eq!(&got[..], b"a");
    let skipped = stage.the("refresh_skipped");
    assert_eq!(skipped.field("entry"), "entry");
    assert_eq!(
        (skipped.number("waited_ms"), skipped.number("generation")),
        (300, 1)
    );
    stage
}

fn a_refresh_that_is_skipped_under_the_lock_has_no_wait_of_its_own() -> Stage {
    let stage = Stage::new();
    let (a, b) = (stage.native("a"), stage.native("b"));
    let late = stage.spawn(&b, get);
    stage
        .world
        .run_to(&late, |call| call.is(Op::OpenWrite, "cache.lock"));
    stage
        .run(&a, |cache| publish(cache, b"a"))
        .expect("nobody is in the way");
    let got = stage
        .world
        .finish(late)
        .expect("the lock is free")
        .expect("published");
    assert_eq!(&got[..], b"a");
    let skipped = stage.the("refresh_skipped");
    assert!(!skipped.fields.contains_key("waited_ms"), "{skipped:?}");
    let epochs: Vec<_> = stage
        .told()
        .iter()
        .filter(|told| told.name == "lock_acquired")
        .map(|told| told.number("epoch"))
        .collect();
    assert_eq!(epochs, [1, 2], "both had the lock");
    stage
}

fn a_corrupt_entry_is_told() -> Stage {
    let stage = Stage::new();
    let a = stage.native("a");
    stage
        .run(&a, |cache| publish(cache, b"a"))
        .expect("nobody is in the way");
    stage.world.plant_file(&stage.path("entry"), b"b");
    let error = stage
        .run(&a, |cache| cache.entry("entry")?.read().map(drop))
        .expect_err("its bytes were changed");
    assert!(error.is_corrupt(), "{error}");
    assert_eq!(
        stage.the("entry_corrupt").field("detail"),
        "its bytes are not what its tag says"
    );
    stage
}

fn the_fallback_to_the_lease_is_told_once() -> Stage {
    let stage = Stage::new();
    stage.world.set_file_system(FileSystem {
        name: "nfs".into(),
        kernel_locks: false,
        remote: true,
    });
    let a = stage.native("a");
    for _ in 0..2 {
        stage
            .run(&a, |cache| publish(cache, b"a"))
            .expect("nobody is in the way");
    }
    let fallback = stage.the("fallback_to_lease");
    assert_eq!(
        fallback.field("detail"),
        "kernel locks on nfs cannot be relied on"
    );
    let told = stage.told();
    for told in told.iter().filter(|told| told.name == "lock_acquired") {
        assert_eq!(told.field("backend"), "lease");
    }
    stage
}

/// An entry that is stale and may be served for a while, and a cache that may serve it.
fn stale(stage: &Stage) -> (Arc<Process>, Cache) {
    let a = stage.native("a");
    stage
        .run(&a, |cache| publish(cache, b"old"))
        .expect("nobody is in the way");
    stage.world.advance(2 * LEASE);
    stage.native("b")
}

/// Asks for the entry by this policy; the producer fails.
fn get_stale(
    stage: &Stage,
    who: &(Arc<Process>, Cache),
    policy: fn(Policy) -> Policy,
) -> Option<Snapshot> {
    let policy = policy(Policy::fresh_for(LEASE));
    stage.run(who, move |cache| {
        let entry = cache.entry("entry").expect("a good name");
        let got = entry.get_or_refresh(&policy, |_| Err::<(), _>("the source is down"));
        got.expect("there is a stale payload to be served")
    })
}

fn a_stale_entry_that_somebody_refreshes_is_served_without_a_warning() -> Stage {
    let stage = Stage::new();
    let b = stale(&stage);
    let c = stage.native("c");
    let _refreshes = hold(&stage, &c, LEASE);
    let got = get_stale(&stage, &b, |policy| policy.stale_for(60 * LEASE));
    assert_eq!(got.as_deref(), Some(&b"old"[..]));
    let served = stage.the("served_stale");
    assert_eq!(served.field("entry"), "entry");
    assert!(
        !served.fields.contains_key("detail"),
        "nothing is wrong: {served:?}"
    );
    let names = stage.names();
    assert!(
        !names.contains(&"lock_timeout".into()) && !names.contains(&"lock_contended".into()),
        "it did not ask for the lock, it only tried: {names:?}"
    );
    stage
}

fn a_stale_entry_that_could_not_be_refreshed_is_served_with_a_warning() -> Stage {
    let stage = Stage::new();
    let b = stale(&stage);
    let got = get_stale(&stage, &b, |policy| policy.error_for(60 * LEASE));
    assert_eq!(got.as_deref(), Some(&b"old"[..]));
    assert_eq!(
        stage.the("served_stale").field("detail"),
        "the producer failed"
    );
    stage
}

macro_rules! scenarios {
    ($($scenario:ident),+ $(,)?) => {
        mod scenario {
            $(
                #[test]
                fn $scenario() {
                    super::$scenario();
                }
            )+
        }

        pub(crate) const ALL: &[(&str, fn() -> Stage)] = &[$((stringify!($scenario), $scenario)),+];
    };
}

scenarios!(
    a_publish_is_acquired_published_released,
    a_wait_is_contended_and_goes_on_and_ends,
    threads_of_one_process_wait_for_each_other,
    a_timeout_is_told,
    one_try_is_contended_too,
    a_cancelled_wait_is_told,
    a_killed_holder_is_taken_over_and_its_leftovers_removed,
    of_two_dead_holders_the_later_one_is_named,
    what_a_power_loss_has_left_is_removed,
    an_overtaken_publish_loses_its_lease,
    a_heartbeat_notices_that_the_lease_is_lost,
    a_beat_that_fails_is_told_and_tried_again,
    beats_that_fail_in_a_row_are_told_once,
    a_release_that_fails_says_why,
    who_waited_for_somebody_elses_refresh_skips_its_own,
    a_refresh_that_is_skipped_under_the_lock_has_no_wait_of_its_own,
    a_stale_entry_that_somebody_refreshes_is_served_without_a_warning,
    a_stale_entry_that_could_not_be_refreshed_is_served_with_a_warning,
    a_corrupt_entry_is_told,
    the_fallback_to_the_lease_is_told_once,
);

#[test]
fn no_kind_of_event_is_forgotten_here() {
    let mut told: BTreeSet<String> = BTreeSet::new();
    for (_, scenario) in ALL {
        told.extend(scenario().names());
    }
    let kinds: BTreeSet<_> = EventKind::ALL
        .iter()
        .map(|kind| kind.name().to_owned())
        .collect();
    assert_eq!(told, kinds);
}
