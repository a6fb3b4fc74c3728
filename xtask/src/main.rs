//! Tasks of this repository, run as `cargo xtask TASK`.

mod bench;
mod prove;
mod setup;
mod source;
mod suite;
mod tidy;
mod wasi;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
Tasks of this repository

Usage: cargo xtask test [TARGET]   everything that must hold before a merge, stopping at the first failure
       cargo xtask build-wasi      the program for WASI guests and the component, at target/wasi/cachelock.wasm and
                                   cachelock-component.wasm (--own-std: with a standard library from Debian's packages, as
                                   where rustup cannot download one)
       cargo xtask prove [--short | --long] [--layer N] [--seed N]
                                   what the library promises, shown layer by layer; see docs/reliability.md
       cargo xtask bench [--quick] [--only NAME]
                                   measures beside others; a run of all goes into docs/performance.md, which has the names
       cargo xtask setup           only what tests need of the machine: what is missing is installed or said
       cargo xtask tidy            only the rules of the sources that no compiler checks
       cargo xtask help            this text

Targets: native (default), wasi; planned and not built yet: windows, web

Exit codes: 0; 1 when a step failed; 2 for a usage error or a target that is not built yet
";

/// Targets that cannot be tested yet.
const PLANNED: [&str; 2] = ["windows", "web"];

/// Why a task did not succeed.
enum Failure {
    /// A step failed and has said why.
    Step,
    /// Nothing was run.
    Usage(String),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Step) => ExitCode::from(1),
        Err(Failure::Usage(reason)) => {
            eprintln!("xtask: {reason}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[&str]) -> Result<(), Failure> {
    match arguments {
        ["prove", arguments @ ..] => prove::run(&root(), arguments),
        _ if arguments
            .iter()
            .any(|word| matches!(*word, "--help" | "-h")) =>
        {
            help()
        }
        ["help"] => help(),
        ["test"] => suite::run(&root(), &suite::NATIVE),
        ["test", target] if PLANNED.contains(target) => Err(Failure::Usage(format!(
            "the tests for {target} are not built yet: that target is planned; `cargo xtask test` runs the native ones"
        ))),
        ["test", name] => match suite::TARGETS.iter().find(|target| target.name == *name) {
            Some(target) => suite::run(&root(), target),
            None => Err(usage(&format!("there is no target {name:?}"))),
        },
        ["build-wasi"] => wasi::build(&root(), wasi::Source::Any).map(drop),
        ["build-wasi", "--own-std"] => wasi::build(&root(), wasi::Source::Debian).map(drop),
        ["bench", arguments @ ..] => bench::run(&root(), arguments),
        ["setup"] => setup::run(setup::NATIVE).map(drop),
        ["tidy"] => tidy::run(&root()),
        [] => Err(usage("which task?")),
        [task, ..] => Err(usage(&format!(
            "there is no task {task:?} with these arguments"
        ))),
    }
}

fn help() -> Result<(), Failure> {
    print!("{HELP}");
    Ok(())
}

fn usage(reason: &str) -> Failure {
    Failure::Usage(format!("{reason}\n\n{}", HELP.trim_end()))
}

/// The workspace's directory. Asked of the environment first: two checkouts may share one target directory, and so this
/// program.
fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.parent().map_or(package.clone(), Path::to_owned)
}
