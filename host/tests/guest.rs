//! A guest on the host's locks: it does what a native program can do, within what was granted.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use cachelock::{Cache, Timeout};
use cachelock_host::{Caches, Limits};
use tempfile::TempDir;
use wasmtime::component::Component;
use wasmtime_wasi::WasiCtx;

use support::{ENGINE, Guest, assert_lines, built};

static STEPS: LazyLock<Component> = LazyLock::new(|| {
    Component::from_file(&ENGINE, built("steps-guest.wasm")).expect("the guest is a component")
});

/// A guest with the cache `dir`, which it calls `c`.
#[track_caller]
fn run(dir: &Path, limits: Limits, steps: &str) -> Guest {
    run_with(Caches::new(limits).grant("c", dir), steps)
}

#[track_caller]
fn run_with(caches: Caches, steps: &str) -> Guest {
    support::run(&STEPS, caches, &mut WasiCtx::builder(), steps)
}

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a directory for this test")
}

/// The cache as a native program sees it that does not wait.
fn native(dir: &Path) -> Cache {
    Cache::builder(dir)
        .timeout(Timeout::TryOnce)
        .open()
        .expect("opening touches nothing")
}

#[track_caller]
fn assert_free(dir: &Path, why: &str) {
    let locked = native(dir).lock();
    assert!(locked.is_ok(), "{why}: {:?}", locked.err());
}

#[test]
fn a_guest_publishes_what_natives_read_and_reads_what_natives_publish() {
    let dir = scratch();
    let guest = run(
        dir.path(),
        Limits::default(),
        "open=c read=e begin=e,0 etag=v1 write=hello write=-you expect=9 publish read=e begin=e,100000",
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
            "ok 1 9",
            "ok 1 hello-you",
            "ok fresh 1 hello-you",
        ],
    );
    let entry = native(dir.path()).entry("e").expect("a name");
    let snapshot = entry.read().expect("readable").expect("published");
    assert_eq!(&snapshot[..], b"hello-you");
    assert_eq!(snapshot.meta().validators["etag"], "v1");

    let mut refresh = entry
        .refresh()
        .expect("the guest has published and so released");
    refresh.write_all(&[b'n'; 300_000]).expect("written");
    refresh.publish().expect("published");
    let guest = run(dir.path(), Limits::default(), "open=c read=e");
    assert_lines(&guest, &["ok", "ok 2 300000 bytes"]);
}

#[test]
fn a_producer_in_a_guest_may_answer_not_modified_or_absent() {
    let dir = scratch();
    let guest = run(
        dir.path(),
        Limits::default(),
        "open=c begin=e,0 etag=v1 write=x publish begin=e,0 previous keep \
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
fn a_guest_refreshes_in_any_case_if_it_asks_for_that() {
    let dir = scratch();
    support::assert_refreshes_in_any_case(dir.path(), ["a", "b"], |steps| {
        let caches = ["a", "b"]
            .iter()
            .fold(Caches::new(Limits::default()), |caches, name| {
                caches.grant(*name, dir.path().join(name))
            });
        run_with(caches, steps)
    });
}

#[test]
fn a_failed_publish_gives_the_refresh_back() {
    let dir = scratch();
    let guest = run(
        dir.path(),
        Limits::default(),
        "open=c begin=e,0 expect=3 write=four publish beat restart write=two publish publish write=x",
    );
    assert_lines(
        &guest,
        &[
            "ok",
            "ok refresh",
            "ok",
            "ok",
            "LengthMismatch",
            "ok",
            "ok",
            "ok",
            "ok 1 3",
            "Poisoned",
            "Poisoned",
        ],
    );
}

#[test]
fn a_guest_reaches_only_what_was_granted_by_its_exact_name() {
    let dir = scratch();
    let outside = scratch();
    fs::write(outside.path().join("secret"), "s").expect("written");
    let absolute = outside.path().display().to_string();
    let cache = dir.path().join("cache");
    fs::create_dir(&cache).expect("created");
    symlink(outside.path(), cache.join("folder")).expect("linked");
    symlink(outside.path().join("secret"), cache.join("entry")).expect("linked");
    let guest = run(
        &cache,
        Limits::default(),
        &format!(
            "open=../c open=c/../.. open=C open=c/ open={absolute} open=. open= open=c \
             read=../secret read=/secret read={absolute}/secret read=a/../../secret read=.cachelock/cache.lock \
             read=folder/secret read=entry begin=folder/new,0 begin=entry,0 begin=../new,0"
        ),
    );
    let mut expected = vec!["Permission"; 7];
    expected.push("ok");
    expected.extend(["InvalidName"; 6]);
    expected.extend(["NotAFile", "InvalidName", "NotAFile", "InvalidName"]);
    assert_lines(&guest, &expected);
    assert_eq!(
        fs::read_dir(outside.path()).expect("listed").count(),
        1,
        "nothing was made outside"
    );
    assert_tells_no_path(&guest, dir.path());
}

#[track_caller]
fn assert_tells_no_path(guest: &Guest, dir: &Path) {
    let host_path = dir.display().to_string();
    for line in &guest.lines {
        assert!(
            !line.contains(&host_path),
            "{line:?} tells a path of the host"
        );
    }
}

#[test]
fn errors_name_the_grant_however_its_directory_was_spelled() {
    let dir = scratch();
    let cache = dir.path().join("cache");
    fs::create_dir_all(cache.join("entry")).expect("created");
    let here = std::env::current_dir().expect("there is one");
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    let relative = up.join(cache.strip_prefix("/").expect("absolute"));
    for spelled in [relative, dir.path().join(".//cache/"), cache.clone()] {
        let guest = run(&spelled, Limits::default(), "open=c read=entry");
        assert_lines(&guest, &["ok", "NotAFile"]);
        assert_tells_no_path(&guest, dir.path());
        let said = guest.lines.last().expect("an error");
        assert!(
            said.contains("c/entry is a directory"),
            "{spelled:?}: {said}"
        );
    }
}

#[test]
fn a_payload_over_the_limit_is_refused_before_it_is_written() {
    let dir = scratch();
    let mut limits = Limits::default();
    limits.payload_len = 1000;
    let guest = run(
        dir.path(),
        limits,
        "open=c begin=e,0 fill=1000 write=x publish begin=f,0 fill=1001 restart fill=600 fill=600",
    );
    assert_lines(
        &guest,
        &[
            "ok",
            "ok refresh",
            "ok",
            "Limit",
            "ok 1 1000",
            "ok refresh",
            "Limit",
            "ok",
            "ok",
            "Limit",
        ],
    );
}

#[test]
fn only_so_many_refreshes_and_resources_may_be_open() {
    let dirs = [scratch(), scratch(), scratch()];
    let caches = |limits| {
        let mut caches = Caches::new(limits);
        for (name, dir) in ["a", "b", "c"].iter().zip(&dirs) {
            caches = caches.grant(*name, dir.path());
        }
        caches
    };
    let mut limits = Limits::default();
    limits.open_refreshes = 2;
    let steps = "open=a begin=e open=b begin=e open=c begin=e drop begin=e";
    let guest = run_with(caches(limits), steps);
    assert_lines(
        &guest,
        &[
            "ok",
            "ok refresh",
            "ok",
            "ok refresh",
            "ok",
            "Limit",
            "ok",
            "ok refresh",
        ],
    );
    drop(guest);

    let mut limits = Limits::default();
    limits.open_resources = 2;
    let guest = run_with(caches(limits), "open=a,0 begin=e open=b begin=e");
    assert_lines(&guest, &["ok", "ok refresh", "Limit", "Timeout"]);
    let guest = run_with(caches(Limits::default()), "open=b,0 begin=e");
    assert_lines(&guest, &["ok", "ok refresh"]);
}

#[test]
fn a_guest_waits_no_longer_than_its_host_lets_it() {
    let dir = scratch();
    let _held = native(dir.path()).lock().expect("free");
    let mut limits = Limits::default();
    limits.timeout = Duration::from_millis(200);
    for asked in [",60000", ",18446744073709551615", "", ",0"] {
        let began = Instant::now();
        let guest = run(
            dir.path(),
            limits.clone(),
            &format!("open=c{asked} begin=e"),
        );
        assert_lines(&guest, &["ok", "Timeout"]);
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(9),
            "{asked:?} waited for {took:?}, not for 200 ms"
        );
    }
}

#[test]
fn the_greatest_numbers_do_a_host_no_harm() {
    let dir = scratch();
    let most = u64::MAX;
    let guest = run(
        dir.path(),
        Limits::default(),
        &format!(
            "open=c,{most} begin=e,{most} expect={most} write=x publish absent={most} begin=e,0 \
             begin=f,{most} write=x publish begin=f,{most}"
        ),
    );
    assert_lines(
        &guest,
        &[
            "ok",
            "ok refresh",
            "ok",
            "ok",
            "LengthMismatch",
            "ok 1 0",
            "ok absent",
            "ok refresh",
            "ok",
            "ok 1 1",
            "ok fresh 1 x",
        ],
    );
}

#[test]
fn a_host_can_cancel_the_waits_of_a_guest() {
    let dir = scratch();
    let _held = native(dir.path()).lock().expect("free");
    let caches = Caches::new(Limits::default()).grant("c", dir.path());
    caches.cancel_token().cancel();
    let guest = run_with(caches, "open=c begin=e read=e");
    assert_lines(&guest, &["ok", "Cancelled", "ok none"]);
}

#[test]
fn what_a_trapped_guest_held_goes_with_its_store() {
    let dir = scratch();
    let guest = run(
        dir.path(),
        Limits::default(),
        "open=c begin=e write=half trap read=e",
    );
    assert!(guest.trapped, "a panic is a trap");
    assert_lines(&guest, &["ok", "ok refresh", "ok"]);
    let locked = native(dir.path()).lock();
    assert!(
        locked.is_err_and(|error| error.is_timeout()),
        "as long as there is the store there is the lock"
    );
    drop(guest);
    assert_free(dir.path(), "the store is gone");
    let entry = native(dir.path()).entry("e").expect("a name");
    assert!(
        entry.read().expect("readable").is_none(),
        "half of a payload is none"
    );
}

#[test]
fn what_a_guest_held_can_be_released_while_its_store_stays() {
    let dir = scratch();
    let mut guest = run(
        dir.path(),
        Limits::default(),
        "open=c begin=e write=half trap",
    );
    assert!(guest.trapped, "a panic is a trap");
    guest.store.data_mut().caches.release();
    assert_free(dir.path(), "it was released");
}

#[test]
fn a_dropped_or_abandoned_refresh_releases_at_once() {
    let dir = scratch();
    let steps =
        "open=c,0 begin=e write=x drop begin=e write=y abandon begin=e write=z publish read=e";
    let guest = run(dir.path(), Limits::default(), steps);
    assert_lines(
        &guest,
        &[
            "ok",
            "ok refresh",
            "ok",
            "ok",
            "ok refresh",
            "ok",
            "ok",
            "ok refresh",
            "ok",
            "ok 1 1",
            "ok 1 z",
        ],
    );
    assert_free(
        dir.path(),
        "all of them have ended, and the guest is still there",
    );
}
