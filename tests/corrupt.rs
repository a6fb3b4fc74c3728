//! Damaged files in the control directory: every bit flipped, cut at every length, too long, zeros, noise, and values that
//! no writer of ours writes. A damaged tag costs its entry, a damaged claim a moment, and nothing ever a wrong payload.
//!
//! On the simulated disk, where waiting takes no time.

use std::io::Write as _;
use std::time::Duration;

use cachelock::platform::memory::World;
use cachelock::platform::{Access, Platform as _};
use cachelock::{Cache, ErrorKind, Policy, Timeout, Verification};
use xxhash_rust::xxh3::xxh3_64;

use support::{LEASE, builder, publish, read, residue};

mod support;

const OLD: &[u8] = b"the old payload";
const NEW: &[u8] = b"the new payload, which is longer";
const NEXT: &[u8] = b"next";

const TAG: &str = "/cache/.cachelock/tags/entry";
const HEAD: &str = "/cache/.cachelock/head";
/// The one after the epoch of the first refresh.
const CLAIM: &str = "/cache/.cachelock/claim-00000000000000000002";
const WANT: &str = "/cache/.cachelock/want-00000000000000000000000000000000";

/// How long a claim without a readable record is respected, and what a waiter may add to that.
const UNREADABLE: Duration = Duration::from_millis(350);

/// One way in which a file may be damaged.
struct Damage {
    what: String,
    bytes: Vec<u8>,
}

/// All ways to damage `original`.
fn damages(original: &[u8]) -> Vec<Damage> {
    let mut damages = Vec::new();
    let mut add = |what: String, bytes: Vec<u8>| damages.push(Damage { what, bytes });
    for at in 0..original.len() {
        for bit in 0..8 {
            let mut bytes = original.to_vec();
            bytes[at] ^= 1 << bit;
            add(format!("bit {bit} of byte {at} flipped"), bytes);
        }
    }
    for len in 0..original.len() {
        add(format!("cut to {len} bytes"), original[..len].to_vec());
    }
    for extra in [1, 4096, 64 << 10, 10 << 20] {
        let mut bytes = original.to_vec();
        bytes.resize(original.len() + extra, b' ');
        add(format!("{extra} bytes too long"), bytes);
    }
    for len in [original.len(), 10 << 20] {
        add(format!("{len} zeros"), vec![0; len]);
    }
    for seed in 1..=100 {
        add(
            format!("noise from seed {seed}"),
            noise(seed, original.len()),
        );
    }
    damages
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let bytes = (0..len).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    });
    bytes.collect()
}

/// Whether a reader can tell: not in the padding behind the check's line, nor in the case of the check's digits.
fn is_noticed(original: &[u8], bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(original).expect("records are text");
    let digits = text.find("\ncheck ").expect("records have a check") + "\ncheck ".len();
    let end = digits + 16;
    bytes.len() != original.len()
        || bytes[..digits] != original[..digits]
        || !bytes[digits..end].eq_ignore_ascii_case(&original[digits..end])
        || bytes[end] != original[end]
        // Bytes that are no text are no padding either.
        || std::str::from_utf8(bytes).is_err()
}

fn world_with_an_entry() -> World {
    let world = World::simulated();
    let process = world.process("first");
    let cache = builder(&process).open().expect("nothing is touched");
    let task = world.spawn(&process, "main", move || publish(&cache, OLD));
    world.finish(task).expect("nothing disturbs it");
    world
}

/// Runs `body` in a process of its own; returns what it returned and how long it took.
fn in_process<T: Send + 'static>(
    world: &World,
    name: &str,
    timeout: Timeout,
    body: impl FnOnce(&Cache) -> T + Send + 'static,
) -> (T, Duration) {
    let begun = world.now();
    let process = world.process(name);
    let cache = builder(&process)
        .timeout(timeout)
        .open()
        .expect("nothing is touched");
    let task = world.spawn(&process, "main", move || body(&cache));
    let value = world.finish(task);
    (value, world.now() - begun)
}

/// As at any time: a refresh works at once and leaves nothing.
#[track_caller]
fn assert_next_refresh_works(world: &World, why: &str) {
    let (published, _) = in_process(world, "next", Timeout::DEFAULT, |cache| {
        publish(cache, NEXT)
    });
    let published = published.unwrap_or_else(|error| panic!("{why}: the next refresh: {error}"));
    let found = read(world, "last reader").expect("it was just replaced");
    assert_eq!(
        found,
        Some((NEXT.to_vec(), Some(published.generation))),
        "{why}"
    );
    assert_eq!(residue(world), [""; 0], "{why}: something was left behind");
}

/// Of which any length may be said.
#[test]
fn a_tag_that_is_longer_than_any_tag_is_not_read_to_its_end() {
    const MOST: usize = 160 * 1024;
    let mut reads = Vec::new();
    for (len, too_long) in [(MOST, false), (MOST + 1, true), (100 * MOST, true)] {
        let world = world_with_an_entry();
        world.plant_file(TAG, &vec![0; len]);
        let before = world.trace().len();
        let error = read(&world, "reader").expect_err("it says nothing");
        assert!(error.is_corrupt(), "{error}");
        let said = error.to_string().contains("is too long");
        assert_eq!(said, too_long, "{len}: {error}");
        reads.push(
            world.trace()[before..]
                .matches(&format!(": Read {TAG}"))
                .count(),
        );
        assert_next_refresh_works(&world, &format!("{len} bytes"));
    }
    assert_eq!(reads[1], reads[2], "reads of tags");
}

#[test]
fn a_damaged_tag_is_corrupt_and_the_next_get_replaces_it() {
    let original = world_with_an_entry().read_file(TAG).expect("a tag");
    let mut harmless = 0;
    for Damage { what, bytes } in damages(&original) {
        let world = world_with_an_entry();
        world.plant_file(TAG, &bytes);
        let found = read(&world, "reader");
        let is_corrupt = match found {
            Ok(found) => {
                assert_eq!(
                    found,
                    Some((OLD.to_vec(), Some(1))),
                    "{what}: a wrong payload"
                );
                harmless += 1;
                false
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
                assert!(
                    error.to_string().contains(TAG),
                    "{what}: which tag? {error}"
                );
                true
            }
        };
        let (got, took) = in_process(&world, "getter", Timeout::DEFAULT, |cache| {
            let entry = cache.entry("entry").expect("a good name");
            entry.get_or_refresh(&Policy::any_age(), |refresh| refresh.write_all(NEW))
        });
        let got = got
            .unwrap_or_else(|error| panic!("{what}: {error}"))
            .expect("a payload");
        let expected = if is_corrupt { NEW } else { OLD };
        assert_eq!(&got[..], expected, "{what}: a wrong payload");
        assert_eq!(got.meta().verification, Verification::Verified, "{what}");
        assert!(
            took < UNREADABLE,
            "{what}: nobody holds the lock, and it took {took:?}"
        );
        assert_next_refresh_works(&world, &what);
    }
    // The line feed at the end, and a check in upper case.
    let most = 8 + 16 + 2;
    assert!(harmless <= most, "{harmless} damages went unnoticed");
}

/// Puts another value into a line of a tag, and the right check under it.
fn forged(original: &[u8], key: &str, nth: usize, value: &str) -> Vec<u8> {
    let text = std::str::from_utf8(original).expect("tags are text");
    let mut seen = 0;
    let mut forged = String::new();
    for line in text.lines() {
        if line.starts_with("check ") {
            break;
        }
        let is_it = line.split(' ').next() == Some(key) && {
            seen += 1;
            seen == nth
        };
        match is_it {
            true => forged += &format!("{key} {value}\n"),
            false => forged += &format!("{line}\n"),
        }
    }
    assert!(seen >= nth, "there is no line {nth} with {key}");
    let check = xxh3_64(forged.as_bytes());
    format!("{forged}check {check:016x}\n").into_bytes()
}

#[test]
fn values_that_nobody_writes_give_no_wrong_payload_and_no_panic() {
    const NUMBERS: [&str; 9] = [
        "",
        "0",
        "1",
        "-1",
        "+15",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999999999999999999999",
        "1e9",
    ];
    let original = {
        let world = world_with_an_entry();
        let (published, _) = in_process(&world, "again", Timeout::DEFAULT, |cache| {
            publish(cache, OLD)
        });
        published.expect("nothing disturbs it");
        world.read_file(TAG).expect("a tag")
    };
    let mut cases = Vec::new();
    for record in 1..=2 {
        for key in ["length", "generation", "written_ms", "checked_ms"] {
            cases.extend(NUMBERS.map(|value| (key, record, value)));
        }
        for value in [
            "",
            "0",
            "ffffffffffffffffffffffffffffffff",
            "00000000000000000000000000000000",
        ] {
            cases.push(("xxh3", record, value));
        }
        for value in ["missing", "absent", "value", "", "future"] {
            cases.push(("kind", record, value));
        }
        for value in ["previous", "next", "other", ""] {
            cases.push(("record", record, value));
        }
    }
    for (key, record, value) in cases {
        let what = format!("{key} {value:?} in record {record}");
        let world = world_with_an_entry();
        world.plant_file(TAG, &forged(&original, key, record, value));
        match read(&world, "reader") {
            Ok(Some((bytes, _))) => assert_eq!(bytes, OLD, "{what}: a wrong payload"),
            Ok(None) => panic!("{what}: no writer of ours says that it is missing"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}"),
        }
        let (published, _) = in_process(&world, "writer", Timeout::DEFAULT, |cache| {
            publish(cache, NEW)
        });
        match published {
            Ok(_) => assert_next_refresh_works(&world, &what),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Limit, "{what}: {error}");
                assert_eq!(value, "18446744073709551615", "{what}: {error}");
                world.remove(TAG);
                assert_next_refresh_works(&world, &what);
            }
        }
    }
}

#[test]
fn an_absent_record_with_any_time_is_absent_or_corrupt() {
    let world = world_with_an_entry();
    let (published, _) = in_process(&world, "absent", Timeout::DEFAULT, |cache| {
        let refresh = cache.entry("entry")?.refresh()?;
        Ok::<_, cachelock::Error>(refresh.publish_absent(Duration::from_secs(1))?)
    });
    published.expect("nothing disturbs it");
    let original = world.read_file(TAG).expect("a tag");
    for value in [
        "0",
        "18446744073709551615",
        "-1",
        "",
        "99999999999999999999",
    ] {
        for key in ["valid_ms", "checked_ms"] {
            let nth = if key == "valid_ms" { 1 } else { 2 };
            let what = format!("{key} {value:?}");
            world.plant_file(TAG, &forged(&original, key, nth, value));
            match read(&world, "reader") {
                Ok(found) => assert_eq!(found, None, "{what}: its empty payload is no payload"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}"),
            }
            let (got, _) = in_process(&world, "getter", Timeout::DEFAULT, |cache| {
                let entry = cache.entry("entry").expect("a good name");
                entry.get_or_refresh(&Policy::any_age(), |refresh| refresh.write_all(NEW))
            });
            match got.unwrap_or_else(|error| panic!("{what}: {error}")) {
                // Believed, for ever if it says so.
                None => assert_eq!(value, "18446744073709551615", "{what}"),
                Some(snapshot) => assert_eq!(&snapshot[..], NEW, "{what}"),
            }
        }
    }
    assert_next_refresh_works(&world, "after all of them");
}

/// The record of a holder of epoch 2 that died: a native one with the gate, or a guest.
fn record_of_a_dead_holder(guest: bool) -> Vec<u8> {
    let world = world_with_an_entry();
    let process = if guest {
        world.guest("dead")
    } else {
        world.process("dead")
    };
    let cache = builder(&process).open().expect("nothing is touched");
    let task = world.spawn(&process, "main", move || {
        cache.lock().expect("nobody else is there").epoch()
    });
    world.run_to(&task, |call| {
        call.name.starts_with("head-") && call.renames_to("head")
    });
    world.kill(&process);
    world.read_file(CLAIM).expect("its claim")
}

#[test]
fn a_damaged_claim_holds_others_up_for_a_moment_or_its_lease() {
    for guest in [false, true] {
        let original = record_of_a_dead_holder(guest);
        for Damage { what, bytes } in damages(&original) {
            let what = format!(
                "claim of a {}, {what}",
                if guest { "guest" } else { "native" }
            );
            let world = world_with_an_entry();
            world.plant_file(CLAIM, &bytes);
            let unreadable = is_noticed(&original, &bytes);
            let (status, took) = in_process(&world, "looker", Timeout::DEFAULT, Cache::status);
            let status = status.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(took < UNREADABLE, "{what}: a look waits for nobody");
            let holder = status.expect("there is a cache").holder;
            assert_eq!(holder.is_none(), unreadable, "{what}: {holder:?}");
            assert_eq!(
                read(&world, "reader").expect("readers need no claim"),
                Some((OLD.to_vec(), Some(1))),
                "{what}"
            );
            let (published, took) = in_process(&world, "writer", Timeout::DEFAULT, |cache| {
                publish(cache, NEW)
            });
            let published = published.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(published.generation, 2, "{what}");
            let most = if unreadable {
                UNREADABLE
            } else {
                LEASE + LEASE / 4
            };
            assert!(took <= most, "{what}: it took {took:?}");
            assert_next_refresh_works(&world, &what);
        }
    }
}

#[test]
fn a_claim_that_asks_for_any_lease_holds_others_up_for_ten_minutes_at_most() {
    const MOST: Duration = Duration::from_secs(600);
    let original = record_of_a_dead_holder(true);
    for value in [
        "0",
        "1",
        "600000",
        "18446744073709551615",
        "-1",
        "",
        "99999999999999999999",
    ] {
        let mut bytes = forged(&original, "lease_ms", 1, value);
        bytes.resize(original.len() - 1, b' ');
        bytes.push(b'\n');
        let what = format!("lease_ms {value:?}");
        let world = world_with_an_entry();
        world.plant_file(CLAIM, &bytes);
        let (published, took) = in_process(&world, "writer", Timeout::Infinite, |cache| {
            publish(cache, NEW)
        });
        published.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(took <= MOST + MOST / 4, "{what}: it took {took:?}");
        assert_next_refresh_works(&world, &what);
    }
}

#[test]
fn a_damaged_want_is_given_way_to_for_half_a_second_at_most() {
    let original = b"00000000000000001000\n".to_vec();
    for Damage { what, bytes } in damages(&original) {
        let what = format!("want, {what}");
        let world = world_with_an_entry();
        world.plant_file(WANT, &bytes);
        let (published, took) = in_process(&world, "writer", Timeout::DEFAULT, |cache| {
            publish(cache, NEW)
        });
        published.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(
            took <= Duration::from_millis(550),
            "{what}: it took {took:?}"
        );
        world.remove(WANT);
        assert_next_refresh_works(&world, &what);
    }
}

#[test]
fn a_head_of_any_length_is_gone_on_from_or_used_up() {
    const LAST: u64 = i64::MAX as u64;
    for len in [
        0,
        2,
        1 << 20,
        1 << 40,
        1 << 62,
        LAST - 3,
        LAST - 2,
        LAST - 1,
        LAST,
    ] {
        let what = format!("a head of {len} bytes");
        let world = world_with_an_entry();
        let process = world.process("vandal");
        let vandal = process.clone();
        let task = world.spawn(&process, "main", move || {
            let dir = vandal.open_dir("/cache/.cachelock".as_ref())?;
            dir.open("head", Access::Write)?.set_len(len)
        });
        world.finish(task).expect("the simulated disk takes it");
        let (status, _) = in_process(&world, "looker", Timeout::DEFAULT, Cache::status);
        let status = status.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(status.expect("there is a cache").epoch, len, "{what}");
        assert!(
            read(&world, "reader").is_ok_and(|found| found.is_some()),
            "{what}"
        );
        let (published, _) = in_process(&world, "writer", Timeout::DEFAULT, |cache| {
            publish(cache, NEW)
        });
        match published {
            Ok(_) => assert!(len < LAST - 1, "{what} leaves no epoch"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Limit, "{what}: {error}");
                assert!(len >= LAST - 1, "{what}: {error}");
                assert_eq!(error.path(), Some(HEAD.as_ref()), "{what}: {error}");
            }
        }
        world.remove("/cache/.cachelock/head");
        assert_next_refresh_works(&world, &what);
    }
}
