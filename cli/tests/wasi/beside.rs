//! Guests that die or stand still, and natives that wait for them; and the other way round.

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::Running;
use crate::{Ground, LIMIT, error_of, feed, finish, generation_of};

fn signal(running: &Running, signal: Signal) {
    let pid = Pid::from_raw(running.id()).expect("a process number");
    kill_process(pid, signal).expect("it is ours");
}

/// Asserts that both a native and a guest that wait for a holder that was killed get the lock, in between `after` and
/// a while later; and that nothing stays behind.
#[track_caller]
fn assert_waiters_proceed(ground: &Ground, kill: impl FnOnce(), after: [Duration; 2]) {
    let refresh = ["refresh", "FILE", "--json", "--timeout", "50"];
    let waiters = [ground.native(&refresh), ground.guest(&refresh)];
    let mut waiters = waiters.map(|mut command| Running::start(command.stdin(Stdio::piped())));
    for waiter in &mut waiters {
        feed(waiter, "after it");
    }
    let killed = Instant::now();
    kill();
    let mut generations = Vec::new();
    for (waiter, after) in waiters.into_iter().zip(after) {
        generations.push(generation_of(&waiter.finish_within(LIMIT)));
        let took = killed.elapsed();
        assert!(
            took >= after,
            "after {took:?}: the holder still had its lease"
        );
        // Loaded machines are slow; a lease more would be a rule broken.
        assert!(took < after + Duration::from_secs(10), "after {took:?}");
    }
    generations.sort_unstable();
    assert_eq!(generations, [1, 2]);
    ground.assert_reads("after it");
    ground.assert_clean();
}

#[test]
fn after_a_guest_was_killed_the_others_wait_for_its_lease_and_nothing_stays_behind() {
    for (words, lease) in [
        // The last beat is up to a third of a lease old.
        (&[][..], Duration::from_millis(5000 * 2 / 3 - 100)),
        (&["--lease", "1500ms"], Duration::from_millis(1000 - 100)),
    ] {
        let ground = Ground::new();
        let guest = ground.guest_that_holds(words);
        let after = [lease; 2];
        assert_waiters_proceed(&ground, || drop(guest), after);
    }
}

#[test]
fn after_a_native_was_killed_a_native_proceeds_at_once_and_a_guest_after_it() {
    let ground = Ground::new();
    // A lease that nobody could wait for: that the holder is dead is seen by other means.
    let native = ground.native_that_holds(&["--lease", "10m"]);
    assert_waiters_proceed(&ground, || drop(native), [Duration::ZERO; 2]);
}

#[test]
fn a_guest_alone_waits_for_the_lease_of_a_native_that_was_killed() {
    let ground = Ground::new();
    drop(ground.native_that_holds(&[]));
    let began = Instant::now();
    let ran = finish(&mut ground.guest(&["refresh", "FILE", "--json"]), "guest's");
    assert_eq!(generation_of(&ran), 1, "{ran}");
    let took = began.elapsed();
    assert!(took > Duration::from_secs(2), "it did not wait: {took:?}");
    ground.assert_reads("guest's");
    ground.assert_clean();
}

#[test]
fn a_guest_that_stood_still_for_longer_than_its_lease_publishes_nothing_and_says_lease_lost() {
    let ground = Ground::new();
    let mut guest = ground.guest_that_holds(&["--lease", "500ms"]);
    signal(&guest, Signal::STOP);
    let refresh = ["refresh", "FILE", "--json"];
    let ran = finish(&mut ground.native(&refresh), "native's");
    assert_eq!(generation_of(&ran), 1, "{ran}");
    feed(&mut guest, "late");
    signal(&guest, Signal::CONT);
    let ran = guest.finish_within(LIMIT);
    assert_ne!(ran.code(), 0, "{ran}");
    assert_eq!(error_of(&ran), "lease-lost", "{ran}");
    ground.assert_reads("native's");
    ground.assert_clean();
}

#[test]
fn a_native_that_stood_still_is_overtaken_by_a_guest_and_publishes_nothing() {
    let ground = Ground::new();
    let words = ["refresh", "FILE", "--json", "--lease", "500ms"];
    let mut native = Running::start(ground.native(&words).stdin(Stdio::piped()));
    crate::eventually("the native holds", || ground.is_held());
    signal(&native, Signal::STOP);
    let ran = finish(&mut ground.guest(&["refresh", "FILE", "--json"]), "guest's");
    assert_eq!(generation_of(&ran), 1, "{ran}");
    feed(&mut native, "late");
    signal(&native, Signal::CONT);
    let ran = native.finish_within(LIMIT);
    assert_eq!(ran.code(), 76, "{ran}");
    ground.assert_reads("guest's");
    ground.assert_clean();
}

#[test]
fn a_guest_waits_for_a_native_and_says_whom_it_waited_for_in_vain() {
    let ground = Ground::new();
    let mut native = ground.native_that_holds(&[]);
    for timeout in ["0", "300ms"] {
        let words = ["refresh", "FILE", "--json", "--timeout", timeout];
        let ran = finish(&mut ground.guest(&words), "no");
        assert_eq!(error_of(&ran), "timeout", "{ran}");
        assert!(ran.stderr.contains(&native.id().to_string()), "who? {ran}");
    }
    let words = ["refresh", "FILE", "--json", "--timeout", "50"];
    let mut guest = Running::start(ground.guest(&words).stdin(Stdio::piped()));
    feed(&mut guest, "at last");
    // It cannot be seen from outside that it waits; should it not, it publishes all the same, and after this.
    feed(&mut native, "");
    assert_eq!(native.finish_within(LIMIT).code(), 0);
    assert_eq!(generation_of(&guest.finish_within(LIMIT)), 1);
    ground.assert_reads("at last");
    ground.assert_clean();
}
