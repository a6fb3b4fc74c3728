//! The state of a world behind its mutex, and how a process's call is done on it.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, SystemTime};

use super::call::{Call, Op, Trace};
use super::disk::{Disk, Ino};
use super::host;
use super::random::Random;
use super::scheduler::{Block, Guard, Killed, Run, Shared, Status, Stop, Thread, Turn};
use crate::{Event, FileSystem, Slot};

/// What a fault does to a call; see [`World::inject`](super::World::inject).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails without effect, with an error of this kind. A wait, which cannot fail, ends early. After a failed
    /// sync of a file a second one succeeds, and its bytes are not durable all the same.
    Error(ErrorKind),
    /// The same, with the host's error of this number.
    Raw(i32),
    /// A write or read that does at most so many bytes. No effect on other calls.
    Short(usize),
}

pub(super) struct Injected {
    pub(super) matches: Box<dyn FnMut(&Call) -> bool + Send>,
    pub(super) fault: Fault,
    pub(super) times: usize,
}

/// The world's clocks.
pub(super) struct Clock {
    live: bool,
    /// Added to the host's clock in a live world; the whole time in a simulated one.
    passed: Duration,
    /// Nanoseconds by which the wall clock was stepped.
    pub(super) wall_step: i128,
}

impl Clock {
    /// The wall clock's time when a simulated world begins: 2023-11-14.
    const BEGIN: Duration = Duration::from_secs(1_700_000_000);

    pub(super) fn new(live: bool) -> Self {
        Self {
            live,
            passed: Duration::ZERO,
            wall_step: 0,
        }
    }

    pub(super) fn now(&self) -> Duration {
        if self.live {
            host::monotonic() + self.passed
        } else {
            self.passed
        }
    }

    pub(super) fn wall(&self) -> SystemTime {
        let base = if self.live {
            host::wall()
        } else {
            SystemTime::UNIX_EPOCH + Self::BEGIN
        };
        shift(base + self.passed, self.wall_step)
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.passed += time;
    }

    pub(super) fn pass_until(&mut self, now: Duration) {
        self.passed = self.passed.max(now);
    }
}

/// `time` moved by so many nanoseconds, as far as the type allows.
pub(super) fn shift(time: SystemTime, nanos: i128) -> SystemTime {
    let amount = Duration::from_nanos_u128(nanos.unsigned_abs());
    let moved = if nanos < 0 {
        time.checked_sub(amount)
    } else {
        time.checked_add(amount)
    };
    moved.unwrap_or(time)
}

/// What is known of a process.
pub(super) struct Info {
    pub(super) index: usize,
    pub(super) name: Arc<str>,
    pub(super) guest: bool,
    /// Where its monotonic clock began: another place for each process.
    pub(super) origin: Duration,
    /// Emptied when the process dies, as memory is: the library's state refers back to the process.
    pub(super) slot: Mutex<Arc<Slot>>,
    pub(super) dead: AtomicBool,
}

impl Info {
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub(super) fn slot(&self) -> MutexGuard<'_, Arc<Slot>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who has a kernel lock: one handle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder {
    pub(super) handle: u64,
    pub(super) process: usize,
}

pub(super) struct Watched {
    pub(super) id: u64,
    pub(super) process: usize,
    pub(super) dir: Ino,
    pub(super) wake: Arc<dyn Event>,
}

pub(super) struct State {
    pub(super) me: Weak<Shared>,
    pub(super) disk: Disk,
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) boot: u128,
    pub(super) file_system: FileSystem,
    pub(super) max_io: usize,
    pub(super) step_time: Duration,
    pub(super) step_limit: u64,
    pub(super) processes: Vec<Arc<Info>>,
    /// Nanoseconds by which each process's wall clock is off.
    pub(super) skews: Vec<i128>,
    pub(super) locks: BTreeMap<Ino, Holder>,
    pub(super) watches: Vec<Watched>,
    pub(super) faults: Vec<Injected>,
    pub(super) trace: Trace,
    pub(super) next_handle: u64,
    // The scheduler's.
    pub(super) threads: Vec<Thread>,
    pub(super) alive: Vec<usize>,
    pub(super) turn: Turn,
    pub(super) run: Option<Run>,
    pub(super) stopped: Option<(Stop, Run)>,
    pub(super) background_panic: Option<String>,
    pub(super) driver: Option<thread::Thread>,
    pub(super) steps: u64,
    /// The thread that had the last turn, and for how many steps running.
    pub(super) last: usize,
    pub(super) streak: u32,
}

impl State {
    pub(super) fn new(live: bool, seed: u64) -> Self {
        let clock = Clock::new(live);
        let mut random = Random::new(seed);
        let boot = (u128::from(random.next()) << 64) | u128::from(random.next());
        Self {
            me: Weak::new(),
            disk: Disk::new(!live, clock.wall()),
            clock,
            random,
            boot,
            file_system: FileSystem {
                name: "memory".to_owned(),
                kernel_locks: true,
                remote: false,
            },
            max_io: usize::MAX,
            step_time: Duration::ZERO,
            step_limit: 1_000_000,
            processes: Vec::new(),
            skews: Vec::new(),
            locks: BTreeMap::new(),
            watches: Vec::new(),
            faults: Vec::new(),
            trace: Trace::default(),
            next_handle: 0,
            threads: Vec::new(),
            alive: Vec::new(),
            turn: Turn::Driver,
            run: None,
            stopped: None,
            background_panic: None,
            driver: None,
            steps: 0,
            last: 0,
            streak: 0,
        }
    }

    pub(super) fn new_handle(&mut self) -> u64 {
        self.next_handle += 1;
        self.next_handle
    }

    pub(super) fn random128(&mut self) -> u128 {
        (u128::from(self.random.next()) << 64) | u128::from(self.random.next())
    }

    fn fault_for(&mut self, call: &Call) -> Option<Fault> {
        let index = self
            .faults
            .iter_mut()
            .position(|injected| (injected.matches)(call))?;
        let fault = self.faults[index].fault;
        self.faults[index].times -= 1;
        if self.faults[index].times == 0 {
            self.faults.remove(index);
        }
        Some(fault)
    }

    /// Gives back the lock if this handle has it.
    fn release(&mut self, ino: Ino, handle: u64) {
        if self
            .locks
            .get(&ino)
            .is_some_and(|holder| holder.handle == handle)
        {
            self.locks.remove(&ino);
        }
    }

    /// Who is to be told of the changes since this was last asked.
    pub(super) fn take_wakes(&mut self) -> Vec<Arc<dyn Event>> {
        if self.disk.touched.is_empty() {
            return Vec::new();
        }
        let touched = std::mem::take(&mut self.disk.touched);
        self.watches
            .iter()
            .filter(|watch| touched.contains(&watch.dir))
            .map(|watch| watch.wake.clone())
            .collect()
    }
}

/// What a call is about, for [`Call`].
#[derive(Clone, Copy, Default)]
pub(super) struct About<'a> {
    pub(super) dir: Option<&'a Arc<str>>,
    pub(super) name: &'a str,
    pub(super) to: Option<&'a str>,
}

/// A process in its world: what every handle of it has.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) info: Arc<Info>,
}

impl Context {
    /// Begins a call: waits for its turn and applies injected faults. What is done with the returned step until its
    /// end is atomic.
    pub(super) fn begin<'a>(&'a self, op: Op, about: About<'_>) -> io::Result<Step<'a>> {
        let thread = self.shared.current();
        let mut state = self.shared.lock();
        self.check_alive(&state, thread)?;
        let call = (!self.shared.live || !state.faults.is_empty())
            .then(|| Arc::new(self.describe(&state, op, about)));
        if let (Some(me), Some(call)) = (thread, &call) {
            state.threads[me].status = Status::Parked { seen: false };
            state.threads[me].call = call.clone();
            state = self.shared.pass(state, me);
            self.check_alive(&state, thread)?;
            let step_time = state.step_time;
            state.clock.pass(step_time);
        }
        let fault = call.as_ref().and_then(|call| state.fault_for(call));
        let mut step = Step {
            context: self,
            thread,
            call,
            max_io: state.max_io,
            state,
        };
        match fault {
            None => {}
            Some(Fault::Short(len)) => step.max_io = step.max_io.min(len.max(1)),
            Some(Fault::Error(kind)) => return Err(step.fail(kind.into())),
            Some(Fault::Raw(number)) => return Err(step.fail(io::Error::from_raw_os_error(number))),
        }
        Ok(step)
    }

    fn describe(&self, state: &State, op: Op, about: About<'_>) -> Call {
        let label = self
            .shared
            .current()
            .map(|thread| state.threads[thread].label.clone());
        Call {
            process: self.info.name.clone(),
            thread: label.unwrap_or_else(|| "driver".into()),
            op,
            dir: about.dir.cloned().unwrap_or_else(|| "".into()),
            name: about.name.to_owned(),
            to: about.to.map(str::to_owned),
        }
    }

    /// A dead process makes no call: its thread ends here, or, when it is ending already, gets an error.
    fn check_alive(&self, state: &State, thread: Option<usize>) -> io::Result<()> {
        if !self.info.is_dead() {
            return Ok(());
        }
        let own = thread.is_some_and(|thread| state.threads[thread].process == self.info.index);
        if own && !thread::panicking() {
            resume_unwind(Box::new(Killed));
        }
        Err(io::Error::other(
            "the process was killed, or its world dropped",
        ))
    }

    /// The state outside of any step, for what is none.
    pub(super) fn peek(&self) -> Guard<'_> {
        self.shared.lock()
    }

    pub(super) fn now(&self) -> Duration {
        self.shared.lock().clock.now()
    }

    /// Does what a process's end does too, so it needs no turn and never fails.
    pub(super) fn release_lock(&self, ino: Ino, handle: u64) {
        self.shared.lock().release(ino, handle);
        self.shared.notify();
    }
}

/// A call under way: the world stands still until [`Step::end`].
pub(super) struct Step<'a> {
    context: &'a Context,
    thread: Option<usize>,
    call: Option<Arc<Call>>,
    /// The most bytes that a read or write may do.
    pub(super) max_io: usize,
    pub(super) state: Guard<'a>,
}

impl Step<'_> {
    /// Gives back the lock if this handle has it, and tells whoever waits for it.
    pub(super) fn release(&mut self, ino: Ino, handle: u64) {
        self.state.release(ino, handle);
        self.context.shared.notify();
    }

    /// Ends the call: notes it in the trace and wakes whom it concerns.
    pub(super) fn end<T>(self, result: io::Result<T>) -> io::Result<T> {
        self.end_as("", result)
    }

    /// The same, with a word for the trace.
    pub(super) fn end_as<T>(mut self, word: &'static str, result: io::Result<T>) -> io::Result<T> {
        let kind = result.as_ref().err().map(io::Error::kind);
        self.note(kind.map_or(Ok(word), Err));
        let wakes = self.state.take_wakes();
        // An event may be the library's own type; it gets to run without our mutex.
        drop(self.state);
        wakes.iter().for_each(|wake| wake.set());
        result
    }

    fn fail(mut self, error: io::Error) -> io::Error {
        self.note(Err(error.kind()));
        error
    }

    fn note(&mut self, outcome: Result<&'static str, ErrorKind>) {
        if let Some(call) = self.call.take().filter(|_| !self.context.shared.live) {
            let now = self.state.clock.now();
            self.state.trace.push(now, call, outcome);
        }
    }

    /// Blocks in the middle of the call. Others run; what it waited for may be gone again afterwards.
    pub(super) fn block(mut self, on: Block) -> io::Result<Self> {
        let shared = &self.context.shared;
        if shared.live {
            let now = self.state.clock.now();
            let timeout = match &on {
                Block::Signal(_, Some(deadline)) => Some(deadline.saturating_sub(now)),
                Block::Signal(_, None) | Block::Lock(_) => None,
            };
            self.state = shared.wait_changed(self.state, timeout);
        } else if let Some(me) = self.thread {
            self.state.threads[me].status = Status::Blocked(on);
            self.state = shared.pass(self.state, me);
        } else {
            // The driver itself made the call, and nobody runs while it does.
            match on {
                Block::Signal(_, Some(deadline)) => self.state.clock.pass_until(deadline),
                Block::Signal(_, None) | Block::Lock(_) => {
                    drop(self.state);
                    panic!("the driver would wait for ever: nobody runs meanwhile");
                }
            }
        }
        self.context.check_alive(&self.state, self.thread)?;
        Ok(self)
    }
}
