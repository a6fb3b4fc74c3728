//! A simulated process: the [`Platform`] that the library gets to see.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::call::Op;
use super::dirs::DirHandle;
use super::disk::{Body, DirBody, Disk, ROOT, error, segments};
use super::host;
use super::state::shift;
use super::step::{About, Context};
use super::threads::{Block, Signal};
use crate::{Dir, Event, Identity, Monotonic, Owner, Platform, Slot, Task};

/// A process of a [`World`](super::World). It lives until it is killed; what it opened belongs to it.
pub struct Process {
    pub(super) context: Context,
}

impl Process {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.context.info.name
    }

    /// Whether it was killed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.context.info.is_dead()
    }

    fn guest(&self) -> bool {
        self.context.info.guest
    }
}

impl Platform for Process {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn absolute(&self, path: &Path) -> io::Result<PathBuf> {
        if path.as_os_str().is_empty() {
            return Err(error(ErrorKind::InvalidInput, "the path is empty"));
        }
        // The current directory is `/`. (`is_absolute` would ask for a drive letter on Windows.)
        Ok(if path.has_root() {
            path.to_owned()
        } else {
            Path::new("/").join(path)
        })
    }

    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let path = self.absolute(path)?;
        let text = path.to_string_lossy();
        let step = self.context.begin(
            Op::OpenDir,
            About {
                name: &text,
                ..About::default()
            },
        )?;
        let dir = step.state.disk.resolve(&path, true);
        let dir =
            dir.and_then(|ino| DirHandle::open_on(&self.context, &step.state.disk, ino, &text));
        step.end(dir)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = self.absolute(path)?;
        let mut step = self.context.begin(
            Op::CreateDirAll,
            About {
                name: &path.to_string_lossy(),
                ..About::default()
            },
        )?;
        let now = step.state.clock.wall();
        let created = create_dir_all(&mut step.state.disk, &path, now);
        step.end(created)
    }

    fn monotonic(&self) -> Monotonic {
        self.context.now() + self.context.info.origin
    }

    fn can_wait(&self) -> bool {
        // In a simulated world a wait moves the clock.
        host::CAN_WAIT || !self.context.shared.live
    }

    fn wall(&self) -> SystemTime {
        let state = self.context.peek();
        shift(state.clock.wall(), state.skews[self.context.info.index])
    }

    fn random(&self) -> io::Result<u128> {
        if self.context.shared.live {
            return host::random();
        }
        Ok(self.context.peek().random128())
    }

    fn event(&self) -> Arc<dyn Event> {
        Arc::new(EventHandle {
            context: self.context.clone(),
            signal: Arc::new(Signal::default()),
        })
    }

    fn spawn(&self, name: &str, task: Task) -> io::Result<()> {
        let mut step = self.context.begin(
            Op::Spawn,
            About {
                name,
                ..About::default()
            },
        )?;
        let started = if self.guest() {
            Err(ErrorKind::Unsupported.into())
        } else if self.context.shared.live {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(task)
                .map(drop)
        } else {
            step.state
                .add_thread(self.context.info.index, name, true, task);
            Ok(())
        };
        step.end(started)
    }

    fn identity(&self) -> Identity {
        if self.guest() {
            return Identity::default();
        }
        let boot = Some(self.context.peek().boot);
        Identity {
            pid: Some(self.process_id()),
            boot,
            host: Some("memory".to_owned()),
        }
    }

    fn process_id(&self) -> u32 {
        1000 + u32::try_from(self.context.info.index)
            .expect("so many processes do not fit into memory")
    }

    fn slot(&self) -> Arc<Slot> {
        self.context.info.slot().clone()
    }

    fn is_busy(&self, _error: &io::Error) -> bool {
        false
    }

    fn default_mode(&self) -> Option<u32> {
        (!self.guest()).then_some(0o644)
    }
}

/// Creates a directory and its parents. Links on the way are followed.
pub(super) fn create_dir_all(disk: &mut Disk, path: &Path, now: SystemTime) -> io::Result<()> {
    let mut so_far = PathBuf::from("/");
    let mut dir = ROOT;
    for name in segments(path)? {
        so_far.push(&name);
        dir = match disk.resolve(&so_far, true) {
            Err(error) if error.kind() == ErrorKind::NotFound && name != ".." => disk.create(
                dir,
                &name,
                Body::Dir(DirBody::default()),
                0o755,
                Owner::Me,
                now,
            )?,
            found => found?,
        };
        disk.names(dir)?;
    }
    Ok(())
}

struct EventHandle {
    context: Context,
    signal: Arc<Signal>,
}

impl Event for EventHandle {
    fn set(&self) {
        let shared = &self.context.shared;
        if shared.live {
            // With the mutex, so that it cannot fall between the waiter's look and its wait.
            let _state = shared.lock();
            self.signal.set();
            shared.notify();
        } else {
            self.signal.set();
        }
    }

    fn wait_until(&self, deadline: Option<Monotonic>) -> bool {
        let deadline = deadline.map(|deadline| deadline.saturating_sub(self.context.info.origin));
        let Ok(mut step) = self.context.begin(Op::Wait, About::default()) else {
            return false;
        };
        loop {
            if self.signal.take() {
                let _ = step.end_as("set", Ok(()));
                return true;
            }
            if deadline.is_some_and(|deadline| deadline <= step.state.clock.now()) {
                let _ = step.end_as("time", Ok(()));
                return false;
            }
            step = match step.block(Block::Signal(self.signal.clone(), deadline)) {
                Ok(step) => step,
                Err(_) => return false,
            };
        }
    }
}

/// Where the `index`th process's monotonic clock stands when the world begins: somewhere else for each, so that a time
/// that leaks from one process to another shows.
pub(super) fn origin(index: usize) -> Duration {
    Duration::from_secs(100_000)
        * u32::try_from(index + 1).expect("so many processes do not fit into memory")
}
