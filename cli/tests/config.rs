//! Settings by flag, environment and configuration file, as a user of the program meets them.
#![cfg(unix)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use common::{Place, code, json, run, stderr, stdout, timed_out_after};

/// A place with `text` in the usual configuration file of a user whose home is this place.
fn configured(text: &str) -> (Place, PathBuf) {
    let place = Place::new();
    let file = place.beside(".config/cachelock/config.toml");
    fs::create_dir_all(file.parent().expect("a folder")).expect("writable");
    fs::write(&file, text).expect("writable");
    (place, file)
}

/// The program in that home.
fn at_home(place: &Place, words: &[&str]) -> Command {
    let mut command = place.command(words);
    command
        .env_remove("CACHELOCK_CONFIG")
        .env_remove("XDG_CONFIG_HOME")
        .env("HOME", place.dir.path());
    command
}

/// `status --json -v`, read.
#[track_caller]
fn status(mut command: Command) -> Value {
    let out = command.args(["--json", "-v"]).output().expect("it runs");
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    json(&stdout(&out))
}

#[test]
fn status_tells_each_setting_and_where_it_comes_from() {
    let (place, file) = configured("lease = 7\nlock_timeout = \"1m\"\nquiet = true\n");
    let path = file.display().to_string();
    let mut command = at_home(&place, &["status", "DIR", "--quiet=no"]);
    command.env("CACHELOCK_DURABILITY", "full");
    command.env("CACHELOCK_TIMEOUT", "infinite");
    let status = status(command);
    let from_nowhere = |value: Value| json!({ "value": value, "source": "default", "name": null, "file": null, "line": null });
    let by = |value: Value, source: &str, name: &str| json!({ "value": value, "source": source, "name": name, "file": null, "line": null });
    assert_eq!(
        status["settings"],
        json!({
            "timeout": by(json!("infinite"), "environment", "CACHELOCK_TIMEOUT"),
            "locking": from_nowhere(json!("auto")),
            "lease": { "value": "7s", "source": "file", "name": "lease", "file": path, "line": 1 },
            "durability": by(json!("full"), "environment", "CACHELOCK_DURABILITY"),
            "allow_shared": from_nowhere(json!(false)),
            "quiet": by(json!(false), "flag", "--quiet"),
            "json": by(json!(true), "flag", "--json"),
        })
    );
    assert_eq!(
        status["config_file"],
        json!({ "path": path, "exists": true })
    );

    let out = run(at_home(&place, &["status", "DIR", "-v"]));
    let shown = stdout(&out);
    for row in [
        format!("config file  {path}\n"),
        format!("timeout      60s      {path}, line 2\n"),
        "locking      auto     default\n".to_owned(),
        format!("quiet        true     {path}, line 3\n"),
    ] {
        assert!(shown.contains(&row), "{row:?} in:\n{shown}");
    }
    assert_eq!(stderr(&out), "", "the first -v is for the settings");
    let out = run(at_home(&place, &["status", "DIR"]));
    assert!(!stdout(&out).contains("timeout"), "{}", stdout(&out));
}

#[test]
fn the_second_v_of_status_starts_tracing() {
    let place = Place::new();
    place.publish("payload");
    fs::write(place.entry(), "pAyload").expect("writable");
    let traced = |words: &[&str]| stderr(&place.run(words)).contains("entry_corrupt");
    assert!(!traced(&["status", "FILE", "-v"]), "settings only");
    assert!(traced(&["status", "FILE", "-vv"]), "settings and events");
    assert!(
        traced(&["read", "FILE", "-v"]),
        "elsewhere the first counts"
    );
}

#[test]
fn the_file_is_found_by_xdg_config_home_too_and_a_home_is_not_needed() {
    let (place, _) = configured("lease = '8s'");
    let lease = |command: Command| status(command)["settings"]["lease"]["value"].clone();
    let other = place.beside("other");
    fs::create_dir_all(other.join("cachelock")).expect("writable");
    fs::write(other.join("cachelock/config.toml"), "lease = '9s'").expect("writable");
    let mut command = at_home(&place, &["status", "DIR"]);
    command.env("XDG_CONFIG_HOME", &other);
    assert_eq!(lease(command), "9s", "it comes before the home");
    let mut command = at_home(&place, &["status", "DIR"]);
    command.env("XDG_CONFIG_HOME", "other");
    assert_eq!(lease(command), "8s", "a relative one does not count");
    let mut command = at_home(&place, &["status", "DIR"]);
    command.env_remove("HOME");
    let status = status(command);
    assert_eq!(status["settings"]["lease"]["value"], "5s");
    assert_eq!(status["config_file"], Value::Null);
}

#[test]
fn mistakes_in_the_configuration_are_2_and_change_nothing() {
    let (place, file) = configured("lease = \"5s\"\nlock_timeuot = 3\n");
    let read = ["read", "FILE"];
    for words in [
        &["get", "FILE", "--", "touch", "ran"][..],
        &["refresh", "FILE", "--timeout", "1", "--", "touch", "ran"],
        &read,
        &["lock", "DIR", "--", "touch", "ran"],
        &["status", "DIR"],
        &["sweep", "DIR"],
        &["break", "DIR"],
    ] {
        let out = run(at_home(&place, words));
        assert_eq!(code(&out), 2, "{words:?}: {}", stderr(&out));
        let expected = format!(
            "cachelock: {}, line 2: there is no setting `lock_timeuot`; `lock_timeout` is the nearest [config]\n",
            file.display()
        );
        assert_eq!(stderr(&out), expected, "{words:?}");
    }
    let mut command = at_home(&place, &read);
    command.env("CACHELOCK_JSON", "yes");
    let out = run(command);
    let error = json(&stderr(&out));
    assert_eq!((code(&out), &error["error"]), (2, &json!("config")));
    assert_eq!(error["path"], file.display().to_string());

    // Below a flag, too: nothing that is wrong passes unseen.
    for (name, value) in [
        ("CACHELOCK_LEASE", "long"),
        ("CACHELOCK_LEASE", "99ms"),
        ("CACHELOCK_LEASE", "11m"),
        ("CACHELOCK_JSON", "maybe"),
    ] {
        let mut command = place.command(&["get", "FILE", "--lease", "3s", "--", "touch", "ran"]);
        let out = run({
            command.env(name, value);
            command
        });
        assert_eq!(code(&out), 2);
        let start = format!("cachelock: the environment variable {name}: \"{value}\" is ");
        assert!(stderr(&out).starts_with(&start), "{}", stderr(&out));
    }
    assert!(!place.cache().exists() && !place.beside("ran").exists());
}

#[test]
fn a_lease_out_of_bounds_says_where_it_was_set() {
    let (place, file) = configured("\nlease = '1ms'\n");
    let out = run(at_home(&place, &["read", "FILE"]));
    assert_eq!(code(&out), 2);
    let from = format!(
        "{}, line 2: `lease`: \"1ms\" is not between",
        file.display()
    );
    assert!(stderr(&out).contains(&from), "{}", stderr(&out));
}

#[test]
fn help_completions_and_the_manual_do_not_need_a_valid_configuration() {
    let (place, _) = configured("nonsense");
    for words in [&["help"][..], &["completions", "bash"], &["man"]] {
        let mut command = at_home(&place, words);
        command.env("CACHELOCK_TIMEOUT", "nonsense");
        command.env("CACHELOCK_LOG", "a=b=c");
        let out = run(command);
        assert_eq!(code(&out), 0, "{words:?}: {}", stderr(&out));
    }
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_and_a_home_that_cannot_be_entered_is_none() {
    use std::os::unix::fs::PermissionsExt as _;

    let (place, file) = configured("lease = '8s'");
    let mode = |path: &std::path::Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    };
    let home = place.dir.path().display().to_string();
    let variables = [("HOME", &*home)];
    let words = ["status", "cache", "--json", "-v"];
    mode(&file, 0o000);
    let out = place.run_unprivileged(&words, &variables);
    mode(&file, 0o644);
    assert_eq!(code(&out), 2, "{}", stdout(&out));
    let message = json(&stderr(&out))["message"].to_string();
    assert!(message.contains("Permission denied"), "{message}");

    let folder = file.parent().expect("a folder");
    mode(folder, 0o000);
    let out = place.run_unprivileged(&words, &variables);
    mode(folder, 0o755);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    assert_eq!(json(&stdout(&out))["settings"]["lease"]["value"], "5s");
}

#[test]
fn a_timeout_says_where_it_comes_from_and_what_changes_it() {
    let (place, file) = configured("# mine\nlock_timeout = \"100ms\"\n");
    let holder = place.hold();
    let path = file.display();
    let message = |command: Command| {
        let out = run(command);
        assert_eq!(code(&out), 75, "{}", stderr(&out));
        stderr(&out).lines().last().unwrap_or_default().to_owned()
    };
    let change =
        format!("change it with --timeout, CACHELOCK_TIMEOUT or lock_timeout in {path}) [timeout]");
    let said = message(at_home(&place, &["sweep", "DIR"]));
    let expected = format!("(the timeout is 0.1s, from {path}, line 2; {change}");
    assert!(said.ends_with(&expected), "{said}");
    assert!(timed_out_after(&said) >= 0.1, "not before its time: {said}");
    for part in [
        format!("waiting for the writer lock of {}", place.cache().display()),
        format!("held by process {}", holder.id()),
        " since 20".to_owned(),
    ] {
        assert!(said.contains(&part), "{part:?} in {said}");
    }
    let mut command = at_home(&place, &["sweep", "DIR"]);
    command.env("CACHELOCK_TIMEOUT", "0");
    let said = message(command);
    let expected = format!("(the timeout is 0, from CACHELOCK_TIMEOUT; {change}");
    assert!(said.ends_with(&expected), "{said}");
}

#[test]
fn quiet_leaves_only_errors_wherever_it_is_set_and_can_be_taken_back() {
    let (place, _) = configured("quiet = true\n");
    let _holder = place.hold();
    let wait = ["refresh", "FILE", "--timeout", "2", "--", "true"];
    let with = |flag| [&wait[..4], &[flag], &wait[4..]].concat();
    let mut quiet = place.command(&wait);
    quiet.env("CACHELOCK_QUIET", "1");
    let mut loud = at_home(&place, &wait);
    loud.env("CACHELOCK_QUIET", "no");
    // All at once: each waits until its time is over.
    let runs = [
        ("by file", at_home(&place, &wait), 1),
        ("by variable", quiet, 1),
        ("by flag", place.command(&with("-q")), 1),
        (
            "taken back by flag",
            at_home(&place, &with("--quiet=false")),
            2,
        ),
        ("taken back by variable", loud, 2),
    ]
    .map(|(how, mut command, lines)| (how, command.spawn().expect("it starts"), lines));
    for (how, child, expected) in runs {
        let out = child.wait_with_output().expect("it ends");
        assert_eq!(code(&out), 75, "{how}: {}", stderr(&out));
        let said = stderr(&out);
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.len(), expected, "{how}: {said}");
        assert!(timed_out_after(lines[expected - 1]) >= 2.0, "{how}: {said}");
        let waits = lines[0].starts_with("cachelock: waiting 0 s, 2 s left");
        assert_eq!(waits, expected == 2, "{how}: {said}");
    }
}

#[test]
fn a_very_long_timeout_is_warned_of_with_its_source() {
    let place = Place::new();
    let mut command = place.command(&["sweep", "DIR"]);
    command.env("CACHELOCK_TIMEOUT", "2h");
    let out = run(command);
    let warning = "cachelock: warning: the timeout of 7200s, from CACHELOCK_TIMEOUT, is more than an hour; say infinite if there should be no limit\n";
    assert_eq!((code(&out), &*stderr(&out)), (0, warning));
}
