//! Completion scripts and the manual page: that shells and man(1) take them, and that nothing is missing.
#![cfg(unix)]

mod common;

use std::fs;
use std::process::Command;

use common::{Place, code, commands, has, stderr, stdout};

#[track_caller]
fn printed(place: &Place, words: &[&str]) -> String {
    let out = place.run(words);
    assert_eq!(code(&out), 0, "{}", stderr(&out));
    assert_eq!(stderr(&out), "");
    stdout(&out)
}

#[test]
fn every_shells_script_has_every_command_and_option() {
    let place = Place::new();
    let commands = commands(&place);
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = printed(&place, &["completions", shell]);
        for (command, options) in &commands {
            for word in options.iter().chain([command]) {
                assert!(script.contains(&**word), "{word} for {shell}");
            }
        }
    }
    let out = place.run(&["completions", "ksh"]);
    assert_eq!(code(&out), 2, "an unknown shell is a mistake in the call");
    assert!(stderr(&out).contains("bash, elvish, fish, powershell, zsh"));
}

#[test]
fn bash_can_read_the_script_and_completes_with_it() {
    if !has("bash") {
        return;
    }
    let place = Place::new();
    let script = place.beside("script");
    fs::write(&script, printed(&place, &["completions", "bash"])).expect("writable");
    let checked = Command::new("bash").arg("-n").arg(&script).output();
    let checked = checked.expect("bash runs");
    assert_eq!((code(&checked), &*stderr(&checked)), (0, ""));

    let complete = |words: &str| {
        // As bash does it for the last of `words`.
        let ask = format!(
            "source '{}'
             COMP_WORDS=({words})
             COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
             _cachelock_line cachelock \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"
             printf '%s ' \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        let out = Command::new("bash").args(["-c", &ask]).output();
        let out = out.expect("bash runs");
        assert_eq!(stderr(&out), "", "{words}");
        stdout(&out).trim().to_owned()
    };
    for (words, expected) in [
        ("cachelock st", "status"),
        ("cachelock get --dur", "--durability"),
        ("cachelock get --durability ''", "none data full"),
        ("cachelock lock --locking ''", "auto lease"),
        ("cachelock completions z", "zsh"),
        ("cachelock --json sta", "status"),
        ("cachelock lock DIR -- compg", "compgen"),
        ("cachelock lock DIR -- ls --fr", ""),
    ] {
        assert_eq!(complete(words), expected, "{words}");
    }
}

#[test]
fn the_manual_page_has_a_part_for_every_command_with_its_options() {
    let place = Place::new();
    let page = printed(&place, &["man"]);
    // As roff escapes it.
    let find =
        |text: &str, option: &str| text.contains(&format!("\\-\\-{}", option.replace('-', "\\-")));
    let (common, rest) = page
        .split_once("\n.SH COMMANDS\n")
        .expect("a part for commands");
    for (command, options) in commands(&place) {
        let heading = format!("\n.SS \"cachelock {command}\"\n");
        let (_, part) = rest
            .split_once(&heading)
            .unwrap_or_else(|| panic!("{heading}"));
        let part = part.split("\n.SS").next().unwrap_or(part);
        for option in options {
            assert!(
                find(part, &option) || find(common, &option),
                "--{option} of {command}"
            );
        }
    }
    for heading in [
        "NAME",
        "SYNOPSIS",
        "OPTIONS",
        "ENVIRONMENT",
        "\"EXIT CODES\"",
        "\"CONFIGURATION FILE\"",
    ] {
        assert!(page.contains(&format!(".SH {heading}\n")), "{heading}");
    }
    for name in [
        "CACHELOCK_TIMEOUT",
        "CACHELOCK_CONFIG",
        "lock_timeout = \"10s\"",
    ] {
        assert!(page.contains(name), "{name}");
    }
}

#[test]
fn groff_has_nothing_to_say_about_the_manual_page() {
    if !has("groff") {
        return;
    }
    let place = Place::new();
    let page = place.beside("cachelock.1");
    fs::write(&page, printed(&place, &["man"])).expect("writable");
    let out = Command::new("groff")
        // Plain text, as wide as an ordinary terminal.
        .args(["-man", "-Tutf8", "-ww", "-rLL=80n", "-P-cbou"])
        .arg(&page)
        .output()
        .expect("groff runs");
    assert_eq!((code(&out), &*stderr(&out)), (0, ""));
    let shown = stdout(&out);
    let synopsis = "       cachelock get [OPTIONS] <FILE> [-- <COMMAND>...]\n";
    assert!(shown.contains(synopsis), "{shown}");
    let too_long: Vec<_> = shown
        .lines()
        .filter(|line| line.chars().count() > 80)
        .collect();
    assert!(too_long.is_empty(), "{too_long:#?}");
}
