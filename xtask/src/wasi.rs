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
//! | `clients` | see [`clients`] |
//! | `scratch` | the directory that tests inside of a guest are granted |
//! | `debian`, `std`, `sysroot` | see [`sysroot`] |
//! | `wasmtime` | see [`wasmtime`] |

mod clients;
mod sysroot;
mod wasmtime;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::suite::{Report, cargo};
use crate::{Failure, setup};

pub(crate) use sysroot::Source;

const TARGET: &str = "wasm32-wasip2";
const RUSTFLAGS: &str = "CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS";
const RUNNER: &str = "CARGO_TARGET_WASM32_WASIP2_RUNNER";

type Variables = Vec<(&'static str, OsString)>;

/// What is handed out: the package, what cargo calls what it builds, and what we call it.
const HANDED_OUT: [(&str, &str, &str); 2] = [
    ("cachelock-cli", "cachelock.wasm", "cachelock.wasm"),
    (
        "cachelock-component",
        "cachelock_component.wasm",
        "cachelock-component.wasm",
    ),
];

/// Builds what is for guests, and says where it is.
pub(crate) fn build(root: &Path, source: Source) -> Result<Report, Failure> {
    let variables = toolchain(root, source)?;
    // One by one: cargo would give the features that one of them asks for to both.
    for (package, file, name) in HANDED_OUT {
        build_package(root, package, &variables)?;
        let to = folder(root).join(name);
        said(replace(&built(root).join(file), &to))?;
        let len = fs::metadata(&to).map_or(0, |metadata| metadata.len());
        println!("wasi: {} ({} KB)", to.display(), len / 1000);
    }
    Ok(Report::default())
}

fn build_package(root: &Path, package: &str, variables: &Variables) -> Result<(), Failure> {
    let arguments = format!("build -p {package} --profile guest --target {TARGET}");
    cargo(root, &arguments, variables).map(drop)
}

/// Where cargo leaves what it builds for guests.
fn built(root: &Path) -> PathBuf {
    target_dir(root).join(TARGET).join("guest")
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
    variables.push((RUNNER, runner));
    let arguments =
        "test -p cachelock-platform -p cachelock --test wasi --test conformance --no-fail-fast";
    // A panic ends a guest before anything that was captured is shown.
    let arguments = format!("{arguments} --target {TARGET} -- --nocapture");
    some_tests(cargo(root, &arguments, &variables)?)
}

/// Native tests that run the program as a guest.
pub(crate) fn processes(root: &Path) -> Result<Report, Failure> {
    let (wasmtime, guest) = runnable(root)?;
    let variables = [
        ("CACHELOCK_TEST_WASMTIME", wasmtime.into_os_string()),
        ("CACHELOCK_TEST_GUEST", guest.into_os_string()),
    ];
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
    build_package(root, guest, &toolchain(root, Source::Any)?)?;
    Ok(Benchmarks {
        wasmtime: said(wasmtime::find(&folder(root)))?,
        guest: built(root).join("bench-guest.wasm"),
        component: folder(root).join("cachelock-component.wasm"),
        program: folder(root).join("cachelock.wasm"),
    })
}

/// A guest that imports the interface, on the component and on a host that implements it.
pub(crate) fn interface(root: &Path) -> Result<Report, Failure> {
    let guest = "cachelock-example-guest";
    build_package(root, guest, &toolchain(root, Source::Any)?)?;
    let variables = [("CACHELOCK_TEST_GUESTS", built(root))];
    let arguments = "test -p cachelock-host --features wasi-tests";
    some_tests(cargo(root, arguments, &variables)?)
}

/// Clients of the component in other languages.
pub(crate) fn clients(root: &Path) -> Result<Report, Failure> {
    let missing = ["python3", "pip3"].map(setup::is_in_path).contains(&false);
    if missing {
        println!("wasi: not tested, for want of python3 or pip3");
        return Ok(Report::default());
    }
    // As the tests of the program build it, so that it is there already.
    let variables: [(&str, &str); 0] = [];
    let arguments = "build -p cachelock-cli --features wasi-tests";
    cargo(root, arguments, &variables)?;
    let tried = clients::Tried {
        component: folder(root).join("cachelock-component.wasm"),
        program: target_dir(root).join("debug").join("cachelock"),
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

/// A run that executes no test has shown nothing.
fn some_tests(report: Report) -> Result<Report, Failure> {
    if report.tests > 0 {
        return Ok(report);
    }
    println!("wasi: no test was executed");
    Err(Failure::Step)
}

/// What cargo needs in its environment to build for guests.
fn toolchain(root: &Path, source: Source) -> Result<Variables, Failure> {
    let mut variables = Variables::new();
    if let Some(sysroot) = said(sysroot::find(&folder(root), source))? {
        let mut flags = OsString::from("--sysroot=");
        flags.push(words([sysroot.as_os_str()])?);
        variables.push((RUSTFLAGS, flags));
    }
    Ok(variables)
}

/// `words` as one text, in which cargo separates them at blanks and knows no quotes.
fn words<const N: usize>(words: [&OsStr; N]) -> Result<OsString, Failure> {
    for word in words {
        if word.as_encoded_bytes().contains(&b' ') {
            println!(
                "wasi: {word:?} has a blank in it, and cargo takes no such path; move this checkout"
            );
            return Err(Failure::Step);
        }
    }
    Ok(words.join(OsStr::new(" ")))
}

/// Where all of this is.
fn folder(root: &Path) -> PathBuf {
    root.join("target").join("wasi")
}

/// Where cargo builds.
pub(crate) fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// Says what went wrong.
fn said<T>(result: Result<T, String>) -> Result<T, Failure> {
    result.map_err(|reason| {
        println!("wasi: {reason}");
        Failure::Step
    })
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

/// What `command` prints. An error has what it complained of.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{:?} cannot be started: {error}", command.get_program()))?;
    if !out.status.success() {
        let complaint = String::from_utf8_lossy(&out.stderr);
        return Err(format!(
            "{command:?} ended with {}:\n{}",
            out.status,
            complaint.trim_end()
        ));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whoever runs the old `to` meanwhile keeps it.
fn replace(from: &Path, to: &Path) -> Result<(), String> {
    let parent = to.parent().unwrap_or(to);
    let new = to.with_extension("new");
    fs::create_dir_all(parent).map_err(|error| cannot("create", parent, &error))?;
    fs::copy(from, &new).map_err(|error| cannot("copy", from, &error))?;
    fs::rename(&new, to).map_err(|error| cannot("replace", to, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_executes_no_test_is_a_failure() {
        let ran = |tests| {
            some_tests(Report {
                tests,
                ..Report::default()
            })
        };
        assert!(ran(0).is_err(), "nothing was shown");
        assert!(ran(1).is_ok_and(|report| report.tests == 1));
    }

    #[test]
    fn what_cargo_would_split_is_refused() {
        assert!(words(["a".as_ref(), "b c".as_ref()]).is_err());
        let joined = words(["a".as_ref(), "b".as_ref()]);
        assert!(joined.is_ok_and(|joined| joined == "a b"));
    }
}
