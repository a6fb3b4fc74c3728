//! The component on leases: the guest of `guest.rs`, joined with it, does the same without a host that knows of cachelock.

mod support;

use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cachelock::{Cache, Durability, Entry, Timeout};
use cachelock_host::{Caches, Limits};
use tempfile::TempDir;
use wasmtime::component::Component;
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{FsPerms, WasiCtx};

use support::{ENGINE, Guest, assert_lines, built};

/// The guest, with its import plugged into what the component exports.
static JOINED: LazyLock<Component> = LazyLock::new(|| {
    let bytes = support::joined("steps-guest.wasm");
    Component::from_binary(&ENGINE, &bytes).expect("it is a component again")
});

/// A guest that finds `dir` at `/d`, and whose host grants it no cache.
#[track_caller]
fn run_with(dir: &Path, perms: FsPerms, steps: &str) -> Guest {
    let mut wasi = WasiCtx::builder();
    wasi.preopened_dir(dir, "/d", perms)
        .expect("the directory is there");
    support::run(&JOINED, Caches::new(Limits::default()), &mut wasi, steps)
}

#[track_caller]
fn run(dir: &Path, steps: &str) -> Guest {
    run_with(dir, FsPerms::ReadWrite, steps)
}

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a directory for this test")
}

fn native(dir: &Path, timeout: impl Into<Timeout>) -> Cache {
    Cache::builder(dir)
        .timeout(timeout)
        .open()
        .expect("opening touches nothing")
}

#[track_caller]
fn publish(entry: &Entry, text: &str) {
    let mut refresh = entry.refresh().expect("the lock");
    refresh.write_all(text.as_bytes()).expect("written");
    refresh.publish().expect("published");
}

#[test]
fn a_guest_publishes_what_natives_read_and_reads_what_natives_publish() {
    let dir = scratch();
    let guest = run(
        dir.path(),
        "open=/d/c read=e begin=e,0 etag=v1 write=hello write=-you expect=9 beat publish read=e begin=e,100000",
    );
    assert_lines(
        &guest,
        &[
            "ok",
            "ok none",
            "ok refresh",
            "ok",
            "ok",
            "ok",
            "ok",
            "ok",
            "ok 1 9",
            "ok 1 hello-you",
            "ok fresh 1 hello-you",
        ],
    );
    let cache = native(&dir.path().join("c"), Timeout::TryOnce);
    let entry = cache.entry("e").expect("a name");
    let snapshot = entry.read().expect("readable").expect("published");
    assert_eq!(&snapshot[..], b"hello-you");
    assert_eq!(snapshot.meta().validators["etag"], "v1");

    publish(&entry, &"n".repeat(300_000));
    assert_lines(
        &run(dir.path(), "open=/d/c read=e"),
        &["ok", "ok 2 300000 bytes"],
    );
}

/// A publish may move the tag that it replaces out of its folder, and wasmtime does not permit to open a file that leaves the
/// folder just then.
#[test]
fn a_guest_verifies_each_payload_while_a_native_publishes_without_a_pause() {
    let dir = scratch();
    let cache = Cache::builder(dir.path())
        .durability(Durability::None)
        .open()
        .expect("opening touches nothing");
    let entry = cache.entry("e").expect("a name");
    publish(&entry, "first");
    let done = AtomicBool::new(false);
    let (guest, count) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                publish(&entry, "newer");
                count += 1;
            }
            count
        });
        let steps = || run(dir.path(), "open=/d verified=e,20000");
        let guest = catch_unwind(AssertUnwindSafe(steps));
        // Also if the guest does not run at all: else this would wait for ever.
        done.store(true, Ordering::Relaxed);
        (guest, writer.join().expect("it publishes"))
    });
    assert_lines(&guest.expect("it runs"), &["ok", "ok 20000"]);
    assert!(count >= 100, "published {count} times");
}

#[test]
fn a_producer_in_a_guest_may_answer_not_modified_or_absent() {
    let dir = scratch();
    let guest = run(
        dir.path(),
        "open=/d begin=e,0 etag=v1 write=x publish begin=e,0 previous keep \
         begin=e,0 absent=60000 begin=e read=e begin=f keep abandon keep",
    );
    assert_lines(
        &guest,
        &[
            "ok",
            "ok refresh",
            "ok",
            "ok",
            "ok 1 1",
            "ok refresh",
            "ok Some([(\"etag\", \"v1\")])",
            "ok 1 1",
            "ok refresh",
            "ok 2 0",
            "ok absent",
            "ok none",
            "ok refresh",
            "Missing",
            "ok",
            "Poisoned",
        ],
    );
}

#[test]
fn a_dropped_abandoned_or_published_refresh_releases_at_once() {
    let dir = scratch();
    let guest = run(
        dir.path(),
        "open=/d,0 begin=e write=x begin=e drop begin=e write=y abandon begin=e \
         expect=3 write=four publish restart write=two publish publish read=e",
    );
    assert_lines(
        &guest,
        &[
            "ok",
            "ok refresh",
            "ok",
            "Timeout",
            "ok",
            "ok refresh",
            "ok",
            "ok",
            "ok refresh",
            "ok",
            "ok",
            "LengthMismatch",
            "ok",
            "ok",
            "ok 1 3",
            "Poisoned",
            "ok 1 two",
        ],
    );
    let locked = native(dir.path(), Timeout::TryOnce).lock();
    assert!(
        locked.is_ok(),
        "the guest holds nothing any more: {:?}",
        locked.err()
    );
}

#[test]
fn a_guest_refreshes_in_any_case_if_it_asks_for_that() {
    let dir = scratch();
    support::assert_refreshes_in_any_case(dir.path(), ["/d/a", "/d/b"], |steps| {
        run(dir.path(), steps)
    });
}

#[test]
fn errors_have_their_cases() {
    let dir = scratch();
    fs::create_dir(dir.path().join("folder")).expect("created");
    let held = native(dir.path(), Timeout::TryOnce).lock().expect("free");
    let guest = run(
        dir.path(),
        "open=/d,0 begin=e read=../x begin=/d/x read=folder open=/elsewhere begin=e",
    );
    assert_lines(
        &guest,
        &[
            "ok",
            "Timeout",
            "InvalidName",
            "InvalidName",
            "NotAFile",
            "ok",
            "Permission",
        ],
    );
    drop(held);
    assert_lines(&run(dir.path(), "open=/d,0 begin=e"), &["ok", "ok refresh"]);
}

#[test]
fn a_guest_with_a_read_only_directory_reads_and_is_told_why_it_cannot_refresh() {
    let dir = scratch();
    publish(
        &native(dir.path(), Timeout::TryOnce)
            .entry("e")
            .expect("a name"),
        "text",
    );
    let guest = run_with(dir.path(), FsPerms::ReadOnly, "open=/d read=e begin=e,0");
    assert_lines(&guest, &["ok", "ok 1 text", "Permission"]);
}

#[test]
fn the_program_with_a_read_only_directory_reads_and_says_why_it_cannot_refresh() {
    let dir = scratch();
    let cache = native(dir.path(), Timeout::TryOnce);
    publish(&cache.entry("e").expect("a name"), "text");
    let program = Component::from_file(&ENGINE, built("cachelock.wasm")).expect("a component");
    let run = |words: &[&str]| {
        let [out, said] = [(); 2].map(|()| MemoryOutputPipe::new(1 << 20));
        let mut wasi = WasiCtx::builder();
        wasi.preopened_dir(dir.path(), "/d", FsPerms::ReadOnly)
            .expect("the directory is there");
        wasi.arg("cachelock").args(words);
        wasi.stdin(MemoryInputPipe::new("new"))
            .stdout(out.clone())
            .stderr(said.clone());
        let (_, ended) = support::run_command(&program, Caches::new(Limits::default()), &mut wasi);
        let text = |pipe: MemoryOutputPipe| String::from_utf8_lossy(&pipe.contents()).into_owned();
        (matches!(ended, Ok(Ok(()))), text(out), text(said))
    };
    let (succeeds, out, said) = run(&["read", "/d/e"]);
    assert!(succeeds && out == "text", "{out:?} {said}");
    let (succeeds, out, said) = run(&["status", "/d/e"]);
    assert!(succeeds && out.contains("generation"), "{out:?} {said}");
    for words in [
        &["refresh", "/d/e", "--json"][..],
        &["sweep", "/d", "--json"],
    ] {
        let (succeeds, _, said) = run(words);
        assert!(!succeeds, "{words:?} has changed what cannot be changed");
        for part in [
            "\"error\":\"permission\"",
            "/d/.cachelock",
            "for reading only",
        ] {
            assert!(said.contains(part), "{words:?}: {part} is not said: {said}");
        }
    }
    let (succeeds, out, said) = run(&["read", "/d/e"]);
    assert!(succeeds && out == "text", "{out:?} {said}");
}

#[test]
fn a_guest_that_was_overtaken_cannot_publish() {
    let dir = scratch();
    let [a, b] = ["a", "b"].map(|name| native(&dir.path().join(name), Timeout::DEFAULT));
    let overtaken = a.entry("e").expect("a name");
    thread::scope(|scope| {
        scope.spawn(|| {
            let ready = b.entry("ready").expect("a name");
            let began = Instant::now();
            while ready.read().expect("readable").is_none() {
                assert!(
                    began.elapsed() < Duration::from_secs(60),
                    "the guest does not begin"
                );
                thread::sleep(Duration::from_millis(5));
            }
            // Waits for the lease of the guest, which stands still.
            publish(&overtaken, "newer");
            publish(&b.entry("go").expect("a name"), "");
        });
        let guest = run(
            dir.path(),
            "open=/d/a begin=e write=old open=/d/b begin=ready publish drop await=go publish beat",
        );
        let lines = [
            "ok",
            "ok refresh",
            "ok",
            "ok",
            "ok refresh",
            "ok 1 0",
            "ok",
            "ok",
            "LeaseLost",
            "Poisoned",
        ];
        assert_lines(&guest, &lines);
    });
    let snapshot = overtaken.read().expect("readable").expect("published");
    assert_eq!(
        &snapshot[..],
        b"newer",
        "what the overtaken guest wrote is nowhere"
    );
}

#[test]
fn a_guest_that_traps_holds_others_up_for_its_lease_at_most() {
    let dir = scratch();
    let guest = run(dir.path(), "open=/d begin=e write=half trap");
    assert!(guest.trapped, "a panic is a trap");
    let entry = native(dir.path(), Timeout::DEFAULT)
        .entry("e")
        .expect("a name");
    publish(&entry, "whole");
    let snapshot = entry.read().expect("readable").expect("published");
    assert_eq!(
        (&snapshot[..], snapshot.meta().generation),
        (&b"whole"[..], Some(1))
    );
}
