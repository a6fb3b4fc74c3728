//! Operating system threads to run simulated ones on. They are kept and used again: an exploration runs millions of
//! short simulations, and starting a thread costs more than most of them.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

static IDLE: Mutex<Vec<Sender<Job>>> = Mutex::new(Vec::new());

/// Runs `job`, which must not panic, on a thread of its own.
pub(super) fn run(job: Job) {
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
