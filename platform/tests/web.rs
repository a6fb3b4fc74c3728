//! What the memory backend owes on the web, where it has no system under it: `cargo xtask test web`, in Node.js.
#![cfg(all(target_family = "wasm", target_os = "unknown"))]

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cachelock_platform::memory::World;
use cachelock_platform::{Access, Platform, native};
use wasm_bindgen_test::wasm_bindgen_test as test;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn the_platform_of_a_page_is_the_memory_and_always_the_same() {
    assert_eq!(native().name(), "memory");
    native().create_dir_all(Path::new("/here")).expect("made");
    native()
        .open_dir(Path::new("/here"))
        .expect("it is the same disk at every call");
    assert!(Arc::ptr_eq(&native().slot(), &native().slot()));
}

#[test]
fn the_clocks_are_those_of_the_host() {
    let (monotonic, wall) = (native().monotonic(), native().wall());
    assert!(
        wall > SystemTime::UNIX_EPOCH + HOUR * 24 * 365 * 50,
        "{wall:?} is no present"
    );
    let mut now = monotonic;
    // Only the host can move it.
    for _ in 0..100_000_000_u64 {
        let next = native().monotonic();
        assert!(next >= now, "it went back");
        now = next;
        if now - monotonic > Duration::from_millis(20) {
            break;
        }
    }
    let passed = native().wall().duration_since(wall).expect("nobody set it");
    assert!(now - monotonic > Duration::from_millis(20), "it stands");
    assert!(
        passed >= Duration::from_millis(10) && passed < HOUR,
        "{passed:?} by the wall clock are not {:?}",
        now - monotonic
    );
}

#[test]
fn random_numbers_are_the_hosts_and_never_the_same() {
    let mut drawn: Vec<u128> = (0..1000)
        .map(|_| native().random().expect("there is randomness"))
        .collect();
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), 1000);
    let bits = |of: fn(u128, u128) -> u128, from| drawn.iter().copied().fold(from, of);
    assert_eq!(bits(|a, b| a | b, 0), u128::MAX, "a bit is never set");
    assert_eq!(bits(|a, b| a & b, u128::MAX), 0, "a bit is always set");
}

#[test]
fn a_wait_that_nobody_could_end_ends_at_once() {
    assert!(!native().can_wait());
    let before = native().monotonic();
    let event = native().event();
    assert!(!event.wait_until(None), "nobody has set it");
    assert!(!event.wait_until(Some(native().monotonic() + HOUR)));
    event.set();
    assert!(event.wait_until(None), "it was set before");

    native().create_dir_all(Path::new("/locks")).expect("made");
    let dir = native().open_dir(Path::new("/locks")).expect("there");
    let ours = dir.open("lock", Access::CreateNew(0o600)).expect("new");
    let other = dir.open("lock", Access::Write).expect("it is there");
    assert!(ours.try_lock().expect("locks are there"));
    assert!(!other.try_lock().expect("locks are there"), "it is ours");
    let error = other.lock().expect_err("nobody would ever unlock it");
    assert_eq!(error.kind(), ErrorKind::Deadlock, "{error}");
    ours.unlock().expect("it is ours");
    other.lock().expect("it is free");
    assert!(native().monotonic() - before < Duration::from_secs(10));
}

#[test]
fn there_are_no_threads() {
    let started = native().spawn("none", Box::new(|| panic!("nobody runs this")));
    let error = started.expect_err("there is no thread to be had");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn in_a_simulated_world_a_wait_moves_the_clock() {
    let world = World::simulated();
    let process = world.process("a");
    assert!(process.can_wait(), "time is the world's own");
    let before = process.monotonic();
    assert!(!process.event().wait_until(Some(before + HOUR)));
    assert_eq!(process.monotonic() - before, HOUR);
}
