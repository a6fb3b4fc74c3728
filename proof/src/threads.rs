//! Threads of a layer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::Broken;

/// Does `work` in `count` threads, which are told their numbers, and returns what all have come to when the last has ended. A
/// panic is a broken promise.
pub(crate) fn together<R: Send>(
    count: usize,
    work: impl Fn(usize) -> Result<R, Broken> + Sync,
) -> Result<Vec<R>, Broken> {
    thread::scope(|scope| {
        let work = &work;
        let start = |number| scope.spawn(move || work(number));
        let threads: Vec<_> = (0..count).map(start).collect();
        let ended = threads.into_iter().map(|thread| joined(thread.join()));
        ended.collect()
    })
}

/// What a thread has come to.
pub(crate) fn joined<R>(joined: thread::Result<Result<R, Broken>>) -> Result<R, Broken> {
    joined.unwrap_or_else(|_| Err(Broken("a thread of this layer panicked".to_owned())))
}

/// What is in `mutex`, whoever has panicked with it.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does `work` for each of `items`, so many at a time. Ends with the first broken promise, a panic included.
pub(crate) fn each<T: Sync, R: Send>(
    jobs: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R, Broken> + Sync,
) -> Result<Vec<R>, Broken> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done = Mutex::new((Vec::new(), None));
    let worker = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let result = unpanicked(|| work(item));
            let mut done = locked(&done);
            match result {
                Ok(result) => done.0.push(result),
                Err(broken) => {
                    stop.store(true, Ordering::Relaxed);
                    done.1.get_or_insert(broken);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs.min(items.len()) {
            scope.spawn(worker);
        }
    });
    let (results, broken) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    broken.map_or(Ok(results), Err)
}

/// A panic of `work` as a broken promise.
pub fn unpanicked<R>(work: impl FnOnce() -> Result<R, Broken>) -> Result<R, Broken> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Broken(format!("panicked: {}", text.unwrap_or_default())))
    })
}
