//! `get` with an entry that has grown old: who refreshes it, who does not wait, what a failure costs, and how COMMAND asks
//! its source whether anything has changed.
#![cfg(unix)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use common::{Place, code, json, stderr, stdout};

/// An entry that is a second old, for callers that want it fresher.
fn grown_old() -> Place {
    let place = Place::new();
    place.publish("old");
    thread::sleep(Duration::from_millis(1100));
    place
}

/// A script for COMMAND.
fn sh(script: &str) -> [&str; 4] {
    ["--", "sh", "-c", script]
}

#[track_caller]
fn get(place: &Place, options: &[&str], script: &str) -> Output {
    let words = [&["get", "FILE"], options, &sh(script)].concat();
    place.run(&words)
}

#[track_caller]
fn assert_prints(out: &Output, payload: &str) {
    assert_eq!((code(out), &*stdout(out)), (0, payload), "{}", stderr(out));
}

#[test]
fn of_32_callers_of_a_stale_entry_one_refreshes_and_31_print_the_old_payload_at_once() {
    let place = grown_old();
    let runs = place.beside("runs");
    let script = format!("echo run >> {}; sleep 1; printf new", runs.display());
    let words = [
        &["get", "FILE", "--fresh-for", "1s", "--stale-for", "1h"][..],
        &sh(&script),
    ]
    .concat();
    let started = Instant::now();
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let child = place.start(&words);
            thread::spawn(move || (child.wait_with_output().unwrap(), started.elapsed()))
        })
        .collect();
    let answers: Vec<_> = callers
        .into_iter()
        .map(|caller| caller.join().unwrap())
        .collect();
    let old: Vec<_> = answers
        .iter()
        .filter(|(out, _)| stdout(out) == "old")
        .collect();
    assert_eq!(fs::read_to_string(runs).unwrap(), "run\n", "one refreshes");
    assert_eq!(old.len(), 31, "the others do not wait");
    for (out, after) in old {
        assert_prints(out, "old");
        // Starting 32 processes is part of it; none of them waits for the second that the refresh takes.
        assert!(*after < Duration::from_secs(1), "{after:?}");
    }
    assert_prints(&place.run(&["read", "FILE"]), "new");
    place.assert_clean();
}

#[test]
fn a_caller_of_a_stale_entry_does_not_wait_for_whoever_refreshes() {
    let place = grown_old();
    let holder = place.hold();
    let options = [
        "--fresh-for",
        "1s",
        "--stale-for",
        "1h",
        "--timeout",
        "infinite",
    ];
    let mut took = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        let out = get(&place, &options, "printf new");
        took.push(started.elapsed());
        assert_prints(&out, "old");
        assert_eq!(
            stderr(&out),
            "",
            "it is what was asked for, so there is nothing to say"
        );
    }
    took.sort();
    assert!(
        took[10] < Duration::from_millis(100),
        "the median of {took:?}"
    );
    drop(holder);
}

#[test]
fn a_failing_producer_is_an_error_only_if_nothing_old_will_do() {
    let place = grown_old();
    let strict = get(
        &place,
        &["--fresh-for", "1s", "--stale-for", "1h"],
        "echo half; exit 9",
    );
    assert_eq!((code(&strict), &*stdout(&strict)), (9, ""));
    let options = ["--fresh-for", "1s", "--error-for", "1h"];
    let lenient = get(&place, &options, "echo half; exit 9");
    assert_prints(&lenient, "old");
    let said = stderr(&lenient);
    assert!(
        said.contains("warning") && said.contains("exit status: 9"),
        "{said}"
    );
    let quiet = get(&place, &[&options[..], &["--quiet"]].concat(), "exit 9");
    assert_prints(&quiet, "old");
    assert_eq!(stderr(&quiet), "");
    let event = get(&place, &[&options[..], &["--json"]].concat(), "exit 9");
    assert_eq!(json(&stderr(&event))["event"], "served_stale");
    let too_old = get(
        &place,
        &["--fresh-for", "1s", "--error-for", "1ms"],
        "exit 9",
    );
    assert_eq!(
        (code(&too_old), &*stdout(&too_old)),
        (9, ""),
        "it is out of the window"
    );
    let missing = place.run(&[
        "get",
        "--cache",
        "DIR",
        "other",
        "--fresh-for",
        "1s",
        "--error-for",
        "1h",
        "--",
        "false",
    ]);
    assert_eq!(code(&missing), 1, "there is nothing to print instead");
    place.assert_clean();
}

#[test]
fn a_timeout_is_an_error_only_if_nothing_old_will_do() {
    let place = grown_old();
    let holder = place.hold();
    let options = ["--fresh-for", "1s", "--timeout", "100ms"];
    assert_eq!(code(&get(&place, &options, "printf new")), 75);
    let lenient = [&options[..], &["--error-for", "1h"]].concat();
    let out = get(&place, &lenient, "printf new");
    assert_prints(&out, "old");
    assert!(stderr(&out).contains("timed out"), "{}", stderr(&out));
    drop(holder);
}

#[test]
fn a_script_asks_whether_anything_has_changed() {
    let place = Place::new();
    let script = r#"
        if [ "$CACHELOCK_VALIDATOR_ETAG" = '"v1"' ]; then exit 104; fi
        printf 'etag="v1"\nlast-modified=Fri, 27 Nov 2026 16:00:00 GMT\n' > "$CACHELOCK_VALIDATORS"
        printf payload"#;
    assert_prints(&get(&place, &["--fresh-for", "0"], script), "payload");
    let before = fs::metadata(place.entry()).unwrap();
    let status = || json(&stdout(&place.run(&["status", "FILE", "--json"])));
    let first = status();
    assert_eq!(first["entry"]["validators"]["etag"], "\"v1\"");

    thread::sleep(Duration::from_millis(20));
    assert_prints(&get(&place, &["--fresh-for", "0"], script), "payload");
    let after = fs::metadata(place.entry()).unwrap();
    assert_eq!(
        before.ino(),
        after.ino(),
        "the payload was not written again"
    );
    let second = status();
    assert_eq!(second["generation"], 1, "nor is it another one");
    assert_eq!(first["entry"]["validators"], second["entry"]["validators"]);
    assert_eq!(first["entry"]["written_ms"], second["entry"]["written_ms"]);
    let checked = |status: &serde_json::Value| status["entry"]["checked_ms"].as_u64();
    assert!(checked(&second) > checked(&first), "it is fresh again");
    assert_prints(&get(&place, &["--fresh-for", "1h"], "exit 1"), "payload");

    let refreshed = place.run(&[&["refresh", "FILE", "--json"], &sh(script)[..]].concat());
    let line = json(&stdout(&refreshed));
    assert_eq!(
        (&line["modified"], &line["generation"]),
        (&false.into(), &1.into())
    );
    place.assert_clean();
}

#[test]
fn what_was_kept_stays_with_a_payload_that_was_not_modified() {
    let place = Place::new();
    let script = r#"
        if [ -n "$CACHELOCK_VALIDATOR_ETAG" ]; then echo seen=again > "$CACHELOCK_VALIDATORS"; exit 104; fi
        echo etag=v1 > "$CACHELOCK_VALIDATORS"; echo seen=once >> "$CACHELOCK_VALIDATORS"; printf payload"#;
    for _ in 0..3 {
        let options = ["--fresh-for", "0", "--validator", "source=me"];
        assert_prints(&get(&place, &options, script), "payload");
    }
    let status = json(&stdout(&place.run(&["status", "FILE", "--json"])));
    let kept = serde_json::json!({ "etag": "v1", "seen": "again", "source": "me" });
    assert_eq!(status["entry"]["validators"], kept);
    assert_eq!(
        status["generation"], 1,
        "one payload, asked for three times"
    );
}

#[test]
fn not_modified_needs_something_that_was_not_modified() {
    let place = Place::new();
    let out = get(&place, &[], "exit 104");
    assert_eq!(code(&out), 104, "COMMAND's own failure: {}", stderr(&out));
    assert!(!place.entry().exists());
    place.publish("whole");
    fs::write(place.entry(), "damaged").unwrap();
    let out = get(
        &place,
        &[],
        "test -z \"$CACHELOCK_VALIDATOR_ETAG\" && exit 104",
    );
    assert_eq!(
        code(&out),
        104,
        "what is damaged cannot be kept: {}",
        stderr(&out)
    );
    assert_eq!(code(&place.run(&["read", "FILE"])), 65);
}

#[test]
fn a_command_learns_where_the_old_payload_is_and_of_no_other_entrys_validators() {
    let place = Place::new();
    place.run(&[
        "refresh",
        "FILE",
        "--validator",
        "etag=mine",
        "--",
        "printf",
        "1",
    ]);
    let count = r#"expr "$(cat "$CACHELOCK_FILE")" + 1"#;
    assert_prints(&get(&place, &["--fresh-for", "0"], count), "2\n");
    let mut command = place.command(&[
        "get",
        "--cache",
        "DIR",
        "other",
        "--",
        "sh",
        "-c",
        "echo \"<$CACHELOCK_VALIDATOR_ETAG>\"",
    ]);
    let out = command
        .env("CACHELOCK_VALIDATOR_ETAG", "another's")
        .output()
        .unwrap();
    assert_prints(&out, "<>\n");
}

#[test]
fn validators_from_a_script_that_are_none_publish_nothing() {
    let place = grown_old();
    for script in [
        "printf nonsense > \"$CACHELOCK_VALIDATORS\"; printf new",
        "head -c 100000 /dev/zero > \"$CACHELOCK_VALIDATORS\"; printf new",
        "printf 'a=\\377' > \"$CACHELOCK_VALIDATORS\"; printf new",
    ] {
        let out = get(&place, &["--fresh-for", "1s"], script);
        assert_eq!(code(&out), 1, "{script}: {}", stderr(&out));
        assert!(
            stderr(&out).contains("stage-") || stderr(&out).contains("CACHELOCK_VALIDATORS"),
            "{}",
            stderr(&out)
        );
        assert_prints(&place.run(&["read", "FILE"]), "old");
    }
    place.assert_clean();
}

#[test]
fn what_does_not_exist_is_remembered_for_its_time() {
    let place = grown_old();
    let plain = get(&place, &["--fresh-for", "1s"], "exit 66");
    assert_eq!(
        code(&plain),
        66,
        "without --absent-for it is COMMAND's own failure"
    );
    assert_prints(&place.run(&["read", "FILE"]), "old");
    let options = [
        "--fresh-for",
        "1s",
        "--absent-for",
        "1500ms",
        "--error-for",
        "1h",
    ];
    let gone = get(&place, &options, "exit 66");
    assert_eq!(
        (code(&gone), &*stdout(&gone)),
        (66, ""),
        "{}",
        stderr(&gone)
    );
    let believed = get(&place, &options, "printf back");
    assert_eq!(
        code(&believed),
        66,
        "COMMAND is not run: {}",
        stdout(&believed)
    );
    let read = place.run(&["read", "FILE"]);
    assert_eq!(code(&read), 66);
    assert!(
        stderr(&read).contains("known not to exist"),
        "{}",
        stderr(&read)
    );
    let status = json(&stdout(&place.run(&["status", "FILE", "--json"])));
    assert!(status["entry"]["absent_until_ms"].is_u64(), "{status}");
    thread::sleep(Duration::from_millis(1600));
    assert_prints(&get(&place, &options, "printf back"), "back");
}

#[test]
fn an_entry_is_refreshed_early_by_whoever_is_drawn() {
    let place = Place::new();
    place.run(&[&["refresh", "FILE"], &sh("sleep 0.05; printf old")[..]].concat());
    let eager = ["--fresh-for", "1h", "--early=1e9"];
    assert_prints(&get(&place, &eager, "sleep 0.05; printf new"), "new");
    let plain = get(&place, &["--fresh-for", "1h"], "printf newer");
    assert_prints(&plain, "new");
    for wrong in ["--early=0", "--early=-1", "--early=much"] {
        assert_eq!(
            code(&get(&place, &["--fresh-for", "1h", wrong], "true")),
            2,
            "{wrong}"
        );
    }
    let alone = get(&place, &["--stale-for", "1h"], "true");
    assert_eq!(code(&alone), 2, "without --fresh-for nothing is stale");
}
