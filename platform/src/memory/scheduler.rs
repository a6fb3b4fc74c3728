//! Who runs. In a simulated world exactly one thread does: the one that has the *turn*, or the driver (the test).
//!
//! A simulated thread parks before each call. Whoever parks, blocks or ends decides itself who has the next turn
//! ([`Shared::pass`]) by the rules of the run under way, so a thread that may go on does so without a switch, and a
//! switch goes straight from one simulated thread to the next. The driver gets the turn back when the run is over.
//!
//! The state has one mutex. It is never held while a closure of the test runs: a run is taken out of the state for as
//! long as it is asked. Nobody else changes the state meanwhile, because only the asking thread has the turn.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::call::{Call, Op};
use super::disk::Ino;
use super::pool;
use super::state::State;

/// Consecutive steps of one thread while others of its process could run too.
const QUANTUM: u32 = 64;

/// Real time without a step before the driver gives up: some thread waits for something that is not the platform.
const STUCK: Duration = Duration::from_secs(60);

thread_local! {
    /// The world (by address) and the number of the simulated thread that this thread is.
    static CURRENT: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

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
    os: Option<thread::Thread>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Driver,
    Thread(usize),
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
type Choose = Box<dyn FnMut(&[Runnable]) -> usize + Send>;

pub(super) enum Policy {
    /// Threads take turns until one is about to make a call of this kind.
    Until(Until),
    /// The next one is chosen.
    Choose(Choose),
}

/// A run under way.
pub(super) struct Run {
    pub(super) processes: Vec<usize>,
    /// Threads after whose end it is over.
    pub(super) goals: Vec<usize>,
    pub(super) policy: Policy,
    pub(super) steps: u64,
    pub(super) options: Vec<usize>,
}

/// Why a run is over.
pub(super) enum Stop {
    Before(Arc<Call>),
    Finished,
    Blocked,
    Steps,
    Background(String),
    Asking(Box<dyn Any + Send>),
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// For live worlds: something that a blocked thread may wait for has changed.
    changed: Condvar,
    pub(super) live: bool,
}

pub(super) type Guard<'a> = MutexGuard<'a, State>;

impl Shared {
    pub(super) fn new(state: State, live: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            live,
        })
    }

    pub(super) fn lock(&self) -> Guard<'_> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that a blocked thread may wait for has changed. (In a simulated world that is looked up.)
    pub(super) fn notify(&self) {
        if self.live {
            self.changed.notify_all();
        }
    }

    /// Live worlds: waits until something has changed, or for so long.
    pub(super) fn wait_changed<'a>(
        &'a self,
        state: Guard<'a>,
        timeout: Option<Duration>,
    ) -> Guard<'a> {
        match timeout {
            None => self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                self.changed
                    .wait_timeout(state, timeout)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        }
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The simulated thread of this world that the caller is.
    pub(super) fn current(&self) -> Option<usize> {
        CURRENT
            .get()
            .filter(|(world, _)| *world == self.address())
            .map(|(_, thread)| thread)
    }

    /// Gives the turn away as the run under way says, with the caller's own status set already, and comes back when
    /// it is the caller's turn again.
    pub(super) fn pass<'a>(&'a self, state: Guard<'a>, me: usize) -> Guard<'a> {
        let mut state = self.decide(state);
        while state.turn != Turn::Thread(me) {
            drop(state);
            thread::park();
            state = self.lock();
        }
        state
    }

    /// Finds out whose turn is next and wakes that one, unless it is the caller's own.
    fn decide<'a>(&'a self, mut state: Guard<'a>) -> Guard<'a> {
        let Some(mut run) = state.run.take() else {
            return hand_over_to_driver(state);
        };
        let chosen = loop {
            if let Some(stop) = state.is_over(&run) {
                break Err(stop);
            }
            state.find_runnable(&mut run);
            if run.options.is_empty() {
                if state.jump(&run.processes) {
                    continue;
                }
                break Err(Stop::Blocked);
            }
            let begins =
                |thread: &&usize| matches!(state.threads[**thread].status, Status::Start(_));
            // Up to its first call a thread only touches its own process's memory, so nothing is lost by not asking.
            if let Some(&thread) = run.options.iter().find(begins) {
                break Ok(thread);
            }
            let asked;
            (state, asked) = self.ask(state, &mut run);
            break asked;
        };
        match chosen {
            Ok(thread) => {
                run.steps -= 1;
                state.run = Some(run);
                self.hand_over(state, thread)
            }
            Err(stop) => {
                // Dropping the run's closure is up to the driver, who does it without the mutex.
                state.stopped = Some((stop, run));
                hand_over_to_driver(state)
            }
        }
    }

    fn ask<'a>(&'a self, mut state: Guard<'a>, run: &mut Run) -> (Guard<'a>, Result<usize, Stop>) {
        let options = &run.options;
        // The test's closure is no part of the simulation: what it calls is done at once.
        let outside = || CURRENT.take();
        match &mut run.policy {
            Policy::Until(stop_before) => {
                let thread = state.fair(options);
                if !matches!(state.threads[thread].status, Status::Parked { seen: false }) {
                    return (state, Ok(thread));
                }
                let call = state.threads[thread].call.clone();
                drop(state);
                let me = outside();
                let answer = catch_unwind(AssertUnwindSafe(|| stop_before(&call)));
                CURRENT.set(me);
                state = self.lock();
                if let Ok(true) = answer {
                    state.threads[thread].status = Status::Parked { seen: true };
                }
                let chosen = match answer {
                    Ok(false) => Ok(thread),
                    Ok(true) => Err(Stop::Before(call)),
                    Err(panic) => Err(Stop::Asking(panic)),
                };
                (state, chosen)
            }
            Policy::Choose(choose) => {
                if let [only] = options[..] {
                    return (state, Ok(only));
                }
                let runnable: Vec<Runnable> = options
                    .iter()
                    .map(|&thread| state.runnable(thread))
                    .collect();
                drop(state);
                let me = outside();
                let answer = catch_unwind(AssertUnwindSafe(|| choose(&runnable)));
                CURRENT.set(me);
                let chosen = match answer {
                    Ok(index) => Ok(options[index % options.len()]),
                    Err(panic) => Err(Stop::Asking(panic)),
                };
                (self.lock(), chosen)
            }
        }
    }

    fn hand_over<'a>(&'a self, mut state: Guard<'a>, next: usize) -> Guard<'a> {
        state.steps += 1;
        state.turn = Turn::Thread(next);
        state.streak = if state.last == next {
            state.streak + 1
        } else {
            1
        };
        state.last = next;
        let thread = &mut state.threads[next];
        match std::mem::replace(&mut thread.status, Status::Running) {
            Status::Start(job) => {
                let world = state.me.upgrade().expect("the caller has the world");
                pool::run(Box::new(move || world.run_thread(next, job)));
            }
            _ => {
                if self.current() != Some(next) {
                    thread
                        .os
                        .as_ref()
                        .expect("a thread that has parked is known")
                        .unpark();
                }
            }
        }
        state
    }

    /// The life of a simulated thread.
    fn run_thread(self: Arc<Self>, me: usize, job: Box<dyn FnOnce() + Send>) {
        CURRENT.set(Some((self.address(), me)));
        self.lock().threads[me].os = Some(thread::current());
        let result = catch_unwind(AssertUnwindSafe(job));
        CURRENT.set(None);

        let mut state = self.lock();
        let thread = &state.threads[me];
        let ending = match result {
            _ if state.processes[thread.process].is_dead() => Ending::Killed,
            Ok(()) => Ending::Returned,
            Err(panic) => Ending::Panicked(panic_message(&*panic)),
        };
        if let Ending::Panicked(message) = &ending
            && thread.background
        {
            let text = format!("background thread {} panicked: {message}", thread.label);
            state.background_panic.get_or_insert(text);
        }
        state.end_thread(me, ending);
        drop(self.decide(state));
    }

    /// The driver runs the world and gets told why the run is over.
    pub(super) fn drive(&self, run: Run) -> Stop {
        let mut state = self.lock();
        assert!(!self.live, "a live world runs by itself");
        assert!(
            self.current().is_none() && state.turn == Turn::Driver && state.run.is_none(),
            "only the driver runs the world, and not while it is running"
        );
        state.driver = Some(thread::current());
        state.run = Some(run);
        state = self.decide(state);
        state = self.wait_for_driver(state);
        let (stop, run) = state.stopped.take().expect("a run ends with a reason");
        drop(state);
        drop(run);
        stop
    }

    fn wait_for_driver<'a>(&'a self, mut state: Guard<'a>) -> Guard<'a> {
        let (mut steps, mut since) = (state.steps, None);
        while state.turn != Turn::Driver {
            drop(state);
            thread::park_timeout(Duration::from_secs(1));
            state = self.lock();
            if state.turn != Turn::Driver && state.steps == steps {
                let since = *since.get_or_insert_with(Instant::now);
                if since.elapsed() > STUCK && !thread::panicking() {
                    let report = state.report();
                    drop(state);
                    panic!(
                        "the thread with the turn makes no call: it waits for something that is not the platform, \
                         a mutex that another thread holds across a call for example\n{report}"
                    );
                }
            } else {
                (steps, since) = (state.steps, None);
            }
        }
        state
    }

    /// Ends the threads of a process that has just been declared dead, one after the other.
    pub(super) fn unwind_threads(&self, process: usize) {
        let mut state = self.lock();
        assert!(
            state.turn == Turn::Driver,
            "a process is killed while the world stands still"
        );
        state.driver = Some(thread::current());
        let doomed: Vec<usize> = state
            .alive
            .iter()
            .copied()
            .filter(|&thread| state.threads[thread].process == process)
            .collect();
        for thread in doomed {
            if let Status::Start(job) =
                std::mem::replace(&mut state.threads[thread].status, Status::Running)
            {
                state.end_thread(thread, Ending::Killed);
                drop(state);
                drop(job);
                state = self.lock();
            } else {
                state.turn = Turn::Thread(thread);
                state.threads[thread]
                    .os
                    .as_ref()
                    .expect("it has begun")
                    .unpark();
                state = self.wait_for_driver(state);
            }
        }
    }
}

fn hand_over_to_driver(mut state: Guard<'_>) -> Guard<'_> {
    state.turn = Turn::Driver;
    if let Some(driver) = &state.driver {
        driver.unpark();
    }
    state
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "not a text".to_owned())
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

    fn end_thread(&mut self, thread: usize, ending: Ending) {
        self.threads[thread].status = Status::Ended(ending);
        self.threads[thread].os = None;
        self.alive.retain(|&other| other != thread);
    }

    fn is_over(&mut self, run: &Run) -> Option<Stop> {
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

    fn find_runnable(&self, run: &mut Run) {
        run.options.clear();
        let runs = |thread: &usize| {
            run.processes.contains(&self.threads[*thread].process) && self.can_run(*thread)
        };
        run.options.extend(self.alive.iter().copied().filter(runs));
    }

    /// Moves the clock to the first deadline of somebody in these processes; `false` if there is none.
    fn jump(&mut self, processes: &[usize]) -> bool {
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
    fn fair(&self, options: &[usize]) -> usize {
        if self.streak < QUANTUM && options.contains(&self.last) {
            return self.last;
        }
        options
            .iter()
            .copied()
            .find(|&thread| thread > self.last)
            .unwrap_or(options[0])
    }

    fn runnable(&self, thread: usize) -> Runnable {
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
