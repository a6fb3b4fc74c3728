//! The test's own hands on the disk: no step, no fault, no permission, and durable at once.
//!
//! Paths begin at `/` and are taken literally: no link is followed.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::SystemTime;

use super::disk::{Body, Disk, FileBody, Ino, ROOT};
use super::process::create_dir_all;
use super::scheduler::Guard;
use super::world::World;
use crate::{Metadata, Owner};

impl World {
    /// Changes the disk behind everybody's back; watches notice.
    fn change<T>(
        &self,
        path: &str,
        change: impl FnOnce(&mut Disk, SystemTime) -> io::Result<T>,
    ) -> T {
        let mut state = self.shared.lock();
        let now = state.clock.wall();
        let before = (state.disk.tracks, state.disk.read_only);
        (state.disk.tracks, state.disk.read_only) = (false, false);
        let result = change(&mut state.disk, now);
        (state.disk.tracks, state.disk.read_only) = before;
        let wakes = state.take_wakes();
        drop(state);
        wakes.iter().for_each(|wake| wake.set());
        result.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn plant(&self, path: &str, body: Body) {
        self.change(path, |disk, now| {
            let (dir, name) = parent(disk, path, now)?;
            remove(disk, dir, &name, now)?;
            let ino = disk.create(dir, &name, body, 0o644, Owner::Me, now)?;
            disk.make_durable(ino);
            Ok(())
        });
    }

    /// Makes a directory and its parents.
    ///
    /// # Panics
    /// Something else has one of the names, as for all methods here.
    pub fn plant_dir(&self, path: &str) {
        self.change(path, |disk, now| create_dir_all(disk, Path::new(path), now));
    }

    /// Puts bytes into a file: in place if there is one, else a new one with its parents.
    ///
    /// # Panics
    /// There is something else.
    pub fn plant_file(&self, path: &str, bytes: &[u8]) {
        self.change(path, |disk, now| {
            let (dir, name) = parent(disk, path, now)?;
            let ino = match disk.lookup(dir, &name) {
                Ok(ino) => ino,
                Err(_) => disk.create(
                    dir,
                    &name,
                    Body::File(FileBody::default()),
                    0o644,
                    Owner::Me,
                    now,
                )?,
            };
            disk.set_len(ino, 0, now)?;
            disk.write(ino, bytes, 0, now)?;
            disk.make_durable(ino);
            Ok(())
        });
    }

    /// Puts a symbolic link there, in place of whatever it is.
    pub fn plant_symlink(&self, path: &str, target: &str) {
        self.plant(path, Body::Symlink(target.to_owned()));
    }

    /// Gives the file at `path` one more name, in place of whatever has that.
    ///
    /// # Panics
    /// There is no file, or no place for the name.
    pub fn link(&self, path: &str, name: &str) {
        self.change(path, |disk, now| {
            let ino = disk.resolve(Path::new(path), false)?;
            let (dir, name) = parent(disk, name, now)?;
            remove(disk, dir, &name, now)?;
            disk.link(ino, dir, &name, now);
            disk.make_durable(ino);
            Ok(())
        });
    }

    /// Puts something like a FIFO there, in place of whatever it is.
    pub fn plant_other(&self, path: &str) {
        self.plant(path, Body::Other);
    }

    /// Removes a name, with all that is below it. Nothing there is fine.
    ///
    /// # Panics
    /// The parent is not there.
    pub fn remove(&self, path: &str) {
        self.change(path, |disk, now| {
            let (dir, name) = parent(disk, path, now)?;
            remove(disk, dir, &name, now)
        });
    }

    /// Renames a file or directory.
    ///
    /// # Panics
    /// As a rename fails.
    pub fn rename(&self, from: &str, to: &str) {
        self.change(from, |disk, now| {
            let (from_dir, from_name) = parent(disk, from, now)?;
            let (to_dir, to_name) = parent(disk, to, now)?;
            disk.rename((from_dir, &from_name), (to_dir, &to_name), now)
        });
    }

    fn change_inode(&self, path: &str, change: impl FnOnce(&mut super::disk::Inode)) {
        self.change(path, |disk, _| {
            let ino = disk.resolve(Path::new(path), false)?;
            change(disk.get_mut(ino));
            Ok(())
        });
    }

    /// Sets when it was last written to.
    ///
    /// # Panics
    /// It is not there, as for the next two.
    pub fn set_modified(&self, path: &str, time: SystemTime) {
        self.change_inode(path, |inode| inode.modified = time);
    }

    /// Sets whose it is.
    pub fn set_owner(&self, path: &str, owner: Owner) {
        self.change_inode(path, |inode| inode.owner = owner);
    }

    /// Sets the permission bits. They are shown to whoever asks, and not enforced: inject `PermissionDenied` for that.
    pub fn set_mode(&self, path: &str, mode: u32) {
        self.change_inode(path, |inode| inode.mode = mode);
    }

    fn find(&self, path: &str) -> Option<(Guard<'_>, Ino)> {
        let state = self.shared.lock();
        let ino = state.disk.resolve(Path::new(path), false).ok()?;
        Some((state, ino))
    }

    /// The bytes of a file; `None` if there is no file.
    #[must_use]
    pub fn read_file(&self, path: &str) -> Option<Vec<u8>> {
        let (state, ino) = self.find(path)?;
        match &state.disk.get(ino).body {
            Body::File(body) => Some(body.now.to_vec()),
            _ => None,
        }
    }

    /// Whether something has this name.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.find(path).is_some()
    }

    /// The metadata of what has this name.
    #[must_use]
    pub fn metadata(&self, path: &str) -> Option<Metadata> {
        self.find(path).map(|(state, ino)| state.disk.metadata(ino))
    }

    /// The names in a directory, sorted; none if there is no directory.
    #[must_use]
    pub fn list(&self, path: &str) -> Vec<String> {
        let names = self
            .find(path)
            .map(|(state, ino)| match state.disk.names(ino) {
                Ok(names) => names.keys().cloned().collect(),
                Err(_) => Vec::new(),
            });
        names.unwrap_or_default()
    }

    /// The name of the process that has the kernel lock on a file.
    #[must_use]
    pub fn lock_holder(&self, path: &str) -> Option<String> {
        let (state, ino) = self.find(path)?;
        let holder = state.locks.get(&ino)?;
        Some(state.processes[holder.process].name.to_string())
    }
}

/// The directory of `path`, made if need be, and the last segment.
fn parent(disk: &mut Disk, path: &str, now: SystemTime) -> io::Result<(Ino, String)> {
    let path = Path::new(path);
    let (Some(above), Some(name)) = (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
    ) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    create_dir_all(disk, above, now)?;
    Ok((disk.resolve(above, false)?, name.to_owned()))
}

fn remove(disk: &mut Disk, dir: Ino, name: &str, now: SystemTime) -> io::Result<()> {
    let Ok(ino) = disk.lookup(dir, name) else {
        return Ok(());
    };
    debug_assert_ne!(ino, ROOT, "the root has no name");
    if disk.is_dir(ino) {
        let names: Vec<String> = disk.names(ino)?.keys().cloned().collect();
        names
            .iter()
            .try_for_each(|name| remove(disk, ino, name, now))?;
    }
    disk.remove_name(dir, name, now);
    Ok(())
}
