//! Watching a directory for names that go away: inotify, on Linux.
//!
//! Each watch is an inotify instance of its own and a thread that sets the event. There are few of them at a time (one
//! for a process that waits for a guest's lease), and each lives as long as one wait.
//!
//! - Only removals and renames are asked for: a lease holder that writes its beats must wake nobody.
//! - The system reports the removal of a directory to its watcher only when nobody has it open any more, and we do. So
//!   the parent directory is watched as well, for the removal of directories; where that is not allowed, the watch goes
//!   without it.
//! - Dropping a watch only tells its thread to end. To close an inotify instance can take milliseconds, and the thread
//!   does that.

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) use linux::{proc_path, watch};

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
    use std::sync::Arc;
    use std::thread;

    use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
    use rustix::io::{Errno, retry_on_intr};

    use super::super::pid::process_id;
    use crate::{Event, Watch};

    const OURS: WatchFlags = WatchFlags::DELETE
        .union(WatchFlags::MOVE)
        .union(WatchFlags::DELETE_SELF)
        .union(WatchFlags::MOVE_SELF)
        .union(WatchFlags::ONLYDIR);

    /// What a thread needs that reads events and calls one function.
    const STACK_BYTES: usize = 64 * 1024;

    /// The name by which the object that `fd` is open on can be reached, whatever has become of its own.
    pub(in super::super) fn proc_path(fd: BorrowedFd<'_>) -> String {
        format!("/proc/self/fd/{}", fd.as_raw_fd())
    }

    /// Sets `wake` when a name in `dir` goes away, until the watch is dropped.
    pub(in super::super) fn watch(
        dir: BorrowedFd<'_>,
        wake: Arc<dyn Event>,
    ) -> io::Result<Box<dyn Watch>> {
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let path = proc_path(dir);
        inotify::add_watch(&events, &path, OURS).map_err(|error| match error {
            // The descriptor is good, so what is missing is `/proc`.
            Errno::NOENT => io::Error::new(
                io::ErrorKind::Unsupported,
                "a directory cannot be watched without /proc",
            ),
            error => error.into(),
        })?;
        let parent_mask = WatchFlags::DELETE | WatchFlags::ONLYDIR;
        let parent = inotify::add_watch(&events, format!("{path}/.."), parent_mask).ok();

        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let watcher = Watcher {
            events,
            parent,
            stop: stop.clone(),
            wake,
        };
        thread::Builder::new()
            .name("cachelock-watch".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || watcher.run())?;
        Ok(Box::new(Inotify {
            stop,
            made_by: process_id(),
        }))
    }

    /// The caller's end.
    struct Inotify {
        stop: Arc<OwnedFd>,
        /// A forked child has a copy of this, but the thread is the parent's.
        made_by: u32,
    }

    impl Watch for Inotify {}

    impl Drop for Inotify {
        fn drop(&mut self) {
            if self.made_by == process_id() {
                // It can fail only when the counter is full, which wakes the thread as well.
                let _ = retry_on_intr(|| rustix::io::write(&*self.stop, &1_u64.to_ne_bytes()));
            }
        }
    }

    /// The thread's end.
    struct Watcher {
        events: OwnedFd,
        /// The parent directory's watch among the events.
        parent: Option<i32>,
        stop: Arc<OwnedFd>,
        wake: Arc<dyn Event>,
    }

    impl Watcher {
        fn run(self) {
            loop {
                let mut ready = [
                    PollFd::new(&self.stop, PollFlags::IN),
                    PollFd::new(&self.events, PollFlags::IN),
                ];
                let polled = retry_on_intr(|| poll(&mut ready, None));
                if polled.is_ok() && !ready[0].revents().is_empty() {
                    return;
                }
                match polled.and_then(|_| self.drain()) {
                    Ok(false) => {}
                    Ok(true) => self.wake.set(),
                    Err(_) => {
                        // Cannot happen. Whoever waits looks again now, and then from time to time.
                        self.wake.set();
                        return;
                    }
                }
            }
        }

        /// Reads all events that are there, and tells whether one of them concerns the directory. Lost events
        /// (`IN_Q_OVERFLOW`) do.
        fn drain(&self) -> Result<bool, Errno> {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(self.events.as_fd(), &mut buffer);
            let mut concerned = false;
            loop {
                match reader.next() {
                    Ok(event) => {
                        concerned |= Some(event.wd()) != self.parent
                            || event.events().contains(ReadFlags::ISDIR);
                    }
                    Err(Errno::AGAIN) => return Ok(concerned),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// Nothing outside Linux: `kqueue` reports that a directory has changed, beats and all, and the caller polls as well.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn watch(
    _dir: std::os::fd::BorrowedFd<'_>,
    _wake: std::sync::Arc<dyn crate::Event>,
) -> std::io::Result<Box<dyn crate::Watch>> {
    Err(std::io::Error::new(
        std::io::ErrorKind::Unsupported,
        "directories cannot be watched on this system",
    ))
}
