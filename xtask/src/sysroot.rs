//! A standard library for a target that is not the machine's own.
//!
//! The toolchain may have it. If not, `rustup target add` is asked; nothing else ever changes the toolchain. Where that cannot
//! download, the library is built from Debian's packages, which apt fetches with a configuration of its own:
//!
//! | package | what of it |
//! | --- | --- |
//! | `rust-src`, of exactly this compiler's version | the source, built as cargo's `-Zbuild-std` builds it |
//! | a C library, where the target has none of its own | what of it goes into each program |
//!
//! What comes of it is a sysroot in a folder of the target's under `target/`, used with rustc's `--sysroot`. Host code, build scripts included, never
//! sees it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Failure;
use crate::command::{cannot, output, said, words};

/// What to build for.
pub(crate) struct Target {
    pub(crate) triple: &'static str,
    /// Debian's package of its C library, where programs need one.
    pub(crate) libc: Option<&'static str>,
    /// What the source of the standard library has beside it for each program's start and end.
    pub(crate) start_files: &'static [&'static str],
}

impl Target {
    /// The name of cargo's environment variable `of` this target.
    pub(crate) fn variable(&self, of: &str) -> String {
        let triple = self.triple.to_uppercase().replace('-', "_");
        format!("CARGO_TARGET_{triple}_{of}")
    }
}

/// What is put into cargo's environment.
pub(crate) type Variables = Vec<(String, OsString)>;

/// What cargo needs in its environment to build for `target`, whose own folder is `folder`.
pub(crate) fn variables(
    folder: &Path,
    target: &Target,
    source: Source,
) -> Result<Variables, Failure> {
    let mut variables = Variables::new();
    if let Some(sysroot) = said(find(folder, target, source))? {
        let mut flags = OsString::from("--sysroot=");
        flags.push(words([sysroot.as_os_str()])?);
        variables.push((target.variable("RUSTFLAGS"), flags));
    }
    Ok(variables)
}

/// Suites that have been seen to carry compilers this new, those first that are quick to look through.
const SUITES: [&str; 5] = [
    "trixie-backports",
    "stable-backports",
    "forky-backports",
    "testing",
    "unstable",
];

/// Where the standard library may come from.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Source {
    Any,
    /// Only from Debian's packages: to try that way where the toolchain has the target.
    Debian,
}

/// The sysroot to be used; `None` for the toolchain's own.
fn find(folder: &Path, target: &Target, source: Source) -> Result<Option<PathBuf>, String> {
    let compiler = Compiler::ask()?;
    if source == Source::Any && compiler.has_target(target)? {
        return Ok(None);
    }
    let sysroot = folder.join("sysroot").join(&compiler.version);
    if sysroot.join(STAMP).is_file() {
        return Ok(Some(sysroot));
    }
    let mut reasons = Vec::new();
    if source == Source::Any {
        println!("xtask: rustup target add {}", target.triple);
        match output(Command::new("rustup").args(["target", "add", target.triple])) {
            Ok(_) if compiler.has_target(target)? => return Ok(None),
            Ok(_) => reasons.push("rustup's toolchain is not the one that is used".to_owned()),
            Err(reason) => reasons.push(reason),
        }
    }
    match build(folder, target, &sysroot, &compiler) {
        Ok(()) => Ok(Some(sysroot)),
        Err(reason) => {
            reasons.push(reason);
            Err(format!(
                "no standard library for {} can be had.\n{}",
                target.triple,
                reasons.join("\n")
            ))
        }
    }
}

/// Written last.
const STAMP: &str = "complete";

struct Compiler {
    /// `1.95.0`.
    version: String,
    host: String,
    sysroot: PathBuf,
}

impl Compiler {
    fn ask() -> Result<Self, String> {
        let verbose = output(rustc().arg("-vV"))?;
        let field = |name: &str| {
            let value = verbose.lines().find_map(|line| line.strip_prefix(name));
            value
                .map(|value| value.trim().to_owned())
                .ok_or_else(|| format!("rustc -vV does not say {name:?}"))
        };
        Ok(Compiler {
            version: field("release:")?,
            host: field("host:")?,
            sysroot: output(rustc().args(["--print", "sysroot"]))?.trim().into(),
        })
    }

    fn has_target(&self, target: &Target) -> Result<bool, String> {
        let mut ask = rustc();
        ask.args(["--print", "target-libdir", "--target", target.triple]);
        let dir = output(&mut ask)?;
        let Ok(entries) = fs::read_dir(dir.trim()) else {
            return Ok(false);
        };
        let mut names = entries
            .filter_map(Result::ok)
            .map(|entry| entry.file_name());
        Ok(names.any(|name| name.to_string_lossy().starts_with("libstd-")))
    }
}

/// The compiler that cargo uses.
fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

fn build(
    folder: &Path,
    target: &Target,
    sysroot: &Path,
    compiler: &Compiler,
) -> Result<(), String> {
    let packages = folder.join("debian");
    let unpacked = packages.join("unpacked");
    fetch(&packages, &unpacked, target, compiler)?;
    println!("xtask: building the standard library for {}", target.triple);
    let _ = fs::remove_dir_all(sysroot);
    let rustlib = sysroot.join("lib").join("rustlib");
    let host = compiler.sysroot.join("lib/rustlib").join(&compiler.host);
    link(&host, &rustlib.join(&compiler.host))?;
    link(&source_of(&unpacked)?, &rustlib.join("src").join("rust"))?;

    let built = build_std(&folder.join("std"), target, sysroot)?;
    let lib = rustlib.join(target.triple).join("lib");
    copy_all(&built, &lib, |name| {
        name.ends_with(".rlib") && !name.starts_with(&format!("lib{EMPTY}-"))
    })?;
    if target.libc.is_some() {
        let libc = unpacked.join("usr/lib").join(target.triple);
        copy_all(&libc, &lib.join("self-contained"), |name| {
            name.ends_with(".a") || name.ends_with(".o")
        })?;
    }
    let start_files = source_of(&unpacked)?.join("library").join("rtstartup");
    for name in target.start_files {
        let mut compile = rustc();
        compile.args(["--crate-type", "rlib", "--emit", "obj"]);
        compile.args(["--target", target.triple, "-o"]);
        compile.arg(lib.join(name).with_extension("o"));
        compile.arg(start_files.join(name).with_extension("rs"));
        // The features of this compiler.
        output(compile.env("RUSTC_BOOTSTRAP", "1"))?;
    }
    let stamp = sysroot.join(STAMP);
    fs::write(&stamp, "").map_err(|error| cannot("write", &stamp, &error))
}

/// The packages, unpacked. Nothing of the machine's own apt is changed: it is only asked where it gets Debian from.
fn fetch(
    folder: &Path,
    unpacked: &Path,
    target: &Target,
    compiler: &Compiler,
) -> Result<(), String> {
    let _ = fs::remove_dir_all(folder);
    let apt = Apt::new(folder)?;
    let repository = apt.repository()?;
    let wanted = format!("{}+dfsg", compiler.version);
    let mut looked = Vec::new();
    for suite in SUITES {
        println!(
            "xtask: looking for rust-src {} in {suite}",
            compiler.version
        );
        if let Err(reason) = apt.use_suite(&repository, suite) {
            // The name of the repository's host is nobody's business.
            let reason = reason.lines().last().unwrap_or_default();
            let repository = repository.trim_end_matches('/');
            looked.push(format!("{suite}: {}", reason.replace(repository, "...")));
            continue;
        }
        let sources = apt.versions("rust-src")?;
        let source = sources.iter().find(|version| version.starts_with(&wanted));
        let mut packages =
            source.map_or_else(Vec::new, |source| vec![format!("rust-src={source}")]);
        let mut there = source.is_some();
        if let Some(libc) = target.libc {
            there &= !apt.versions(libc)?.is_empty();
            packages.push(libc.to_owned());
        }
        if there {
            return apt.download(&packages, unpacked);
        }
        looked.push(format!("{suite}: rust-src {sources:?}"));
    }
    Err(format!(
        "no suite of Debian has rust-src {}{}:\n  {}",
        compiler.version,
        target
            .libc
            .map_or_else(String::new, |libc| format!(" and {libc}")),
        looked.join("\n  ")
    ))
}

/// apt with lists, sources and cache of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path) -> Result<Self, String> {
        for name in ["lists/partial", "cache/archives/partial", "packages"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(|error| cannot("create", &path, &error))?;
        }
        Ok(Apt {
            folder: folder.to_owned(),
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let option = |name: &str, path: &str| {
            let mut option = OsString::from(format!("{name}="));
            option.push(self.folder.join(path));
            option
        };
        command.arg("-o").arg(option("Dir::State::lists", "lists"));
        command.arg("-o").arg(option("Dir::Cache", "cache"));
        // Root may write here, and the user that apt would become may not.
        command.args(["-o", "APT::Sandbox::User=root"]);
        command.env("LC_ALL", "C");
        command
    }

    fn with_own_sources(&self, program: &str) -> Command {
        let mut command = self.command(program);
        let mut option = OsString::from("Dir::Etc::sourcelist=");
        option.push(self.folder.join("sources.list"));
        command.arg("-o").arg(option);
        command.args(["-o", "Dir::Etc::sourceparts=/dev/null"]);
        command
    }

    /// Where this machine gets its own suite of Debian from.
    fn repository(&self) -> Result<String, String> {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .ok_or(
                "this is no Debian, so there are no packages to build the standard library from",
            )?;
        let targets = [
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
        ];
        let codename = format!("Codename: {}", codename.trim_matches('"'));
        let ask = |command: &mut Command| output(command.args(targets).arg(&codename));
        let mut found = ask(&mut Command::new("apt-get"))?;
        if found.trim().is_empty() {
            // A machine that has never fetched any lists.
            output(self.command("apt-get").args(["update", "--quiet"]))?;
            found = ask(&mut self.command("apt-get"))?;
        }
        let first = found.lines().next().map(str::to_owned);
        first.ok_or_else(|| "apt does not say where Debian is".to_owned())
    }

    fn use_suite(&self, repository: &str, suite: &str) -> Result<(), String> {
        let path = self.folder.join("sources.list");
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let line = format!("deb [signed-by={keyring}] {repository} {suite} main\n");
        fs::write(&path, line).map_err(|error| cannot("write", &path, &error))?;
        output(self.with_own_sources("apt-get").args(["update", "--quiet"])).map(drop)
    }

    /// The versions of `package`, the newest first.
    fn versions(&self, package: &str) -> Result<Vec<String>, String> {
        let table = output(
            self.with_own_sources("apt-cache")
                .args(["madison", package]),
        )?;
        let version = |line: &str| Some(line.split('|').nth(1)?.trim().to_owned());
        Ok(table.lines().filter_map(version).collect())
    }

    fn download(&self, packages: &[String], to: &Path) -> Result<(), String> {
        let folder = self.folder.join("packages");
        let mut download = self.with_own_sources("apt-get");
        download.arg("download").args(packages).current_dir(&folder);
        output(&mut download)?;
        let entries = fs::read_dir(&folder).map_err(|error| cannot("list", &folder, &error))?;
        for entry in entries.filter_map(Result::ok) {
            output(Command::new("dpkg").arg("-x").arg(entry.path()).arg(to))?;
        }
        Ok(())
    }
}

/// The folder in `unpacked` that has `library/`.
fn source_of(unpacked: &Path) -> Result<PathBuf, String> {
    let mut folders = vec![unpacked.join("usr")];
    while let Some(folder) = folders.pop() {
        if folder.join("library/std/Cargo.toml").is_file() {
            return Ok(folder);
        }
        let entries = fs::read_dir(&folder).into_iter().flatten();
        let dirs = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(dirs.map(|entry| entry.path()));
    }
    Err("Debian's rust-src has no library/std".to_owned())
}

/// The crate whose dependencies are all that matters.
const EMPTY: &str = "empty";

/// Builds std from the source in `sysroot`, and returns the folder with its libraries.
fn build_std(folder: &Path, target: &Target, sysroot: &Path) -> Result<PathBuf, String> {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| cannot("write", &path, &error))
    };
    let manifest = format!(
        "[package]\nname = \"{EMPTY}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n"
    );
    write("Cargo.toml", &manifest)?;
    write("src/lib.rs", "")?;
    // Cargo looks for the source of std in the sysroot that the compiler names, and not in the one that its flags name.
    let wrapper = folder.join("rustc");
    let script = "#!/bin/sh\nexec \"$STD_RUSTC\" \"$@\" --sysroot \"$STD_SYSROOT\"\n";
    write("rustc", script)?;
    output(Command::new("chmod").arg("+x").arg(&wrapper))?;
    let compiler = rustc().get_program().to_owned();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--release", "--target", target.triple])
        .arg("-Zbuild-std=std,panic_abort,test")
        .current_dir(folder)
        // The features of this compiler, as std itself is built with.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", &wrapper)
        .env("STD_RUSTC", compiler)
        .env("STD_SYSROOT", sysroot)
        // Without it `lto` fails in those who link this.
        .env("RUSTFLAGS", "-Cembed-bitcode=yes")
        .env("CARGO_TARGET_DIR", folder.join("target"));
    output(&mut cargo)?;
    Ok(folder
        .join("target")
        .join(target.triple)
        .join("release/deps"))
}

fn link(to: &Path, at: &Path) -> Result<(), String> {
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent).map_err(|error| cannot("create", parent, &error))?;
    }
    output(Command::new("ln").arg("-sfn").arg(to).arg(at)).map(drop)
}

/// Copies the files of `from` whose names `wanted` wants; none is an error.
fn copy_all(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), String> {
    fs::create_dir_all(to).map_err(|error| cannot("create", to, &error))?;
    let mut copied = 0;
    let entries = fs::read_dir(from).map_err(|error| cannot("list", from, &error))?;
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        if wanted(&name.to_string_lossy()) {
            let path = entry.path();
            fs::copy(&path, to.join(name)).map_err(|error| cannot("copy", &path, &error))?;
            copied += 1;
        }
    }
    match copied {
        0 => Err(format!("nothing that is needed is in {}", from.display())),
        _ => Ok(()),
    }
}
