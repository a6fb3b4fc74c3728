//! The program and the library on Windows: many processes, kills, readers that are in the way. `cargo xtask test windows`
//! runs it under Wine.
#![cfg(windows)]

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::windows::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cachelock::{Cache, Durability, Entry};
use common::{Place, code, eventually, exists, json, stderr, stdout};

mod common;

const ROLE: &str = "CACHELOCK_TEST_ROLE";
/// What readers share that keep others from replacing what they read, as programs do that know nothing else, and hosts of guests:
/// reading and writing, not deletion.
const WITHOUT_DELETION: u32 = 1 | 2;

/// This binary once more, in a role.
fn in_role(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("its own path"));
    command
        .args(["--exact", "in_a_child_process", "--ignored", "--nocapture"])
        .env(ROLE, role);
    command
}

/// The words by which COMMAND is this binary.
fn as_command() -> Vec<String> {
    let program = std::env::current_exe().expect("its own path");
    let program = program.to_str().expect("Unicode").to_owned();
    let arguments = ["--exact", "in_a_child_process", "--ignored", "--nocapture"];
    let mut words = vec![program];
    words.extend(arguments.map(str::to_owned));
    words
}

#[test]
#[ignore = "the other tests start it as a child process"]
fn in_a_child_process() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    match role.split_once(' ') {
        Some(("publish", dir)) => publish_for_ever(Path::new(dir)),
        Some(("live", file)) => live(Path::new(file)),
        Some(("console", dir)) => end_by_console(Path::new(dir)),
        _ => panic!("{role:?} is no role"),
    }
}

fn publish_for_ever(dir: &Path) {
    let cache = Cache::builder(dir).durability(Durability::None).open();
    let entry = cache.and_then(|cache| cache.entry("entry"));
    let entry = entry.expect("good settings");
    println!("ready");
    for n in 0_u64.. {
        publish(&entry, &n.to_le_bytes().repeat(1000));
    }
}

/// Shows that it lives until it is killed.
fn live(file: &Path) {
    for n in 0_u64.. {
        fs::write(file, n.to_string()).expect("writable");
        thread::sleep(Duration::from_millis(20));
    }
}

fn publish(entry: &Entry, bytes: &[u8]) {
    let mut refresh = entry.refresh().expect("it gets free");
    refresh.write_all(bytes).expect("the stage takes bytes");
    refresh.publish().expect("nothing is in the way");
}

/// Waits until the child says so.
#[track_caller]
fn ready(child: &mut Child) {
    let output = child.stdout.as_mut().expect("it is piped");
    let mut said = Vec::new();
    while !said.ends_with(b"ready\n") {
        let mut byte = [0];
        let read = output.read(&mut byte).expect("it can be read");
        assert_eq!(read, 1, "it ended: {}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
}

#[test]
fn of_16_processes_that_get_a_missing_entry_one_runs_command() {
    let place = Place::new();
    let command = "echo ran>>ran.log& echo payload";
    let words = ["get", "FILE", "--timeout", "60", "--", "cmd", "/c", command];
    let children: Vec<_> = (0..16).map(|_| place.start(&words)).collect();
    for child in children {
        let out = child.wait_with_output().expect("it ends");
        assert_eq!(code(&out), 0, "{}", stderr(&out));
        assert_eq!(stdout(&out).trim_end(), "payload");
    }
    let ran = fs::read_to_string(place.beside("ran.log")).expect("COMMAND ran");
    assert_eq!(ran.lines().count(), 1, "{ran:?}");
    let out = place.run(&["status", "FILE", "--json"]);
    assert_eq!(json(&stdout(&out))["generation"], 1);
    place.assert_clean();
}

#[test]
fn after_each_of_50_kills_of_a_holder_the_lock_is_had_within_a_second() {
    let place = Place::new();
    let dir = place.cache();
    let cache = Cache::open(&dir).expect("good settings");
    let entry = cache.entry("entry").expect("a good name");
    let mut slowest = Duration::ZERO;
    for kill in 0..50 {
        let mut role = in_role(&format!("publish {}", dir.display()));
        let mut child = role.stdout(Stdio::piped()).spawn().expect("it starts");
        ready(&mut child);
        // Somewhere in one of its first publishes, each time elsewhere.
        thread::sleep(Duration::from_micros(1700) * kill);
        child.kill().expect("it runs");
        let began = Instant::now();
        let lock = cache.lock().expect("its holder is dead");
        let took = began.elapsed();
        drop(lock);
        child.wait().expect("it was killed");
        assert!(took < Duration::from_secs(1), "kill {kill}: {took:?}");
        slowest = slowest.max(took);
        if let Some(snapshot) = entry.read().expect("whole or missing") {
            let number = snapshot[..8].repeat(1000);
            assert!(snapshot[..] == number, "kill {kill}: a mix of two payloads");
        }
    }
    println!("the slowest of 50 took {slowest:?}");
    assert!(entry.read().expect("whole").is_some(), "no publish at all");
    publish(&entry, b"last");
    place.assert_clean();
}

/// Opens the entry as a reader that does not let others replace it.
#[track_caller]
fn block(place: &Place) -> File {
    let mut options = OpenOptions::new();
    options.read(true).share_mode(WITHOUT_DELETION);
    options.open(place.entry()).expect("it is there")
}

#[test]
fn a_publish_waits_for_a_reader_that_is_in_the_way() {
    let place = Place::new();
    let cache = Cache::open(place.cache()).expect("good settings");
    let entry = cache.entry("entry").expect("a good name");
    publish(&entry, b"old");
    let reader = block(&place);
    let closer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        drop(reader);
    });
    let began = Instant::now();
    publish(&entry, b"new");
    let took = began.elapsed();
    closer.join().expect("it closes");
    assert!(took >= Duration::from_millis(400), "it was not in the way");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let snapshot = entry.read().expect("whole").expect("published");
    assert_eq!(&*snapshot, b"new");
    place.assert_clean();
}

#[test]
fn a_reader_that_stays_in_the_way_makes_the_publish_fail_and_the_old_entry_stays() {
    let place = Place::new();
    let cache = Cache::builder(place.cache()).timeout(Duration::from_secs(1));
    let cache = cache.open().expect("good settings");
    let entry = cache.entry("entry").expect("a good name");
    publish(&entry, b"old");
    let reader = block(&place);
    let mut refresh = entry.refresh().expect("the lock is free");
    refresh.write_all(b"new").expect("the stage takes bytes");
    let began = Instant::now();
    let failed = refresh.publish().expect_err("somebody reads it");
    let took = began.elapsed();
    assert!(failed.error.is_timeout(), "{failed}");
    assert_eq!(failed.error.path(), Some(&*place.entry()), "{failed}");
    let late = took.checked_sub(Duration::from_millis(700));
    assert!(
        late.is_some_and(|late| late < Duration::from_secs(1)),
        "{took:?}"
    );
    let snapshot = entry.read().expect("whole").expect("it stays");
    assert_eq!(&*snapshot, b"old");
    // What was produced is not lost.
    drop(reader);
    let refresh = failed.refresh.expect("the stage is whole");
    refresh.publish().expect("nobody reads it any more");
    let snapshot = entry.read().expect("whole").expect("published");
    assert_eq!(&*snapshot, b"new");
}

#[test]
fn the_program_names_the_file_that_somebody_has_open() {
    let place = Place::new();
    let refresh = |payload: &str| {
        let command = format!("echo {payload}");
        place.run(&[
            "refresh",
            "FILE",
            "--timeout",
            "1",
            "--",
            "cmd",
            "/c",
            &command,
        ])
    };
    let out = refresh("old");
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    let reader = block(&place);
    let out = refresh("new");
    assert_eq!(code(&out), 75, "{}", stderr(&out));
    let entry = place.entry();
    let told = stderr(&out);
    assert!(told.contains(entry.to_str().expect("ASCII")), "{told}");
    assert!(told.contains("open handle"), "{told}");
    drop(reader);
    let out = place.run(&["read", "FILE"]);
    assert_eq!((code(&out), stdout(&out).trim_end()), (0, "old"));
}

#[test]
fn a_guests_host_that_has_the_claim_open_holds_up_nobody() {
    let place = Place::new();
    let cache = Cache::open(place.cache()).expect("good settings");
    let lock = cache.lock().expect("it is free");
    let control = place.cache().join(".cachelock");
    let claim = fs::read_dir(&control)
        .expect("a control directory")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.to_string_lossy().contains("claim-"))
        .expect("it is held");
    let mut options = OpenOptions::new();
    let reader = options.read(true).share_mode(WITHOUT_DELETION).open(claim);
    let reader = reader.expect("it is there");
    let began = Instant::now();
    // It cannot be removed, so it says that it is released, and the next holder removes it.
    drop(lock);
    drop(cache.lock().expect("it is free"));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    drop(reader);
    drop(cache.lock().expect("it is free"));
    assert!(cache.status().expect("no error").is_some());
}

#[test]
fn exit_codes_are_as_everywhere() {
    let place = Place::new();
    let out = place.run(&["read", "FILE"]);
    assert_eq!(code(&out), 66, "{}", stderr(&out));
    let out = place.run(&["get", "FILE", "--", "no-such-program-anywhere"]);
    assert_eq!(code(&out), 127, "{}", stderr(&out));
    let out = place.run(&["lock", "DIR", "--", "cmd", "/c", "exit 7"]);
    assert_eq!(code(&out), 7, "{}", stderr(&out));
    let out = place.run(&["lock", "DIR", "--", "cmd", "/c", "exit 70000"]);
    assert_eq!(code(&out), 1, "{}", stderr(&out));
    let out = place.run(&["get", "FILE", "--", "cmd", "/c", "exit 9"]);
    assert_eq!(code(&out), 9, "{}", stderr(&out));
    assert!(!exists(&place.entry()), "a failure publishes nothing");
    let out = place.run(&["read", "--cache", "DIR", "what?"]);
    assert_eq!(code(&out), 2, "{}", stderr(&out));
    assert!(stderr(&out).contains("Windows"), "{}", stderr(&out));
}

#[test]
fn a_payload_from_standard_input_is_kept_byte_by_byte() {
    let place = Place::new();
    let mut command = place.command(&["refresh", "FILE"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
    let payload: Vec<u8> = (0..=255_u8).cycle().take(300_000).collect();
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(&payload).expect("it is taken");
    drop(input);
    let out = child.wait_with_output().expect("it ends");
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    let out = place.run(&["read", "FILE"]);
    assert!(out.stdout == payload, "other bytes: {}", stderr(&out));
}

#[test]
fn without_input_and_command_nothing_is_published() {
    let place = Place::new();
    let out = place.run(&["refresh", "FILE"]);
    assert_eq!(code(&out), 2, "{}", stderr(&out));
    assert!(!exists(&place.entry()), "an empty payload by mistake");
}

#[test]
fn a_timeout_says_who_holds_the_lock_and_command_dies_with_its_holder() {
    let place = Place::new();
    let alive = place.beside("alive");
    let mut words = vec!["lock", "DIR", "--"];
    let command = as_command();
    words.extend(command.iter().map(String::as_str));
    let mut holder = place.command(&words);
    holder.env(ROLE, format!("live {}", alive.display()));
    let mut holder = holder.stdout(Stdio::null()).spawn().expect("it starts");
    eventually("COMMAND runs", || exists(&alive));
    let out = place.run(&[
        "lock",
        "DIR",
        "--timeout",
        "0.2",
        "--",
        "cmd",
        "/c",
        "exit 0",
    ]);
    assert_eq!(code(&out), 75, "{}", stderr(&out));
    let told = stderr(&out);
    assert!(told.contains(&format!("process {}", holder.id())), "{told}");
    holder.kill().expect("it runs");
    holder.wait().expect("it was killed");
    // The system needs a moment.
    thread::sleep(Duration::from_millis(500));
    let last = fs::read(&alive).expect("readable");
    thread::sleep(Duration::from_millis(500));
    assert_eq!(fs::read(&alive).expect("readable"), last, "it lives on");
    let out = place.run(&["lock", "DIR", "--timeout", "1", "--", "cmd", "/c", "exit 0"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    place.assert_clean();
}

#[allow(unsafe_code, reason = "the standard library sends no events")]
unsafe extern "system" {
    fn AllocConsole() -> i32;
    fn FreeConsole() -> i32;
    fn GenerateConsoleCtrlEvent(event: u32, group: u32) -> i32;
    fn SetConsoleCtrlHandler(handler: Option<extern "system" fn(u32) -> i32>, add: i32) -> i32;
}

const CTRL_C: u32 = 0;
const ALL: u32 = 0;

extern "system" fn go_on(_event: u32) -> i32 {
    1
}

/// Starts the program in a console of its own, and presses Ctrl-C there.
#[allow(unsafe_code, reason = "the standard library sends no events")]
fn end_by_console(dir: &Path) {
    // SAFETY: plain numbers, and a function of the type that is asked for.
    let allocated = unsafe {
        FreeConsole();
        AllocConsole() != 0 && SetConsoleCtrlHandler(Some(go_on), 1) != 0
    };
    assert!(allocated, "{}", std::io::Error::last_os_error());
    let alive = dir.join("alive");
    let mut holder = Command::new(common::PROGRAM)
        .arg("lock")
        .arg(dir.join("cache"))
        .arg("--")
        .args(as_command())
        .env(ROLE, format!("live {}", alive.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    eventually("COMMAND runs", || exists(&alive));
    // SAFETY: plain numbers.
    let sent = unsafe { GenerateConsoleCtrlEvent(CTRL_C, ALL) };
    let error = std::io::Error::last_os_error();
    eventually("it ends, or could not be told", || {
        sent == 0 || !matches!(holder.try_wait(), Ok(None))
    });
    let _ = holder.kill();
    let status = holder.wait().expect("it has ended");
    assert_ne!(sent, 0, "{error}");
    assert_eq!(status.code(), Some(130), "it ends as asked");
}

#[test]
fn ctrl_c_ends_the_program_and_gives_the_lock_back() {
    let place = Place::new();
    let mut role = in_role(&format!("console {}", place.dir.path().display()));
    let out = role.output().expect("it starts");
    assert!(out.status.success(), "{}{}", stdout(&out), stderr(&out));
    place.assert_clean();
}
