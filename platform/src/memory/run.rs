//! Running a simulated world: tasks, and how far they go.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};

use super::call::Call;
use super::process::Process;
use super::random::Random;
use super::scheduler::Shared;
use super::threads::{Choose, Ending, Policy, Run, Runnable, Status, Stop};
use super::world::World;

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

/// Running. Closures given here are called between two steps, on whatever thread; they may use the world and its
/// processes (which is then no part of the simulation), but not run, kill or cut anything.
impl World {
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

    fn drive(&self, processes: Vec<usize>, goals: Vec<usize>, policy: Policy, steps: u64) -> Stop {
        match self.shared.drive(Run {
            processes,
            goals,
            policy,
            steps,
            options: Vec::new(),
            runnable: Vec::new(),
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
        mut choose: impl FnMut(&[Runnable]) -> usize + Send + 'static,
        max_steps: u64,
    ) -> Result<(), Unfinished> {
        let choose = move |runnable: &[Runnable]| Some(choose(runnable));
        self.run_chosen(tasks, Box::new(choose), false, max_steps)
            .map(|_| ())
    }

    /// As [`World::run_together`], but `choose` is asked before each step, also where only one thread could go on, and with
    /// `None` it ends the run there: to kill somebody, or to go on without one of the processes, which then stands still.
    /// Returns whether all the tasks have ended.
    ///
    /// # Errors
    /// As [`World::run_together`].
    ///
    /// # Panics
    /// As [`World::run_together`].
    pub fn run_some(
        &self,
        tasks: &[&dyn Target],
        choose: impl FnMut(&[Runnable]) -> Option<usize> + Send + 'static,
        max_steps: u64,
    ) -> Result<bool, Unfinished> {
        self.run_chosen(tasks, Box::new(choose), true, max_steps)
    }

    fn run_chosen(
        &self,
        tasks: &[&dyn Target],
        choose: Choose,
        each_step: bool,
        max_steps: u64,
    ) -> Result<bool, Unfinished> {
        let processes = tasks.iter().map(|task| task.target().0).collect();
        let goals = tasks.iter().filter_map(|task| task.target().1).collect();
        match self.drive(
            processes,
            goals,
            Policy::Choose(choose, each_step),
            max_steps,
        ) {
            Stop::Finished => Ok(true),
            Stop::Chosen => Ok(false),
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

    /// Whether calls are noted for [`World::trace`]; they are at first. An exploration looks at the calls of few of its runs.
    pub fn set_traced(&self, traced: bool) {
        self.shared.lock().trace.off = !traced;
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
