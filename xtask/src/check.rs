//! The steps of `cargo xtask test check`: targets that can be compiled for here and not run.
//!
//! Nothing is linked, so no tools of these systems are needed. Some members of the workspace are left out: `cachelock-host`,
//! since wasmtime compiles C, for which the systems' compilers and headers would be needed; `cachelock-proof` and its fuzzing,
//! whose layers are made of what Linux has (strace, namespaces, loop devices).

use std::path::Path;

use crate::Failure;
use crate::suite::{Report, cargo};
use crate::sysroot::{self, Source, Target};

pub(crate) const MACOS: Target = Target {
    triple: "aarch64-apple-darwin",
    libc: None,
    start_files: &[],
};

pub(crate) const FREEBSD: Target = Target {
    triple: "x86_64-unknown-freebsd",
    libc: None,
    start_files: &[],
};

pub(crate) fn macos(root: &Path) -> Result<Report, Failure> {
    clippy(root, &MACOS)
}

pub(crate) fn freebsd(root: &Path) -> Result<Report, Failure> {
    clippy(root, &FREEBSD)
}

/// Libraries, programs, tests, benches and examples, without a warning.
fn clippy(root: &Path, target: &Target) -> Result<Report, Failure> {
    let folder = root.join("target").join("check").join(target.triple);
    let variables = sysroot::variables(&folder, target, Source::Any)?;
    let arguments = format!(
        "clippy --workspace --exclude cachelock-host --exclude cachelock-proof --exclude cachelock-fuzz --all-targets \
         --all-features --target {} -- -D warnings",
        target.triple
    );
    cargo(root, &arguments, &variables)
}
