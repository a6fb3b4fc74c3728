//! `cargo xtask setup`: what tests need of the machine, and a fresh Debian may lack.
//!
//! A missing program is installed where that can be done without asking anybody: as root, with `apt-get`. Of what is then
//! still missing it is said which tests will be skipped; with `CI=true`, where a skipped test is a failure, so is this.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::Failure;

/// Something that tests need.
pub(crate) struct Need {
    /// Its name: for a program, the one it is started by.
    name: &'static str,
    kind: Kind,
    /// What is not tested without it.
    tests: &'static str,
}

#[derive(PartialEq)]
enum Kind {
    /// A program, and the Debian package that has it.
    Program(&'static str),
    /// A file or a device.
    Path,
    /// To be this user.
    User,
    /// To be allowed to mount file systems, which root in a container often is not.
    Mounts,
}

const fn program(name: &'static str, package: &'static str, tests: &'static str) -> Need {
    Need {
        name,
        kind: Kind::Program(package),
        tests,
    }
}

const fn other(name: &'static str, kind: Kind, tests: &'static str) -> Need {
    Need { name, kind, tests }
}

/// What the tests of the native target need.
pub(crate) const NATIVE: &[Need] = &[
    other("root", Kind::User, "what other users may do, and mounts"),
    program(
        "strace",
        "strace",
        "kills at recorded system calls; which calls are made",
    ),
    program("kill", "procps", "signals"),
    program("setpriv", "util-linux", "what other users may do"),
    program(
        "prlimit",
        "util-linux",
        "too few descriptors, threads, bytes",
    ),
    program("unshare", "util-linux", "file systems of all kinds"),
    program("mount", "mount", "file systems of all kinds"),
    other(
        "the right to mount",
        Kind::Mounts,
        "file systems of all kinds",
    ),
    program("mkfs.ext4", "e2fsprogs", "an ext4 of its own"),
    other("/dev/fuse", Kind::Path, "the lease alone, on a FUSE mount"),
    program(
        "qemu-storage-daemon",
        "qemu-utils",
        "power cuts on a device that records its writes",
    ),
    program("bindfs", "bindfs", "the lease alone, on a FUSE mount"),
    program("bwrap", "bubblewrap", "sandboxes"),
    program("tmux", "tmux", "what a person sees in a terminal"),
    program("groff", "groff-base", "the manual page"),
    program("make", "make", "what a build starts all at once"),
];

const NO_PYTHON: &str = "clients in other languages; anything, where no wasmtime is named";

/// What the tests of guests need.
pub(crate) const WASI: &[Need] = &[
    other("root", Kind::User, "guests without permissions"),
    program("python3", "python3", NO_PYTHON),
    program("pip3", "python3-pip", NO_PYTHON),
    program("setpriv", "util-linux", "guests without permissions"),
    program("unshare", "util-linux", "read-only file systems"),
    program("mount", "mount", "read-only file systems"),
    other("the right to mount", Kind::Mounts, "read-only file systems"),
];

/// What the tests of the web target need.
pub(crate) const WEB: &[Need] = &[program("node", "nodejs", "anything on the web target")];

/// What the tests on Windows need.
pub(crate) const WINDOWS: &[Need] = &[
    program(
        "x86_64-w64-mingw32-gcc",
        "gcc-mingw-w64-x86-64-win32",
        "anything on Windows",
    ),
    program("wine", "wine", "anything on Windows"),
];

/// What the tests have to do without, one line each.
pub(crate) type Missing = Vec<String>;

/// Sees to it that `needs` are met. Returns those that are not, and cannot be.
pub(crate) fn run(needs: &[Need]) -> Result<Missing, Failure> {
    let mut missing: Vec<&Need> = needs.iter().filter(|need| !need.is_met()).collect();
    let met = needs.len() - missing.len();
    println!("setup: {met} of {} needs of the tests are met", needs.len());
    install(&missing);
    missing.retain(|need| !need.is_met());
    let missing: Missing = missing.iter().map(|need| need.complaint()).collect();
    for line in &missing {
        println!("setup: {line}");
    }
    if !missing.is_empty() && std::env::var_os("CI").is_some() {
        println!("setup: with CI=true a test that is skipped is a failure");
        return Err(Failure::Step);
    }
    Ok(missing)
}

/// Whether all of it is there.
pub(crate) fn are_met(needs: &[Need]) -> bool {
    needs.iter().all(Need::is_met)
}

impl Need {
    fn is_met(&self) -> bool {
        match self.kind {
            Kind::Program(_) => is_in_path(self.name),
            Kind::Path => Path::new(self.name).exists(),
            Kind::User => is_user(self.name),
            Kind::Mounts => can_mount(),
        }
    }

    fn complaint(&self) -> String {
        let (name, tests) = (self.name, self.tests);
        match self.kind {
            Kind::Program(package) => {
                format!("without {name} (Debian package {package}), not tested: {tests}")
            }
            _ => format!("without {name}, not tested: {tests}"),
        }
    }
}

pub(crate) fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn is_user(name: &str) -> bool {
    let id = Command::new("id").arg("-un").output();
    id.is_ok_and(|out| out.stdout.trim_ascii() == name.as_bytes())
}

fn can_mount() -> bool {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "true"]);
    unshare.output().is_ok_and(|out| out.status.success())
}

/// Installs the programs among `needs`, where it can. Says what went wrong; what came of it is looked at afterwards.
fn install(needs: &[&Need]) {
    let mut packages: Vec<_> = needs
        .iter()
        .filter_map(|need| match need.kind {
            Kind::Program(package) => Some(package),
            _ => None,
        })
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() || !is_user("root") || !is_in_path("apt-get") {
        return;
    }
    println!("setup: installing {}", packages.join(" "));
    let install = ["install", "--yes", "--no-install-recommends"];
    // A fresh machine has no lists, and so knows no package.
    let _ = apt_get(&["update"]) && apt_get(&[&install[..], &packages].concat());
}

/// Whether it succeeds. Its output is shown only if not.
fn apt_get(arguments: &[&str]) -> bool {
    let out = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output();
    match out {
        Ok(out) if out.status.success() => true,
        Ok(out) => {
            print!("{}", String::from_utf8_lossy(&out.stdout));
            print!("{}", String::from_utf8_lossy(&out.stderr));
            println!("setup: apt-get {} failed, as above", arguments.join(" "));
            false
        }
        Err(error) => {
            println!("setup: apt-get cannot be started: {error}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_its_package_and_what_it_costs() {
        let absent = program("no-such-program-anywhere", "no-package", "nothing much");
        assert!(!absent.is_met());
        assert_eq!(
            absent.complaint(),
            "without no-such-program-anywhere (Debian package no-package), not tested: nothing much"
        );
        let absent = other("/no/such/device", Kind::Path, "nothing much");
        assert!(!absent.is_met());
        assert_eq!(
            absent.complaint(),
            "without /no/such/device, not tested: nothing much"
        );
    }

    #[test]
    fn what_is_there_is_found() {
        assert!(
            program("sh", "dash", "nothing").is_met(),
            "everybody has it"
        );
        assert!(other("/", Kind::Path, "nothing").is_met(), "and this");
    }
}
