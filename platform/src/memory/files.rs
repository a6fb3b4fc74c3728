//! The handle on a file that a simulated process works with.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::call::Op;
use super::disk::{Disk, Ino, error};
use super::state::{Holder, State};
use super::step::{About, Context, Step};
use super::threads::Block;
use crate::{Access, File, FileId, Metadata, Owner};

/// What a guest, which has no users and no permissions, gets to know.
pub(super) fn metadata(context: &Context, disk: &Disk, ino: Ino) -> Metadata {
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

pub(super) struct FileHandle {
    context: Context,
    /// The file that was opened. What a guest writes to is asked of [`FileHandle::file`].
    ino: Ino,
    /// What a guest has seen of the name before it was opened.
    seen: Option<Metadata>,
    handle: u64,
    folder: Ino,
    dir: Arc<str>,
    name: String,
    writes: bool,
    locked: AtomicBool,
    _pins: [Arc<()>; 2],
}

impl FileHandle {
    pub(super) fn open_on(
        context: &Context,
        state: &mut State,
        ino: Ino,
        (folder, dir, name): (Ino, &Arc<str>, &str),
        access: Access,
        seen: Option<Metadata>,
    ) -> Self {
        Self {
            context: context.clone(),
            ino,
            seen,
            handle: state.new_handle(),
            folder,
            dir: dir.clone(),
            name: name.to_owned(),
            writes: access != Access::Read,
            locked: AtomicBool::new(false),
            _pins: [ino, folder].map(|ino| state.disk.get(ino).pin.clone()),
        }
    }

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

    /// The file that a call works on. A guest that writes opens by name for each.
    fn file(&self, disk: &Disk) -> io::Result<Ino> {
        match self.context.info.guest && self.writes {
            true => disk.lookup(self.folder, &self.name),
            false => Ok(self.ino),
        }
    }

    /// Begins a call on the file.
    fn begin_on_file(&self, op: Op) -> io::Result<(Step<'_>, Ino)> {
        let step = self.begin(op)?;
        match self.file(&step.state.disk) {
            Ok(ino) => Ok((step, ino)),
            Err(error) => Err(step.end::<()>(Err(error)).expect_err("just made")),
        }
    }

    /// Begins a call that changes the file.
    fn begin_change(&self, op: Op) -> io::Result<(Step<'_>, Ino)> {
        let (step, ino) = self.begin_on_file(op)?;
        let allowed = match self.writes {
            true => step.state.disk.writable(),
            false => Err(error(
                ErrorKind::PermissionDenied,
                "it is open for reading only",
            )),
        };
        match allowed {
            Ok(()) => Ok((step, ino)),
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
    fn is_pinned(&self) -> bool {
        !self.context.info.guest
    }

    fn metadata(&self) -> io::Result<Metadata> {
        let (step, ino) = self.begin_on_file(Op::Metadata)?;
        let found = metadata(&self.context, &step.state.disk, ino);
        step.end(Ok(found))
    }

    fn glance(&self) -> io::Result<Metadata> {
        self.seen.map_or_else(|| self.metadata(), Ok)
    }

    fn stat(&self) -> io::Result<Metadata> {
        let found = self.metadata()?;
        Ok(match self.context.info.guest {
            true => Metadata {
                id: FileId::UNKNOWN,
                ..found
            },
            false => found,
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (step, ino) = self.begin_on_file(Op::Read)?;
        // One read of a WASI guest returns at most 64 KiB.
        let limit = step.max_io.min(if self.context.info.guest {
            1 << 16
        } else {
            usize::MAX
        });
        let len = buf.len().min(limit);
        let count = step.state.disk.read(ino, &mut buf[..len], offset);
        step.end(count)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let (mut step, ino) = self.begin_change(Op::Write)?;
        let now = step.state.clock.wall();
        let bytes = &buf[..buf.len().min(step.max_io)];
        let count = step.state.disk.write(ino, bytes, offset, now);
        step.end(count)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut step, ino) = self.begin_change(Op::SetLen)?;
        let now = step.state.clock.wall();
        let done = step.state.disk.set_len(ino, len, now);
        step.end(done)
    }

    fn sync(&self) -> io::Result<()> {
        match self.begin(Op::SyncFile) {
            Ok(mut step) => {
                let synced = self.file(&step.state.disk);
                let synced = synced.map(|ino| step.state.disk.sync_file(ino));
                step.end(synced)
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
        let (mut step, ino) = self.begin_change(Op::Touch)?;
        let now = step.state.clock.wall();
        step.state.disk.get_mut(ino).modified = now;
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
