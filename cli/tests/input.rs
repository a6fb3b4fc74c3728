//! A payload from standard input.
#![cfg(unix)]

mod common;

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{PROGRAM, Place, code, eventually, json, signal, stderr, stdout};

#[test]
fn the_payload_comes_from_standard_input_without_a_command() {
    let place = Place::new();
    // More than one piece, with bytes that are no text.
    let payload: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    for words in [
        &["refresh", "FILE"][..],
        &["get", "FILE", "--fresh-for", "0"],
    ] {
        let mut child = place
            .command(words)
            .stdin(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(&payload).expect("it reads");
        drop(input);
        let out = child.wait_with_output().expect("it ends");
        assert_eq!(code(&out), 0, "{}", stderr(&out));
        assert!(out.stdout.is_empty() || out.stdout == payload);
        assert_eq!(fs::read(place.entry()).expect("published"), payload);
    }
}

#[test]
fn no_input_is_no_payload_and_an_empty_one_is_published_on_purpose() {
    let place = Place::new();
    place.publish("good");
    let closed = |words: &[&str]| {
        let script = "exec \"$0\" \"$@\" <&-";
        let mut command = Command::new("sh");
        command.args(["-c", script, PROGRAM]).args(words);
        command
            .env("CACHELOCK_CONFIG", "")
            .current_dir(place.dir.path());
        command.output().expect("sh runs")
    };
    let refused: [&[&str]; 2] = [
        &["refresh", "cache/entry"],
        &["get", "cache/entry", "--fresh-for", "0"],
    ];
    for words in refused {
        for out in [place.run(words), closed(words)] {
            assert_eq!(code(&out), 2, "{words:?}: {}", stderr(&out));
            assert!(stderr(&out).contains("-- true"), "{}", stderr(&out));
            assert_eq!(stdout(&place.run(&["read", "FILE"])), "good", "{words:?}");
        }
        place.assert_clean();
    }
    let get = ["get", "cache/entry", "--fresh-for", "1h"];
    for out in [place.run(&get), closed(&get)] {
        assert_eq!(
            (code(&out), &*stdout(&out)),
            (0, "good"),
            "a fresh entry needs no input: {}",
            stderr(&out)
        );
    }

    let out = place.run(&["refresh", "FILE", "--", "true"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    assert_eq!(fs::read(place.entry()).expect("published"), b"");
    place.publish("good");
    let mut command = place.command(&["refresh", "FILE"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdin.take());
    let out = child.wait_with_output().expect("it ends");
    assert_eq!(code(&out), 0, "an empty pipe: {}", stderr(&out));
    assert_eq!(fs::read(place.entry()).expect("published"), b"");
}

#[test]
fn a_signal_ends_the_wait_for_standard_input() {
    let place = Place::new();
    let mut command = place.command(&["refresh", "FILE"]);
    let child = command.stdin(Stdio::piped()).spawn().expect("it starts");
    eventually("it holds the lock", || {
        json(&stdout(&place.run(&["status", "DIR", "--json"])))["locked"] == true
    });
    thread::sleep(Duration::from_millis(100));
    signal("INT", &child);
    // The pipe is open until here.
    eventually("it ends", || {
        json(&stdout(&place.run(&["status", "DIR", "--json"])))["locked"] == false
    });
    assert_eq!(code(&child.wait_with_output().expect("it ends")), 130);
    place.assert_clean();
}
