//! `cargo xtask prove`: builds the layers of the proof and what they run, and runs them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::command::target_dir;
use crate::suite::{Report, cargo};
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

/// What every merge is tested with.
pub(crate) fn short(root: &Path) -> Result<Report, Failure> {
    run(root, &["--short"]).map(|()| Report::default())
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
        ("--fuzzer", fuzzer(root)?),
    ] {
        words.push_str(&format!(" {option} {}", path.display()));
    }
    Ok(words)
}

/// What the compiler adds, to all but the standard library: whether it reads and writes what it may.
const FUZZED: &str = "-Zsanitizer=address --cfg=fuzzing";

/// And to what parses: where a run has been. (Which texts it has compared the sanitizer tells.) What it is checked with costs a
/// multiple with these, and tells nothing new.
const GUIDED: [&str; 4] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
];
const GUIDING: [&str; 2] = ["cachelock", "toml_parser"];

/// Builds the program that fuzzes, in a folder of its own. With a target that is named nothing is added to build scripts.
fn fuzzer(root: &Path) -> Result<PathBuf, Failure> {
    let folder = target_dir(root).join("fuzz");
    let variables: [(&str, OsString); 4] = [
        // What notes where a run has been is not linked otherwise.
        ("CARGO_PROFILE_PROOF_LTO", "off".into()),
        // Without it only a nightly compiler takes these options.
        ("RUSTC_BOOTSTRAP", "1".into()),
        ("RUSTFLAGS", FUZZED.into()),
        ("CARGO_TARGET_DIR", folder.clone().into()),
    ];
    let programs = folder.join("programs");
    let mut words = format!(
        "build -p cachelock-fuzz --features libfuzzer --profile proof --target host-tuple -Zunstable-options -Zprofile-rustflags \
         --artifact-dir {}",
        programs.display()
    );
    for package in GUIDING {
        // No blank in it: the words are split there.
        let flags = GUIDED.map(|flag| format!("'{flag}'")).join(",");
        words.push_str(&format!(
            " --config profile.proof.package.{package}.rustflags=[{flags}]"
        ));
    }
    cargo(root, &words, &variables)?;
    Ok(programs.join("fuzz"))
}
