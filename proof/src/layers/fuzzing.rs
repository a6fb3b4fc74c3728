//! Layer 9: coverage-guided fuzzing of what reads the disk, names, keys and settings.
//!
//! The targets are in `proof/fuzz/`, the program that runs them is built for libFuzzer with AddressSanitizer. Each process
//! fuzzes one target with a number of executions, a limit of memory for each allocation and one of time for each input.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use cachelock_fuzz::{PLANTED, TARGETS, Target};

use crate::layer::{Broken, Control, Count, Layer, Outcome, Plan};
use crate::threads::each;

/// No parser of inputs of less than a kilobyte may allocate more at once, in megabytes.
const MEMORY: u32 = 16;

/// No input may take longer, in seconds: the machine may be busy.
const SECONDS: u32 = 10;

/// Quicker: what is freed is soon used again, and of a stack only its top is kept.
const SANITIZER: &str =
    "quarantine_size_mb=1:malloc_context_size=1:detect_stack_use_after_return=0";

/// A planted defect must be found by then: several times more than has been needed.
const PLANTED_RUNS: u64 = 30_000_000;

/// See the module.
#[derive(Debug)]
pub struct Fuzzing;

impl Layer for Fuzzing {
    fn number(&self) -> u32 {
        9
    }

    fn name(&self) -> &'static str {
        "fuzzing"
    }

    fn run(&self, plan: &Plan) -> Result<Outcome, Broken> {
        let fuzzer = plan.fuzzer.as_deref();
        let fuzzer =
            fuzzer.ok_or_else(|| Broken("it runs the fuzzer: --fuzzer FILE".to_owned()))?;
        // It is started in other folders.
        let fuzzer = std::path::absolute(fuzzer)
            .map_err(|error| Broken(format!("{}: {error}", fuzzer.display())))?;
        let runs = |target: &Target| {
            let runs = plan.size.pick(20_000, 3_000_000, 30_000_000);
            // What people write themselves, and not what is found on the disk.
            let own = ["setting", "configuration"].contains(&target.name);
            if own { runs / 3 } else { runs }
        };
        let planted = PLANTED.iter().map(|(target, _)| (target, PLANTED_RUNS));
        // The longest first; the planted ones end when they are found.
        let work: Vec<_> = TARGETS
            .iter()
            .map(|target| (target, runs(target)))
            .chain(planted)
            .collect();
        let mut fuzzed = all(plan, &fuzzer, &work)?;
        let ended = fuzzed.split_off(TARGETS.len());
        let mut outcome = Outcome::default();
        let mut failed = Vec::new();
        for (target, fuzzed) in TARGETS.iter().zip(fuzzed) {
            println!("{}: {}", target.name, fuzzed.figures());
            if let Some(why) = fuzzed.failure(target, plan.seed) {
                failed.push(why);
            }
            let what = format!("executions of {}", target.name);
            outcome
                .counts
                .push(Count::new(what, fuzzed.executions(), runs(target)));
        }
        for ((target, expected), fuzzed) in PLANTED.iter().zip(ended) {
            let found = fuzzed.failure(target, plan.seed).unwrap_or_default();
            println!("planted: {found}");
            let caught = !fuzzed.succeeded && fuzzed.said.contains(expected);
            outcome.controls.push(Control::new(target.name, caught));
        }
        match failed.is_empty() {
            true => Ok(outcome),
            false => Err(Broken(failed.join("\n"))),
        }
    }
}

/// How a run of the fuzzer has ended.
#[derive(Debug)]
struct Fuzzed {
    succeeded: bool,
    said: String,
    /// What has failed.
    input: Option<Vec<u8>>,
}

impl Fuzzed {
    /// What the fuzzer says of `what` at its end.
    fn stat(&self, what: &str) -> u64 {
        let lines = self.said.lines();
        let mut values = lines.filter_map(|line| line.strip_prefix("stat::")?.strip_prefix(what));
        let value = values.next().and_then(|rest| rest.strip_prefix(':'));
        value
            .and_then(|value| value.trim().parse().ok())
            .unwrap_or(0)
    }

    fn executions(&self) -> u64 {
        self.stat("number_of_executed_units")
    }

    fn figures(&self) -> String {
        let (executions, new) = (self.executions(), self.stat("new_units_added"));
        let (speed, memory) = (self.stat("average_exec_per_sec"), self.stat("peak_rss_mb"));
        format!("{executions} executions, {speed}/s, {new} inputs kept, {memory} MB")
    }

    fn failure(&self, target: &Target, seed: u64) -> Option<String> {
        if self.succeeded {
            return None;
        }
        let mut input = String::new();
        for byte in self.input.iter().flatten() {
            let _ = write!(input, "{byte:02x}");
        }
        // The panic or the sanitizer's report comes first; stacks follow.
        let is_told = |line: &&str| {
            ["panicked", "ERROR:"]
                .iter()
                .any(|word| line.contains(word))
        };
        let lines: Vec<_> = self.said.lines().collect();
        let first = lines.iter().position(is_told).unwrap_or(0);
        let said = lines.iter().skip(first).take(4);
        let said: Vec<_> = said.copied().collect();
        Some(format!(
            "seed {seed}: {} fails on the input {input} (hexadecimal): {}",
            target.name,
            said.join(" | ")
        ))
    }
}

/// Fuzzes all, as many at a time as may be.
fn all(plan: &Plan, fuzzer: &Path, work: &[(&Target, u64)]) -> Result<Vec<Fuzzed>, Broken> {
    let work: Vec<_> = work.iter().enumerate().collect();
    let mut done = each(plan.jobs, &work, |&(index, &(target, runs))| {
        Ok((index, one(plan, fuzzer, target, runs)?))
    })?;
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, fuzzed)| fuzzed).collect())
}

fn one(plan: &Plan, fuzzer: &Path, target: &Target, runs: u64) -> Result<Fuzzed, Broken> {
    let failed = |error| Broken(format!("{}: {error}", fuzzer.display()));
    let dir = tempfile::tempdir().map_err(failed)?;
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(dir.path().join(""));
    // By their names and not by their folder, into which the fuzzer would write what it finds worth keeping.
    let mut begin_with = OsString::from("-seed_inputs=");
    for input in fs::read_dir(target.corpus()).map_err(failed)? {
        begin_with.push(input.map_err(failed)?.file_name());
        begin_with.push(",");
    }
    // 0 would be the clock.
    let seed = plan.seed as u32;
    let Output { status, stderr, .. } = Command::new(fuzzer)
        .env("CACHELOCK_TARGET", target.name)
        .env("ASAN_OPTIONS", SANITIZER)
        .env_remove("RUST_BACKTRACE")
        .arg(format!("-runs={runs}"))
        .arg(format!("-seed={}", seed.max(1)))
        .arg(format!("-max_len={}", target.longest))
        .arg(format!("-timeout={SECONDS}"))
        .arg(format!("-malloc_limit_mb={MEMORY}"))
        .args(["-print_final_stats=1", "-verbosity=0", "-detect_leaks=0"])
        .args([prefix, begin_with])
        .current_dir(target.corpus())
        .stdin(Stdio::null())
        .output()
        .map_err(failed)?;
    let input = fs::read_dir(dir.path()).map_err(failed)?.next();
    Ok(Fuzzed {
        succeeded: status.success(),
        said: String::from_utf8_lossy(&stderr).into_owned(),
        input: input.and_then(|file| fs::read(file.ok()?.path()).ok()),
    })
}
