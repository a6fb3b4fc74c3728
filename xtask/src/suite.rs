//! `cargo xtask test`: for each target the steps, in the order in which they are cheap to fail.
//!
//! There is one conformance suite, and whoever changes a backend wants to know where it ran. So its tests are counted by
//! their names, `conformance::BACKEND::CLAIM`, wherever they run, and a target on which its own backend has none fails.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::setup::{self, Missing, Need};
use crate::{Failure, check, prove, sysroot, tidy, wasi, web, windows};

/// A target that the tests are run on.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// What is compiled for; nothing for the machine's own.
    built_for: &'static [sysroot::Target],
    /// What the conformance suite's `native` is there; `None` where nothing is run.
    backend: Option<&'static str>,
    steps: &'static [Step],
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        let mut before = " (";
        for target in self.built_for {
            write!(f, "{before}{}", target.triple)?;
            before = ", ";
        }
        f.write_str(if self.built_for.is_empty() { "" } else { ")" })
    }
}

/// All that can be tested so far.
pub(crate) const TARGETS: &[Target] = &[NATIVE, CHECK, WINDOWS, WEB, WASI, PROOF];

/// A command of cargo for all members of the workspace that every native build has. The host crate is a matter of guests; its
/// runtime takes longer to build than all the rest. The proof turns the library's deliberate defects on, for all that is
/// built beside it. The benchmarks bring others' crates.
macro_rules! natives {
    ($command:literal, $options:literal) => {
        concat!(
            $command,
            " --workspace --exclude cachelock-host --exclude cachelock-proof --exclude cachelock-fuzz --exclude cachelock-bench",
            $options
        )
    };
}

const NATIVE: Target = Target {
    name: "native",
    built_for: &[],
    backend: Some("unix"),
    steps: &[
        Step::Setup(setup::NATIVE),
        Step::Cargo("fmt --all --check", &[]),
        Step::Cargo(
            natives!("clippy", " --all-targets --all-features -- -D warnings"),
            &[],
        ),
        Step::Tidy,
        Step::Cargo(natives!("test", ""), &[]),
        // Each deliberate defect must be noticed by a test, and a recorder must be told everything.
        Step::Cargo("test -p cachelock --all-features", &[]),
        Step::Cargo(
            natives!("doc", " --no-deps"),
            &[("RUSTDOCFLAGS", "-Dwarnings")],
        ),
        Step::Cargo(
            "clippy -p cachelock-bench --all-targets -- -D warnings",
            &[],
        ),
        Step::Cargo("test -p cachelock-bench --bins --lib", &[]),
    ],
};

/// Guests, alone and beside natives.
const WASI: Target = Target {
    name: "wasi",
    built_for: &[wasi::TARGET],
    backend: Some("wasi"),
    steps: &[
        Step::Setup(setup::WASI),
        Step::Own("build-wasi", |root| wasi::build(root, sysroot::Source::Any)),
        Step::Own("conformance of a guest", wasi::conformance),
        Step::Own("guests beside natives", wasi::processes),
        Step::Own("the interface, on leases and on a host", wasi::interface),
        Step::Own("clients in JavaScript and Python", wasi::clients),
        Step::Own("natives and guests on one entry", wasi::mixed),
        Step::Cargo(
            "clippy -p cachelock-host --all-targets --all-features -- -D warnings",
            &[],
        ),
        Step::Cargo(
            "doc -p cachelock-host --no-deps",
            &[("RUSTDOCFLAGS", "-Dwarnings")],
        ),
    ],
};

/// The layers of the proof, in their short form.
const PROOF: Target = Target {
    name: "proof",
    built_for: &[],
    backend: None,
    steps: &[
        Step::Setup(setup::NATIVE),
        Step::Setup(setup::WASI),
        Step::Cargo(
            "clippy -p cachelock-proof -p cachelock-fuzz --all-targets -- -D warnings",
            &[],
        ),
        Step::Cargo("test -p cachelock-proof -p cachelock-fuzz", &[]),
        Step::Own("prove --short", prove::short),
    ],
};

/// The systems that nobody here has.
const CHECK: Target = Target {
    name: "check",
    built_for: &[check::MACOS, check::FREEBSD],
    backend: None,
    steps: &[
        Step::Setup(&[]),
        Step::Own("macOS, compiled", check::macos),
        Step::Own("FreeBSD, compiled", check::freebsd),
    ],
};

/// Windows, as Wine has it.
const WINDOWS: Target = Target {
    name: "windows",
    built_for: &[windows::TARGET],
    backend: Some("windows"),
    steps: &[
        Step::Setup(setup::WINDOWS),
        Step::Own("lints on Windows", windows::clippy),
        Step::Own("build-windows", windows::build_to_test),
        Step::Own("conformance on Windows", windows::conformance),
        Step::Own("many processes on Windows", windows::processes),
        Step::Own("the program on Windows", windows::program),
    ],
};

/// Pages, workers and Node.js.
const WEB: Target = Target {
    name: "web",
    built_for: &[web::TARGET],
    backend: Some("web"),
    steps: &[
        Step::Setup(setup::WEB),
        Step::Own("lints of the web target", web::clippy),
        Step::Own("conformance on the web target", web::conformance),
    ],
};

enum Step {
    Setup(&'static [Need]),
    /// Cargo's arguments and environment.
    Cargo(&'static str, &'static [(&'static str, &'static str)]),
    Tidy,
    /// A step that takes more than one command, and its name.
    Own(&'static str, fn(&Path) -> Result<Report, Failure>),
}

/// What a step that succeeded has to report.
#[derive(Default)]
pub(crate) struct Report {
    /// How many tests passed.
    pub(crate) tests: u64,
    /// Those of the conformance suite, by name. Each counts once, however often it is run.
    pub(crate) conformance: BTreeSet<String>,
    pub(crate) missing: Missing,
}

impl Step {
    fn name(&self) -> String {
        match self {
            Step::Setup(_) => "setup".to_owned(),
            Step::Cargo(arguments, variables) => {
                let variables: String = variables
                    .iter()
                    .map(|(name, value)| format!("{name}={value} "))
                    .collect();
                format!("{variables}cargo {arguments}")
            }
            Step::Tidy => "tidy".to_owned(),
            Step::Own(name, _) => (*name).to_owned(),
        }
    }

    fn run(&self, root: &Path) -> Result<Report, Failure> {
        match self {
            Step::Setup(needs) => setup::run(needs).map(|missing| Report {
                missing,
                ..Report::default()
            }),
            Step::Cargo(arguments, variables) => cargo(root, arguments, variables),
            Step::Tidy => tidy::run(root).map(|()| Report::default()),
            Step::Own(_, run) => run(root),
        }
    }
}

/// What the tests of all targets need of the machine.
pub(crate) fn needs() -> impl Iterator<Item = &'static [Need]> {
    let steps = TARGETS.iter().flat_map(|target| target.steps);
    steps.filter_map(|step| match step {
        Step::Setup(needs) => Some(*needs),
        _ => None,
    })
}

/// Tests `targets`, one after the other, and stops at the first failure.
pub(crate) fn run(root: &Path, targets: &[Target]) -> Result<(), Failure> {
    let mut lines = Vec::new();
    for target in targets {
        let conformance = run_one(root, target)?;
        if let Some(backend) = target.backend {
            lines.push(format!(
                "{:>9}: {}",
                target.name,
                by_backend(backend, &conformance)
            ));
        }
    }
    if !lines.is_empty() {
        println!("\ntests of the one conformance suite that passed, by backend");
    }
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

/// The tests of the conformance suite that passed on `target`.
fn run_one(root: &Path, target: &Target) -> Result<BTreeSet<String>, Failure> {
    let started = Instant::now();
    let total = target.steps.len();
    let mut times = Vec::new();
    let mut missing = Missing::new();
    let mut conformance = BTreeSet::new();
    for (index, step) in target.steps.iter().enumerate() {
        let number = index + 1;
        let name = step.name();
        println!("\n=== {}, {number}/{total}: {name}", target.name);
        let began = Instant::now();
        let report = step.run(root);
        let time = seconds(began.elapsed());
        match report {
            Ok(report) => {
                let tests = match report.tests {
                    0 => String::new(),
                    tests => format!(": {tests} tests passed"),
                };
                times.push(format!("{time:>9}  {name}{tests}"));
                missing.extend(report.missing);
                conformance.extend(report.conformance);
            }
            Err(failure) => {
                println!("\n=== FAILED at step {number} of {total}, after {time}: {name}");
                return Err(failure);
            }
        }
    }
    println!();
    for line in times {
        println!("{line}");
    }
    for line in &missing {
        println!("{line}");
    }
    let time = seconds(started.elapsed());
    let conforms = conformance.iter().any(|name| name.starts_with(OWN));
    // Where it was said that nothing can be run here, that is no failure; see the setup.
    if target.backend.is_some() && !conforms && missing.is_empty() {
        println!(
            "=== FAILED: no test of the conformance suite was run on {}",
            target.name
        );
        return Err(Failure::Step);
    }
    println!("=== OK: all {total} steps of {target} passed in {time}");
    Ok(conformance)
}

/// How the names of the conformance suite's tests on the target's own backend begin.
const OWN: &str = "native::";

/// How many of the tests `names` ran on each backend, where the target's own is called `backend`.
fn by_backend(backend: &str, names: &BTreeSet<String>) -> String {
    let mut counts = BTreeMap::<&str, u32>::new();
    for name in names {
        let module = name.split("::").next().unwrap_or(name);
        *counts.entry(module).or_default() += 1;
    }
    let counts = counts.into_iter().map(|(module, count)| match module {
        "native" => format!("{backend} {count}"),
        simulated => format!("{simulated} {count}"),
    });
    // Backwards, so that the target's own backend is the first.
    let counts: Vec<_> = counts.rev().collect();
    counts.join(", ")
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Runs cargo with this process's own error stream; what it prints is passed on as it comes.
pub(crate) fn cargo(
    root: &Path,
    arguments: &str,
    variables: &[(impl AsRef<OsStr>, impl AsRef<OsStr>)],
) -> Result<Report, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let child = Command::new(cargo)
        .args(arguments.split(' '))
        .current_dir(root)
        // Tests compare what programs write to stderr.
        .env_remove("RUST_BACKTRACE")
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| {
        println!("cargo cannot be started: {error}");
        Failure::Step
    })?;
    let mut report = Report::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            report.tests += passed(&line);
            report
                .conformance
                .extend(conforming(&line).map(str::to_owned));
        }
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(report),
        Ok(status) => {
            println!("cargo ended with {status}");
            Err(Failure::Step)
        }
        Err(error) => {
            println!("cargo cannot be waited for: {error}");
            Err(Failure::Step)
        }
    }
}

/// A run that executes no test has shown nothing.
pub(crate) fn some_tests(report: Report) -> Result<Report, Failure> {
    if report.tests > 0 {
        return Ok(report);
    }
    println!("xtask: no test was executed");
    Err(Failure::Step)
}

/// How many tests a line reports as passed. A test that starts its own binary again lets it run one test of many, and that
/// line does not count.
fn passed(line: &str) -> u64 {
    let Some(counts) = line.strip_prefix("test result: ok. ") else {
        return 0;
    };
    let count = |what: &str| -> Option<u64> {
        let count = counts
            .split("; ")
            .find_map(|count| count.strip_suffix(what))?;
        count.parse().ok()
    };
    match count(" filtered out") {
        Some(0) => count(" passed").unwrap_or(0),
        _ => 0,
    }
}

/// The test of the conformance suite that a line reports as passed, without the suite's name.
fn conforming(line: &str) -> Option<&str> {
    line.strip_prefix("test conformance::")?
        .strip_suffix(" ... ok")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_the_conformance_suite_are_counted_by_backend_and_once() {
        let lines = [
            "test conformance::native::a ... ok",
            "test conformance::native::b ... ok",
            "test conformance::native::a ... ok",
            "test conformance::memory::a ... ok",
            "test conformance::memory::b ... FAILED",
            "test memory::disk::tests::c ... ok",
        ];
        let names = lines.iter().filter_map(|line| conforming(line));
        let names = names.map(str::to_owned).collect();
        assert_eq!(by_backend("unix", &names), "unix 2, memory 1");
    }

    #[test]
    fn only_whole_runs_count() {
        for (line, expected) in [
            (
                "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.20s",
                12,
            ),
            (
                "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 11 filtered out; finished in 0.20s",
                0,
            ),
            ("test result: FAILED. 3 passed; 1 failed; 0 ignored", 0),
            ("test a_test ... ok", 0),
        ] {
            assert_eq!(passed(line), expected, "{line}");
        }
    }

    #[test]
    fn a_run_that_executes_no_test_is_a_failure() {
        let ran = |tests| {
            some_tests(Report {
                tests,
                ..Report::default()
            })
        };
        assert!(ran(0).is_err(), "nothing was shown");
        assert!(ran(1).is_ok_and(|report| report.tests == 1));
    }

    #[test]
    fn the_document_of_platforms_tells_of_these_targets_and_no_others() {
        let document = include_str!("../../docs/platforms.md");
        let (_, section) = document
            .split_once("\n| TARGET |")
            .expect("it has the table");
        let (table, _) = section.split_once("\n\n").expect("the table ends");
        // Row by row what stands between backticks in the first two columns.
        let told: BTreeMap<&str, Vec<&str>> = table
            .lines()
            .skip(2)
            .map(|row| {
                let mut columns = row.split('|').skip(1).map(|column| {
                    let code: Vec<&str> = column.split('`').skip(1).step_by(2).collect();
                    code
                });
                let names = columns.next().unwrap_or_default();
                assert_eq!(names.len(), 1, "{row}");
                (names[0], columns.next().unwrap_or_default())
            })
            .collect();
        let tested: BTreeMap<&str, Vec<&str>> = TARGETS
            .iter()
            .map(|target| {
                let triples = target.built_for.iter().map(|target| target.triple);
                (target.name, triples.collect())
            })
            .collect();
        assert_eq!(told, tested, "docs/platforms.md and TARGETS");
    }

    #[test]
    fn every_target_sees_to_its_needs_first() {
        for target in TARGETS {
            assert!(
                matches!(target.steps.first(), Some(Step::Setup(_))),
                "{}",
                target.name
            );
        }
    }
}
