//! Tasks of this repository, run as `cargo xtask TASK`.

mod bench;
mod check;
mod command;
mod prove;
mod setup;
mod source;
mod suite;
mod sysroot;
mod tidy;
mod wasi;
mod web;
mod windows;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
Tasks of this repository

Usage: cargo xtask test [TARGET]   everything that must hold before a merge, on all targets or on one, stopping at the first
                                   failure; ends with how many tests of the conformance suite ran where
       cargo xtask build-wasi      the program for WASI guests and the component, at target/wasi/cachelock.wasm and
                                   cachelock-component.wasm (--own-std: with a standard library from Debian's packages, as
                                   where rustup cannot download one)
       cargo xtask build-windows   the program for Windows, at target/windows/cachelock.exe (--own-std as above)
       cargo xtask prove [--short | --long] [--layer N] [--seed N]
                                   what the library promises, shown layer by layer; see docs/reliability.md
       cargo xtask bench [--quick] [--only NAME]
                                   measures beside others; a run of all goes into docs/performance.md, which has the names
       cargo xtask setup           only what tests need of the machine: what is missing is installed or said
       cargo xtask tidy            only the rules of the sources that no compiler checks
       cargo xtask help            this text

Targets: native; check (macOS and FreeBSD, which are compiled for and not run); windows; web; wasi; proof

Exit codes: 0; 1 when a step failed; 2 for a usage error
";

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
        ["test"] => suite::run(&root(), suite::TARGETS),
        ["test", name] => match suite::TARGETS.iter().find(|target| target.name == *name) {
            Some(target) => suite::run(&root(), std::slice::from_ref(target)),
            None => Err(usage(&format!("there is no target {name:?}"))),
        },
        ["build-wasi"] => wasi::build(&root(), sysroot::Source::Any).map(drop),
        ["build-wasi", "--own-std"] => wasi::build(&root(), sysroot::Source::Debian).map(drop),
        ["build-windows"] => windows::build(&root(), sysroot::Source::Any).map(drop),
        ["build-windows", "--own-std"] => {
            windows::build(&root(), sysroot::Source::Debian).map(drop)
        }
        ["bench", arguments @ ..] => bench::run(&root(), arguments),
        ["setup"] => suite::needs().try_for_each(|needs| setup::run(needs).map(drop)),
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
