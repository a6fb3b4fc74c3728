//! `cargo xtask build-wasi` and the steps of `cargo xtask test wasi`: what is built for WASI guests, and what runs it.
//!
//! Everything that is fetched or made for that is under `target/wasi/`; the installed toolchain gets a target from
//! `rustup` at most.
//!
//! | path below `target/wasi/` | what |
//! | --- | --- |
//! | `cachelock.wasm` | the program, as it is to be handed out |
//! | `cachelock-component.wasm` | the component that exports the interface, as it is to be handed out |
//! | `cachelock.cwasm` | the program, compiled for this machine, so that each of many runs starts at once |
//! | `clients` | see [`mod@clients`] |
//! | `scratch` | the directory that tests inside of a guest are granted |
//! | `debian`, `std`, `sysroot` | see [`sysroot`] |
//! | `wasmtime` | see [`wasmtime`] |

mod clients;
mod strip;
mod wasmtime;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{cannot, output, replace_by, said, target_dir, words};
use crate::suite::{Report, cargo, some_tests};
use crate::sysroot::{self, Source, Variables};
use crate::{Failure, setup};

pub(crate) const TARGET: sysroot::Target = sysroot::Target {
    triple: "wasm32-wasip2",
    libc: Some("wasi-libc"),
    start_files: &[],
};

/// The package of the guests that tests run on the interface.
const EXAMPLE_GUESTS: &str = "cachelock-example-guest";

/// What is handed out.
struct Artifact {
    /// Its package, and what else cargo is told.
    package: &'static str,
    flags: &'static str,
    /// What cargo calls what it builds, and what we call it.
    file: &'static str,
    name: &'static str,
    /// How many bytes it has at most: each guest loads all of them.
    at_most: u64,
}

const PROGRAM: Artifact = Artifact {
    package: "cachelock-cli",
    // No shell completes a guest. Stripped, for cargo keeps the names that a native's backtraces need.
    flags: "--no-default-features --config profile.release.strip=true",
    file: "cachelock.wasm",
    name: "cachelock.wasm",
    at_most: 900_000,
};

const COMPONENT: Artifact = Artifact {
    package: "cachelock-component",
    // Nothing that others who build it would have to know.
    flags: "",
    file: "cachelock_component.wasm",
    name: "cachelock-component.wasm",
    at_most: 180_000,
};

/// Builds what is for guests, and says where it is.
pub(crate) fn build(root: &Path, source: Source) -> Result<Report, Failure> {
    let variables = toolchain(root, source)?;
    // One by one: cargo would give the features that one of them asks for to both.
    for artifact in [PROGRAM, COMPONENT] {
        build_package(root, artifact.package, artifact.flags, &variables)?;
        let to = folder(root).join(artifact.name);
        let len = said(hand_out(&built(root).join(artifact.file), &to))?;
        println!("wasi: {} ({} KB)", to.display(), len / 1000);
        said(artifact.fits(len))?;
    }
    Ok(Report::default())
}

/// Puts what cargo has built in its place, without what is for debuggers alone: how many bytes that are.
fn hand_out(from: &Path, to: &Path) -> Result<u64, String> {
    let built = fs::read(from).map_err(|error| cannot("read", from, &error))?;
    let stripped = strip::without_names(&built);
    let stripped = stripped.ok_or_else(|| format!("{} is no component", from.display()))?;
    replace_by(&stripped, to)?;
    Ok(stripped.len() as u64)
}

impl Artifact {
    fn fits(&self, len: u64) -> Result<(), String> {
        if len <= self.at_most {
            return Ok(());
        }
        let Artifact { name, at_most, .. } = self;
        Err(format!(
            "{name} has {len} bytes, more than the {at_most} that are promised in docs/wasi.md"
        ))
    }
}

fn build_package(
    root: &Path,
    package: &str,
    flags: &str,
    variables: &Variables,
) -> Result<(), Failure> {
    let arguments = format!(
        "build -p {package} --release --target {} {flags}",
        TARGET.triple
    );
    cargo(root, arguments.trim_end(), variables).map(drop)
}

/// Where cargo leaves what it builds for guests.
fn built(root: &Path) -> PathBuf {
    target_dir(root).join(TARGET.triple).join("release")
}

/// The conformance suite, and what the backend owes beyond it, in a guest.
pub(crate) fn conformance(root: &Path) -> Result<Report, Failure> {
    let mut variables = toolchain(root, Source::Any)?;
    let wasmtime = said(wasmtime::find(&folder(root)))?;
    let scratch = folder(root).join("scratch");
    said(fs::create_dir_all(&scratch).map_err(|error| cannot("create", &scratch, &error)))?;
    let mut runner = words([wasmtime.as_os_str(), "run".as_ref(), "--dir".as_ref()])?;
    runner.push(" ");
    runner.push(scratch);
    runner.push("::/scratch");
    variables.push((TARGET.variable("RUNNER"), runner));
    let arguments =
        "test -p cachelock-platform -p cachelock --test wasi --test conformance --no-fail-fast";
    // A panic ends a guest before anything that was captured is shown.
    let arguments = format!("{arguments} --target {} -- --nocapture", TARGET.triple);
    some_tests(cargo(root, &arguments, &variables)?)
}

/// Native tests that run the program as a guest.
pub(crate) fn processes(root: &Path) -> Result<Report, Failure> {
    let variables = given(root)?;
    let arguments = "test -p cachelock-cli --features wasi-tests --test wasi";
    some_tests(cargo(root, arguments, &variables)?)
}

/// The runtime, and the program that was built for it, compiled for this machine.
pub(crate) fn runnable(root: &Path) -> Result<(PathBuf, PathBuf), Failure> {
    let wasmtime = said(wasmtime::find(&folder(root)))?;
    let program = folder(root).join("cachelock.wasm");
    let compiled = folder(root).join("cachelock.cwasm");
    let mut compile = Command::new(&wasmtime);
    compile
        .arg("compile")
        .arg(&program)
        .arg("-o")
        .arg(&compiled);
    said(output(&mut compile))?;
    Ok((wasmtime, compiled))
}

/// What a benchmark of guests needs.
pub(crate) struct Benchmarks {
    pub(crate) wasmtime: PathBuf,
    pub(crate) guest: PathBuf,
    pub(crate) component: PathBuf,
    pub(crate) program: PathBuf,
}

/// Builds what is handed out, and a guest that measures.
pub(crate) fn benchmarks(root: &Path) -> Result<Benchmarks, Failure> {
    build(root, Source::Any)?;
    let guest = "cachelock-bench-guest";
    build_package(root, guest, "", &toolchain(root, Source::Any)?)?;
    Ok(Benchmarks {
        wasmtime: said(wasmtime::find(&folder(root)))?,
        guest: built(root).join("bench-guest.wasm"),
        component: folder(root).join("cachelock-component.wasm"),
        program: folder(root).join("cachelock.wasm"),
    })
}

/// A guest that imports the interface, on the component and on a host that implements it.
pub(crate) fn interface(root: &Path) -> Result<Report, Failure> {
    build_package(root, EXAMPLE_GUESTS, "", &toolchain(root, Source::Any)?)?;
    let variables = given(root)?;
    let arguments = "test -p cachelock-host --features wasi-tests";
    some_tests(cargo(root, arguments, &variables)?)
}

/// Natives and guests that share one entry, for minutes. The tests say in tables what each has done.
pub(crate) fn mixed(root: &Path) -> Result<Report, Failure> {
    build_package(root, EXAMPLE_GUESTS, "", &toolchain(root, Source::Any)?)?;
    let mut variables = given(root)?;
    let program = native_program(root)?;
    variables.push(("CACHELOCK_TEST_PROGRAM".into(), program.into_os_string()));
    let arguments = "test -p cachelock-host --features wasi-stress --test mixed";
    some_tests(cargo(root, arguments, &variables)?)
}

/// What tests of natives find in their environment: the runtime, the program for it, and where the other guests are.
fn given(root: &Path) -> Result<Variables, Failure> {
    let (wasmtime, program) = runnable(root)?;
    Ok(vec![
        ("CACHELOCK_TEST_WASMTIME".into(), wasmtime.into_os_string()),
        ("CACHELOCK_TEST_GUEST".into(), program.into_os_string()),
        ("CACHELOCK_TEST_GUESTS".into(), built(root).into_os_string()),
    ])
}

/// The program for this machine, built as its tests build it, so that it is there already.
fn native_program(root: &Path) -> Result<PathBuf, Failure> {
    let variables: [(&str, &str); 0] = [];
    let arguments = "build -p cachelock-cli --features wasi-tests";
    cargo(root, arguments, &variables)?;
    Ok(target_dir(root).join("debug").join("cachelock"))
}

/// Clients of the component in other languages.
pub(crate) fn clients(root: &Path) -> Result<Report, Failure> {
    let missing = ["python3", "pip3"].map(setup::is_in_path).contains(&false);
    if missing {
        println!("wasi: not tested, for want of python3 or pip3");
        return Ok(Report::default());
    }
    let tried = clients::Tried {
        component: folder(root).join("cachelock-component.wasm"),
        program: native_program(root)?,
    };
    let sources = root.join("component").join("clients");
    let tests = said(clients::test(
        &sources,
        &folder(root).join("clients"),
        &tried,
    ))?;
    some_tests(Report {
        tests,
        ..Report::default()
    })
}

/// What cargo needs in its environment to build for guests.
fn toolchain(root: &Path, source: Source) -> Result<Variables, Failure> {
    sysroot::variables(&folder(root), &TARGET, source)
}

/// Where all of this is.
fn folder(root: &Path) -> PathBuf {
    root.join("target").join("wasi")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_larger_than_promised_is_a_failure() {
        for artifact in [PROGRAM, COMPONENT] {
            assert!(artifact.fits(artifact.at_most).is_ok());
            assert!(artifact.fits(artifact.at_most + 1).is_err());
        }
    }
}
