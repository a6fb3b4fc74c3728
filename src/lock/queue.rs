//! The queue of callers in one process: one of them at a time goes to the gate, in the order of arrival.
//!
//! The kernel lock could keep threads apart too, but each would need a thread to block in, and an uncontended hand-over
//! in memory is a hundred times faster.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cachelock_platform::Event;

use crate::error::{Result, WaitingFor};
use crate::wait::Waiter;

/// The front holds; the others wait.
#[derive(Default)]
pub(crate) struct Queue {
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    next_ticket: u64,
    /// In order. They are few: to close the gap that the front leaves costs less than a ring buffer.
    tickets: Vec<(u64, Arc<dyn Event>)>,
}

/// A place in the queue; given up when dropped.
pub(crate) struct Place {
    queue: Arc<Queue>,
    ticket: u64,
}

impl Queue {
    /// Waits for the front of the queue; tells whether it had to wait. `waits` is called before that.
    pub(crate) fn enter(
        self: &Arc<Self>,
        waiter: &mut Waiter<'_>,
        waits: impl FnOnce(&mut Waiter<'_>),
    ) -> Result<(Place, bool)> {
        let place = {
            let mut line = self.line();
            let ticket = line.next_ticket;
            line.next_ticket += 1;
            line.tickets.push((ticket, waiter.event().clone()));
            Place {
                queue: self.clone(),
                ticket,
            }
        };
        if self.is_front(place.ticket) {
            return Ok((place, false));
        }
        waiter.waits_for(WaitingFor::Thread);
        waits(waiter);
        while !self.is_front(place.ticket) {
            waiter.pause(cachelock_platform::Monotonic::MAX)?;
        }
        Ok((place, true))
    }

    fn is_front(&self, ticket: u64) -> bool {
        self.line()
            .tickets
            .first()
            .is_some_and(|(front, _)| *front == ticket)
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let next = {
            let mut line = self.queue.line();
            line.tickets.retain(|(ticket, _)| *ticket != self.ticket);
            line.tickets.first().map(|(_, event)| event.clone())
        };
        // Also when this was not the front: a wake without a cause does no harm.
        if let Some(event) = next {
            event.set();
        }
    }
}
