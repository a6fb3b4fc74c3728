//! From paths to preopened directories.
//!
//! There is no root: a path is looked up in the preopened directory whose name is the longest prefix of it. There is no
//! current directory either: a relative path starts where the host says that the guest was started, or at `/`, as in
//! the C library of most guests; and so does the name of a preopened directory (`--dir .`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use wasi::cli::environment::initial_cwd;
use wasi::filesystem::preopens::get_directories;
use wasi::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};

use super::dir::{WasiDir, look_for_directory};
use super::error;
use crate::{Shown, failure, parts, prefixes};

/// A directory that the host has opened for this instance.
struct Preopen {
    /// The segments of its name.
    name: String,
    directory: Descriptor,
}

/// All of them. Asked for once: each answer makes new handles.
fn preopens() -> &'static [Preopen] {
    static PREOPENS: OnceLock<Vec<Preopen>> = OnceLock::new();
    PREOPENS.get_or_init(|| {
        let directories = get_directories().into_iter();
        let preopens = directories.map(|(directory, name)| Preopen {
            name: segments(&name),
            directory,
        });
        preopens.collect()
    })
}

/// `path` without its root and without `.`: what is compared.
fn segments(path: &str) -> String {
    let mut segments = String::new();
    for segment in parts(path, b'/') {
        if !matches!(segment, "" | ".") {
            if !segments.is_empty() {
                segments.push('/');
            }
            segments.push_str(segment);
        }
    }
    segments
}

/// A path as WASI takes it.
fn text(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| {
        let reason = format!("{} is not UTF-8, as paths of WASI are", Shown(path));
        failure(io::ErrorKind::InvalidInput, reason)
    })
}

/// As [`Platform::absolute`](crate::Platform::absolute), without a current directory.
pub(super) fn absolute(path: &Path) -> io::Result<PathBuf> {
    let path = text(path)?;
    if path.is_empty() {
        let reason = "an empty path is no path of a directory";
        return Err(failure(io::ErrorKind::InvalidInput, reason));
    }
    let start = match path.starts_with('/') {
        true => None,
        false => initial_cwd().filter(|start| start.starts_with('/') && find(start).is_ok()),
    };
    let start = start.unwrap_or_default();
    Ok(format!("/{}", segments(&format!("{start}/{path}"))).into())
}

/// The preopened directory that `path` is in, and the rest of the path: what WASI takes, with a dot for the directory itself.
fn find(path: &str) -> io::Result<(&'static Descriptor, String)> {
    let path = segments(path);
    let below = |name: &str| match path.strip_prefix(name)? {
        "" => Some("."),
        rest if name.is_empty() => Some(rest),
        rest => rest.strip_prefix('/'),
    };
    let fitting = preopens()
        .iter()
        .filter_map(|preopen| Some((preopen, below(&preopen.name)?)));
    match fitting.max_by_key(|(preopen, _)| preopen.name.len()) {
        Some((preopen, rest)) => Ok((&preopen.directory, rest.to_owned())),
        None => Err(not_granted()),
    }
}

fn not_granted() -> io::Error {
    let mut granted = String::new();
    for Preopen { name, .. } in preopens() {
        let before = if granted.is_empty() { "/" } else { ", /" };
        granted.push_str(before);
        granted.push_str(name);
    }
    if granted.is_empty() {
        granted.push_str("none");
    }
    failure(
        io::ErrorKind::PermissionDenied,
        format!(
            "the host has granted this guest no directory that contains it (granted: {granted}); with wasmtime, `--dir HOST_DIR::GUEST_DIR` grants one"
        ),
    )
}

/// Links are followed, as far as they stay in what was granted.
pub(super) fn open_dir(path: &Path) -> io::Result<WasiDir> {
    let (directory, rest) = find(text(path)?)?;
    open(directory, &rest).map(WasiDir::new)
}

fn open(directory: &Descriptor, path: &str) -> io::Result<Descriptor> {
    look_for_directory(directory, PathFlags::SYMLINK_FOLLOW, path)?;
    error::call(|| {
        directory.open_at(
            PathFlags::SYMLINK_FOLLOW,
            path,
            OpenFlags::DIRECTORY,
            DescriptorFlags::READ,
        )
    })
}

/// The preopened directory itself is there; what is missing below it is made.
pub(super) fn create_dir_all(path: &Path) -> io::Result<()> {
    let (directory, rest) = find(text(path)?)?;
    if open(directory, &rest).is_ok() {
        return Ok(());
    }
    for path in with_parents(&rest) {
        match error::call(|| directory.create_directory_at(path)) {
            Ok(()) => {}
            // Something else may have the name: then it cannot be opened.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                open(directory, path)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// As [`Platform::sync_parents`](crate::Platform::sync_parents).
pub(super) fn sync_parents(path: &Path) {
    let Ok((directory, rest)) = text(path).and_then(find) else {
        return;
    };
    let _ = directory.sync();
    for parent in with_parents(&rest) {
        if let Ok(parent) = open(directory, parent) {
            let _ = parent.sync();
        }
    }
}

/// The directories on the way to `path`, from the top, and itself.
fn with_parents(path: &str) -> impl Iterator<Item = &str> {
    prefixes(path, b'/').chain([path])
}
