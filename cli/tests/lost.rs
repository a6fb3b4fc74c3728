//! Holders that are overtaken, or lose what their lease consists of.
#![cfg(unix)]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Place, code, eventually, exists, json, signal, stderr, stdout};

#[test]
fn a_broken_lock_ends_the_command_and_is_76() {
    let place = Place::new();
    let script = "touch held; exec sleep 60";
    let holder = place.start(&["lock", "DIR", "--lease", "1s", "--", "sh", "-c", script]);
    eventually("the lock is held", || exists(&place.beside("held")));
    let out = place.run(&["break", "DIR", "--json"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    assert_eq!(json(&stdout(&out))["removed"]["pid"], holder.id());
    let out = holder.wait_with_output().expect("it ends");
    assert_eq!(code(&out), 76, "{}", stderr(&out));
    assert!(stderr(&out).contains("was lost"), "{}", stderr(&out));
    assert_eq!(code(&place.run(&["sweep", "DIR"])), 0);
    place.assert_clean();
}

#[test]
fn a_lost_lease_is_said_at_once_however_long_the_lease_is() {
    // The holder beats each 200 s.
    let lease = "10m";
    let script = "touch held; exec sleep 60";
    let with_command = |verb, at| [verb, at, "--lease", lease, "--", "sh", "-c", script];
    for words in [
        &with_command("lock", "DIR")[..],
        &with_command("get", "FILE"),
        &with_command("refresh", "FILE"),
        &["refresh", "FILE", "--lease", lease],
    ] {
        let place = Place::new();
        let mut command = place.command(words);
        let holder = command.stdin(Stdio::piped()).spawn().expect("it starts");
        if words.contains(&"--") {
            eventually("COMMAND runs", || exists(&place.beside("held")));
        } else {
            eventually("it reads", || {
                json(&stdout(&place.run(&["status", "DIR", "--json"])))["locked"] == true
            });
        }
        assert_eq!(code(&place.run(&["break", "DIR"])), 0, "{words:?}");
        let broken = Instant::now();
        let out = holder.wait_with_output().expect("it ends");
        assert_eq!(code(&out), 76, "{words:?}: {}", stderr(&out));
        assert!(
            broken.elapsed() < Duration::from_secs(10),
            "{words:?}: after {:?}",
            broken.elapsed()
        );
        assert_eq!(stderr(&out).lines().count(), 1, "{}", stderr(&out));
        place.assert_clean();
    }
}

#[test]
fn a_lease_whose_files_were_deleted_is_lost_and_the_message_says_which() {
    for (deleted, reason) in [
        ("cache", "the cache directory was deleted"),
        ("cache/.cachelock", "its control directory was deleted"),
        ("cache/.cachelock/head", "its head file was deleted"),
    ] {
        for words in [["lock", "DIR"], ["refresh", "FILE"]] {
            let place = Place::new();
            let command = ["--", "sh", "-c", "touch held; exec sleep 60"];
            let holder = place.start(&[&words[..], &command].concat());
            eventually("COMMAND runs", || exists(&place.beside("held")));
            let deleted = place.beside(deleted);
            if deleted.is_dir() {
                fs::remove_dir_all(&deleted).expect("ours");
            } else {
                fs::remove_file(&deleted).expect("ours");
            }
            let out = holder.wait_with_output().expect("it ends");
            assert_eq!(code(&out), 76, "{words:?}, {deleted:?}: {}", stderr(&out));
            assert!(
                stderr(&out).contains(reason),
                "{words:?}, {deleted:?}: {}",
                stderr(&out)
            );
        }
    }
}

#[test]
fn a_frozen_holder_is_overtaken_and_changes_nothing_when_it_wakes() {
    let place = Place::new();
    let script = "touch held; sleep 1; echo stale";
    let frozen = place.start(&["refresh", "FILE", "--lease", "1s", "--", "sh", "-c", script]);
    eventually("the lock is held", || exists(&place.beside("held")));
    signal("STOP", &frozen);
    let out = place.run(&["refresh", "FILE", "--timeout", "20", "--", "echo", "newer"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    assert!(stderr(&out).contains("took over"), "{}", stderr(&out));
    signal("CONT", &frozen);
    let out = frozen.wait_with_output().expect("it ends");
    assert_eq!(code(&out), 76, "{}", stderr(&out));
    assert_eq!(stdout(&place.run(&["read", "FILE"])), "newer\n");
    place.assert_clean();
}

#[test]
fn a_heartbeat_that_fails_is_a_warning_and_no_loss() {
    let place = Place::new();
    let script = "touch held; read line";
    let mut command = place.command(&["lock", "DIR", "--lease", "600ms", "--", "sh", "-c", script]);
    let mut holder = command.stdin(Stdio::piped()).spawn().expect("it starts");
    eventually("COMMAND runs", || exists(&place.beside("held")));
    let claim = fs::read_dir(place.cache().join(".cachelock"))
        .expect("a control directory")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.to_string_lossy().contains("claim-"))
        .expect("it is held");
    let aside = place.beside("aside");
    fs::rename(&claim, &aside).expect("on one file system");
    fs::create_dir(&claim).expect("a directory in its place");
    let mut errors = BufReader::new(holder.stderr.take().expect("a pipe"));
    let mut said = String::new();
    errors.read_line(&mut said).expect("text");
    assert!(
        said.contains("warning: the lease on ") && said.contains("not an ordinary file"),
        "{said}"
    );
    fs::remove_dir(&claim).expect("ours");
    fs::rename(&aside, &claim).expect("on one file system");
    drop(holder.stdin.take());
    errors.read_to_string(&mut said).expect("text");
    assert_eq!(said.lines().count(), 1, "{said}");
    // What `read` answers at the end of its input.
    assert_eq!(holder.wait().expect("it ends").code(), Some(1), "{said}");
    place.assert_clean();
}
