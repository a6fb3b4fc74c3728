//! Small file systems that can be filled, mounted where nobody else sees them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{lacks, lacks_root, lacks_tool};

/// Set in the process that has mounts of its own.
const ALONE: &str = "CACHELOCK_TEST_ALONE";

/// Runs the test `name` again in a process with a mount namespace of its own, and tells whether this is that process. What
/// is mounted there is gone with it, however it ends.
///
/// `false`: the test has been run and went well, or it was skipped.
#[track_caller]
pub(crate) fn alone(name: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    if lacks_root() {
        return false;
    }
    let unshare = ["--mount", "--propagation", "private", "--"];
    let may = Command::new("unshare").args(unshare).arg("true").output();
    if lacks(
        "a mount namespace",
        may.is_ok_and(|out| out.status.success()),
    ) {
        return false;
    }
    let status = Command::new("unshare")
        .args(unshare)
        .arg(std::env::current_exe().expect("this binary"))
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "yes")
        .status();
    assert!(status.expect("unshare runs").success(), "{name} failed");
    false
}

/// What an ext4 in a file needs.
pub(crate) fn lacks_ext4() -> bool {
    lacks_tool("mkfs.ext4") || lacks("loop devices", Path::new("/dev/loop-control").exists())
}

/// Runs a tool that must do its work.
#[track_caller]
pub(crate) fn tool(words: &[&str]) {
    let out = Command::new(words[0]).args(&words[1..]).output();
    let out = out.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    assert!(
        out.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of UTF-8")
}

/// A mounted file system; unmounted at the end of the process at the latest.
pub(crate) struct Disk {
    at: PathBuf,
}

impl Disk {
    /// In memory, with these options of tmpfs, for `user`.
    pub(crate) fn in_memory(at: &Path, options: &str, user: u32) -> Self {
        let _ = fs::create_dir(at);
        tool(&["mount", "-t", "tmpfs", "-o", options, "tmpfs", text(at)]);
        Self::given(at, user)
    }

    /// An ext4 in a file beside it, with these options of `mkfs`.
    pub(crate) fn ext4(at: &Path, size: u64, options: &[&str], user: u32) -> Self {
        let image = at.with_extension("image");
        let file = fs::File::create(&image).expect("a file");
        file.set_len(size).expect("a sparse file");
        tool(&[&["mkfs.ext4", "-q", "-F"], options, &[text(&image)]].concat());
        let _ = fs::create_dir(at);
        tool(&["mount", "-o", "loop", text(&image), text(at)]);
        Self::given(at, user)
    }

    fn given(at: &Path, user: u32) -> Self {
        fs::set_permissions(at, fs::Permissions::from_mode(0o755)).expect("it is ours");
        chown(at, Some(user), Some(user)).expect("root may do that");
        Disk { at: at.to_owned() }
    }

    pub(crate) fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        tool(&["mount", "-o", &options, text(&self.at)]);
    }

    /// Takes all space but `left` blocks of `block` bytes.
    pub(crate) fn fill(&self, left: u64, block: usize) {
        let mut file = fs::File::create(self.at.join("filler")).expect("a file");
        let piece = vec![b'x'; block];
        let mut blocks = 0;
        while file.write_all(&piece).is_ok() {
            blocks += 1;
        }
        file.sync_all().expect("as much as there is room for");
        file.set_len((blocks - left) * block as u64)
            .expect("a shorter file");
        file.sync_all().expect("shorter on disk, too");
    }

    /// Takes all inodes but `left`.
    pub(crate) fn fill_inodes(&self, left: usize) {
        let mut fillers = Vec::new();
        loop {
            let filler = self.at.join(format!("filler-{}", fillers.len()));
            match fs::File::create(&filler) {
                Ok(_) => fillers.push(filler),
                Err(_) => break,
            }
        }
        for filler in fillers.iter().rev().take(left) {
            fs::remove_file(filler).expect("it is ours");
        }
    }

    /// Somebody has made room.
    pub(crate) fn make_room(&self) {
        for name in super::names(&self.at) {
            if name.starts_with("filler") {
                fs::remove_file(self.at.join(name)).expect("it is ours");
            }
        }
    }

    /// Nothing is on it any more.
    pub(crate) fn empty(&self) {
        for name in super::names(&self.at) {
            let path = self.at.join(name);
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.expect("it is ours");
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Fails while somebody has a file open; then the end of the namespace does it.
        let _ = Command::new("umount").arg(&self.at).output();
    }
}
