//! Directories on a file system of a given kind.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::statfs;
use tempfile::TempDir;

use crate::Broken;

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In memory: the quickest.
    Tmpfs,
    /// On a disk, with a journal.
    Ext4,
}

impl Kind {
    fn magic(self) -> u64 {
        match self {
            Kind::Tmpfs => 0x0102_1994,
            Kind::Ext4 => 0xef53,
        }
    }

    /// As the kernel calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tmpfs => "tmpfs",
            Kind::Ext4 => "ext4",
        }
    }

    fn is_at(self, path: &Path) -> bool {
        // Its type has another width and sign from machine to machine.
        statfs(path).is_ok_and(|found| found.f_type as u64 == self.magic())
    }
}

/// A directory on a file system of a kind, gone when this is dropped.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    /// Keeps the namespace of a mount of ours; ends when its input does.
    keeper: Option<Child>,
    _dir: TempDir,
}

impl Place {
    /// One on the machine's own file system of this kind, or else on one that is mounted for it, where nobody else sees it.
    ///
    /// # Errors
    /// There is none, and it cannot be mounted (that needs root).
    pub fn on(kind: Kind) -> Result<Self, Broken> {
        let usual = [std::env::temp_dir(), "/dev/shm".into(), "/var/tmp".into()];
        match usual.iter().find(|path| kind.is_at(path)) {
            Some(path) => {
                let dir = new_dir(path)?;
                Ok(Self {
                    path: dir.path().to_owned(),
                    keeper: None,
                    _dir: dir,
                })
            }
            None => Self::mounted(kind),
        }
    }

    /// One on a file system that is mounted for it.
    fn mounted(kind: Kind) -> Result<Self, Broken> {
        let cannot = |what: &str| {
            let name = kind.name();
            Broken(format!("there is no {name} here, and {what} (be root)"))
        };
        let dir = new_dir(&std::env::temp_dir())?;
        let mount = match kind {
            Kind::Tmpfs => "mount -t tmpfs tmpfs at",
            Kind::Ext4 => "mkfs.ext4 -q -F image && mount -o loop image at",
        };
        std::fs::create_dir(dir.path().join("at"))
            .and_then(|()| File::create(dir.path().join("image")))
            .and_then(|image| image.set_len(512 << 20))
            .map_err(|error| cannot(&error.to_string()))?;
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg(format!("{mount} && echo mounted && exec cat"))
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| cannot(&format!("unshare: {error}")))?;
        let mut said = [0; 7];
        let read = keeper.stdout.as_mut().map(|out| out.read_exact(&mut said));
        if !matches!(read, Some(Ok(()))) {
            let _ = keeper.wait();
            return Err(cannot("it cannot be mounted"));
        }
        // Another namespace's mounts are reached through a process that is in it.
        let inside = format!("/proc/{}/root", keeper.id());
        let at = dir.path().join("at");
        let path = Path::new(&inside).join(at.strip_prefix("/").unwrap_or(&at));
        Ok(Self {
            path,
            keeper: Some(keeper),
            _dir: dir,
        })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What directories here begin with; the number of the process that has made one follows.
const PREFIX: &str = "cachelock-proof-";

/// What a run has left that was killed.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| {
            let (process, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
            process.parse::<u32>().ok()
        });
        let is_gone = |process| !Path::new(&format!("/proc/{process}")).exists();
        if process.is_some_and(is_gone) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn new_dir(parent: &Path) -> Result<TempDir, Broken> {
    sweep(parent);
    tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{}-", std::process::id()))
        .tempdir_in(parent)
        .map_err(|error| Broken(format!("a directory in {}: {error}", parent.display())))
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_has_left_is_swept_by_the_next() {
        let parent = tempfile::tempdir().expect("a directory");
        // No process has this number: it is above the kernel's limit.
        let left = parent.path().join(format!("{PREFIX}4194305-left"));
        std::fs::create_dir_all(left.join("cache")).expect("it is ours");
        let other = parent.path().join("others-4194305-left");
        std::fs::create_dir(&other).expect("it is ours");
        let first = new_dir(parent.path()).expect("a directory");
        let second = new_dir(parent.path()).expect("a directory");
        assert!(!left.exists());
        assert!(first.path().exists() && second.path().exists() && other.exists());
    }

    #[test]
    fn a_place_is_on_the_kind_that_was_asked_for_and_goes_away() {
        let is_root = rustix::process::geteuid().is_root();
        if !is_root {
            assert!(std::env::var_os("CI").is_none(), "this test needs root");
            eprintln!("skipped: this test needs root");
            return;
        }
        for kind in [Kind::Tmpfs, Kind::Ext4] {
            for place in [Place::on(kind), Place::mounted(kind)] {
                let place = place.expect("root may mount");
                assert!(kind.is_at(place.path()), "{kind:?}");
                let file = place.path().join("file");
                std::fs::write(&file, "x").expect("it is ours");
                drop(place);
                assert!(!file.exists(), "{kind:?}");
            }
        }
    }
}
