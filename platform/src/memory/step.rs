//! How a process's call is done: it waits for its turn, meets the faults meant for it, and is then one atomic step.

use std::io::{self, ErrorKind};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::call::{Call, Op};
use super::carriers;
use super::disk::Ino;
use super::scheduler::{Guard, Shared};
use super::state::{Fault, Info, State};
use super::threads::{Block, Killed, Status, Thread};

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
        let call = match thread {
            Some(me) => Some(self.note_call(&mut state.threads[me], op, about)),
            None if self.shared.live && state.faults.is_empty() => None,
            None => Some(Arc::new(self.call("driver".into(), op, about))),
        };
        if let Some(me) = thread {
            if carriers::may_switch() {
                state.threads[me].status = Status::Parked { seen: false };
                state = self.shared.pass(state, me);
            }
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

    fn call(&self, thread: Arc<str>, op: Op, about: About<'_>) -> Call {
        Call {
            process: self.info.name.clone(),
            thread,
            op,
            dir: about.dir.cloned().unwrap_or_default(),
            name: about.name.to_owned(),
            to: about.to.map(str::to_owned),
        }
    }

    /// Says what the thread is about to do. An exploration makes hundreds of millions of calls, so this one takes the place of the
    /// last one if nobody has kept that.
    fn note_call(&self, thread: &mut Thread, op: Op, about: About<'_>) -> Arc<Call> {
        match Arc::get_mut(&mut thread.call).filter(|last| last.process == self.info.name) {
            None => thread.call = Arc::new(self.call(thread.label.clone(), op, about)),
            Some(call) => {
                call.op = op;
                call.dir = about.dir.cloned().unwrap_or_default();
                about.name.clone_into(&mut call.name);
                call.to = about.to.map(str::to_owned);
            }
        }
        thread.call.clone()
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
            self.state = shared.wait_changed(self.state, timeout)?;
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
