//! `cargo xtask tidy`: the rules that keep the layers apart, and that no compiler checks.
//!
//! | rule | holds | because |
//! | --- | --- | --- |
//! | no target `cfg`, no `std::os`, no dependency for some targets | outside of `platform/` and of tests | everything that depends on the target is behind the seam |
//! | no `unsafe` | outside of `platform/` and of tests | the same |
//! | no files, threads, clocks or sleep of `std` | in `src/` | the simulation must see and steer each step |
//! | nothing unfinished, no test left out | everywhere | a gap must be an error that is seen |
//! | short files | everywhere | each can be read in one sitting |

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::Failure;
use crate::source::{code_of, inside, line_of, words};

/// What a condition on the target may ask for. All words that begin as the first one does are meant.
const TARGET_WORDS: [&str; 3] = ["target_", "unix", "windows"];

/// Where a dependency may be for some targets only: in the platform, and in what is for guests alone.
const TARGET_TABLES: [&str; 2] = ["platform/", "component/"];

/// The name of the test that is no test: the role of a child process.
const CHILD: &str = "in_a_child_process";

const LINES_LIBRARY: usize = 450;
const LINES: usize = 600;
const LINES_TESTS: usize = 1300;

pub(crate) fn run(root: &Path) -> Result<(), Failure> {
    let mut files = Vec::new();
    if let Err(error) = collect(root, &mut files) {
        println!("tidy: the sources cannot be listed: {error}");
        return Err(Failure::Step);
    }
    files.sort();
    let mut findings = Vec::new();
    for file in &files {
        let path = relative(root, file);
        match fs::read_to_string(file) {
            Ok(text) if path.ends_with(MANIFEST) => findings.extend(check_manifest(&path, &text)),
            Ok(text) => findings.extend(check(&path, &text)),
            Err(error) => findings.push(format!("{path}: cannot be read: {error}")),
        }
    }
    for finding in &findings {
        println!("{finding}");
    }
    println!("tidy: {} files, {} findings", files.len(), findings.len());
    // No file at all means that we looked in the wrong place.
    if findings.is_empty() && !files.is_empty() {
        Ok(())
    } else {
        Err(Failure::Step)
    }
}

const MANIFEST: &str = "Cargo.toml";

/// All Rust files and manifests below `dir`, except what is built or hidden.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, files)?;
            }
        } else if name.ends_with(".rs") || name == MANIFEST {
            files.push(path);
        }
    }
    Ok(())
}

/// The path below `root`, with `/` on every system.
fn relative(root: &Path, file: &Path) -> String {
    let path = file.strip_prefix(root).unwrap_or(file);
    let segments: Vec<_> = path
        .iter()
        .map(|segment| segment.to_string_lossy())
        .collect();
    segments.join("/")
}

/// What is wrong with the file `path`.
fn check(path: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let in_platform = path.starts_with("platform/");
    let in_library = path.starts_with("src/");
    let in_tests = path.starts_with("tests/") || path.contains("/tests/");

    let mut found: Vec<(usize, String)> = Vec::new();
    if !in_platform && !in_tests {
        target_cfgs(&code, &mut found);
        by_the_target(text, &code, &mut found);
        for at in words(&code, "unsafe") {
            found.push((at, "`unsafe` outside of platform/ and tests".into()));
        }
    }
    if in_library {
        past_the_seam(&code, &mut found);
    }
    unfinished(&code, &mut found);
    found.sort();
    let mut findings: Vec<_> = found
        .into_iter()
        .map(|(at, what)| format!("{path}:{}: {what}", line_of(&code, at)))
        .collect();

    let most = match (in_library, in_tests) {
        (true, _) => LINES_LIBRARY,
        (_, true) => LINES_TESTS,
        _ => LINES,
    };
    let lines = text.lines().count();
    if lines > most {
        findings.push(format!(
            "{path}: {lines} lines; split it, {most} is the most here"
        ));
    }
    findings
}

/// What is wrong with the manifest `path`. Dependencies of tests may be for some targets, as tests are.
fn check_manifest(path: &str, text: &str) -> Vec<String> {
    if TARGET_TABLES.iter().any(|place| path.starts_with(place)) {
        return Vec::new();
    }
    let tables = text.lines().enumerate().filter(|(_, line)| {
        let line = line.trim_start();
        line.starts_with("[target.") && !line.contains(".dev-dependencies")
    });
    let finding = |(index, _)| {
        let line = index + 1;
        format!("{path}:{line}: a dependency for some targets outside of platform/ and tests")
    };
    tables.map(finding).collect()
}

/// `cfg(...)`, `cfg_attr(...)`, `cfg!(...)` and `cfg_select! {...}` that ask for the target.
fn target_cfgs(code: &str, found: &mut Vec<(usize, String)>) {
    for name in ["cfg", "cfg_attr", "cfg_select"] {
        for at in words(code, name) {
            let rest = &code[at + name.len()..];
            let rest = rest.strip_prefix('!').unwrap_or(rest);
            let brackets = [('(', ')'), ('{', '}'), ('[', ']')];
            let Some(condition) = brackets
                .into_iter()
                .find_map(|(open, close)| inside(rest, open, close))
            else {
                continue;
            };
            if let Some(word) = TARGET_WORDS.iter().find(|word| asks_for(condition, word)) {
                let what = format!("a `cfg` on `{word}` outside of platform/ and tests");
                found.push((at, what));
            }
        }
    }
}

/// Whether `word` stands in `condition`; whether a word begins so, if it ends in `_`.
fn asks_for(condition: &str, word: &str) -> bool {
    if word.ends_with('_') {
        condition
            .split(|char: char| !char.is_alphanumeric() && char != '_')
            .any(|other| other.starts_with(word))
    } else {
        words(condition, word).next().is_some()
    }
}

/// Other ways to depend on the target: what `std` has on some only, and what it or cargo says of the target.
fn by_the_target(text: &str, code: &str, found: &mut Vec<(usize, String)>) {
    let outside = |what: &str| format!("`{what}` outside of platform/ and tests");
    for path in ["std::os", "env::consts"] {
        for at in words(code, path) {
            found.push((at, outside(path)));
        }
    }
    for (at, _) in code.match_indices("std::{") {
        let group = inside(&code[at + "std::".len()..], '{', '}');
        if group.is_some_and(|group| words(group, "os").next().is_some()) {
            found.push((at, outside("std::os")));
        }
    }
    // In a string, where `code` has blanks. Not in this file, which looks for it.
    for (at, variable) in text.match_indices(concat!("CARGO_", "CFG_")) {
        found.push((at, outside(variable)));
    }
}

/// Ways around the seam: what the simulation could neither see nor steer.
fn past_the_seam(code: &str, found: &mut Vec<(usize, String)>) {
    let past = |what: &str| format!("{what} past the seam; use the platform's");
    for path in ["std::fs", "std::thread", "Instant::now", "SystemTime::now"] {
        for at in words(code, path) {
            found.push((at, past(&format!("`{path}`"))));
        }
    }
    for at in words(code, "std") {
        let Some(group) = code[at + 3..]
            .strip_prefix("::")
            .and_then(|rest| inside(rest, '{', '}'))
        else {
            continue;
        };
        for module in ["fs", "thread"] {
            if words(group, module).next().is_some() {
                found.push((at, past(&format!("`std::{module}`"))));
            }
        }
    }
    for at in words(code, "sleep") {
        let before = code[..at].trim_end();
        let is_call = code[at + "sleep".len()..].starts_with('(');
        // Not our own method of that name, nor its definition.
        if is_call && !before.ends_with('.') && !before.ends_with("fn") {
            found.push((at, past("`sleep`")));
        }
    }
}

fn unfinished(code: &str, found: &mut Vec<(usize, String)>) {
    for name in ["todo", "unimplemented"] {
        for at in words(code, name) {
            if code[at + name.len()..].starts_with('!') {
                found.push((at, format!("`{name}!`: unfinished")));
            }
        }
    }
    for at in words(code, "ignore") {
        // The one that multi-process tests start their own binary with; alone it has nothing to do.
        let is_role = code[at..]
            .split('{')
            .next()
            .is_some_and(|head| words(head, CHILD).next().is_some());
        if code[..at].trim_end().ends_with("#[") && !is_role {
            found.push((at, "a test that is left out".into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_found(path: &str, text: &str, expected: usize) {
        let findings = check(path, text);
        assert_eq!(findings.len(), expected, "{path}: {text}: {findings:?}");
    }

    #[test]
    fn target_cfgs_belong_to_the_platform_and_to_tests() {
        let cfgs = [
            "#[cfg(unix)]",
            "#[cfg(\n    all(test, windows)\n)]",
            "#[cfg_attr(target_os = \"linux\", allow(dead_code))]",
            "if cfg!(target_family = \"wasm\") {}",
            "cfg_if::cfg_if! { if #[cfg(target_vendor = \"apple\")] {} }",
            "cfg_select! { windows => {} _ => {} }",
            "#[cfg(not(target_pointer_width = \"64\"))]",
            "use std::os::fd::AsFd;",
            "use std::{io, os::fd::AsFd};",
            "std::env::consts::OS == x",
        ];
        for cfg in cfgs {
            assert_found("src/a.rs", cfg, 1);
            assert_found("cli/src/a.rs", cfg, 1);
            assert_found("platform/src/a.rs", cfg, 0);
            assert_found("tests/a.rs", cfg, 0);
            assert_found("cli/tests/a.rs", cfg, 0);
        }
        assert_found("src/a.rs", "#[cfg(test)] #[cfg(feature = \"unix\")]", 0);
        assert_found("src/a.rs", "use platform::unix; // #[cfg(unix)]", 0);
        assert_found("src/a.rs", "#[cfg(not(feature = \"x\"))] fn target_os()", 0);
        let asks_cargo = format!("env::var(\"{}OS\")", concat!("CARGO_", "CFG_TARGET_"));
        assert_found("build.rs", &asks_cargo, 1);
    }

    #[test]
    fn only_the_platform_and_tests_have_dependencies_for_some_targets() {
        let all = "[dependencies]\na = \"1\"\n[dev-dependencies]\n";
        let tests = "[target.'cfg(unix)'.dev-dependencies]\na = \"1\"\n";
        for some in [
            "[target.'cfg(unix)'.dependencies]\na = \"1\"\n",
            "[target.'cfg(windows)'.build-dependencies]\n",
            "[target.x86_64-pc-windows-gnu.dependencies.a]\n",
        ] {
            let text = format!("{all}{tests}{some}");
            assert_eq!(check_manifest("Cargo.toml", &text).len(), 1, "{some}");
            assert_eq!(check_manifest("cli/Cargo.toml", &text).len(), 1, "{some}");
            assert!(check_manifest("platform/Cargo.toml", &text).is_empty());
        }
    }

    #[test]
    fn unsafe_belongs_to_the_platform_and_to_tests() {
        assert_found("src/a.rs", "unsafe { f() }", 1);
        assert_found("tests/a.rs", "unsafe { f() }", 0);
        assert_found("platform/src/a.rs", "unsafe { f() }", 0);
        assert_found("src/a.rs", "#![deny(unsafe_code)] // unsafe", 0);
    }

    #[test]
    fn the_library_does_not_go_past_the_seam() {
        for code in [
            "std::fs::read(x)",
            "use std::{fs, io};",
            "use std::{\n    io,\n    thread::spawn,\n};",
            "Instant::now()",
            "SystemTime::now()",
            "thread::sleep(x)",
            "sleep(x)",
        ] {
            assert_found("src/a.rs", code, 1);
            assert_found("cli/src/a.rs", code, 0);
        }
        for code in [
            "use std::{fmt, io};",
            "fn sleep(&mut self)",
            "self\n    .sleep(x)",
            "let sleep = (1, 2);",
        ] {
            assert_found("src/a.rs", code, 0);
        }
    }

    #[test]
    fn nothing_is_left_unfinished() {
        for code in [
            "todo!()",
            "unimplemented!(\"x\")",
            "#[ignore]",
            "#[ignore = \"x\"]",
        ] {
            assert_found("cli/tests/a.rs", code, 1);
        }
        assert_found(
            "tests/a.rs",
            "#[ignore = \"x\"]\nfn in_a_child_process() {",
            0,
        );
        assert_found("src/a.rs", "let todo = ignore(\"todo!()\");", 0);
    }

    #[test]
    fn files_are_short() {
        let lines = |count: usize| "\n".repeat(count);
        assert_found("src/a.rs", &lines(LINES_LIBRARY), 0);
        assert_found("src/a.rs", &lines(LINES_LIBRARY + 1), 1);
        assert_found("cli/src/a.rs", &lines(LINES), 0);
        assert_found("cli/src/a.rs", &lines(LINES + 1), 1);
        assert_found("platform/tests/a.rs", &lines(LINES_TESTS), 0);
        assert_found("tests/a.rs", &lines(LINES_TESTS + 1), 1);
    }

    #[test]
    fn findings_name_file_and_line() {
        assert_eq!(
            check("src/a.rs", "// first\nunsafe {}\n"),
            ["src/a.rs:2: `unsafe` outside of platform/ and tests"]
        );
    }
}
