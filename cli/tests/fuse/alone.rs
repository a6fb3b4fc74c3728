//! All callers use the mount.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cachelock::{Cache, Event, EventKind};

use super::parts::{self, Part};
use super::*;

#[test]
fn without_kernel_locks_the_lease_alone_is_used_and_that_is_said_once() {
    apart(&[&FUSE[..], &["strace"]].concat(), |dir| {
        let mirror = Mirror::mount(dir);
        let place = mirror.fuse();

        let out = place.run(&["get", "FILE", "--", "printf", "payload"]);
        assert_eq!((code(&out), &*stdout(&out)), (0, "payload"));
        let said = stderr(&out);
        assert_eq!(said.lines().count(), 1, "once: {said}");
        assert!(said.contains("no kernel lock"), "in words: {said}");

        let out = place.run(&["refresh", "FILE", "--json", "--", "true"]);
        assert_eq!(code(&out), 0);
        let said = stderr(&out);
        assert_eq!(said.lines().count(), 1, "once: {said}");
        assert_eq!(json(&said)["event"], "fallback_to_lease");

        let falls = Arc::new(AtomicUsize::new(0));
        let count = falls.clone();
        let cache = Cache::builder(&place.cache)
            .observer(move |event: &Event<'_>| {
                if event.kind == EventKind::FallbackToLease {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            })
            .open()
            .expect("a cache");
        for _ in 0..3 {
            cache.sweep().expect("nobody holds it");
        }
        let falls = falls.load(Ordering::SeqCst);
        assert_eq!(falls, 1, "once in a process, however often it locks");

        let log = dir.join("strace");
        let mut traced = Command::new("strace");
        let trace = ["-f", "-e", "trace=flock,fcntl,openat", "-o"];
        traced.args(trace).arg(&log).args(["--", PROGRAM]);
        place.arguments(&mut traced, &["refresh", "FILE", "--", "true"]);
        assert!(traced.status().expect("strace runs").success());
        let calls = fs::read_to_string(&log).expect("a log");
        assert!(calls.contains("\"claim-"), "it traces what it should");
        for lock in ["flock(", "F_SETLK", "F_OFD_SETLK", "\"cache.lock\""] {
            assert!(!calls.contains(lock), "{lock} is called: {calls}");
        }
    });
}

#[test]
fn of_eight_that_miss_the_entry_one_fetches_it() {
    apart(&FUSE, |dir| {
        let mirror = Mirror::mount(dir);
        parts::assert_fetched_once(dir, &[mirror.fuse()]);
    });
}

#[test]
fn a_killed_holder_is_waited_for_until_its_lease_has_expired() {
    apart(&FUSE, |dir| {
        let mirror = Mirror::mount(dir);
        let place = mirror.fuse();
        place.publish("old");
        let held = dir.join("held");
        let script = format!("echo half; touch {}; exec sleep 60", held.display());
        let refresh = ["refresh", "FILE", "--lease", "500ms", "--json", "--"];
        let mut holder = place.start(&[&refresh[..], &["sh", "-c", &script]].concat());
        eventually("the lock is held", || held.exists());
        holder.kill().expect("it is there");
        holder.wait().expect("it is gone");

        let out = place.run(&[&refresh[..], &["printf", "new"]].concat());
        assert_eq!(code(&out), 0, "{}", stderr(&out));
        let waited = json(&stdout(&out))["waited_ms"].as_u64();
        let waited = waited.expect("a number");
        // Nobody can know that the holder is dead before its record has stood still for its lease.
        assert!((500..2000).contains(&waited), "it waited {waited} ms");
        place.assert_holds("new");
        place.assert_clean();
    });
}

#[test]
fn a_holder_that_is_frozen_past_its_lease_publishes_nothing_when_it_wakes() {
    apart(&FUSE, |dir| {
        let mirror = Mirror::mount(dir);
        let place = mirror.fuse();
        let held = dir.join("held");
        let script = format!("touch {}; sleep 0.5; echo stale", held.display());
        let refresh = ["refresh", "FILE", "--lease", "500ms", "--"];
        let frozen = place.start(&[&refresh[..], &["sh", "-c", &script]].concat());
        eventually("the lock is held", || held.exists());
        signal("STOP", &frozen);
        let out = place.run(&[&refresh[..], &["printf", "newer"]].concat());
        assert_eq!(code(&out), 0, "{}", stderr(&out));
        assert!(stderr(&out).contains("took over"), "{}", stderr(&out));
        signal("CONT", &frozen);
        let out = frozen.wait_with_output().expect("it ends");
        assert_eq!(code(&out), 76, "{}", stderr(&out));
        place.assert_holds("newer");
        place.assert_clean();
    });
}

#[test]
fn a_hundred_refreshes_under_eight_readers_are_never_seen_in_part() {
    apart(&FUSE, |dir| {
        let mirror = Mirror::mount(dir);
        let place = mirror.fuse();
        place.publish(&parts::payload_of(0));
        let readers = ["verified", "reader", "plain through FUSE"];
        let readers = readers.iter().cycle().take(8);
        let readers = readers.map(|role| Part::start(role, &place, dir)).collect();
        let writers = (1..=4).map(|n| Part::start(&format!("writer {n}"), &place, dir));
        let generations = parts::finish(dir, writers.collect(), readers);
        assert_eq!(generations, (2..=101).collect(), "each refresh is one");
        assert_eq!(place.status()["epoch"], 101, "and has an epoch of its own");
        place.assert_clean();
    });
}
