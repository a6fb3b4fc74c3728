//! `cargo xtask build-windows` and the steps of `cargo xtask test windows`: built with MinGW, run under Wine.
//!
//! Everything that is made for that is under `target/windows/`; the installed toolchain gets a target from `rustup` at most.
//!
//! | path below `target/windows/` | what |
//! | --- | --- |
//! | `cachelock.exe` | the program, as it is to be handed out; Windows itself needs no more |
//! | `bcryptprimitives.dll` | what Wine before 9 has not, so that the program starts there; not to be handed out |
//! | `prefix` | a drive and a registry of Wine's own |
//! | `debian`, `std`, `sysroot` | see [`crate::sysroot`] |
//!
//! The standard library of Rust takes its randomness from `bcryptprimitives.dll`, a part of Windows since version 8. The one
//! that is made here hands the calls on to a function that all versions of Wine have. It goes into the prefix for the tests, and
//! beside the program for everybody else's Wine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{cannot, output, replace, said, target_dir};
use crate::suite::{Report, cargo, some_tests};
use crate::sysroot::{self, Source, Variables};
use crate::{Failure, setup};

pub(crate) const TARGET: sysroot::Target = sysroot::Target {
    triple: "x86_64-pc-windows-gnu",
    libc: None,
    start_files: &["rsbegin", "rsend"],
};

const COMPILER: &str = "x86_64-w64-mingw32-gcc";
const WINE: &str = "wine";

/// The file that Wine before 9 has not.
const RANDOM: &str = "bcryptprimitives.dll";

const RANDOM_SOURCE: &str = "\
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID bytes, ULONG len);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE bytes, SIZE_T len)
{
    while (len > 0) {
        ULONG piece = len < 0x10000 ? (ULONG)len : 0x10000;
        if (!SystemFunction036(bytes, piece))
            return FALSE;
        bytes += piece;
        len -= piece;
    }
    return TRUE;
}
";

/// Builds the program, and says where it is.
pub(crate) fn build(root: &Path, source: Source) -> Result<Report, Failure> {
    let variables = sysroot::variables(&folder(root), &TARGET, source)?;
    let arguments = format!(
        "build -p cachelock-cli --release --target {}",
        TARGET.triple
    );
    cargo(root, &arguments, &variables)?;
    let built = target_dir(root)
        .join(TARGET.triple)
        .join("release")
        .join("cachelock.exe");
    let to = folder(root).join("cachelock.exe");
    said(replace(&built, &to))?;
    said(random(root))?;
    let len = fs::metadata(&to).map_or(0, |metadata| metadata.len());
    println!("windows: {} ({} KB)", to.display(), len / 1000);
    Ok(Report::default())
}

/// As the tests do: where it cannot be done, that was said.
pub(crate) fn build_to_test(root: &Path) -> Result<Report, Failure> {
    match setup::are_met(setup::WINDOWS) {
        true => build(root, Source::Any),
        false => Ok(not_run()),
    }
}

/// The setup has said why, and where nothing may be skipped it has failed.
fn not_run() -> Report {
    println!("windows: not run");
    Report::default()
}

/// The lints, with the code that no other target compiles.
pub(crate) fn clippy(root: &Path) -> Result<Report, Failure> {
    let variables = sysroot::variables(&folder(root), &TARGET, Source::Any)?;
    let packages = "-p cachelock-platform -p cachelock -p cachelock-cli";
    let arguments = format!(
        "clippy {packages} --all-targets --target {} -- -D warnings",
        TARGET.triple
    );
    cargo(root, &arguments, &variables)
}

/// The conformance suite, what the backend owes beyond it, and what is tested inside of the platform.
pub(crate) fn conformance(root: &Path) -> Result<Report, Failure> {
    let packages = "-p cachelock-platform -p cachelock";
    test(
        root,
        &format!("{packages} --lib --test windows --test conformance"),
    )
}

/// Many processes on one cache.
pub(crate) fn processes(root: &Path) -> Result<Report, Failure> {
    test(root, "-p cachelock --test timing --test stampede")
}

/// The program, and what it is made of.
pub(crate) fn program(root: &Path) -> Result<Report, Failure> {
    test(root, "-p cachelock-cli --bins --test windows")
}

fn test(root: &Path, what: &str) -> Result<Report, Failure> {
    if !setup::are_met(setup::WINDOWS) {
        return Ok(not_run());
    }
    let mut variables = sysroot::variables(&folder(root), &TARGET, Source::Any)?;
    variables.push((TARGET.variable("RUNNER"), WINE.into()));
    variables.extend(said(wine(root))?);
    let arguments = format!("test {what} --no-fail-fast --target {}", TARGET.triple);
    some_tests(cargo(root, &arguments, &variables)?)
}

/// What Wine needs in its environment. Makes its drive, if there is none.
fn wine(root: &Path) -> Result<Variables, String> {
    let prefix = folder(root).join("prefix");
    let variables: Variables = vec![
        ("WINEPREFIX".to_owned(), prefix.clone().into_os_string()),
        ("WINEDEBUG".to_owned(), "-all".into()),
        // Neither .NET nor a browser's engine, which it would offer to fetch.
        ("WINEDLLOVERRIDES".to_owned(), "mscoree,mshtml=".into()),
    ];
    let system = prefix.join("drive_c").join("windows").join("system32");
    // It is written last.
    if !prefix.join("system.reg").is_file() {
        println!("windows: making a drive for Wine");
        let _ = fs::remove_dir_all(&prefix);
        fs::create_dir_all(&prefix).map_err(|error| cannot("create", &prefix, &error))?;
        let mut boot = Command::new(WINE);
        boot.args(["wineboot", "--init"]);
        output(boot.envs(variables.iter().cloned()))?;
    }
    let random = random(root)?;
    let inside = system.join(RANDOM);
    if !inside.exists() {
        replace(&random, &inside)?;
    }
    Ok(variables)
}

/// The file that Wine before 9 has not, beside the program. Made once.
fn random(root: &Path) -> Result<PathBuf, String> {
    let made = folder(root).join(RANDOM);
    if made.is_file() {
        return Ok(made);
    }
    let folder = folder(root);
    fs::create_dir_all(&folder).map_err(|error| cannot("create", &folder, &error))?;
    let source = folder.join("random.c");
    fs::write(&source, RANDOM_SOURCE).map_err(|error| cannot("write", &source, &error))?;
    let new = folder.join("random.dll");
    let mut compile = Command::new(COMPILER);
    compile.args(["-shared", "-Os", "-s", "-o"]);
    output(compile.arg(&new).arg(&source).arg("-ladvapi32"))?;
    fs::rename(&new, &made).map_err(|error| cannot("rename", &new, &error))?;
    Ok(made)
}

/// Where all of this is.
fn folder(root: &Path) -> PathBuf {
    root.join("target").join("windows")
}
