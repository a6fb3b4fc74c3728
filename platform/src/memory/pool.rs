//! Operating system threads to run simulated ones on. They are kept and used again: an exploration runs millions of
//! short simulations, and starting a thread costs more than most of them.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// What a simulated thread, or the driver, runs on.
pub(super) type Carrier = thread::Thread;

/// That of the caller.
pub(super) fn current() -> Carrier {
    thread::current()
}

/// Lets it go on: it has got the turn.
pub(super) fn wake(carrier: Carrier) {
    carrier.unpark();
}

/// Waits until somebody wakes the caller, or for a moment without cause.
pub(super) fn park() {
    thread::park();
}

/// The same for the driver, which looks from time to time whether anything happens.
pub(super) fn wait() {
    thread::park_timeout(Duration::from_secs(1));
}

/// Whether a thread that panics may give the turn away.
pub(super) fn may_switch() -> bool {
    true
}

static IDLE: Mutex<Vec<Sender<Job>>> = Mutex::new(Vec::new());

/// Runs `job`, which must not panic, on a thread of its own.
pub(super) fn start(job: Job) {
    let mut job = job;
    loop {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(idle) = idle else { break };
        match idle.send(job) {
            Ok(()) => return,
            Err(refused) => job = refused.0,
        }
    }
    thread::Builder::new()
        .name("simulated".to_owned())
        .spawn(move || {
            job();
            loop {
                let (sender, receiver) = channel::<Job>();
                IDLE.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(sender);
                match receiver.recv() {
                    Ok(job) => job(),
                    Err(_) => return,
                }
            }
        })
        .expect("the system has a thread to give to the simulation");
}
