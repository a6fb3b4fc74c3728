//! `docs/program.md` says what the program does: its tables against what is really printed.
#![cfg(unix)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use common::{Place, code, commands, eventually, json, signal, stderr, stdout};

const PAGE: &str = include_str!("../../docs/program.md");

/// One row of a table of JSON fields.
struct Field {
    name: String,
    types: String,
    nullable: bool,
}

/// The tables of JSON fields, and which of their fields were seen.
struct Documented {
    tables: BTreeMap<String, Vec<Field>>,
    seen: BTreeSet<String>,
}

fn cells(row: &str) -> Vec<&str> {
    let row = row.trim_start_matches('|').trim_end_matches('|');
    row.split('|').map(str::trim).collect()
}

/// The rows of the first table in `text`, without its heading.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .skip_while(|line| !line.starts_with("| ---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(cells)
}

impl Documented {
    fn read() -> Self {
        let tables = PAGE.split("<!-- json: ").skip(1).map(|part| {
            let (name, rest) = part.split_once(" -->").expect("a name");
            let fields = rows(rest).map(|row| Field {
                name: row[0].trim_matches('`').to_owned(),
                types: row[1].to_owned(),
                nullable: row[2] != "never",
            });
            (name.to_owned(), fields.collect::<Vec<_>>())
        });
        Documented {
            tables: tables.collect(),
            seen: BTreeSet::new(),
        }
    }

    /// `value` has just the fields of `tables`, of their types.
    #[track_caller]
    fn check(&mut self, tables: &[&str], value: &Value) {
        self.check_below(tables, "", value);
    }

    #[track_caller]
    fn check_below(&mut self, tables: &[&str], prefix: &str, value: &Value) {
        let object = value.as_object().unwrap_or_else(|| panic!("{value}"));
        let mut expected = BTreeSet::new();
        let mut deeper = Vec::new();
        for table in tables {
            for field in &self.tables[*table] {
                let Some(name) = field.name.strip_prefix(prefix) else {
                    continue;
                };
                if name.contains('.') {
                    continue;
                }
                expected.insert(name);
                let value = object
                    .get(name)
                    .unwrap_or_else(|| panic!("{} is documented for {table}: {value}", field.name));
                let what = format!("{} of {table} is {value}", field.name);
                self.seen.insert(format!("{table} {}", field.name));
                if value.is_null() {
                    assert!(field.nullable, "{what}, but never null");
                    continue;
                }
                let is = |of: &str| match of {
                    "string" => value.is_string(),
                    "integer" => value.is_u64(),
                    "boolean" => value.is_boolean(),
                    _ => value.is_object(),
                };
                assert!(
                    field.types.split(" or ").any(is),
                    "{what}, but {}",
                    field.types
                );
                if let Some(name) = field.types.strip_prefix('[') {
                    let (name, _) = name.split_once(']').expect("a link");
                    deeper.push((name.to_owned(), String::new(), value.clone()));
                } else if field.types == "object" {
                    deeper.push((
                        (*table).to_owned(),
                        format!("{}.", field.name),
                        value.clone(),
                    ));
                }
            }
        }
        let found: BTreeSet<_> = object.keys().map(String::as_str).collect();
        assert_eq!(found, expected, "the fields of {tables:?} {prefix}");
        for (table, prefix, value) in deeper {
            self.check_below(&[&table], &prefix, &value);
        }
    }

    /// The last line of `said` is an error, and name and code stand together in the table of exit codes.
    #[track_caller]
    fn check_error(&mut self, said: &str, name: &str, code: i32) {
        let error = json(said);
        self.check(&["error"], &error);
        assert_eq!(
            (&error["error"], &error["exit_code"]),
            (&name.into(), &code.into())
        );
        let (_, table) = PAGE.split_once("\n## Exit codes\n").expect("a table");
        let is_documented = rows(table).any(|row| {
            let names = row[1]
                .split(", ")
                .any(|cell| cell.trim_matches('`') == name);
            let codes = row[0] == "else" || row[0].split(", ").any(|cell| cell == code.to_string());
            names && codes
        });
        assert!(is_documented, "{name} with {code}");
    }
}

#[test]
fn what_is_printed_as_json_has_just_the_documented_fields() {
    let mut documented = Documented::read();
    let place = Place::new();
    let run = |words: &[&str]| {
        let out = place.run(&[&["--json"], words].concat());
        (code(&out), stdout(&out), stderr(&out))
    };
    let entry = ["status", "status-entry"];
    let everything = ["status", "status-entry", "status-settings"];

    documented.check(&["status"], &json(&run(&["status", "cache/"]).1));
    documented.check(&entry, &json(&run(&["status", "FILE"]).1));
    documented.check(&["sweep"], &json(&run(&["sweep", "DIR"]).1));
    documented.check(&["break"], &json(&run(&["break", "DIR"]).1));
    documented.check(
        &["refresh"],
        &json(&run(&["refresh", "FILE", "--", "echo"]).1),
    );
    documented.check(&entry, &json(&run(&["status", "FILE"]).1));
    documented.check(&everything, &json(&run(&["status", "-v", "FILE"]).1));
    let mut command = place.command(&["status", "-v", "DIR", "--json"]);
    let file = place.beside("config.toml");
    fs::write(&file, "lease = 9").expect("writable");
    let out = command
        .env("CACHELOCK_CONFIG", &file)
        .output()
        .expect("it runs");
    let with_file = json(&stdout(&out));
    documented.check(&["status", "status-settings"], &with_file);
    assert_eq!(with_file["settings"]["lease"]["line"], 1);
    // With `--json` these print the payload and nothing else.
    for words in [&["read", "FILE"][..], &["get", "FILE"]] {
        assert_eq!(run(words), (0, "\n".to_owned(), String::new()));
    }

    let missing = run(&["read", "--cache", "DIR", "other"]);
    documented.check_error(&missing.2, "missing", 66);
    documented.check_error(&run(&["get"]).2, "usage", 2);
    documented.check_error(&run(&["read", "--cache", "DIR", ".."]).2, "invalid-name", 2);
    documented.check_error(
        &run(&["refresh", "FILE", "--lease", "1d", "--", "true"]).2,
        "usage",
        2,
    );
    documented.check_error(
        &run(&["refresh", "FILE", "--", "false"]).2,
        "command-failed",
        1,
    );
    documented.check_error(
        &run(&["lock", "DIR", "--", "/nowhere"]).2,
        "command-not-found",
        127,
    );
    documented.check_error(
        &run(&["lock", "DIR", "--", "/dev/null"]).2,
        "command-not-started",
        126,
    );
    let short = run(&["refresh", "FILE", "--expect-len", "9", "--", "echo"]);
    documented.check_error(&short.2, "length-mismatch", 74);
    let mut command = place.command(&["read", "FILE", "--json"]);
    let out = command
        .env("CACHELOCK_LEASE", "x")
        .output()
        .expect("it runs");
    documented.check_error(&stderr(&out), "config", 2);

    let holder = place.hold();
    documented.check(&["status"], &json(&run(&["status", "DIR"]).1));
    let (_, _, said) = run(&["sweep", "DIR", "--timeout", "1"]);
    documented.check_error(&said, "timeout", 75);
    let waiting = json(said.lines().next().expect("an event"));
    assert_eq!(waiting["event"], "lock_waiting");
    documented.check(&["event"], &waiting);
    let (_, removed, said) = run(&["break", "DIR"]);
    documented.check(&["break"], &json(&removed));
    let taken = json(said.lines().next().expect("an event"));
    assert_eq!(taken["event"], "lease_taken_over");
    documented.check(&["event"], &taken);
    drop(holder);

    fs::write(place.entry(), "torn").expect("writable");
    documented.check_error(&run(&["read", "FILE"]).2, "corrupt", 65);
    documented.check(&entry, &json(&run(&["status", "FILE"]).1));
    let (_, _, said) = run(&["get", "FILE", "--", "echo"]);
    let corrupt = json(&said);
    assert_eq!(corrupt["event"], "entry_corrupt");
    documented.check(&["event"], &corrupt);
    let (_, _, said) = run(&["sweep", "DIR", "--timeout", "2h"]);
    documented.check(&["warning"], &json(&said));

    let ended = |name: &str| {
        let words = [
            "lock",
            "DIR",
            "--json",
            "--",
            "sh",
            "-c",
            "touch held; exec sleep 600",
        ];
        let child = place.start(&words);
        eventually("the lock is held", || place.beside("held").exists());
        fs::remove_file(place.beside("held")).expect("ours");
        match name {
            "break" => assert_eq!(run(&["break", "DIR"]).0, 0),
            name => signal(name, &child),
        }
        stderr(&child.wait_with_output().expect("it ends"))
    };
    documented.check_error(&ended("break"), "lease-lost", 76);
    documented.check_error(&ended("TERM"), "terminated", 143);

    let all = documented.tables.iter().flat_map(|(table, fields)| {
        let fields = fields.iter();
        fields.map(move |field| format!("{table} {}", field.name))
    });
    let never_seen: Vec<_> = all
        .filter(|field| !documented.seen.contains(field))
        .collect();
    assert!(
        never_seen.is_empty(),
        "documented, but never printed: {never_seen:?}"
    );
}

/// The text between a heading and the next of its level or above.
fn section(heading: &str) -> &'static str {
    let level = heading.split(' ').next().expect("a level");
    let start = PAGE
        .find(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("no {heading}"));
    let text = &PAGE[start + heading.len() + 2..];
    let end = text
        .match_indices("\n#")
        .find(|(at, _)| {
            let next = text[at + 1..].split(' ').next().unwrap_or_default();
            next.len() <= level.len()
        })
        .map_or(text.len(), |(at, _)| at);
    &text[..end]
}

/// The long options in the first column of the first table of `text`.
fn options(text: &str) -> BTreeSet<String> {
    rows(text)
        .flat_map(|row| row[0].split(['`', ' ', ',', '[']))
        .filter_map(|word| word.strip_prefix("--"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_and_option_is_documented_and_no_other() {
    let place = Place::new();
    let commands = commands(&place);
    let common = options(section("## Options of every command"));
    for (command, found) in &commands {
        let text = section(&format!("### {command}"));
        assert!(
            text.contains(&format!("cachelock {command}")),
            "how to call {command}"
        );
        let has_options = text.contains("| option |");
        let own = if has_options {
            options(text)
        } else {
            BTreeSet::new()
        };
        let documented: BTreeSet<_> = own.union(&common).cloned().collect();
        let found: BTreeSet<_> = found.iter().cloned().collect();
        assert_eq!(documented, found, "the options of {command}");
    }
    let headings = PAGE.lines().filter_map(|line| line.strip_prefix("### "));
    for heading in headings.filter(|heading| !heading.contains(' ')) {
        assert!(
            commands.iter().any(|(command, _)| command == heading),
            "{heading}"
        );
    }
}

#[test]
fn every_setting_is_documented_with_its_names_and_default() {
    let place = Place::new();
    let status = json(&stdout(&place.run(&["status", "DIR", "-v", "--json=true"])));
    let help = stdout(&place.run(&["help"]));
    let plain = |cell: &str| cell.trim_matches('`').to_owned();
    let mut documented = BTreeMap::new();
    for row in rows(section("## Settings")) {
        let [flag, variable, key, default] = [0, 1, 2, 4].map(|column| plain(row[column]));
        // As `cachelock help` lists them.
        let listed = help
            .lines()
            .find(|line| line.trim_start().starts_with(&format!("{variable} ")));
        let names = listed.unwrap_or_else(|| panic!("{variable} in:\n{help}"));
        assert!(names.contains(&flag) && names.ends_with(&*key), "{names}");
        documented.insert(flag.trim_start_matches('-').replace('-', "_"), default);
    }
    for (name, setting) in status["settings"].as_object().expect("settings") {
        let default = documented.remove(name).unwrap_or_else(|| panic!("{name}"));
        let value = &setting["value"];
        let shown = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        if name != "json" {
            assert_eq!(shown, default, "the default of {name}");
        }
    }
    assert!(documented.is_empty(), "no settings: {documented:?}");
}

#[test]
fn the_example_of_a_configuration_file_is_one_and_has_the_defaults() {
    let place = Place::new();
    let file = place.beside("config.toml");
    let (_, example) = PAGE.split_once("```toml\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let settings = |file: &str| {
        let mut command = place.command(&["status", "DIR", "-v", "--json"]);
        let out = command
            .env("CACHELOCK_CONFIG", file)
            .output()
            .expect("it runs");
        assert_eq!(code(&out), 0, "{}", stderr(&out));
        let settings = json(&stdout(&out))["settings"].clone();
        let settings = settings.as_object().expect("settings").clone();
        settings
            .into_iter()
            .map(|(name, setting)| (name, setting["value"].clone(), setting["source"].clone()))
            .collect::<Vec<_>>()
    };
    fs::write(&file, example).expect("writable");
    let by_file = settings(&file.display().to_string());
    for (default, by_file) in settings("").iter().zip(&by_file) {
        assert_eq!((&default.0, &default.1), (&by_file.0, &by_file.1));
        let expected = if by_file.0 == "json" { "flag" } else { "file" };
        assert_eq!(by_file.2, expected, "{}", by_file.0);
    }
}
