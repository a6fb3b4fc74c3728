//! `cargo xtask tidy`: the rules that keep the layers apart, and that no compiler checks.
//!
//! | rule | holds | because |
//! | --- | --- | --- |
//! | no target `cfg` | outside of `platform/` and of tests | everything that depends on the target is behind the seam |
//! | no `unsafe` | outside of `platform/` and of tests | the same |
//! | no files, threads, clocks or sleep of `std` | in `src/` | the simulation must see and steer each step |
//! | nothing unfinished, no test left out | everywhere | a gap must be an error that is seen |
//! | short files | everywhere | each can be read in one sitting |

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::Failure;
use crate::source::{code_of, inside, line_of, words};

const TARGET_WORDS: [&str; 6] = [
    "target_os",
    "target_env",
    "target_family",
    "target_arch",
    "unix",
    "windows",
];

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

/// All Rust files below `dir`, except what is built or hidden.
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
        } else if name.ends_with(".rs") {
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
    }
    if !in_platform && !in_tests {
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

/// `cfg(...)`, `cfg!(...)` and `cfg_attr(...)` that ask for the target.
fn target_cfgs(code: &str, found: &mut Vec<(usize, String)>) {
    for name in ["cfg", "cfg_attr"] {
        for at in words(code, name) {
            let rest = &code[at + name.len()..];
            let Some(condition) = inside(rest.strip_prefix('!').unwrap_or(rest), '(', ')') else {
                continue;
            };
            for word in TARGET_WORDS {
                if words(condition, word).next().is_some() {
                    found.push((
                        at,
                        format!("a `cfg` on `{word}` outside of platform/ and tests"),
                    ));
                }
            }
        }
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
