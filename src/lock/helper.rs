//! The gate's helper: a thread that waits for the kernel lock, so that its caller can give up.
//!
//! A kernel lock can be tried or blocked for, and nothing in between: no deadline, no cancellation. So a helper thread
//! blocks in it while the caller, its *client*, waits on an event with both. There is one helper for each process and
//! cache, and one client at a time: the front of the process's queue. The states:
//!
//! | state | what happens | next state |
//! | --- | --- | --- |
//! | `Idle` | a client comes | `Blocked` |
//! | `Idle` | nobody comes for 10 s | `Ended` |
//! | `Blocked` | the client gives up | `Blocked`, for the next client that comes for this file |
//! | `Blocked` | the kernel grants, and there is a client | `Ready` |
//! | `Blocked` | the kernel grants, and there is none: the helper unlocks | `Idle` |
//! | `Blocked` | a client comes for another file: the name was deleted | `Ended`; the client gets another helper |
//! | `Ready` | the client takes the lock, or gives up and unlocks | `Idle` |
//!
//! # A kept thread
//!
//! The thread is started for the first wait and stays for the next ones. From the release to the client there are two
//! wake-ups then, where blocking in the lock oneself takes one, and between them one short mutex. A thread that is started
//! for each wait and ends after it takes longer where the releaser runs on another processor (measured once: 78 us, against
//! 44 for a kept one and 33 for a `flock`).
//!
//! While it is [`Idle`](State::Idle) it sleeps and does nothing. After [`IDLE`] it ends: a process that waited once should
//! not keep a thread for each cache for ever. Whoever waits next finds it through the process's state of the cache, which
//! lasts as long as the process.
//!
//! # What can happen between two lines
//!
//! - The kernel grants when the client has just given up: the helper finds no client and unlocks. Or the client gives up
//!   when the kernel has just granted: it finds the answer and unlocks.
//! - The client gives up and the kernel does not answer, for hours perhaps: the thread stays blocked. The next client for the
//!   same file is in the kernel's queue already.
//! - The client wants another file than the thread is blocked on: the thread is given up ([`State::Ended`]) and ends when
//!   the kernel answers. No thread can be told from outside to stop waiting for a kernel lock.
//! - A `fork`: the child has no such thread and an empty slot, so it never sees this object, and starts its own.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cachelock_platform::{Event, File, FileId, Platform};

/// For how long the thread stays without work.
const IDLE: Duration = Duration::from_secs(10);

pub(super) struct Helper {
    /// What the thread sleeps on while it is idle.
    wake: Arc<dyn Event>,
    state: Mutex<State>,
}

enum State {
    Idle,
    Blocked {
        lock: Lock,
        client: Option<Arc<dyn Event>>,
    },
    /// For the client, which has been woken.
    Ready(Answer),
    /// The thread is gone, or will be when the kernel answers.
    Ended,
}

/// The file to lock.
#[derive(Clone)]
pub(super) struct Lock {
    pub(super) file: Arc<dyn File>,
    pub(super) id: FileId,
}

/// The locked file, or why it cannot be locked.
pub(super) type Answer = io::Result<Arc<dyn File>>;

impl Helper {
    /// Starts a thread that waits for `lock` on behalf of `client`, which it wakes when it has an answer.
    pub(super) fn start(
        platform: &Arc<dyn Platform>,
        lock: Lock,
        client: &Arc<dyn Event>,
    ) -> io::Result<Client> {
        let helper = Arc::new(Helper {
            wake: platform.event(),
            state: Mutex::new(State::blocked(lock, client)),
        });
        let (thread, clock) = (helper.clone(), platform.clone());
        let task = move || thread.serve(&*clock);
        platform.spawn("cachelock-gate", Box::new(task))?;
        Ok(Client { helper })
    }

    /// Waits for `lock` on behalf of `client` if the thread is idle; if not, it is of no use for this file and is given up.
    pub(super) fn employ(self: &Arc<Self>, lock: &Lock, client: &Arc<dyn Event>) -> Option<Client> {
        let mut state = self.state();
        if !matches!(*state, State::Idle) {
            *state = State::Ended;
            return None;
        }
        *state = State::blocked(lock.clone(), client);
        drop(state);
        self.wake.set();
        Some(Client {
            helper: self.clone(),
        })
    }

    /// Joins the wait that another client has left, if it is for this file.
    pub(super) fn join(self: &Arc<Self>, id: FileId, event: &Arc<dyn Event>) -> Option<Client> {
        match &mut *self.state() {
            State::Blocked { lock, client, .. } if lock.id == id => *client = Some(event.clone()),
            _ => return None,
        }
        Some(Client {
            helper: self.clone(),
        })
    }

    /// The thread's life.
    fn serve(&self, clock: &dyn Platform) {
        while let Some(file) = self.next_file(clock) {
            let answer = file.lock();
            self.answer(answer.map(|()| file));
        }
    }

    /// Sleeps until there is something to wait for; `None` if it is time to end.
    fn next_file(&self, clock: &dyn Platform) -> Option<Arc<dyn File>> {
        let mut until = clock.monotonic() + IDLE;
        loop {
            let now = clock.monotonic();
            match &mut *self.state() {
                State::Blocked { lock, .. } => return Some(lock.file.clone()),
                State::Ended => return None,
                idle @ State::Idle if now >= until => {
                    *idle = State::Ended;
                    return None;
                }
                State::Idle => {}
                // The client was woken and is slow.
                State::Ready(_) => until = now + IDLE,
            }
            self.wake.wait_until(Some(until));
        }
    }

    /// The kernel has answered. The client waits for what is done here, so that is kept short.
    fn answer(&self, answer: Answer) {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Idle) {
            State::Blocked {
                client: Some(client),
                ..
            } => {
                *state = State::Ready(answer);
                drop(state);
                client.set();
            }
            before => {
                if matches!(before, State::Ended) {
                    *state = State::Ended;
                }
                drop(state);
                unlock(answer);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn blocked(lock: Lock, client: &Arc<dyn Event>) -> Self {
        State::Blocked {
            lock,
            client: Some(client.clone()),
        }
    }
}

/// The one caller that a helper works for; leaves when dropped.
pub(super) struct Client {
    helper: Arc<Helper>,
}

impl Client {
    pub(super) fn helper(&self) -> &Arc<Helper> {
        &self.helper
    }

    /// What the kernel has answered, once.
    pub(super) fn answer(&self) -> Option<Answer> {
        let mut state = self.helper.state();
        match std::mem::replace(&mut *state, State::Idle) {
            State::Ready(answer) => Some(answer),
            other => {
                *state = other;
                None
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let State::Blocked { client, .. } = &mut *self.helper.state() {
            *client = None;
        }
        // Granted in the very moment in which the caller gave up.
        if let Some(answer) = self.answer() {
            unlock(answer);
        }
    }
}

fn unlock(answer: Answer) {
    if let Ok(file) = answer {
        let _ = file.unlock();
    }
}
