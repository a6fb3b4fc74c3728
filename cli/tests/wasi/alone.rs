//! What the program can do as a guest, and how it says what it cannot.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Running, lacks, lacks_tool};
use crate::{Ground, LIMIT, arguments, error_of, feed, finish, generation_of};

#[test]
fn a_guest_gets_refreshes_reads_and_sweeps_what_natives_see_and_the_other_way_round() {
    let ground = Ground::new();
    let get = ["get", "FILE", "--fresh-for", "1h"];
    let ran = finish(&mut ground.guest(&get), "one");
    assert_eq!((ran.code(), &*ran.stdout), (0, "one"), "{ran}");
    let ran = finish(&mut ground.guest(&get), "nobody asked for this");
    assert_eq!((ran.code(), &*ran.stdout), (0, "one"), "{ran}");
    let ran = finish(&mut ground.native(&get), "nor for this");
    assert_eq!((ran.code(), &*ran.stdout), (0, "one"), "{ran}");
    ground.assert_reads("one");

    let refresh = ["refresh", "FILE", "--json"];
    for (number, mut command) in [
        (2, ground.native(&refresh)),
        (3, ground.guest(&refresh)),
        (4, ground.native(&refresh)),
    ] {
        let payload = format!("payload {number}");
        assert_eq!(generation_of(&finish(&mut command, &payload)), number);
        ground.assert_reads(&payload);
    }
    let status = finish(&mut ground.guest(&["status", "FILE", "--json"]), "");
    let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
    assert_eq!(status["generation"], 4, "{status}");
    assert_eq!(status["kernel_locks"], false, "{status}");
    assert_eq!(status["holder"], serde_json::Value::Null, "{status}");
    let ran = finish(&mut ground.guest(&["sweep", "DIR"]), "");
    assert_eq!(ran.code(), 0, "{ran}");
    ground.assert_clean();
}

#[test]
fn a_payload_of_some_megabytes_goes_in_and_out() {
    let ground = Ground::new();
    let payload: String = (0..500_000).map(|number| format!("{number:>8}")).collect();
    let ran = finish(&mut ground.guest(&["refresh", "FILE", "--json"]), &payload);
    assert_eq!(generation_of(&ran), 1);
    let mut reader = ground.guest(&["read", "FILE"]);
    let out = reader.stdin(Stdio::null()).output().expect("it runs");
    assert!(out.stdout == payload.as_bytes(), "another payload");
    let native = ground.native(&["read", "FILE"]).output().expect("it runs");
    assert!(native.stdout == payload.as_bytes(), "another payload");
}

/// In calls of the host, which are what a guest's reads take: payload and tag are looked at, since the open of a FIFO might take
/// for ever, opened, and read once. And in this order: the payload is opened before the tag and read after it, and nothing stays
/// open.
#[test]
fn a_guest_reads_an_entry_with_as_few_calls_as_two_files_take() {
    if lacks_tool("strace") {
        return;
    }
    let ground = Ground::new();
    let ran = finish(&mut ground.native(&["refresh", "FILE"]), "payload");
    assert_eq!(ran.code(), 0, "{ran}");
    let log = ground.cache().with_file_name("calls");
    let guest = ground.guest(&["read", "FILE"]);
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-e", "trace=%file,%desc", "-o"]);
    traced.arg(&log).arg(guest.get_program());
    let ran = finish(traced.args(guest.get_args()), "");
    assert_eq!((ran.code(), &*ran.stdout), (0, "payload"), "{ran}");
    let log = fs::read_to_string(log).expect("strace has written it");
    let mut open = Vec::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let (_, call) = line.split_once(' ').expect("a process number");
        let Some((name, arguments)) = call.trim_start().split_once('(') else {
            continue;
        };
        let on = arguments.split([',', ')']).next().unwrap_or_default();
        let file = open.iter().position(|(file, _)| file == on);
        if arguments.contains(", \"entry\", ") {
            if name == "openat2" {
                let file = line.rsplit(' ').next().expect("its result");
                open.push((file.to_owned(), calls.len()));
            }
            calls.push(format!("{name} by name"));
        } else if let Some(file) = file {
            let which = if open[file].1 == 1 { "payload" } else { "tag" };
            calls.push(format!("{name} {which}"));
            if name == "close" {
                open.remove(file);
            }
        }
    }
    let expected = [
        "statx by name",
        "openat2 by name",
        "statx payload", // Which wasmtime does by itself.
        "statx by name",
        "openat2 by name",
        "statx tag",
        "pread64 tag",
        "close tag",
        "statx payload", // Whether it was replaced before the tag was read.
        "pread64 payload",
        "close payload",
    ];
    assert_eq!(calls, expected, "{log}");
}

#[test]
fn what_needs_a_child_process_is_said_to_be_impossible_before_anything_is_waited_for() {
    let ground = Ground::new();
    let holder = ground.native_that_holds(&[]);
    for words in [
        &["lock", "DIR", "--json", "--", "true"][..],
        &["refresh", "FILE", "--json", "--", "true"],
    ] {
        let ran = finish(&mut ground.guest(words), "");
        assert_ne!(ran.code(), 0, "{ran}");
        assert_eq!(error_of(&ran), "command-not-started", "{ran}");
        assert!(ran.stderr.contains("cannot start others"), "{ran}");
    }
    drop(holder);
}

#[test]
fn a_directory_that_was_not_granted_is_named_with_what_would_grant_it() {
    let ground = Ground::new();
    let ran = finish(&mut ground.guest(&["read", "/elsewhere/x", "--json"]), "");
    assert_eq!(error_of(&ran), "permission", "{ran}");
    for part in ["/elsewhere", "granted: /cache", "--dir"] {
        assert!(ran.stderr.contains(part), "{part:?} is not said: {ran}");
    }
}

#[test]
fn what_is_no_file_in_an_entrys_place_is_said_and_never_waited_for() {
    let ground = Ground::new();
    let mut fifo = Command::new("mkfifo");
    let make_fifo = fifo.arg(ground.entry());
    assert!(make_fifo.status().expect("mkfifo runs").success());
    let says_so = |words: &[&str]| {
        let ran = finish(&mut ground.guest(words), "payload");
        assert_eq!(error_of(&ran), "not-a-file", "{ran}");
    };
    says_so(&["read", "FILE", "--json"]);
    says_so(&["refresh", "FILE", "--json"]);
    fs::remove_file(ground.entry()).expect("it is there");
    std::os::unix::fs::symlink("/etc/passwd", ground.entry()).expect("it is new");
    says_so(&["read", "FILE", "--json"]);
    says_so(&["refresh", "FILE", "--json"]);
    ground.assert_clean();
}

#[test]
fn what_is_no_directory_in_a_directorys_place_is_said_and_never_waited_for() {
    for place in [
        "folder",
        ".cachelock",
        ".cachelock/tags",
        ".cachelock/tags/folder",
    ] {
        let ground = Ground::new();
        let entry = ["--cache", "DIR", "folder/entry", "--json"];
        let words = |verb: &'static str| [&[verb], &entry[..]].concat();
        let ran = finish(&mut ground.native(&words("refresh")), "payload");
        assert_eq!(generation_of(&ran), 1);
        let place = ground.cache().join(place);
        fs::remove_dir_all(&place).expect("it is there");
        let made = Command::new("mkfifo").arg(&place).status();
        assert!(made.expect("mkfifo runs").success());
        for verb in ["read", "refresh"] {
            let ran = finish(&mut ground.guest(&words(verb)), "payload");
            let error = error_of(&ran);
            let expected = ["not-a-file", "not-a-directory", "invalid-name", "io"];
            assert!(expected.contains(&&*error), "{}: {ran}", place.display());
        }
    }
}

#[test]
fn a_guest_without_permission_to_write_reads_and_says_that_it_cannot_refresh() {
    let powerless = ["setpriv", "--inh-caps", "-all", "--bounding-set", "-all"];
    assert_reads_and_does_not_refresh(&powerless, "permission", |ground| {
        for dir in [ground.cache().join(".cachelock"), ground.cache()] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o555)).expect("it is ours");
        }
    });
}

#[test]
fn a_guest_on_a_read_only_file_system_reads_and_says_that_it_cannot_refresh() {
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
    let unshare = ["unshare", "--mount", "--propagation", "private"];
    let read_only = [&unshare[..], &["sh", "-c", script, "DIR"]].concat();
    // Wasmtime 49 has no other word for it.
    assert_reads_and_does_not_refresh(&read_only, "io", |_| {});
}

/// With a guest that `wrapper` starts. `error` is the name of the error that a refresh fails with.
#[track_caller]
fn assert_reads_and_does_not_refresh(wrapper: &[&str], error: &str, prepare: fn(&Ground)) {
    let ground = Ground::new();
    finish(&mut ground.native(&["refresh", "FILE"]), "there");
    prepare(&ground);
    let wrapped = |words: &[&str]| {
        let guest = ground.guest(words);
        let mut command = Command::new(wrapper[0]);
        arguments(&mut command, &wrapper[1..], ground.entry(), ground.cache());
        command.arg(guest.get_program()).args(guest.get_args());
        command
    };
    let ran = finish(&mut wrapped(&["status", "FILE"]), "");
    if lacks("root, setpriv, and the right to mount", ran.code() == 0) {
        return;
    }
    let ran = finish(&mut wrapped(&["read", "FILE"]), "");
    assert_eq!((ran.code(), &*ran.stdout), (0, "there"), "{ran}");
    let ran = finish(&mut wrapped(&["refresh", "FILE", "--json"]), "new");
    assert_eq!(error_of(&ran), error, "{ran}");
    assert!(ran.stderr.contains("/cache/.cachelock"), "where? {ran}");
    assert!(
        ran.stderr.contains("read-only") || error == "permission",
        "{ran}"
    );
    ground.assert_reads("there");
    ground.assert_clean();
}

#[test]
fn of_32_guests_that_get_a_missing_entry_at_once_one_publishes_and_all_print_it() {
    let ground = Ground::new();
    let mut guests: Vec<_> = (0..32)
        .map(|_| {
            let mut command = ground.guest(&["get", "FILE", "--timeout", "60"]);
            Running::start(command.stdin(Stdio::piped()))
        })
        .collect();
    for (number, guest) in guests.iter_mut().enumerate() {
        feed(guest, &format!("payload {number}"));
    }
    let printed: Vec<_> = guests
        .into_iter()
        .map(|guest| {
            let ran = guest.finish_within(LIMIT);
            assert_eq!(ran.code(), 0, "{ran}");
            ran.stdout
        })
        .collect();
    assert!(printed[0].starts_with("payload "), "{printed:?}");
    assert!(
        printed.iter().all(|one| *one == printed[0]),
        "they do not agree: {printed:?}"
    );
    ground.assert_reads(&printed[0]);
    let status = finish(&mut ground.native(&["status", "FILE", "--json"]), "");
    assert!(status.stdout.contains("\"generation\":1,"), "{status}");
    ground.assert_clean();
}

#[test]
fn a_guest_that_waits_for_its_input_beats_and_keeps_its_lease() {
    let ground = Ground::new();
    let mut guest = ground.guest_that_holds(&["--lease", "600ms"]);
    let began = Instant::now();
    let ran = finish(
        &mut ground.native(&["sweep", "DIR", "--timeout", "5", "--json"]),
        "",
    );
    assert_eq!(error_of(&ran), "timeout", "it was overtaken: {ran}");
    assert!(began.elapsed() > Duration::from_secs(4), "{ran}");
    // Input that comes now and then is no reason to stop.
    if let Some(stdin) = &mut guest.child.stdin {
        for piece in ["so ", "far "] {
            std::io::Write::write_all(stdin, piece.as_bytes()).expect("it reads");
            thread::sleep(Duration::from_millis(900));
        }
    }
    feed(&mut guest, "so good");
    assert_eq!(generation_of(&guest.finish_within(LIMIT)), 1);
    ground.assert_reads("so far so good");
    ground.assert_clean();
}
