//! A critical section that may contain platform calls.
//!
//! A mutex of the standard library held across a platform call would block a simulated process in a place that the
//! simulation cannot see. This one waits through the platform.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cachelock_platform::{Event, GUEST, Platform};

pub(crate) struct Section {
    platform: Arc<dyn Platform>,
    busy: Mutex<bool>,
    freed: Arc<dyn Event>,
}

pub(crate) struct Inside<'a>(&'a Section);

impl Section {
    pub(crate) fn new(platform: &Arc<dyn Platform>) -> Self {
        Section {
            platform: platform.clone(),
            busy: Mutex::new(false),
            freed: platform.event(),
        }
    }

    /// Whether somebody is in there now.
    pub(crate) fn is_busy(&self) -> bool {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self) -> Inside<'_> {
        // A guest has one thread, which is not in there when it comes.
        while !GUEST
            && std::mem::replace(
                &mut *self.busy.lock().unwrap_or_else(PoisonError::into_inner),
                true,
            )
        {
            // With a deadline: an event wakes one waiter, and there may be two.
            self.freed
                .wait_until(Some(self.platform.monotonic() + Duration::from_millis(5)));
        }
        Inside(self)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if GUEST {
            return;
        }
        *self.0.busy.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.freed.set();
    }
}

#[cfg(test)]
mod tests {
    use cachelock_platform::GUEST;
    use cachelock_platform::memory::World;

    use super::*;

    #[test]
    fn whoever_waits_sleeps_until_the_other_one_has_left() {
        const MS: Duration = Duration::from_millis(1);
        // It has one thread.
        if GUEST {
            return;
        }
        let world = World::simulated();
        let process = world.process("a");
        let platform: Arc<dyn Platform> = process.clone();
        let section = Arc::new(Section::new(&platform));
        let enters = |thread: &str| {
            let (section, own) = (section.clone(), process.clone());
            world.spawn(&process, thread, move || {
                let _inside = section.enter();
                own.event().wait_until(Some(own.monotonic() + 12 * MS));
            })
        };
        let tasks = [enters("first"), enters("second")];
        let ran = world.run_together(&[&tasks[0], &tasks[1]], |_| 0, 1000);
        ran.unwrap_or_else(|unfinished| panic!("{unfinished}"));
        assert_eq!(world.now(), 24 * MS, "one after the other");
        let waits = world.trace().matches(" a/second: Wait ").count();
        assert_eq!(waits, 4, "three for the first one, one inside");
    }
}
