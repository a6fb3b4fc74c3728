//! `cargo xtask test`: for each target the steps, in the order in which they are cheap to fail.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::setup::{self, Missing, Need};
use crate::{Failure, tidy, wasi};

/// A target that the tests are run on.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    steps: &'static [Step],
}

/// All that can be tested so far.
pub(crate) const TARGETS: &[Target] = &[NATIVE, WASI];

pub(crate) const NATIVE: Target = Target {
    name: "native",
    steps: &[
        Step::Setup(setup::NATIVE),
        Step::Cargo("fmt --all --check", &[]),
        // The host crate is a matter of guests; its runtime takes longer to build than all the rest. The proof turns the
        // library's deliberate defects on, for all that is built beside it. The benchmarks bring others' crates.
        Step::Cargo(
            "clippy --workspace --exclude cachelock-host --exclude cachelock-proof --exclude cachelock-bench --all-targets --all-features -- -D warnings",
            &[],
        ),
        Step::Tidy,
        Step::Cargo(
            "test --workspace --exclude cachelock-host --exclude cachelock-proof --exclude cachelock-bench",
            &[],
        ),
        // Each deliberate defect must be noticed by a test, and a recorder must be told everything.
        Step::Cargo("test -p cachelock --features mutations,metrics", &[]),
        Step::Cargo(
            "doc --workspace --exclude cachelock-host --exclude cachelock-proof --exclude cachelock-bench --no-deps",
            &[("RUSTDOCFLAGS", "-Dwarnings")],
        ),
        Step::Cargo(
            "clippy -p cachelock-proof --all-targets -- -D warnings",
            &[],
        ),
        Step::Cargo("test -p cachelock-proof", &[]),
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
    steps: &[
        Step::Setup(setup::WASI),
        Step::Wasi("build-wasi", |root| wasi::build(root, wasi::Source::Any)),
        Step::Wasi("conformance of a guest", wasi::conformance),
        Step::Wasi("guests beside natives", wasi::processes),
        Step::Wasi("the interface, on leases and on a host", wasi::interface),
        Step::Wasi("clients in JavaScript and Python", wasi::clients),
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

enum Step {
    Setup(&'static [Need]),
    /// Cargo's arguments and environment.
    Cargo(&'static str, &'static [(&'static str, &'static str)]),
    Tidy,
    /// A step for guests, and its name.
    Wasi(&'static str, fn(&Path) -> Result<Report, Failure>),
}

/// What a step that succeeded has to report.
#[derive(Default)]
pub(crate) struct Report {
    /// How many tests passed.
    pub(crate) tests: u64,
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
            Step::Wasi(name, _) => (*name).to_owned(),
        }
    }

    fn run(&self, root: &Path) -> Result<Report, Failure> {
        match self {
            Step::Setup(needs) => setup::run(needs).map(|missing| Report { tests: 0, missing }),
            Step::Cargo(arguments, variables) => cargo(root, arguments, variables),
            Step::Tidy => tidy::run(root).map(|()| Report::default()),
            Step::Wasi(_, run) => run(root),
        }
    }
}

pub(crate) fn run(root: &Path, target: &Target) -> Result<(), Failure> {
    let started = Instant::now();
    let total = target.steps.len();
    let mut times = Vec::new();
    let mut missing = Missing::new();
    for (index, step) in target.steps.iter().enumerate() {
        let number = index + 1;
        let name = step.name();
        println!("\n=== {number}/{total}: {name}");
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
    println!("=== OK: all {total} steps passed in {time}");
    Ok(())
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Runs cargo with this process's own error stream; what it prints is passed on as it comes.
pub(crate) fn cargo(
    root: &Path,
    arguments: &str,
    variables: &[(&str, impl AsRef<OsStr>)],
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
    let mut tests = 0;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            tests += passed(&line);
        }
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(Report {
            tests,
            ..Report::default()
        }),
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

#[cfg(test)]
mod tests {
    use super::*;

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
