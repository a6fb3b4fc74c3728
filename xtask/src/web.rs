//! The steps of `cargo xtask test web`: `wasm32-unknown-unknown`, run in Node.js.
//!
//! | path below `target/web/` | what |
//! | --- | --- |
//! | `runner` | the test runner of wasm-bindgen, one for each version |
//! | `debian`, `std`, `sysroot` | see [`sysroot`] |
//!
//! The runner must be of the same version as the crate `wasm-bindgen` in `Cargo.lock`. Whatever is in the path is used if it
//! is. Else cargo builds one, once: no registry has it ready to run. That takes about a minute on two processors.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;
use crate::command::{cannot, output, said};
use crate::suite::{Report, cargo, some_tests};
use crate::sysroot::{self, Source};

pub(crate) const TARGET: sysroot::Target = sysroot::Target {
    triple: "wasm32-unknown-unknown",
    libc: None,
    start_files: &[],
};

const RUNNER: &str = "wasm-bindgen-test-runner";

/// The lints, with the code that no other target compiles.
pub(crate) fn clippy(root: &Path) -> Result<Report, Failure> {
    let variables = sysroot::variables(&folder(root), &TARGET, Source::Any)?;
    let arguments = format!(
        "clippy -p cachelock-platform -p cachelock --lib --tests --target {} -- -D warnings",
        TARGET.triple
    );
    cargo(root, &arguments, &variables)
}

/// The conformance suite, and what a page or a worker meets beyond it.
pub(crate) fn conformance(root: &Path) -> Result<Report, Failure> {
    let mut variables = sysroot::variables(&folder(root), &TARGET, Source::Any)?;
    let runner = said(find(root))?;
    variables.push((TARGET.variable("RUNNER"), runner.into_os_string()));
    if let Some(arguments) = said(node_arguments())? {
        variables.push(("NODE_ARGS".to_owned(), arguments));
    }
    let arguments = format!(
        "test -p cachelock-platform -p cachelock --test web --test conformance --no-fail-fast --target {}",
        TARGET.triple
    );
    some_tests(cargo(root, &arguments, &variables)?)
}

/// What Node.js must be told, if anything: before version 19 only this made `crypto` a global, as it is in browsers.
fn node_arguments() -> Result<Option<OsString>, String> {
    let version = output(Command::new("node").arg("--version"))?;
    let major = version.trim_start_matches('v').split('.').next();
    let major: Option<u32> = major.and_then(|major| major.parse().ok());
    Ok(major
        .filter(|major| *major < 19)
        .map(|_| "--experimental-global-webcrypto".into()))
}

/// The runner. Built at most once for each version.
fn find(root: &Path) -> Result<PathBuf, String> {
    let path = root.join("Cargo.lock");
    let lock = fs::read_to_string(&path).map_err(|error| cannot("read", &path, &error))?;
    let version = locked(&lock, "wasm-bindgen")
        .ok_or_else(|| format!("{} does not have wasm-bindgen", path.display()))?;
    let installed = folder(root).join("runner").join(version);
    let runner = installed.join("bin").join(RUNNER);
    if !runner.is_file() {
        if output(Command::new(RUNNER).arg("--version"))
            .is_ok_and(|said| said.split_whitespace().any(|word| word == version))
        {
            return Ok(RUNNER.into());
        }
        install(version, &installed)?;
    }
    Ok(runner)
}

fn install(version: &str, to: &Path) -> Result<(), String> {
    println!("xtask: building {RUNNER} {version}");
    let build = to.join("build");
    let install = |locked: &[&str]| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // It neither fetches a browser's driver nor has much to do: what counts is how long it takes to build.
        cargo.args(["install", "--quiet", "--debug", "--no-default-features"]);
        cargo.args(locked).args(["wasm-bindgen-cli", "--version"]);
        cargo.arg(version).args(["--bin", RUNNER, "--root"]).arg(to);
        cargo.arg("--target-dir").arg(&build);
        output(cargo.env("CARGO_PROFILE_DEV_DEBUG", "0"))
    };
    // What it was released with may not all be had any more.
    let installed = install(&["--locked"]).or_else(|_| install(&[]));
    let _ = fs::remove_dir_all(build);
    installed.map(drop)
}

/// The version of the package `name` in the text of a `Cargo.lock`, if there is just one.
fn locked<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let head = format!("name = \"{name}\"\nversion = \"");
    let mut found = lock.split(&head).skip(1);
    let (version, _) = found.next()?.split_once('"')?;
    found.next().is_none().then_some(version)
}

/// Where all of this is.
fn folder(root: &Path) -> PathBuf {
    root.join("target").join("web")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locked_version_is_read_and_must_be_the_only_one() {
        let package = |name: &str, version: &str| {
            format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = \"x\"\n\n")
        };
        let lock = package("a-b", "1.0.0") + &package("a", "0.2.1") + &package("c", "3.0.0");
        assert_eq!(locked(&lock, "a"), Some("0.2.1"));
        assert_eq!(locked(&lock, "d"), None);
        assert_eq!(locked(&(lock + &package("a", "0.2.2")), "a"), None);
    }
}
