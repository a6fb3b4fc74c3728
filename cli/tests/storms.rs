//! Processes that are stopped and continued all the time: a timeout is neither early nor forgotten, a live holder is not
//! taken for dead, and nothing is published twice or lost.
#![cfg(target_os = "linux")]

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use support::{Ground, LIMIT, NEW, OLD, Ran, Running, eventually, myself};

mod support;

/// This user, whoever it is: nothing here is about permissions.
fn ground() -> Ground {
    let ground = Ground::of(myself());
    ground.publish(OLD);
    ground
}

fn signal(running: &Running, signal: Signal) {
    let pid = Pid::from_raw(running.id()).expect("a process number");
    kill_process(pid, signal).expect("it is not waited for yet");
}

/// Stops the process for `stopped`, lets it run for `runs`, and so on until it has ended or `enough` says so.
fn storm(
    running: &mut Running,
    stopped: Duration,
    runs: Duration,
    mut enough: impl FnMut() -> bool,
) -> u32 {
    let started = Instant::now();
    let mut gusts = 0;
    while !enough() && running.child.try_wait().expect("our child").is_none() {
        assert!(started.elapsed() < LIMIT, "it does not end");
        signal(running, Signal::STOP);
        thread::sleep(stopped);
        signal(running, Signal::CONT);
        thread::sleep(runs);
        gusts += 1;
    }
    gusts
}

/// Somebody who holds the lock until its standard input ends.
fn hold(ground: &Ground, words: &[&str]) -> Running {
    let words = [&["lock", "DIR"], words, &["--", "cat"]].concat();
    let holder = Running::start(ground.command(&words).stdin(Stdio::piped()));
    eventually("the lock is held", || {
        let status = ground.run(&["status", "DIR", "--json"]);
        status.stdout.contains("\"epoch\":2") && !status.stdout.contains("\"holder\":null")
    });
    holder
}

fn release(mut holder: Running) {
    drop(holder.child.stdin.take());
    let ran = holder.finish_within(LIMIT);
    assert_eq!(ran.code(), 0, "the holder was never overtaken: {ran}");
}

const MS: fn(u64) -> Duration = Duration::from_millis;

/// How long it has waited, as it says.
#[track_caller]
fn waited(ran: &Ran) -> Duration {
    let said = ran.stderr.split_once("timed out after ");
    let seconds = said.and_then(|(_, rest)| rest.split_once(" s ")?.0.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or_else(|| panic!("it does not say: {ran}")))
}

#[test]
fn a_timeout_under_a_storm_is_neither_early_nor_forgotten() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    for (locking, how) in [("auto", "the gate"), ("lease", "the lease")] {
        for (stopped, runs) in [(MS(5), MS(5)), (MS(70), MS(10)), (MS(700), MS(20))] {
            let why = format!("waiting for {how}, stopped for {stopped:?}");
            let ground = ground();
            let holder = hold(&ground, &["--locking", locking]);
            let words = [
                "refresh",
                "FILE",
                "--locking",
                locking,
                "--timeout",
                "2s",
                "--",
                "printf",
                NEW,
            ];
            let mut waiter = Running::start(ground.command(&words).stdin(Stdio::null()));
            let gusts = storm(&mut waiter, stopped, runs, || false);
            let ran = waiter.finish_within(LIMIT);
            assert!(gusts > 1, "{why}: there was no storm");
            assert_eq!(ran.code(), 75, "{why}: {ran}");
            // By its own clock, because others' starts and ends take their time on a busy machine.
            let waited = waited(&ran);
            assert!(waited >= TIMEOUT && ran.took >= waited, "{why}: {ran}");
            let late = waited - TIMEOUT;
            // Its last stop, and what the machine is busy with.
            assert!(
                late < stopped + Duration::from_secs(2),
                "{why}: late by {late:?}: {ran}"
            );
            release(holder);
            ground.assert_next_refresh_works(&why);
        }
    }
}

#[test]
fn a_waiter_that_was_stopped_beyond_its_timeout_takes_what_is_free_or_says_how_late_it_is() {
    for locking in ["auto", "lease"] {
        for released in [true, false] {
            let why = format!("{locking}, released: {released}");
            let ground = ground();
            let holder = hold(&ground, &["--locking", locking]);
            let words = [
                "refresh",
                "FILE",
                "--locking",
                locking,
                "--timeout",
                "2s",
                "--",
                "printf",
                NEW,
            ];
            let waiter = Running::start(ground.command(&words).stdin(Stdio::null()));
            eventually("it waits", || waiter.is_blocked() || waiter.watches());
            signal(&waiter, Signal::STOP);
            let holder = if released {
                release(holder);
                None
            } else {
                Some(holder)
            };
            // Not for an event: for its timeout to pass.
            thread::sleep(MS(2100));
            signal(&waiter, Signal::CONT);
            let ran = waiter.finish_within(LIMIT);
            // The kernel's lock is taken by another thread, which may not have come to it when the first one gives up.
            let took = ran.code() == 0 && released;
            let may_time_out = !released || locking == "auto";
            assert!(took || (may_time_out && ran.code() == 75), "{why}: {ran}");
            assert!(
                took || waited(&ran) >= Duration::from_secs(2),
                "{why}: {ran}"
            );
            if let Some(holder) = holder {
                release(holder);
            }
            ground.assert_next_refresh_works(&why);
        }
    }
}

#[test]
fn a_waiter_in_a_storm_takes_nothing_from_a_live_holder() {
    // With the gate and without it; each stop is longer than an eighth of the lease.
    for locking in ["auto", "lease"] {
        let ground = ground();
        let lease = ["--locking", "lease", "--lease", "2s"];
        let holder = hold(&ground, &lease);
        let words = [
            "refresh",
            "FILE",
            "--locking",
            locking,
            "--lease",
            "2s",
            "--timeout",
            "5s",
            "--",
            "printf",
            NEW,
        ];
        let mut waiter = Running::start(ground.command(&words).stdin(Stdio::null()));
        storm(&mut waiter, MS(400), MS(10), || false);
        let ran = waiter.finish_within(LIMIT);
        assert_eq!(ran.code(), 75, "{locking}: {ran}");
        release(holder);
        ground.assert_next_refresh_works(&locking);
    }
}

#[test]
fn a_holder_in_a_storm_keeps_its_lease_and_publishes() {
    for locking in ["auto", "lease"] {
        let ground = ground();
        let words = ["refresh", "FILE", "--locking", locking, "--lease", "3s"];
        let mut holder = Running::start(ground.command(&words).stdin(Stdio::piped()));
        eventually("it holds the lock", || {
            ground
                .run(&["status", "DIR", "--json"])
                .stdout
                .contains("\"epoch\":2")
        });
        let words = [
            "refresh",
            "FILE",
            "--locking",
            locking,
            "--lease",
            "3s",
            "--",
            "printf",
            "later",
        ];
        let waiter = Running::start(ground.command(&words).stdin(Stdio::null()));
        let until = Instant::now() + Duration::from_secs(4);
        storm(&mut holder, MS(100), MS(20), || Instant::now() >= until);
        let mut input = holder.child.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut input, NEW.as_bytes()).expect("it reads");
        drop(input);
        let ran = holder.finish_within(LIMIT);
        assert_eq!(ran.code(), 0, "{locking}: {ran}");
        let ran = waiter.finish_within(LIMIT);
        assert_eq!(ran.code(), 0, "{locking}: {ran}");
        let ran = ground.run(&["status", "FILE", "--json"]);
        assert!(
            ran.stdout.contains("\"generation\":3"),
            "{locking}: each of them once: {ran}"
        );
        ground.assert_next_refresh_works(&locking);
    }
}
