//! Worlds as their driver, the test, sees them: processes and their ends, time, environment and faults.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::call::Call;
use super::carriers;
use super::durable::{Keep, Pending};
use super::host;
use super::process::{Process, origin};
use super::scheduler::Shared;
use super::state::{Fault, Info, Injected, State};
use super::step::Context;
use super::threads::Turn;
use crate::FileSystem;

/// One disk, clock and scheduler, shared by many simulated processes. Clones are the same world. With the last one all of its
/// processes die, if it is simulated, so keep it for as long as they are used.
#[derive(Clone)]
pub struct World {
    pub(super) shared: Arc<Shared>,
    _driver: Arc<Driver>,
}

/// Ends the threads of a world when nobody can run them any more.
struct Driver(Arc<Shared>);

impl Drop for Driver {
    fn drop(&mut self) {
        // After a panic its threads would have to panic, too, and cannot where they share that one with the driver.
        if self.0.live || self.0.current().is_some() || !carriers::may_switch() {
            return;
        }
        let infos = self.0.lock().processes.clone();
        for info in infos {
            kill(&self.0, &info);
        }
    }
}

fn kill(shared: &Shared, info: &Info) {
    let mut state = shared.lock();
    assert!(
        shared.live || (state.turn == Turn::Driver && !state.asking),
        "a process is killed while the world stands still"
    );
    info.dead.store(true, Ordering::Release);
    state.locks.retain(|_, holder| holder.process != info.index);
    let (watches, rest) = std::mem::take(&mut state.watches)
        .into_iter()
        .partition(|watch| watch.process == info.index);
    state.watches = rest;
    drop(state);
    // Their events may be the last handles on anything.
    drop::<Vec<_>>(watches);
    if shared.live {
        shared.notify();
    } else {
        shared.unwind_threads(info.index);
    }
    let memory = std::mem::take(&mut *info.slot());
    drop(memory);
}

/// Making worlds and processes.
impl World {
    fn new(live: bool, seed: u64) -> Self {
        let shared = Shared::new(State::new(live, seed), live);
        shared.lock().me = Arc::downgrade(&shared);
        let driver = Arc::new(Driver(shared.clone()));
        Self {
            shared,
            _driver: driver,
        }
    }

    /// A deterministic world that stands still until the test runs it.
    #[must_use]
    pub fn simulated() -> Self {
        Self::simulated_from(0)
    }

    /// The same with another seed for [`Platform::random`](crate::Platform::random).
    #[must_use]
    pub fn simulated_from(seed: u64) -> Self {
        Self::new(false, seed)
    }

    /// A world with real threads, clocks and waits, where calls execute at once. Nothing of it is traced, and there is
    /// no power cut.
    #[must_use]
    pub fn live() -> Self {
        // Only for what its boot is called; nothing outside of this memory ever sees it.
        Self::new(true, host::random().unwrap_or_default() as u64)
    }

    /// The one live world that [`native`](super::native) is in.
    pub(super) fn global() -> &'static Self {
        static GLOBAL: OnceLock<World> = OnceLock::new();
        GLOBAL.get_or_init(Self::live)
    }

    /// A new process.
    #[must_use]
    pub fn process(&self, name: &str) -> Arc<Process> {
        self.add_process(name, false)
    }

    /// A new process in a sandbox, as a WASI guest is: no number, boot or permissions, no kernel locks, no background
    /// tasks, no watches.
    #[must_use]
    pub fn guest(&self, name: &str) -> Arc<Process> {
        self.add_process(name, true)
    }

    fn add_process(&self, name: &str, guest: bool) -> Arc<Process> {
        let mut state = self.shared.lock();
        let index = state.processes.len();
        let info = Arc::new(Info {
            index,
            name: name.into(),
            guest,
            origin: origin(index),
            slot: Mutex::default(),
            dead: AtomicBool::new(false),
        });
        state.processes.push(info.clone());
        state.skews.push(0);
        Arc::new(Process {
            context: Context {
                shared: self.shared.clone(),
                info,
            },
        })
    }
}

/// Ends.
impl World {
    /// Kills the process, at once: its kernel locks are free, its threads make no further call that has an effect. A
    /// thread unwinds from where it is; calls that its destructors make fail, and waits end at once.
    ///
    /// The unwinding is an artefact: destructors that unwrap a poisoned mutex abort the test.
    pub fn kill(&self, process: &Process) {
        kill(&self.shared, &process.context.info);
    }

    /// Cuts the power: all processes die, and of each change that is not durable `decide` says what becomes of it, the
    /// oldest first. The next processes find another boot.
    pub fn power_cut(&self, mut decide: impl FnMut(&Pending) -> Keep) {
        assert!(!self.shared.live, "a live world has no power cut");
        let infos = self.shared.lock().processes.clone();
        infos.iter().for_each(|info| kill(&self.shared, info));
        let mut state = self.shared.lock();
        state.boot = state.random128();
        state.disk.power_cut(&mut decide);
    }

    /// What is not durable: the changes that [`World::power_cut`] would ask about, in its order.
    #[must_use]
    pub fn pending(&self) -> Vec<Pending> {
        self.shared.lock().disk.pending()
    }

    /// What a power cut at this moment would leave, as a world of its own, with `seed` for its randomness. This world goes on
    /// as if nothing had happened. The new one has this one's time, a disk that works, and another boot.
    #[must_use]
    pub fn image(&self, seed: u64, mut decide: impl FnMut(&Pending) -> Keep) -> World {
        assert!(!self.shared.live, "a live world has no power cut");
        let from = self.shared.lock();
        // Not `seed` alone: it may be this world's own, and names that are drawn must not be drawn again.
        let image = World::simulated_from(from.random.clone().next() ^ seed);
        {
            let mut to = image.shared.lock();
            to.clock = from.clock.clone();
            to.disk = from.disk.copy();
            (to.disk.capacity, to.disk.read_only) = (None, false);
            to.disk.power_cut(&mut decide);
        }
        drop(from);
        image
    }

    /// Cuts the power and loses all that is not durable.
    pub fn power_cut_losing_everything(&self) {
        self.power_cut(|_| Keep::Lose);
    }

    /// Cuts the power, when all had been written back already.
    pub fn power_cut_keeping_everything(&self) {
        self.power_cut(|_| Keep::Keep);
    }

    /// An orderly restart of the machine: all processes end, the disk keeps everything, the boot is another.
    pub fn reboot(&self) {
        self.power_cut_keeping_everything();
    }
}

/// Time, and what the environment is like.
impl World {
    /// The time that has passed since the world began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.lock().clock.now()
    }

    /// Lets time pass without anybody running.
    pub fn advance(&self, time: Duration) {
        self.shared.lock().clock.pass(time);
        self.shared.notify();
    }

    /// Suspends the machine: as [`World::advance`], on all clocks. (Where the monotonic clock stands still meanwhile, a
    /// suspension looks like [`World::step_wall`].)
    pub fn suspend(&self, time: Duration) {
        self.advance(time);
    }

    /// Steps the wall clock of everybody, and of the disk, by so many seconds.
    pub fn step_wall(&self, seconds: i64) {
        self.shared.lock().clock.wall_step += i128::from(seconds) * 1_000_000_000;
    }

    /// Sets by how many seconds a process's wall clock differs from the disk's.
    pub fn set_wall_skew(&self, process: &Process, seconds: i64) {
        self.shared.lock().skews[process.context.info.index] = i128::from(seconds) * 1_000_000_000;
    }

    /// How long each step takes; no time at first.
    pub fn set_step_time(&self, time: Duration) {
        self.shared.lock().step_time = time;
    }

    /// What the file system says it is. (Where kernel locks fail as well, inject that.)
    pub fn set_file_system(&self, file_system: FileSystem) {
        self.shared.lock().file_system = file_system;
    }

    /// The most bytes that one read or write does.
    pub fn set_max_io(&self, bytes: usize) {
        self.shared.lock().max_io = bytes.max(1);
    }

    /// How many bytes the disk can hold; writes beyond fail with `StorageFull`. Holes and names take no space.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.lock().disk.capacity = bytes;
    }

    /// Whether the disk can be changed.
    pub fn set_read_only(&self, read_only: bool) {
        self.shared.lock().disk.read_only = read_only;
    }

    /// The next `times` calls for which `matches` holds meet this fault. `matches` must not use the world.
    pub fn inject(
        &self,
        matches: impl FnMut(&Call) -> bool + Send + 'static,
        fault: Fault,
        times: usize,
    ) {
        if times > 0 {
            self.shared.lock().faults.push(Injected {
                matches: Box::new(matches),
                fault,
                times,
            });
        }
    }

    /// Takes back all faults.
    pub fn clear_faults(&self) {
        let faults = std::mem::take(&mut self.shared.lock().faults);
        drop(faults);
    }
}
