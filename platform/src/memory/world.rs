//! The driver's side of a simulated world: processes, running them, killing them, time and faults.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::call::Call;
use super::durable::{Keep, Pending};
use super::host;
use super::process::{Process, origin};
use super::random::Random;
use super::scheduler::{Ending, Policy, Run, Runnable, Shared, Status, Stop};
use super::state::{Context, Fault, Info, Injected, State};
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
        if self.0.live || self.0.current().is_some() {
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

/// A thread that the test started in a simulated process, and its result.
pub struct Task<T> {
    process: usize,
    thread: usize,
    shared: Arc<Shared>,
    value: Arc<Mutex<Option<T>>>,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It returned this.
    Returned(T),
    /// It panicked with this message.
    Panicked(String),
    /// Its process was killed first.
    Killed,
}

impl<T> Task<T> {
    /// How it ended; `None` if it has not, or if this was called before.
    pub fn outcome(&self) -> Option<Outcome<T>> {
        let ending = match &self.shared.lock().threads[self.thread].status {
            Status::Ended(ending) => ending.clone(),
            _ => return None,
        };
        match ending {
            Ending::Returned => {
                let value = self
                    .value
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                value.map(Outcome::Returned)
            }
            Ending::Panicked(message) => Some(Outcome::Panicked(message)),
            Ending::Killed => Some(Outcome::Killed),
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(
            self.shared.lock().threads[self.thread].status,
            Status::Ended(_)
        )
    }
}

/// What can be run: a [`Process`], or a [`Task`] together with the rest of its process.
pub trait Target {
    /// The process's number in its world, and the task's.
    #[doc(hidden)]
    fn target(&self) -> (usize, Option<usize>);
}

impl<T> Target for Task<T> {
    fn target(&self) -> (usize, Option<usize>) {
        (self.process, Some(self.thread))
    }
}

impl Target for Process {
    fn target(&self) -> (usize, Option<usize>) {
        (self.context.info.index, None)
    }
}

impl<T: Target + ?Sized> Target for Arc<T> {
    fn target(&self) -> (usize, Option<usize>) {
        (**self).target()
    }
}

/// Why [`World::run_until`] came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// A thread is about to make this call. The next run that gives the thread a turn makes it, without asking again.
    Before(Arc<Call>),
    /// The task, or all tasks of the process, ended.
    Finished,
    /// Every thread waits, and for nothing that time alone would bring.
    Blocked,
}

/// [`World::run_together`] came to no end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Whether every thread waits for ever; else the number of steps was used up.
    pub blocked: bool,
    report: String,
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = if self.blocked {
            "everybody is blocked for ever"
        } else {
            "the steps are used up"
        };
        write!(f, "{why}\n{}", self.report)
    }
}

impl std::error::Error for Unfinished {}

/// Chooses by a seeded random; for [`World::run_together`].
pub fn seeded(seed: u64) -> impl FnMut(&[Runnable]) -> usize + Send + 'static {
    let mut random = Random::new(seed);
    move |options| usize::try_from(random.next() % options.len() as u64).unwrap_or(0)
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
        Self::new(true, host::entropy())
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

    /// A new thread of `process` that runs `body`, parked before its beginning.
    pub fn spawn<T: Send + 'static>(
        &self,
        process: &Process,
        label: &str,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> Task<T> {
        assert!(!self.shared.live, "in a live world threads are std's");
        assert!(!process.is_dead(), "{} is dead", process.name());
        let value = Arc::new(Mutex::new(None));
        let result = value.clone();
        let job = move || {
            let value = body();
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        };
        let index = process.context.info.index;
        let thread = self
            .shared
            .lock()
            .add_thread(index, label, false, Box::new(job));
        Task {
            process: index,
            thread,
            shared: self.shared.clone(),
            value,
        }
    }
}

/// Running. Closures given here are called between two steps, on whatever thread; they may use the world and its
/// processes (which is then no part of the simulation), but not run, kill or cut anything.
impl World {
    fn drive(&self, processes: Vec<usize>, goals: Vec<usize>, policy: Policy, steps: u64) -> Stop {
        match self.shared.drive(Run {
            processes,
            goals,
            policy,
            steps,
            options: Vec::new(),
        }) {
            Stop::Background(text) => self.fail(&text),
            Stop::Asking(panic) => resume_unwind(panic),
            stop => stop,
        }
    }

    /// Runs the target's process, all of its threads in a fair and deterministic order, until one of them is *about to
    /// make* a call for which `stop_before` holds; the others of the world stand still. A call is asked about once.
    ///
    /// When all threads of the process wait, time jumps to the first deadline.
    ///
    /// # Panics
    /// A background thread panicked, or [`World::set_step_limit`] was reached.
    pub fn run_until(
        &self,
        target: &impl Target,
        stop_before: impl FnMut(&Call) -> bool + Send + 'static,
    ) -> Stopped {
        let (process, task) = target.target();
        let (goals, steps) = {
            let state = self.shared.lock();
            let mine = |&thread: &usize| {
                state.threads[thread].process == process && !state.threads[thread].background
            };
            let goals = match task {
                Some(task) => vec![task],
                None => state.alive.iter().copied().filter(mine).collect(),
            };
            (goals, state.step_limit)
        };
        match self.drive(
            vec![process],
            goals,
            Policy::Until(Box::new(stop_before)),
            steps,
        ) {
            Stop::Before(call) => Stopped::Before(call),
            Stop::Blocked => Stopped::Blocked,
            Stop::Finished => Stopped::Finished,
            _ => self.fail("so many steps and no end"),
        }
    }

    /// As [`World::run_until`], for when it must come to such a call.
    ///
    /// # Panics
    /// It does not, and as [`World::run_until`].
    #[track_caller]
    pub fn run_to(
        &self,
        target: &impl Target,
        stop_before: impl FnMut(&Call) -> bool + Send + 'static,
    ) -> Arc<Call> {
        match self.run_until(target, stop_before) {
            Stopped::Before(call) => call,
            other => self.fail(&format!("no such call: {other:?}")),
        }
    }

    /// Runs the task's process until the task has ended, and hands out what it returned.
    ///
    /// # Panics
    /// The task panicked, was killed, or waits for ever; its value was taken before.
    #[track_caller]
    pub fn finish<T>(&self, task: Task<T>) -> T {
        if !task.has_ended() && self.run_until(&task, |_| false) == Stopped::Blocked {
            self.fail("the task waits for ever");
        }
        match task.outcome() {
            Some(Outcome::Returned(value)) => value,
            Some(Outcome::Panicked(message)) => self.fail(&format!("the task panicked: {message}")),
            Some(Outcome::Killed) => self.fail("the task's process was killed"),
            None => self.fail("the task's value was taken before"),
        }
    }

    /// Runs the processes of these tasks together until all the tasks have ended. Whenever more than one thread could
    /// have the next turn, `choose` says which, by its index (taken modulo their number). Time jumps only when none can.
    ///
    /// # Errors
    /// They have not ended after `max_steps` steps, or never will.
    ///
    /// # Panics
    /// A background thread panicked.
    pub fn run_together(
        &self,
        tasks: &[&dyn Target],
        choose: impl FnMut(&[Runnable]) -> usize + Send + 'static,
        max_steps: u64,
    ) -> Result<(), Unfinished> {
        let processes = tasks.iter().map(|task| task.target().0).collect();
        let goals = tasks.iter().filter_map(|task| task.target().1).collect();
        match self.drive(
            processes,
            goals,
            Policy::Choose(Box::new(choose)),
            max_steps,
        ) {
            Stop::Finished => Ok(()),
            stop => Err(Unfinished {
                blocked: matches!(stop, Stop::Blocked),
                report: self.report(),
            }),
        }
    }

    /// The most steps of one [`World::run_until`]; a million at first.
    pub fn set_step_limit(&self, steps: u64) {
        self.shared.lock().step_limit = steps;
    }

    #[track_caller]
    fn fail(&self, why: &str) -> ! {
        panic!("{why}\n{}", self.report())
    }

    /// Where every thread is, and the last calls: for failure messages.
    #[must_use]
    pub fn report(&self) -> String {
        let state = self.shared.lock();
        format!(
            "{}the last calls:\n{}",
            state.report(),
            state.trace.text(60)
        )
    }

    /// The calls made so far, one a line (of a very long run, the last ones).
    #[must_use]
    pub fn trace(&self) -> String {
        self.shared.lock().trace.text(usize::MAX)
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
