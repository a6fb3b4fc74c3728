//! The handles that a simulated process works with: directories, files, watches.

use std::any::Any;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::call::Op;
use super::disk::{Body, DirBody, Disk, FileBody, Ino, error};
use super::scheduler::Block;
use super::state::{About, Context, Holder, State, Step, Watched};
use crate::{Access, Dir, Event, File, FileKind, FileSystem, Metadata, Owner, Watch};

/// What a guest, which has no users and no permissions, gets to know.
fn metadata(context: &Context, disk: &Disk, ino: Ino) -> Metadata {
    let known = disk.metadata(ino);
    if context.info.guest {
        Metadata {
            mode: None,
            owner: Owner::Unknown,
            shared: false,
            ..known
        }
    } else {
        known
    }
}

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

    fn open_in(&self, state: &mut State, name: &str, access: Access) -> io::Result<FileHandle> {
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
        Ok(FileHandle {
            context: self.context.clone(),
            ino,
            handle: state.new_handle(),
            dir: self.path.clone(),
            name: name.to_owned(),
            writes: access != Access::Read,
            locked: AtomicBool::new(false),
            _pin: state.disk.get(ino).pin.clone(),
        })
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
        let mut step = self.begin(op, name)?;
        let file = self.open_in(&mut step.state, name, access);
        step.end(file).map(|file| Box::new(file) as Box<dyn File>)
    }

    fn rename(&self, from: &str, to_dir: &dyn Dir, to: &str) -> io::Result<()> {
        let mut step = self.context.begin(
            Op::Rename,
            About {
                dir: Some(&self.path),
                name: from,
                to: Some(to),
            },
        )?;
        let to_dir = to_dir.as_any().downcast_ref::<Self>();
        let renamed =
            match to_dir.filter(|dir| Arc::ptr_eq(&dir.context.shared, &self.context.shared)) {
                None => Err(ErrorKind::CrossesDevices.into()),
                Some(to_dir) => {
                    let now = step.state.clock.wall();
                    step.state.disk.rename(self.ino, from, to_dir.ino, to, now)
                }
            };
        step.end(renamed)
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

struct FileHandle {
    context: Context,
    ino: Ino,
    handle: u64,
    dir: Arc<str>,
    name: String,
    writes: bool,
    locked: AtomicBool,
    _pin: Arc<()>,
}

impl FileHandle {
    fn begin(&self, op: Op) -> io::Result<Step<'_>> {
        self.context.begin(
            op,
            About {
                dir: Some(&self.dir),
                name: &self.name,
                to: None,
            },
        )
    }

    /// Begins a call that changes the file.
    fn begin_change(&self, op: Op) -> io::Result<Step<'_>> {
        let step = self.begin(op)?;
        let allowed = match self.writes {
            true => step.state.disk.writable(),
            false => Err(error(
                ErrorKind::PermissionDenied,
                "it is open for reading only",
            )),
        };
        match allowed {
            Ok(()) => Ok(step),
            Err(error) => Err(step.end::<()>(Err(error)).expect_err("just made")),
        }
    }

    fn take_lock(&self, step: &mut Step<'_>) -> bool {
        if step.state.locks.contains_key(&self.ino) {
            return self.locked.load(Ordering::Relaxed);
        }
        let holder = Holder {
            handle: self.handle,
            process: self.context.info.index,
        };
        step.state.locks.insert(self.ino, holder);
        self.locked.store(true, Ordering::Relaxed);
        true
    }

    /// Closing gives the lock back, and it does not fail at that.
    fn close_once(&self) -> io::Result<()> {
        let step = self.begin(Op::Close);
        self.locked.store(false, Ordering::Relaxed);
        match step {
            Ok(mut step) => {
                step.release(self.ino, self.handle);
                step.end(Ok(()))
            }
            Err(error) => {
                self.context.release_lock(self.ino, self.handle);
                Err(error)
            }
        }
    }
}

impl File for FileHandle {
    fn metadata(&self) -> io::Result<Metadata> {
        let step = self.begin(Op::Metadata)?;
        let found = metadata(&self.context, &step.state.disk, self.ino);
        step.end(Ok(found))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let step = self.begin(Op::Read)?;
        // One read of a WASI guest returns at most 64 KiB.
        let limit = step.max_io.min(if self.context.info.guest {
            1 << 16
        } else {
            usize::MAX
        });
        let len = buf.len().min(limit);
        let count = step.state.disk.read(self.ino, &mut buf[..len], offset);
        step.end(count)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut step = self.begin_change(Op::Write)?;
        let now = step.state.clock.wall();
        let bytes = &buf[..buf.len().min(step.max_io)];
        let count = step.state.disk.write(self.ino, bytes, offset, now);
        step.end(count)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut step = self.begin_change(Op::SetLen)?;
        let now = step.state.clock.wall();
        let done = step.state.disk.set_len(self.ino, len, now);
        step.end(done)
    }

    fn sync(&self) -> io::Result<()> {
        match self.begin(Op::SyncFile) {
            Ok(mut step) => {
                step.state.disk.sync_file(self.ino);
                step.end(Ok(()))
            }
            Err(error) => {
                if !self.context.info.is_dead() {
                    self.context.peek().disk.fail_sync(self.ino);
                }
                Err(error)
            }
        }
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        let mut step = self.begin(Op::SetMode)?;
        let done = if self.context.info.guest {
            Ok(())
        } else {
            step.state.disk.writable()
        };
        if done.is_ok() && !self.context.info.guest {
            step.state.disk.get_mut(self.ino).mode = mode & 0o7777;
        }
        step.end(done)
    }

    fn touch(&self) -> io::Result<()> {
        let mut step = self.begin_change(Op::Touch)?;
        let now = step.state.clock.wall();
        step.state.disk.get_mut(self.ino).modified = now;
        step.end(Ok(()))
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        self.close_once()
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut step = self.begin(Op::TryLock)?;
        if self.context.info.guest {
            return step.end(Err(ErrorKind::Unsupported.into()));
        }
        let taken = self.take_lock(&mut step);
        step.end_as(if taken { "taken" } else { "busy" }, Ok(taken))
    }

    fn lock(&self) -> io::Result<()> {
        let mut step = self.begin(Op::Lock)?;
        if self.context.info.guest {
            return step.end(Err(ErrorKind::Unsupported.into()));
        }
        while !self.take_lock(&mut step) {
            step = step.block(Block::Lock(self.ino))?;
        }
        step.end_as("taken", Ok(()))
    }

    fn unlock(&self) -> io::Result<()> {
        let mut step = self.begin(Op::Unlock)?;
        if self.context.info.guest {
            return step.end(Err(ErrorKind::Unsupported.into()));
        }
        step.release(self.ino, self.handle);
        self.locked.store(false, Ordering::Relaxed);
        step.end(Ok(()))
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        // Only a drop that others can notice is a step.
        if *self.locked.get_mut() && !self.context.info.is_dead() {
            let _ = self.close_once();
        }
    }
}
