//! The state of a world, all of it behind one mutex.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use super::call::{Call, Trace};
use super::carriers::Carrier;
use super::disk::{Disk, Ino};
use super::host;
use super::random::Random;
use super::scheduler::Shared;
use super::threads::{Run, Stop, Thread, Turn, Wake};
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
#[derive(Clone)]
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
    pub(super) wake: Option<Wake>,
    /// The closure of a run is being asked: the turn is nobody's to give.
    pub(super) asking: bool,
    pub(super) run: Option<Run>,
    pub(super) stopped: Option<(Stop, Run)>,
    pub(super) background_panic: Option<String>,
    pub(super) driver: Option<Carrier>,
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
            wake: None,
            asking: false,
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

    pub(super) fn fault_for(&mut self, call: &Call) -> Option<Fault> {
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
    pub(super) fn release(&mut self, ino: Ino, handle: u64) {
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
