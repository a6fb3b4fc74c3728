//! `cargo xtask prove`: builds the layers of the proof and what they run, and runs them.

use std::ffi::OsString;
use std::path::Path;

use crate::command::target_dir;
use crate::suite::cargo;
use crate::{Failure, sysroot, wasi};

/// Runs the proof with `arguments` of its own; see `proof/src/main.rs`.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Result<(), Failure> {
    let mut words = "run --quiet -p cachelock-proof --profile proof --".to_owned();
    if !arguments
        .iter()
        .any(|word| matches!(*word, "--help" | "-h"))
    {
        words.push_str(&programs(root)?);
    }
    for argument in arguments {
        words.push(' ');
        words.push_str(argument);
    }
    let none: [(&str, OsString); 0] = [];
    cargo(root, &words, &none).map(drop)
}

/// Builds the program, native and for guests, each in a cargo call of its own, so that it has no deliberate defects.
fn programs(root: &Path) -> Result<String, Failure> {
    let none: [(&str, OsString); 0] = [];
    cargo(root, "build --release -p cachelock-cli", &none)?;
    wasi::build(root, sysroot::Source::Any)?;
    let (wasmtime, guest) = wasi::runnable(root)?;
    let program = target_dir(root).join("release").join("cachelock");
    let mut words = String::new();
    for (option, path) in [
        ("--program", program),
        ("--wasmtime", wasmtime),
        ("--guest", guest),
    ] {
        words.push_str(&format!(" {option} {}", path.display()));
    }
    Ok(words)
}
