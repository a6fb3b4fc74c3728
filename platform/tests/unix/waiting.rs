//! Events, deadlines and watches.

use super::*;

#[test]
fn an_event_is_sticky_and_is_used_up_by_one_wait() {
    let event = native().event();
    let now = native().monotonic();
    assert!(!event.wait_until(Some(now)), "not set");
    event.set();
    event.set();
    assert!(event.wait_until(None), "set before the wait");
    assert!(!event.wait_until(Some(now)), "and only once");
    event.set();
    assert!(
        event.wait_until(Some(now)),
        "set counts even past the deadline"
    );
}

#[test]
fn an_event_ends_a_wait_under_way() {
    let event = native().event();
    let setter = event.clone();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        setter.set();
    });
    assert!(event.wait_until(Some(native().monotonic() + PATIENCE)));
    assert!(!event.wait_until(Some(native().monotonic() + Duration::from_millis(1))));
    thread.join().unwrap();
    event.set();
    assert!(
        event.wait_until(Some(Duration::MAX)),
        "a deadline beyond all clocks is none"
    );
}

#[test]
fn a_wait_ends_at_its_deadline_and_not_before() {
    let event = native().event();
    let mut late = Vec::new();
    for n in 0..60 {
        let deadline = native().monotonic() + Duration::from_micros(300 + 137 * n);
        assert!(!event.wait_until(Some(deadline)));
        let now = native().monotonic();
        assert!(now >= deadline, "{:?} early", deadline - now);
        late.push(now - deadline);
    }
    late.sort();
    assert!(
        late[30] < Duration::from_millis(20),
        "mostly in time: {late:?}"
    );
}

/// Whether `event` is set within `patience`.
#[cfg(target_os = "linux")]
fn is_set(event: &dyn cachelock_platform::Event, patience: Duration) -> bool {
    event.wait_until(Some(native().monotonic() + patience))
}

#[test]
#[cfg(target_os = "linux")]
fn a_watch_fires_when_a_name_goes_away_and_not_on_writes() {
    let (temp, dir) = temp_dir();
    dir.create_dir("sub", 0o755).unwrap();
    let sub = dir.open_dir("sub").unwrap();
    let file = create(&*sub, "claim");
    let outside = create(&*dir, "outside");
    let event = native().event();
    let watch = sub.watch(event.clone()).unwrap();

    file.write_at(b"beat", 0).unwrap();
    file.set_len(100).unwrap();
    file.touch().unwrap();
    file.sync().unwrap();
    create(&*sub, "new").write_at(b"x", 0).unwrap();
    drop(file);
    drop(outside);
    dir.unlink("outside").unwrap();
    assert!(
        !is_set(&*event, QUIET),
        "writing, creating and what happens next door wake nobody"
    );

    sub.unlink("claim").unwrap();
    assert!(is_set(&*event, PATIENCE), "unlink");
    sub.rename("new", &*sub, "newer").unwrap();
    assert!(is_set(&*event, PATIENCE), "rename within");
    sub.rename("newer", &*dir, "out").unwrap();
    assert!(is_set(&*event, PATIENCE), "rename out of it");
    dir.rename("out", &*sub, "in").unwrap();
    assert!(is_set(&*event, PATIENCE), "rename into it");
    while is_set(&*event, QUIET) {}
    fs::rename(temp.path().join("sub"), temp.path().join("moved")).unwrap();
    assert!(is_set(&*event, PATIENCE), "rename of the directory");
    sub.unlink("in").unwrap();
    while is_set(&*event, QUIET) {}
    fs::remove_dir(temp.path().join("moved")).unwrap();
    assert!(is_set(&*event, PATIENCE), "removal of the directory");
    drop(watch);
}

#[test]
#[cfg(target_os = "linux")]
fn a_dropped_watch_is_silent_and_a_forked_child_cannot_drop_it() {
    let (_temp, outer) = temp_dir();
    // A directory of its own, because the others' temporary ones come and go next to the outer one.
    outer.create_dir("sub", 0o755).unwrap();
    let dir = outer.open_dir("sub").unwrap();
    for name in ["a", "b"] {
        create(&*dir, name);
    }
    let event = native().event();
    let mut watch: Option<Box<dyn cachelock_platform::Watch>> =
        Some(dir.watch(event.clone()).unwrap());
    assert!(
        holds_in_forked_child(|| watch.take().is_some()),
        "dropped in the child"
    );
    thread::sleep(QUIET);
    dir.unlink("a").unwrap();
    assert!(is_set(&*event, PATIENCE), "the parent's is in force");
    drop(watch);
    thread::sleep(QUIET);
    dir.unlink("b").unwrap();
    assert!(!is_set(&*event, QUIET), "nobody watches");
}

#[test]
#[cfg(target_os = "linux")]
fn a_dropped_watch_leaves_neither_thread_nor_descriptor() {
    let temp = tempfile::tempdir().unwrap();
    Player::play_to_the_end("watch many times", temp.path());
}

pub(super) fn watch_many_times(place: &Path) {
    let dir = native().open_dir(place).unwrap();
    let count = |path: &str| fs::read_dir(path).unwrap().count();
    let before = (count("/proc/self/task"), count("/proc/self/fd"));
    for _ in 0..30 {
        dir.watch(native().event()).unwrap();
    }
    eventually("all is given back", || {
        (count("/proc/self/task"), count("/proc/self/fd")) == before
    });
}

#[test]
#[cfg(target_os = "linux")]
fn child_processes_inherit_no_descriptor() {
    let (temp, dir) = temp_dir();
    let _file = create(&*dir, "file");
    let _existing = dir.open("file", Access::Read).unwrap();
    let _again = dir.reopen().unwrap();
    let _watch = dir.watch(native().event()).unwrap();
    let output = Command::new("ls")
        .args(["-l", "/proc/self/fd"])
        .output()
        .unwrap();
    let listing = String::from_utf8_lossy(&output.stdout);
    assert!(listing.contains("->"), "a listing: {listing}");
    for ours in [temp.path().to_str().unwrap(), "inotify", "eventfd"] {
        assert!(!listing.contains(ours), "{ours} was inherited:\n{listing}");
    }
}
