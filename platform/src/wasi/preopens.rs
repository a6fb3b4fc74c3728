//! From paths to preopened directories.
//!
//! There is no root: a path is looked up in the preopened directory whose name is the longest prefix of it. There is no
//! current directory either: a relative path starts where the host says that the guest was started, or at `/`, as in
//! the C library of most guests; and so does the name of a preopened directory (`--dir .`).

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use wasi::cli::environment::initial_cwd;
use wasi::filesystem::preopens::get_directories;
use wasi::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};

use super::dir::WasiDir;
use super::error;

/// A directory that the host has opened for this instance.
struct Preopen {
    /// The segments of its name.
    name: PathBuf,
    directory: Descriptor,
}

/// All of them. Asked for once: each answer makes new handles.
fn preopens() -> &'static [Preopen] {
    static PREOPENS: OnceLock<Vec<Preopen>> = OnceLock::new();
    PREOPENS.get_or_init(|| {
        let directories = get_directories().into_iter();
        let preopens = directories.map(|(directory, name)| Preopen {
            name: segments(Path::new(&name)),
            directory,
        });
        preopens.collect()
    })
}

/// `path` without its root and without `.`: what is compared.
fn segments(path: &Path) -> PathBuf {
    let counts = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().filter(counts).collect()
}

/// As [`Platform::absolute`](crate::Platform::absolute), without a current directory.
pub(super) fn absolute(path: &Path) -> io::Result<PathBuf> {
    if path.is_absolute() || path.as_os_str().is_empty() {
        return std::path::absolute(path);
    }
    let start = initial_cwd()
        .map(PathBuf::from)
        .filter(|start| start.is_absolute() && find(start).is_ok())
        .unwrap_or_else(|| PathBuf::from("/"));
    std::path::absolute(start.join(path))
}

/// The preopened directory that `path` is in, and the rest of the path.
fn find(path: &Path) -> io::Result<(&'static Descriptor, PathBuf)> {
    let segments = segments(path);
    let fitting = preopens()
        .iter()
        .filter_map(|preopen| Some((preopen, segments.strip_prefix(&preopen.name).ok()?)));
    let longest = fitting.max_by_key(|(preopen, _)| preopen.name.components().count());
    match longest {
        Some((preopen, rest)) => Ok((&preopen.directory, rest.to_owned())),
        None => Err(not_granted()),
    }
}

fn not_granted() -> io::Error {
    let granted: Vec<_> = preopens()
        .iter()
        .map(|preopen| format!("/{}", preopen.name.display()))
        .collect();
    let granted = match granted.is_empty() {
        true => "none".to_owned(),
        false => granted.join(", "),
    };
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "the host has granted this guest no directory that contains it (granted: {granted}); with wasmtime, `--dir HOST_DIR::GUEST_DIR` grants one"
        ),
    )
}

/// A path as WASI takes it: UTF-8, and a dot for the directory itself.
fn text(path: &Path) -> io::Result<&str> {
    match path.to_str() {
        Some("") => Ok("."),
        Some(text) => Ok(text),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{path:?} is not UTF-8, as paths of WASI are"),
        )),
    }
}

/// Links are followed, as far as they stay in what was granted.
pub(super) fn open_dir(path: &Path) -> io::Result<WasiDir> {
    let (directory, rest) = find(path)?;
    open(directory, &rest).map(WasiDir::new)
}

fn open(directory: &Descriptor, path: &Path) -> io::Result<Descriptor> {
    let path = text(path)?;
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
    let (directory, rest) = find(path)?;
    if open(directory, &rest).is_ok() {
        return Ok(());
    }
    let mut made = PathBuf::new();
    for part in rest.components() {
        made.push(part);
        let name = text(&made)?;
        match error::call(|| directory.create_directory_at(name)) {
            Ok(()) => {}
            // Something else may have the name: then it cannot be opened.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                open(directory, &made)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
