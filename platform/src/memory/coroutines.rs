//! Simulated threads as coroutines of the driver's own thread: for explorations of millions of schedules.
//!
//! A switch between two threads of the system costs more than all that a simulated thread does between two steps, a switch
//! between two stacks next to nothing. The driver's loop ([`wait`]) goes on with whomever [`wake`] or [`start`] has named
//! last; a coroutine that has not got the turn suspends ([`park`]) and so comes back to that loop.
//!
//! What differs from threads:
//!
//! - A world is run and dropped by the thread of the system that made it.
//! - What waits for something else than the platform waits for ever, and nobody notices.
//! - Thread-local values are shared by all of a world's threads. A panic is such a value, so a thread that panics keeps the
//!   turn until it has ended.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::thread::{self, ThreadId};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// It is given a job when it is idle, and tells whether it is done with it.
type Stack = Coroutine<Option<Job>, bool, ()>;
type Back = Yielder<Option<Job>, bool>;

/// What a simulated thread, or the driver, runs on.
// Not `Copy`: a thread of the system is not, either.
#[derive(Debug, Clone)]
pub(super) struct Carrier {
    owner: ThreadId,
    /// Its number; `None` for the driver.
    number: Option<usize>,
}

/// Enough for the library, and for a report of a panic.
const STACK: usize = 1 << 20;

/// The coroutines of one thread of the system.
#[derive(Default)]
struct Stacks {
    all: Vec<Option<Stack>>,
    idle: Vec<usize>,
}

impl Drop for Stacks {
    fn drop(&mut self) {
        // Those that are in the middle of something belong to a world that was not dropped: nobody can end them properly.
        for (number, stack) in self.all.drain(..).enumerate() {
            if !self.idle.contains(&number) {
                std::mem::forget(stack);
            }
        }
    }
}

thread_local! {
    static STACKS: RefCell<Stacks> = RefCell::default();
    /// Who goes on when the driver's loop is reached, and the job that it is to begin.
    static NEXT: Cell<Option<(usize, Option<Job>)>> = const { Cell::new(None) };
    /// The coroutine that runs, and its way back.
    static RUNNING: Cell<Option<(usize, NonNull<Back>)>> = const { Cell::new(None) };
    static OWNER: ThreadId = thread::current().id();
}

/// That of the caller.
pub(super) fn current() -> Carrier {
    Carrier {
        owner: OWNER.with(|owner| *owner),
        number: RUNNING.get().map(|(number, _)| number),
    }
}

/// Names it as the next to go on.
pub(super) fn wake(carrier: Carrier) {
    assert_eq!(
        carrier.owner,
        OWNER.with(|owner| *owner),
        "a world on coroutines belongs to the thread that made it"
    );
    NEXT.set(carrier.number.map(|number| (number, None)));
}

/// Names a coroutine as the next to go on, which then runs `job`. That must not panic.
pub(super) fn start(job: Job) {
    let number = STACKS.with_borrow_mut(|stacks| {
        stacks.idle.pop().unwrap_or_else(|| {
            let number = stacks.all.len();
            stacks.all.push(Some(stack(number)));
            number
        })
    });
    NEXT.set(Some((number, Some(job))));
}

fn stack(number: usize) -> Stack {
    let memory = DefaultStack::new(STACK).expect("the system has memory for one more stack");
    Coroutine::with_stack(memory, move |back: &Back, job| {
        let mut job = job;
        loop {
            RUNNING.set(Some((number, NonNull::from(back))));
            if let Some(job) = job.take() {
                job();
            }
            RUNNING.set(None);
            job = back.suspend(true);
        }
    })
}

/// Lets the driver's loop go on, and comes back when it is the caller's turn.
#[allow(
    unsafe_code,
    reason = "the way back is known to the coroutine's first call only"
)]
pub(super) fn park() {
    let running = RUNNING.take().expect("only simulated threads park");
    // SAFETY: the way back lives on the stack of the coroutine that runs, below this very call.
    unsafe { running.1.as_ref() }.suspend(false);
    RUNNING.set(Some(running));
}

/// The driver's loop: whoever is next goes on until it parks or ends.
pub(super) fn wait() {
    let Some((number, job)) = NEXT.take() else {
        panic!("nobody has the turn, and the driver neither");
    };
    let taken = STACKS.with_borrow_mut(|stacks| stacks.all[number].take());
    let mut stack = taken.expect("it is not running");
    let done = match stack.resume(job) {
        CoroutineResult::Yield(done) => done,
        CoroutineResult::Return(()) => unreachable!("it waits for its next job for ever"),
    };
    STACKS.with_borrow_mut(|stacks| {
        stacks.all[number] = Some(stack);
        if done {
            stacks.idle.push(number);
        }
    });
}

/// Whether a thread that panics may give the turn away.
pub(super) fn may_switch() -> bool {
    !thread::panicking()
}
