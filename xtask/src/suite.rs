//! `cargo xtask test`: the steps, in the order in which they are cheap to fail.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::{Failure, tidy};

enum Step {
    Cargo(&'static str, &'static [(&'static str, &'static str)]),
    Tidy,
}

const NATIVE: [Step; 6] = [
    Step::Cargo("fmt --all --check", &[]),
    Step::Cargo(
        "clippy --workspace --all-targets --all-features -- -D warnings",
        &[],
    ),
    Step::Tidy,
    Step::Cargo("test --workspace", &[]),
    // Each deliberate defect must be noticed by a test; and a recorder must be told everything.
    Step::Cargo("test -p cachelock --features mutations,metrics", &[]),
    Step::Cargo(
        "doc --workspace --no-deps",
        &[("RUSTDOCFLAGS", "-Dwarnings")],
    ),
];

impl Step {
    fn name(&self) -> String {
        match self {
            Step::Cargo(arguments, variables) => {
                let variables: String = variables
                    .iter()
                    .map(|(name, value)| format!("{name}={value} "))
                    .collect();
                format!("{variables}cargo {arguments}")
            }
            Step::Tidy => "tidy".to_owned(),
        }
    }

    fn run(&self, root: &Path) -> Result<(), Failure> {
        match self {
            Step::Cargo(arguments, variables) => cargo(root, arguments, variables),
            Step::Tidy => tidy::run(root),
        }
    }
}

pub(crate) fn native(root: &Path) -> Result<(), Failure> {
    let total = NATIVE.len();
    for (index, step) in NATIVE.iter().enumerate() {
        let number = index + 1;
        let name = step.name();
        println!("\n=== {number}/{total}: {name}");
        if let Err(failure) = step.run(root) {
            println!("\n=== FAILED at step {number} of {total}: {name}");
            return Err(failure);
        }
    }
    println!("\n=== OK: all {total} steps passed");
    Ok(())
}

/// Runs cargo with this process's own output streams, so that what it says is seen as it is.
fn cargo(root: &Path, arguments: &str, variables: &[(&str, &str)]) -> Result<(), Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let status = Command::new(cargo)
        .args(arguments.split(' '))
        .current_dir(root)
        // Tests compare what programs write to stderr.
        .env_remove("RUST_BACKTRACE")
        .envs(variables.iter().copied())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            println!("cargo ended with {status}");
            Err(Failure::Step)
        }
        Err(error) => {
            println!("cargo cannot be started: {error}");
            Err(Failure::Step)
        }
    }
}
