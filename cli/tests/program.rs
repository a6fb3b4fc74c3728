//! The program as a shell script sees it: what it prints, its exit codes, and what it leaves behind.
#![cfg(unix)]

mod common;

use std::fs;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use common::{PROGRAM, Place, code, eventually, exists, json, signal, stderr, stdout};

#[test]
fn one_of_many_runs_the_command_and_all_print_its_output() {
    let place = Place::new();
    let script = "echo x >> count; sleep 0.2; echo payload";
    let herd: Vec<Child> = (0..64)
        .map(|_| place.start(&["get", "FILE", "--timeout", "60", "--", "sh", "-c", script]))
        .collect();
    for child in herd {
        let out = child.wait_with_output().expect("it ends");
        assert_eq!(code(&out), 0, "{}", stderr(&out));
        assert_eq!(stdout(&out), "payload\n");
    }
    assert_eq!(
        fs::read_to_string(place.beside("count")).expect("a count"),
        "x\n"
    );
    place.assert_clean();
}

#[test]
fn what_is_there_is_printed_without_running_the_command() {
    let place = Place::new();
    place.publish("old");
    let out = place.run(&["get", "FILE", "--", "sh", "-c", "touch ran; echo new"]);
    assert_eq!((code(&out), &*stdout(&out)), (0, "old"));
    assert!(!exists(&place.beside("ran")));
    let out = place.run(&["get", "FILE", "--fresh-for", "1h", "--", "false"]);
    assert_eq!((code(&out), &*stdout(&out)), (0, "old"));
    let out = place.run(&["get", "FILE", "--fresh-for", "0", "--", "printf", "new"]);
    assert_eq!((code(&out), &*stdout(&out)), (0, "new"));
}

#[test]
fn a_failing_command_publishes_nothing_and_its_code_is_passed_on() {
    let place = Place::new();
    let failing = ["--", "sh", "-c", "echo half; exit 9"];
    let out = place.run(&[&["get", "FILE"], &failing[..]].concat());
    assert_eq!((code(&out), &*stdout(&out)), (9, ""));
    assert!(!exists(&place.entry()));
    place.publish("old");
    let out = place.run(&[&["refresh", "FILE"], &failing[..]].concat());
    assert_eq!(code(&out), 9);
    let out = place.run(&["refresh", "FILE", "--", "sh", "-c", "echo half; kill -9 $$"]);
    assert_eq!(code(&out), 137);
    assert_eq!(stdout(&place.run(&["read", "FILE"])), "old");
    place.assert_clean();
}

#[test]
fn commands_that_cannot_be_started_are_told_apart() {
    let place = Place::new();
    for (command, expected) in [("/nowhere/command", 127), ("/dev/null", 126)] {
        for verb in [["get", "FILE"], ["refresh", "FILE"], ["lock", "DIR"]] {
            let out = place.run(&[&verb[..], &["--", command]].concat());
            assert_eq!(code(&out), expected, "{verb:?}: {}", stderr(&out));
        }
    }
    place.assert_clean();
}

#[test]
fn a_path_is_printed_instead_of_the_payload() {
    let place = Place::new();
    let expected = format!("{}\n", place.entry().display());
    let out = place.run(&["get", "--path", "cache/entry", "--", "echo"]);
    assert_eq!((code(&out), stdout(&out)), (0, expected.clone()));
    assert_eq!(stdout(&place.run(&["read", "--path", "FILE"])), expected);
    let out = place.run(&["read", "--path", "--cache", "cache", "entry"]);
    assert_eq!(stdout(&out), expected);
}

#[test]
fn a_corrupt_entry_is_65_and_get_replaces_it() {
    let place = Place::new();
    place.publish("payload");
    fs::write(place.entry(), "pAyload").expect("writable");
    let out = place.run(&["read", "FILE", "--json"]);
    assert_eq!((code(&out), &*stdout(&out)), (65, ""));
    assert_eq!(json(&stderr(&out))["error"], "corrupt");
    let out = place.run(&["get", "FILE", "--", "printf", "again"]);
    assert_eq!((code(&out), &*stdout(&out)), (0, "again"));
    assert!(stderr(&out).contains("corrupt"), "{}", stderr(&out));
    assert_eq!(
        stderr(&out).lines().count(),
        1,
        "said once: {}",
        stderr(&out)
    );
}

#[test]
fn what_is_missing_is_66() {
    let place = Place::new();
    let out = place.run(&["read", "FILE", "--json"]);
    assert_eq!((code(&out), &*stdout(&out)), (66, ""));
    let error = json(&stderr(&out));
    assert_eq!(error["error"], "missing");
    assert_eq!(error["path"], place.entry().display().to_string());
    assert!(!exists(&place.cache()));
}

#[test]
fn a_message_is_one_line_whatever_a_path_holds() {
    let place = Place::new();
    let out = place.run(&["read", "--cache", "two\nlines\u{1b}[2J", "entry"]);
    assert_eq!(code(&out), 66);
    let said = stderr(&out);
    let end = "/two\\nlines\\u{1b}[2J/entry [missing]\n";
    assert!(said.ends_with(end), "{said:?}");
    assert_eq!(said.lines().count(), 1, "{said:?}");
}

#[test]
fn mistakes_in_the_call_are_2() {
    let place = Place::new();
    for words in [
        &["get"][..],
        &["get", "FILE", "--timeout", "soon", "--", "true"],
        &["get", "FILE", "--lease", "1ms", "--", "true"],
        &["get", "--cache", "DIR", "../out", "--", "true"],
        &["get", "--cache", "DIR", ".cachelock/head", "--", "true"],
        &["get", "cache/", "--", "true"],
        &["lock", "DIR"],
    ] {
        assert_eq!(code(&place.run(words)), 2, "{words:?}");
        let out = place.run(&[&["--json"], words].concat());
        assert!(json(&stderr(&out))["error"].is_string(), "{words:?}");
    }
    assert!(!exists(&place.cache()));
}

#[test]
fn the_control_directory_is_no_cache_for_any_command() {
    let place = Place::new();
    place.publish("payload");
    let status = || json(&stdout(&place.run(&["status", "FILE", "--json"])));
    let before = status();
    for words in [
        &["refresh", "cache/.cachelock/head", "--", "true"][..],
        &["get", "cache/.cachelock/tags/entry", "--", "true"],
        &["get", "--cache", "cache/.CACHELOCK", "head", "--", "true"],
        &["read", "cache/.cachelock/head"],
        &["status", "cache/.cachelock"],
        &["status", "cache/.cachelock/head"],
        &["lock", "cache/.cachelock", "--", "true"],
        &["sweep", "cache/.cachelock/"],
        &["break", "cache/.cachelock/tags"],
    ] {
        let out = place.run(words);
        assert_eq!(code(&out), 2, "{words:?}: {}", stderr(&out));
        assert!(
            stderr(&out).contains("cannot be a cache"),
            "{words:?}: {}",
            stderr(&out)
        );
    }
    let mut inside = place.command(&["refresh", "head", "--", "true"]);
    let out = inside
        .current_dir(place.cache().join(".cachelock"))
        .output();
    assert_eq!(
        code(&out.expect("the program runs")),
        2,
        "by a relative name"
    );
    assert_eq!(status()["epoch"], before["epoch"], "head is as it was");
    place.assert_clean();
}

#[test]
fn a_created_cache_is_not_writable_by_others_whatever_the_umask_and_so_usable() {
    use std::os::unix::fs::PermissionsExt as _;

    let place = Place::new();
    for umask in ["000", "002", "022", "077"] {
        let script = format!("umask {umask} && exec {PROGRAM} refresh {umask}/deep/entry -- true");
        let out = Command::new("sh")
            .args(["-c", &script])
            .env("CACHELOCK_CONFIG", "")
            .current_dir(place.dir.path())
            .output()
            .expect("sh runs");
        assert_eq!(code(&out), 0, "umask {umask}: {}", stderr(&out));
        for dir in [umask.to_owned(), format!("{umask}/deep")] {
            let made = fs::metadata(place.beside(&dir)).expect("it was created");
            assert_eq!(made.permissions().mode() & 0o022, 0, "{dir}");
        }
    }
}

#[test]
fn an_entry_that_becomes_a_folder_by_hand_and_back_leaves_a_tag_to_remove() {
    let place = Place::new();
    let refresh =
        |name: &str| place.run(&["refresh", "--cache", "cache", name, "--", "printf", "x"]);
    let tag = place.cache().join(".cachelock/tags/name");
    let assert_told = |name: &str, why: &str| {
        let out = refresh(name);
        assert_eq!(code(&out), 74, "{}", stderr(&out));
        let said = stderr(&out);
        let what = format!("{} is ", tag.display());
        assert!(said.contains(&what), "{said}");
        assert!(said.contains(&format!("{why}; remove it")), "{said}");
    };
    assert_eq!(code(&refresh("name")), 0);
    fs::remove_file(place.cache().join("name")).expect("ours");
    assert_told(
        "name/below",
        "deleted by hand, or known to be absent), and no folder",
    );
    fs::remove_file(&tag).expect("ours");
    let out = refresh("name/below");
    assert_eq!(code(&out), 0, "{}", stderr(&out));

    fs::remove_dir_all(place.cache().join("name")).expect("ours");
    assert_told("name", "entries are or were in a folder of that name");
    fs::remove_dir_all(&tag).expect("ours");
    let out = refresh("name");
    assert_eq!(code(&out), 0, "{}", stderr(&out));
}

#[test]
fn an_unexpected_length_is_74() {
    let place = Place::new();
    place.publish("old");
    let out = place.run(&[
        "refresh",
        "FILE",
        "--expect-len",
        "9",
        "--",
        "echo",
        "short",
    ]);
    assert_eq!(code(&out), 74);
    assert_eq!(stdout(&place.run(&["read", "FILE"])), "old");
}

#[test]
fn a_timeout_is_75_and_names_the_holder_and_the_flag() {
    let place = Place::new();
    let holder = place.start(&["lock", "DIR", "--", "sh", "-c", "touch held; exec sleep 60"]);
    eventually("the lock is held", || exists(&place.beside("held")));
    let out = place.run(&["refresh", "FILE", "--timeout", "0", "--", "true"]);
    assert_eq!(code(&out), 75);
    let said = stderr(&out);
    assert!(
        said.contains(
            "(the timeout is 0, from --timeout; \
             change it with --timeout, CACHELOCK_TIMEOUT or lock_timeout in a configuration file)"
        ),
        "{said}"
    );
    assert!(said.contains(&format!("process {}", holder.id())), "{said}");
    let remedies = ["tried once", "wait longer", "change it with"];
    let given = remedies.map(|remedy| said.matches(remedy).count());
    assert_eq!(given, [0, 0, 1], "one remedy: {said}");

    let out = place.run(&["get", "FILE", "--timeout", "1", "--", "true"]);
    assert_eq!(code(&out), 75);
    let waiting = format!("cachelock: waiting 0 s, 1 s left: process {} ", holder.id());
    assert!(stderr(&out).starts_with(&waiting), "{}", stderr(&out));
    assert!(
        stderr(&out).contains(" has the writer lock of "),
        "{}",
        stderr(&out)
    );
    let out = place.run(&["get", "FILE", "--quiet", "--timeout", "1", "--", "true"]);
    assert_eq!(stderr(&out).lines().count(), 1, "{}", stderr(&out));

    let status = json(&stdout(&place.run(&["status", "DIR", "--json"])));
    assert_eq!(status["holder"]["pid"], holder.id());
    assert_eq!(status["locked"], true);
    signal("TERM", &holder);
    let out = holder.wait_with_output().expect("it ends");
    assert_eq!(code(&out), 143);
    place.assert_clean();
}

#[test]
fn a_signal_ends_command_and_wait_and_leaves_nothing() {
    let place = Place::new();
    for (name, expected) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let running = place.beside(name);
        let script = format!("echo half; touch {name}; exec sleep 60");
        let holder = place.start(&["refresh", "FILE", "--", "sh", "-c", &script]);
        eventually("COMMAND runs", || exists(&running));
        let waiter = place.start(&["get", "FILE", "--timeout", "infinite", "--", "true"]);
        thread::sleep(Duration::from_millis(200));
        let started = Instant::now();
        for (child, what) in [(waiter, "the waiter"), (holder, "the holder")] {
            signal(name, &child);
            let out = child.wait_with_output().expect("it ends");
            assert_eq!(code(&out), expected, "{what}: {}", stderr(&out));
        }
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(!exists(&place.entry()));
        place.assert_clean();
    }
}

/// The terminal's signal is for all that run in it. A request to end right behind it would cut short what COMMAND does about it.
#[test]
fn ctrl_c_leaves_command_the_time_to_clean_up_and_no_more_than_that() {
    use std::os::unix::process::CommandExt as _;

    let place = Place::new();
    let cleans_up = "trap 'for i in 1 2 3 4 5; do sleep 0.05; done; touch cleaned; exit 3' INT HUP; trap 'touch cut; exit 4' TERM";
    let does_not = "trap '' INT HUP; trap 'touch cut; exit 4' TERM";
    for (name, expected) in [("INT", 130), ("HUP", 129)] {
        for (traps, cleaned) in [(cleans_up, true), (does_not, false)] {
            let script = format!("{traps}; echo half; touch runs; while :; do sleep 0.02; done");
            let words = ["refresh", "FILE", "--", "sh", "-c", &script];
            let mut command = place.command(&words);
            let child = command.process_group(0).spawn().expect("it starts");
            let beside = ["runs", "cleaned", "cut"].map(|name| place.beside(name));
            eventually("COMMAND runs", || exists(&beside[0]));
            let all = format!("-{}", child.id());
            let mut sent = Command::new("kill");
            sent.args([&format!("-{name}"), "--", &all]);
            assert!(sent.status().expect("kill runs").success());
            let started = Instant::now();
            let out = child.wait_with_output().expect("it ends");
            let took = started.elapsed();
            assert_eq!(code(&out), expected, "{}", stderr(&out));
            let found = beside[1..].iter().map(|path| exists(path));
            assert!(found.eq([cleaned, !cleaned]), "{name}: {cleaned}");
            if !cleaned {
                assert!(took >= Duration::from_secs(1), "{name}: {took:?}");
            }
            for path in beside {
                let _ = fs::remove_file(path);
            }
            assert!(!exists(&place.entry()));
            place.assert_clean();
        }
    }
}

/// A terminal's signal is for both, and COMMAND may be the first to be done with it. Here the thread that waits for signals hears of
/// it half a second late.
#[cfg(target_os = "linux")]
#[test]
fn what_command_does_about_a_signal_is_never_taken_for_its_result() {
    let place = Place::new();
    if !common::has("strace") {
        return;
    }
    place.publish("old");
    let late = [
        "--quiet=all",
        "--follow-forks",
        "--trace=recvfrom",
        "--inject=recvfrom:delay_exit=500000:when=2",
        "--output=/dev/null",
        PROGRAM,
        "get",
        "--fresh-for=0",
        "--error-for=1h",
    ];
    for ends in ["exit 0", "exit 3"] {
        let script = format!("echo half; kill -TERM $PPID; {ends}");
        let mut command = Command::new("strace");
        command.args(late).arg(place.entry());
        command.args(["--", "sh", "-c", &script]);
        let out = common::run(command);
        assert_eq!(
            (code(&out), &*stdout(&out)),
            (143, ""),
            "{ends}: {}",
            stderr(&out)
        );
        assert_eq!(stdout(&place.run(&["read", "FILE"])), "old", "{ends}");
    }
    place.assert_clean();
}

#[cfg(unix)]
#[test]
fn commands_end_is_heard_of_although_the_parent_ignored_it() {
    let place = Place::new();
    if !common::has("perl") {
        return;
    }
    let mut command = Command::new("perl");
    let ignores = "$SIG{CHLD} = 'IGNORE'; exec @ARGV";
    command
        .args(["-e", ignores, PROGRAM, "lock"])
        .arg(place.cache());
    command.args(["--", "sh", "-c", "exit 3"]);
    let out = common::run(command);
    assert_eq!(code(&out), 3, "{}", stderr(&out));
}

#[test]
fn a_read_only_cache_can_be_read_and_refreshing_it_is_77() {
    use std::os::unix::fs::PermissionsExt as _;

    let place = Place::new();
    place.publish("payload");
    let mode = |mode| {
        for dir in [place.cache(), place.cache().join(".cachelock")] {
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).expect("ours");
        }
    };
    mode(0o555);
    let refresh = ["refresh", "--allow-shared", "cache/entry", "--", "true"];
    let (read, refresh) = (
        place.run_unprivileged(&["read", "cache/entry"], &[]),
        place.run_unprivileged(&refresh, &[]),
    );
    mode(0o755);
    assert_eq!(
        (code(&read), &*stdout(&read)),
        (0, "payload"),
        "{}",
        stderr(&read)
    );
    assert_eq!(code(&refresh), 77, "{}", stderr(&refresh));
    assert_eq!(stdout(&place.run(&["read", "FILE"])), "payload");
}

#[test]
fn a_copy_of_hard_links_and_its_cache_go_on_and_apart() {
    let place = Place::new();
    place.publish("old");
    let holder = place.start(&[
        "lock",
        "DIR",
        "--lease",
        "500ms",
        "--",
        "sh",
        "-c",
        "touch held; sleep 2",
    ]);
    eventually("COMMAND runs", || exists(&place.beside("held")));
    let copy = place.beside("copy");
    let mut copies = Command::new("cp");
    copies.arg("-al").arg(place.cache()).arg(&copy);
    assert!(copies.status().expect("cp runs").success());
    let out = holder.wait_with_output().expect("it ends");
    assert_eq!((code(&out), &*stderr(&out)), (0, ""), "it was not lost");
    place.publish("new");
    let entry = copy.join("entry").display().to_string();
    let out = place.run(&["read", &entry]);
    assert_eq!(stdout(&out), "old", "{}", stderr(&out));
    // The lock that was held when it was copied must expire there.
    let out = place.run(&["refresh", &entry, "--", "printf", "newer"]);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    assert_eq!(stdout(&place.run(&["read", &entry])), "newer");
    assert_eq!(stdout(&place.run(&["read", "FILE"])), "new");
    place.assert_clean();
}

#[test]
fn lock_passes_on_the_commands_code_and_streams() {
    let place = Place::new();
    let out = place.run(&[
        "lock",
        "DIR",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    assert_eq!(
        (code(&out), &*stdout(&out), &*stderr(&out)),
        (7, "out\n", "err\n")
    );
    let out = place.run(&["lock", "DIR", "--", "sh", "-c", "kill -15 $$"]);
    assert_eq!(code(&out), 143);
    place.assert_clean();
}

#[test]
fn status_counts_generations_and_says_when_nothing_is_there() {
    let place = Place::new();
    let out = place.run(&["status", "FILE", "--json"]);
    assert_eq!(code(&out), 0);
    assert_eq!(json(&stdout(&out))["entry"]["exists"], false);
    assert!(stdout(&place.run(&["status", "DIR"])).contains("nothing there"));
    for generation in 1..=2 {
        let out = place.run(&["refresh", "FILE", "--json", "--", "printf", "12345"]);
        assert_eq!(json(&stdout(&out))["generation"], generation);
        let status = json(&stdout(&place.run(&["status", "FILE", "--json"])));
        assert_eq!(status["generation"], generation);
        assert_eq!(status["entry"]["length"], 5);
        assert_eq!(status["entry"]["verification"], "verified");
        assert_eq!(status["holder"], Value::Null);
        assert_eq!(status["epoch"], generation);
    }
    fs::write(place.entry(), "54321").expect("writable");
    let out = place.run(&["status", "FILE", "--json"]);
    assert_eq!(code(&out), 0);
    assert_eq!(json(&stdout(&out))["entry"]["verification"], "corrupt");
}

#[test]
fn nobody_reading_is_no_error() {
    let place = Place::new();
    let mut child = place.start(&["get", "FILE", "--", "head", "-c", "5000000", "/dev/zero"]);
    drop(child.stdout.take());
    let out = child.wait_with_output().expect("it ends");
    assert_eq!((code(&out), &*stderr(&out)), (0, ""));
}
