//! `cargo xtask bench`: builds what is measured, fetches what it is measured beside, and measures; see `benches/src/main.rs`.
//!
//! | path below `target/bench/` | what |
//! | --- | --- |
//! | `python`, `node` | others' packages, in fixed versions |
//! | `scratch` | where the disk is measured |

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::output;
use crate::suite::cargo;
use crate::{Failure, wasi};

/// The versions that are measured beside.
const FILELOCK: &str = "4.3.1";
const PROPER_LOCKFILE: &str = "4.1.2";

/// Measures with `arguments` of the driver's own; a long run of everything goes into the document.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Result<(), Failure> {
    let folder = root.join("target").join("bench");
    let scratch = folder.join("scratch");
    if let Err(error) = fs::create_dir_all(&scratch) {
        println!("bench: cannot create {}: {error}", scratch.display());
        return Err(Failure::Step);
    }
    let mut options: Vec<(&str, PathBuf)> = vec![("--scratch", scratch)];
    for (option, fetched) in [
        ("--python", python(&folder.join("python"))),
        ("--node", node(&folder.join("node"))),
    ] {
        match fetched {
            Ok(path) => options.push((option, path)),
            Err(reason) => println!("bench: {reason}"),
        }
    }
    let guests = wasi::benchmarks(root)?;
    options.extend([
        ("--wasmtime", guests.wasmtime),
        ("--guest", guests.guest),
        ("--component", guests.component),
        ("--program", guests.program),
    ]);
    if arguments.is_empty() {
        options.push(("--write", root.join("docs").join("performance.md")));
    }
    let mut words = "run --quiet --release -p cachelock-bench --".to_owned();
    for (option, path) in options {
        words.push_str(&format!(" {option} {}", path.display()));
    }
    for argument in arguments {
        words.push_str(&format!(" {argument}"));
    }
    let versions = [
        ("CACHELOCK_BENCH_FILELOCK", OsString::from(FILELOCK)),
        (
            "CACHELOCK_BENCH_PROPER_LOCKFILE",
            OsString::from(PROPER_LOCKFILE),
        ),
    ];
    cargo(root, &words, &versions).map(drop)
}

fn python(folder: &Path) -> Result<PathBuf, String> {
    let mut pip = Command::new("pip3");
    pip.args(["install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--no-deps", "--target"]).arg(folder);
    pip.arg(format!("filelock=={FILELOCK}"));
    once(folder, FILELOCK, &mut pip)
}

fn node(folder: &Path) -> Result<PathBuf, String> {
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--ignore-scripts", "--no-audit"]);
    npm.args(["--no-fund", "--prefix"]).arg(folder);
    npm.arg(format!("proper-lockfile@{PROPER_LOCKFILE}"));
    once(folder, PROPER_LOCKFILE, &mut npm)
}

/// Fetches into `folder`, unless that is there in this version.
fn once(folder: &Path, version: &str, fetch: &mut Command) -> Result<PathBuf, String> {
    let stamp = folder.join("version");
    if fs::read_to_string(&stamp).is_ok_and(|there| there == version) {
        return Ok(folder.to_owned());
    }
    let _ = fs::remove_dir_all(folder);
    output(fetch)?;
    fs::write(&stamp, version)
        .map_err(|error| format!("cannot write {}: {error}", stamp.display()))?;
    Ok(folder.to_owned())
}
