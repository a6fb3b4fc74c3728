//! Standard streams that cannot be used, or take nothing: nothing is lost without a word, and no payload for it.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Place, code, json, run, stderr, stdout};

/// A descriptor that can only be read.
fn read_only(place: &Place) -> File {
    fs::write(place.beside("readable"), "").expect("ours");
    File::open(place.beside("readable")).expect("it was just made")
}

/// One that can only be written.
fn write_only(place: &Place) -> File {
    File::create(place.beside("writable")).expect("ours")
}

fn full() -> File {
    let opened = OpenOptions::new().write(true).open("/dev/full");
    opened.expect("Linux has it")
}

/// With this standard input it fails and says why, and the payload that was there stays.
#[track_caller]
fn assert_refused(place: &Place, words: &[&str], stdin: File, why: &str) {
    let mut command = place.command(words);
    command.stdin(stdin);
    let out = run(command);
    assert_eq!(code(&out), 74, "{words:?}: {}", stderr(&out));
    assert!(stderr(&out).contains(why), "{words:?}: {}", stderr(&out));
    let payload = fs::read_to_string(place.entry()).expect("it stays");
    assert_eq!(payload, "payload", "{words:?}");
    place.assert_clean();
}

#[test]
fn what_cannot_be_printed_is_an_error() {
    let place = Place::new();
    place.publish("payload");
    for words in [
        &["read", "FILE"][..],
        &["read", "FILE", "--path"],
        &["get", "FILE", "--", "false"],
        &["status", "FILE"],
        &["status", "FILE", "--json"],
        &["refresh", "FILE", "--json", "--", "printf", "payload"],
        &["break", "DIR"],
        &["completions", "bash"],
        &["man"],
    ] {
        for (to, why) in [
            (read_only(&place), "Bad file descriptor"),
            (full(), "No space left"),
        ] {
            let mut command = place.command(words);
            command.stdout(to);
            let out = run(command);
            assert_eq!(code(&out), 74, "{words:?}: {}", stderr(&out));
            assert!(stderr(&out).contains(why), "{words:?}: {}", stderr(&out));
        }
    }
    let mut help = place.command(&["--help"]);
    help.stdout(full());
    assert_eq!(code(&run(help)), 74);
}

#[test]
fn an_input_that_cannot_be_read_is_no_empty_payload() {
    let place = Place::new();
    place.publish("payload");
    for words in [
        &["refresh", "FILE"][..],
        &["get", "FILE", "--fresh-for", "0"],
    ] {
        assert_refused(&place, words, write_only(&place), "read standard input");
    }
}

#[test]
fn a_payload_that_is_too_long_already_is_not_waited_for() {
    let place = Place::new();
    place.publish("payload");
    let began = Instant::now();
    for words in [
        &["refresh", "FILE", "--expect-len", "100"][..],
        &[
            "refresh",
            "FILE",
            "--expect-len",
            "100",
            "--",
            "cat",
            "/dev/zero",
        ],
    ] {
        let endless = File::open("/dev/zero").expect("Linux has it");
        assert_refused(&place, words, endless, "not the expected 100");
    }
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "an end was found in what has none"
    );
}

#[test]
fn a_filter_that_makes_no_sense_is_said_to_whoever_listens() {
    let place = Place::new();
    place.publish("payload");
    let wrong = |words: &[&str]| {
        let mut command = place.command(words);
        command.env("CACHELOCK_LOG", "a=b=c");
        command
    };
    let out = run(wrong(&["status", "DIR", "--json", "--quiet"]));
    assert_eq!(code(&out), 2);
    let error = &json(&stderr(&out))["message"];
    let said = error.as_str().unwrap_or_default();
    assert!(said.starts_with("CACHELOCK_LOG=\"a=b=c\": "), "{error}");
    let mut unheard = wrong(&["read", "FILE"]);
    unheard.stdin(Stdio::null()).stderr(full());
    assert_eq!(code(&run(unheard)), 2, "and no panic");
}

#[test]
fn no_colors_where_none_are_wanted() {
    let place = Place::new();
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let mut command = Command::new("script");
        command
            .args([
                "-qec",
                &format!("{} -v lock cache -- true", common::PROGRAM),
                "/dev/null",
            ])
            .current_dir(place.beside("."))
            .env(name, value);
        let out = run(command);
        let said = stdout(&out);
        assert!(said.contains("lock_acquired"), "{said:?}");
        assert!(!said.contains('\u{1b}'), "{name}: {said:?}");
    }
}

#[test]
fn a_path_moves_no_cursor() {
    let place = Place::new();
    let out = place.run(&["break", "b\u{1b}[31m"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    assert!(stdout(&out).contains("b\\u{1b}[31m"), "{:?}", stdout(&out));
    let out = place.run(&["-v", "lock", "l\u{1b}[31m\nline", "--", "true"]);
    let said = stderr(&out);
    assert!(said.contains("l\\u{1b}[31m\\nline\""), "{said:?}");
    assert!(!said.contains("[31m\n"), "{said:?}");
}

#[test]
fn what_is_in_the_way_of_a_cache_is_said() {
    let place = Place::new();
    fs::write(place.beside("file"), "").expect("ours");
    std::os::unix::fs::symlink("nowhere", place.beside("dangling")).expect("ours");
    for (dir, said) in [
        ("file/a/b", "is below something that is none"),
        ("dangling", "is a link that leads nowhere"),
    ] {
        let out = place.run(&["lock", dir, "--", "true"]);
        assert_eq!(code(&out), 74, "{}", stderr(&out));
        assert!(stderr(&out).contains(said), "{}", stderr(&out));
    }
}

#[test]
fn a_directory_that_command_leaves_in_the_validators_place_is_in_nobodys_way() {
    let place = Place::new();
    for (ends, expected, said) in [
        ("echo x", 1, "[validators]"),
        ("exit 3", 3, "[command-failed]"),
        ("kill $PPID; exec sleep 60", 143, ""),
    ] {
        let script =
            format!(r#"rm "$CACHELOCK_VALIDATORS"; mkdir -p "$CACHELOCK_VALIDATORS/x"; {ends}"#);
        let out = place.run(&["refresh", "FILE", "--", "sh", "-c", &script]);
        assert_eq!(code(&out), expected, "{}", stderr(&out));
        assert!(stderr(&out).contains(said), "{}", stderr(&out));
    }
    place.publish("payload");
    place.assert_clean();
}
