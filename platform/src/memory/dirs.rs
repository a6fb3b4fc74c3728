//! The handles on directories that a simulated process works with, and its watches.

use std::any::Any;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::SystemTime;

use super::call::Op;
use super::disk::{Body, DirBody, Disk, FileBody, Ino, error};
use super::files::{FileHandle, metadata};
use super::state::{State, Watched};
use super::step::{About, Context, Step};
use crate::{Access, Dir, Event, File, FileId, FileKind, FileSystem, Metadata, Owner, Watch};

pub(super) struct DirHandle {
    context: Context,
    ino: Ino,
    path: Arc<str>,
    _pin: Arc<()>,
}

impl DirHandle {
    pub(super) fn open_on(
        context: &Context,
        disk: &Disk,
        ino: Ino,
        path: &str,
    ) -> io::Result<Arc<dyn Dir>> {
        disk.names(ino)?;
        let pin = disk.get(ino).pin.clone();
        Ok(Arc::new(Self {
            context: context.clone(),
            ino,
            path: path.into(),
            _pin: pin,
        }))
    }

    fn begin(&self, op: Op, name: &str) -> io::Result<Step<'_>> {
        self.context.begin(
            op,
            About {
                dir: Some(&self.path),
                name,
                to: None,
            },
        )
    }

    fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path.trim_end_matches('/'))
    }

    /// One step, which `change` makes on the disk, from a name here to one in `to_dir`.
    fn move_to<T>(
        &self,
        from: &str,
        to_dir: &dyn Dir,
        to: &str,
        change: impl FnOnce(&mut Disk, (Ino, &str), (Ino, &str), SystemTime) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut step = self.context.begin(
            Op::Rename,
            About {
                dir: Some(&self.path),
                name: from,
                to: Some(to),
            },
        )?;
        let to_dir = to_dir.as_any().downcast_ref::<Self>();
        let moved =
            match to_dir.filter(|dir| Arc::ptr_eq(&dir.context.shared, &self.context.shared)) {
                None => Err(ErrorKind::CrossesDevices.into()),
                Some(to_dir) => {
                    let now = step.state.clock.wall();
                    change(
                        &mut step.state.disk,
                        (self.ino, from),
                        (to_dir.ino, to),
                        now,
                    )
                }
            };
        step.end(moved)
    }

    fn open_in(
        &self,
        state: &mut State,
        name: &str,
        access: Access,
        seen: Option<Metadata>,
    ) -> io::Result<FileHandle> {
        let ino = match access {
            Access::CreateNew(mode) => {
                // A guest cannot set modes: its files get what the host's umask leaves.
                let mode = if self.context.info.guest { 0o644 } else { mode };
                let now = state.clock.wall();
                state.disk.create(
                    self.ino,
                    name,
                    Body::File(FileBody::default()),
                    mode,
                    Owner::Me,
                    now,
                )?
            }
            Access::Read | Access::Write => {
                let ino = state.disk.lookup(self.ino, name)?;
                match state.disk.metadata(ino).kind {
                    FileKind::Symlink => {
                        return Err(error(ErrorKind::Other, "it is a symbolic link"));
                    }
                    FileKind::Directory if access == Access::Write => {
                        return Err(ErrorKind::IsADirectory.into());
                    }
                    _ if access == Access::Write => state.disk.writable()?,
                    _ => {}
                }
                ino
            }
        };
        Ok(FileHandle::open_on(
            &self.context,
            state,
            ino,
            (self.ino, &self.path, name),
            access,
            seen,
        ))
    }
}

impl Dir for DirHandle {
    fn metadata(&self) -> io::Result<Metadata> {
        let step = self.begin(Op::Metadata, "")?;
        let found = metadata(&self.context, &step.state.disk, self.ino);
        step.end(Ok(found))
    }

    fn file_system(&self) -> io::Result<FileSystem> {
        let step = self.begin(Op::FileSystem, "")?;
        let mut found = step.state.file_system.clone();
        found.kernel_locks &= !self.context.info.guest;
        step.end(Ok(found))
    }

    fn open_dir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        let step = self.begin(Op::OpenDir, name)?;
        let ino = step.state.disk.lookup(self.ino, name);
        let dir = ino.and_then(|ino| {
            Self::open_on(&self.context, &step.state.disk, ino, &self.path_of(name))
        });
        step.end(dir)
    }

    fn reopen(&self) -> io::Result<Arc<dyn Dir>> {
        let step = self.begin(Op::Reopen, "")?;
        let dir = match step.state.disk.get(self.ino).links {
            0 => Err(ErrorKind::NotFound.into()),
            _ => Self::open_on(&self.context, &step.state.disk, self.ino, &self.path),
        };
        step.end(dir)
    }

    fn create_dir(&self, name: &str, mode: u32) -> io::Result<()> {
        let mut step = self.begin(Op::CreateDir, name)?;
        let mode = if self.context.info.guest { 0o755 } else { mode };
        let now = step.state.clock.wall();
        let body = Body::Dir(DirBody::default());
        let created = step
            .state
            .disk
            .create(self.ino, name, body, mode, Owner::Me, now)
            .map(drop);
        step.end(created)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn File>> {
        let op = match access {
            Access::Read => Op::OpenRead,
            Access::Write => Op::OpenWrite,
            Access::CreateNew(_) => Op::CreateNew,
        };
        // A guest looks at the name first, and not again at what it has opened.
        let seen = match access {
            Access::Read | Access::Write if self.context.info.guest => Some(Metadata {
                id: FileId::UNKNOWN,
                ..self.stat(name)?
            }),
            _ => None,
        };
        let mut step = self.begin(op, name)?;
        let file = self.open_in(&mut step.state, name, access, seen);
        step.end(file).map(|file| Box::new(file) as Box<dyn File>)
    }

    fn rename(&self, from: &str, to_dir: &dyn Dir, to: &str) -> io::Result<()> {
        self.move_to(from, to_dir, to, Disk::rename)
    }

    /// As on Linux: what is replaced gets the name `from`.
    fn displace(&self, from: &str, to_dir: &dyn Dir, to: &str) -> io::Result<bool> {
        match self.context.info.guest {
            true => self.rename(from, to_dir, to).map(|()| false),
            false => self.move_to(from, to_dir, to, Disk::displace),
        }
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let mut step = self.begin(Op::Unlink, name)?;
        let now = step.state.clock.wall();
        let removed = step.state.disk.unlink(self.ino, name, now);
        step.end(removed)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let step = self.begin(Op::List, "")?;
        let names = step
            .state
            .disk
            .names(self.ino)
            .map(|names| names.keys().cloned().collect());
        step.end(names)
    }

    fn stat(&self, name: &str) -> io::Result<Metadata> {
        let step = self.begin(Op::Stat, name)?;
        let ino = step.state.disk.lookup(self.ino, name);
        let found = ino.map(|ino| metadata(&self.context, &step.state.disk, ino));
        step.end(found)
    }

    fn sync(&self) -> io::Result<()> {
        let mut step = self.begin(Op::SyncDir, "")?;
        step.state.disk.sync_dir(self.ino);
        step.end(Ok(()))
    }

    fn watch(&self, wake: Arc<dyn Event>) -> io::Result<Box<dyn Watch>> {
        let mut step = self.begin(Op::Watch, "")?;
        if self.context.info.guest {
            return step.end(Err(ErrorKind::Unsupported.into()));
        }
        let id = step.state.new_handle();
        step.state.watches.push(Watched {
            id,
            process: self.context.info.index,
            dir: self.ino,
            wake,
        });
        // The pin keeps the number from being forgotten, and so the watch on this directory.
        step.end(Ok(Box::new(WatchHandle {
            context: self.context.clone(),
            id,
            _pin: self._pin.clone(),
        })))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct WatchHandle {
    context: Context,
    id: u64,
    _pin: Arc<()>,
}

impl Watch for WatchHandle {}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        let mut state = self.context.peek();
        let index = state.watches.iter().position(|watch| watch.id == self.id);
        let watch = index.map(|index| state.watches.swap_remove(index));
        // The event's own drop may be anything, and must not find the mutex taken.
        drop(state);
        drop(watch);
    }
}
