//! Simulated threads: in which state each is, and who of them could run.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::call::{Call, Op};
use super::carriers::Carrier;
use super::disk::Ino;
use super::state::State;

/// Consecutive steps of one thread while others of its process could run too.
const QUANTUM: u32 = 64;

/// The payload that ends a killed thread.
pub(super) struct Killed;

/// What an [`Event`](crate::Event) and a thread that waits for it share.
#[derive(Debug, Default)]
pub(super) struct Signal(AtomicBool);

impl Signal {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

/// What a thread waits for in the middle of a call.
#[derive(Debug, Clone)]
pub(super) enum Block {
    /// The signal, or the world's clock.
    Signal(Arc<Signal>, Option<Duration>),
    /// The kernel lock of this file.
    Lock(Ino),
}

pub(super) enum Status {
    /// Has not begun.
    Start(Box<dyn FnOnce() + Send>),
    /// About to make its call; the driver has already been told so if `seen`.
    Parked {
        seen: bool,
    },
    /// In the middle of its call.
    Blocked(Block),
    /// Has the turn.
    Running,
    Ended(Ending),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    Returned,
    Panicked(String),
    Killed,
}

pub(super) struct Thread {
    pub(super) process: usize,
    pub(super) label: Arc<str>,
    /// Started by the platform's `spawn`, not by the test.
    pub(super) background: bool,
    pub(super) status: Status,
    /// The call that it is about to make, is in the middle of, or made last.
    pub(super) call: Arc<Call>,
    /// What it runs on, once it has begun.
    pub(super) os: Option<Carrier>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Driver,
    Thread(usize),
}

/// How whoever has got the turn is to be told.
pub(super) enum Wake {
    Unpark(Carrier),
    Start(Box<dyn FnOnce() + Send>),
}

/// A thread that could have the next turn; see [`World::run_together`](super::World::run_together).
#[derive(Debug, Clone)]
pub struct Runnable {
    /// The thread's number, the same for its whole life and unique in its world.
    pub thread: usize,
    /// The call that it would make.
    pub call: Arc<Call>,
    /// The call has begun already: it was blocked, and what it waited for has come.
    pub resumes: bool,
    /// It had the last turn.
    pub ran_last: bool,
}

type Until = Box<dyn FnMut(&Call) -> bool + Send>;
pub(super) type Choose = Box<dyn FnMut(&[Runnable]) -> Option<usize> + Send>;

pub(super) enum Policy {
    /// Threads take turns until one is about to make a call of this kind.
    Until(Until),
    /// The next one is chosen, if there is a choice; or at each step, and then the run can be ended instead.
    Choose(Choose, EachStep),
}

/// Whether a choice is asked for where only one thread could go on.
pub(super) type EachStep = bool;

/// A run under way.
pub(super) struct Run {
    pub(super) processes: Vec<usize>,
    /// Threads after whose end it is over.
    pub(super) goals: Vec<usize>,
    pub(super) policy: Policy,
    pub(super) steps: u64,
    pub(super) options: Vec<usize>,
    /// What a choice is asked about; empty in between, and here to be used again.
    pub(super) runnable: Vec<Runnable>,
}

/// Why a run is over.
pub(super) enum Stop {
    Before(Arc<Call>),
    Finished,
    Blocked,
    Steps,
    Chosen,
    Background(String),
    Asking(Box<dyn Any + Send>),
}

impl State {
    pub(super) fn add_thread(
        &mut self,
        process: usize,
        label: &str,
        background: bool,
        job: Box<dyn FnOnce() + Send>,
    ) -> usize {
        let label: Arc<str> = label.into();
        let call = Arc::new(Call {
            process: self.processes[process].name.clone(),
            thread: label.clone(),
            op: Op::Start,
            dir: "".into(),
            name: String::new(),
            to: None,
        });
        let thread = self.threads.len();
        self.threads.push(Thread {
            process,
            label,
            background,
            status: Status::Start(job),
            call,
            os: None,
        });
        self.alive.push(thread);
        thread
    }

    pub(super) fn end_thread(&mut self, thread: usize, ending: Ending) {
        self.threads[thread].status = Status::Ended(ending);
        self.threads[thread].os = None;
        self.alive.retain(|&other| other != thread);
    }

    pub(super) fn is_over(&mut self, run: &Run) -> Option<Stop> {
        let ended = |&thread: &usize| matches!(self.threads[thread].status, Status::Ended(_));
        let goals_reached = run.goals.iter().all(ended) && !run.goals.is_empty();
        let runs = |&thread: &usize| run.processes.contains(&self.threads[thread].process);
        if let Some(text) = self.background_panic.take() {
            Some(Stop::Background(text))
        } else if goals_reached || !self.alive.iter().any(runs) {
            Some(Stop::Finished)
        } else if run.steps == 0 {
            Some(Stop::Steps)
        } else {
            None
        }
    }

    fn can_run(&self, thread: usize) -> bool {
        match &self.threads[thread].status {
            Status::Start(_) | Status::Parked { .. } => true,
            Status::Blocked(Block::Signal(signal, deadline)) => {
                signal.is_set() || deadline.is_some_and(|deadline| deadline <= self.clock.now())
            }
            Status::Blocked(Block::Lock(ino)) => !self.locks.contains_key(ino),
            Status::Running | Status::Ended(_) => false,
        }
    }

    pub(super) fn find_runnable(&self, run: &mut Run) {
        run.options.clear();
        let runs = |thread: &usize| {
            run.processes.contains(&self.threads[*thread].process) && self.can_run(*thread)
        };
        run.options.extend(self.alive.iter().copied().filter(runs));
    }

    /// Moves the clock to the first deadline of somebody in these processes; `false` if there is none.
    pub(super) fn jump(&mut self, processes: &[usize]) -> bool {
        let deadline = |&thread: &usize| match &self.threads[thread] {
            Thread {
                process,
                status: Status::Blocked(Block::Signal(_, deadline)),
                ..
            } if processes.contains(process) => *deadline,
            _ => None,
        };
        let Some(deadline) = self.alive.iter().filter_map(deadline).min() else {
            return false;
        };
        self.clock.pass_until(deadline);
        true
    }

    /// The thread that ran last goes on, but not for ever.
    pub(super) fn fair(&self, options: &[usize]) -> usize {
        if self.streak < QUANTUM && options.contains(&self.last) {
            return self.last;
        }
        options
            .iter()
            .copied()
            .find(|&thread| thread > self.last)
            .unwrap_or(options[0])
    }

    pub(super) fn runnable(&self, thread: usize) -> Runnable {
        let resumes = matches!(self.threads[thread].status, Status::Blocked(_));
        Runnable {
            thread,
            call: self.threads[thread].call.clone(),
            resumes,
            ran_last: self.last == thread,
        }
    }

    /// Who is where, one line for each thread that has not ended.
    pub(super) fn report(&self) -> String {
        let mut text = format!("at {:.6} s:\n", self.clock.now().as_secs_f64());
        for &thread in &self.alive {
            let thread = &self.threads[thread];
            let where_it_is = match &thread.status {
                Status::Start(_) | Status::Parked { .. } => "before".to_owned(),
                Status::Blocked(Block::Signal(_, Some(deadline))) => {
                    format!("until {:.6} s in", deadline.as_secs_f64())
                }
                Status::Blocked(_) => "blocked in".to_owned(),
                Status::Running | Status::Ended(_) => "after".to_owned(),
            };
            text.push_str(&format!("  {where_it_is} {}\n", thread.call));
        }
        text
    }
}
