//! Who runs. In a simulated world exactly one thread does: the one that has the *turn*, or the driver (the test).
//!
//! A simulated thread parks before each call. Whoever parks, blocks or ends decides itself who has the next turn
//! ([`Shared::pass`]) by the rules of the run under way, so a thread that may go on does so without a switch, and a
//! switch goes straight from one simulated thread to the next. The driver gets the turn back when the run is over.
//!
//! The state has one mutex. It is never held while a closure of the test runs: a run is taken out of the state for as
//! long as it is asked. Only the asking thread has the turn, so nobody else changes the state meanwhile; the closure
//! itself may change the disk and the time, but neither runs nor kills anybody.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::carriers;
use super::host;
use super::state::State;
use super::threads::{Ending, Policy, Run, Status, Stop, Turn, Wake};

/// Real time without a step before the driver gives up: some thread waits for something that is not the platform.
const STUCK: Duration = Duration::from_secs(60);

thread_local! {
    /// The world (by address) and the number of the simulated thread that this thread is.
    static CURRENT: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
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

    /// Live worlds: waits until something has changed, or for so long. Fails where nobody could change anything meanwhile.
    pub(super) fn wait_changed<'a>(
        &'a self,
        state: Guard<'a>,
        timeout: Option<Duration>,
    ) -> io::Result<Guard<'a>> {
        host::wait(&self.changed, state, timeout)
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
            unlock(state);
            carriers::park();
            CURRENT.set(Some((self.address(), me)));
            state = self.lock();
        }
        state
    }

    /// Finds out whose turn is next. [`unlock`] wakes that one, unless it is the caller's own.
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
        let Run {
            options,
            runnable,
            policy,
            ..
        } = run;
        match policy {
            Policy::Until(stop_before) => {
                let thread = state.fair(options);
                if !matches!(state.threads[thread].status, Status::Parked { seen: false }) {
                    return (state, Ok(thread));
                }
                let call = state.threads[thread].call.clone();
                let answer;
                (state, answer) = self.outside(state, || stop_before(&call));
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
            Policy::Choose(choose, each_step) => {
                if let ([only], false) = (&options[..], *each_step) {
                    return (state, Ok(*only));
                }
                runnable.extend(options.iter().map(|&thread| state.runnable(thread)));
                let (state, answer) = self.outside(state, || choose(runnable));
                runnable.clear();
                let chosen = match answer {
                    Ok(Some(index)) => Ok(options[index % options.len()]),
                    Ok(None) => Err(Stop::Chosen),
                    Err(panic) => Err(Stop::Asking(panic)),
                };
                (state, chosen)
            }
        }
    }

    /// Calls a closure of the test without the mutex. It is no part of the simulation: what it calls is done at once.
    fn outside<'a, R>(
        &'a self,
        mut state: Guard<'a>,
        closure: impl FnOnce() -> R,
    ) -> (Guard<'a>, thread::Result<R>) {
        state.asking = true;
        drop(state);
        let me = CURRENT.take();
        let answer = catch_unwind(AssertUnwindSafe(closure));
        CURRENT.set(me);
        let mut state = self.lock();
        state.asking = false;
        (state, answer)
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
        state.wake = match std::mem::replace(&mut thread.status, Status::Running) {
            Status::Start(job) => {
                let world = state.me.upgrade().expect("the caller has the world");
                Some(Wake::Start(Box::new(move || world.run_thread(next, job))))
            }
            _ if self.current() == Some(next) => None,
            _ => thread.os.clone().map(Wake::Unpark),
        };
        state
    }

    /// The life of a simulated thread.
    fn run_thread(self: Arc<Self>, me: usize, job: Box<dyn FnOnce() + Send>) {
        CURRENT.set(Some((self.address(), me)));
        self.lock().threads[me].os = Some(carriers::current());
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
        unlock(self.decide(state));
    }

    /// The driver runs the world and gets told why the run is over.
    pub(super) fn drive(&self, run: Run) -> Stop {
        let mut state = self.lock();
        assert!(!self.live, "a live world runs by itself");
        assert!(
            self.current().is_none() && state.turn == Turn::Driver && state.run.is_none(),
            "only the driver runs the world, and not while it is running"
        );
        state.driver = Some(carriers::current());
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
            unlock(state);
            carriers::wait();
            CURRENT.set(None);
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
        state.driver = Some(carriers::current());
        let mut doomed: Vec<usize> = state
            .alive
            .iter()
            .copied()
            .filter(|&thread| state.threads[thread].process == process)
            .collect();
        // Background threads first: they have little to unwind, and what they are in the middle of (a beat) the destructors of
        // the others may wait for.
        doomed.sort_by_key(|&thread| !state.threads[thread].background);
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
                state.wake = state.threads[thread].os.clone().map(Wake::Unpark);
                state = self.wait_for_driver(state);
            }
        }
    }
}

fn hand_over_to_driver(mut state: Guard<'_>) -> Guard<'_> {
    state.turn = Turn::Driver;
    state.wake = state.driver.clone().map(Wake::Unpark);
    state
}

/// Gives the mutex back, and only then wakes whoever has got the turn: they want the mutex first thing.
fn unlock(mut state: Guard<'_>) {
    let wake = state.wake.take();
    drop(state);
    match wake {
        None => {}
        Some(Wake::Unpark(carrier)) => carriers::wake(carrier),
        Some(Wake::Start(job)) => carriers::start(job),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "not a text".to_owned())
}
