//! Fairness between callers that wait for the lease.
//!
//! Natives hand the gate to each other in microseconds; whoever polls sees the lease free for a few percent of the time at
//! best and would starve. And a caller that takes the lease again as soon as it has released it is quicker than anybody who
//! must first wake up, the native with the gate included. So a caller that has found the lease taken twice puts up a
//! `want`, a small file that says how long it has waited and that it keeps rewriting. Whoever finds the lease free leaves it
//! to a want that has waited longer than itself. No safety rests on it: a stale want costs its beat's time once, and a
//! forged one 500 ms.

use std::time::Duration;

use cachelock_platform::{Access, File, FileKind, Monotonic};

use super::expiry::CLOCK_LEASES;
use crate::control::{self, Control, Kind};
use crate::error::Result;
use crate::mutation::Mutation;
use crate::text;
use crate::time;
use crate::transfer;
use crate::wait::Waiter;

/// How often a want is beaten at least.
pub(crate) const BEAT: Duration = Duration::from_millis(50);
/// A want that missed its beats for so long is nobody's.
const MISSED: Duration = Duration::from_millis(100);
/// For how long a caller leaves a free lease to others at most, in all.
const COURTESY: Duration = Duration::from_millis(500);
/// How often it looks meanwhile. Half a guest's shortest poll.
pub(crate) const LOOK: Duration = Duration::from_micros(2500);

/// Digits of a u64 and a line feed.
const LEN: usize = 21;

/// Our own want; removed when dropped.
pub(crate) struct Want {
    control: Control,
    name: String,
    process: u32,
}

impl Want {
    pub(crate) fn put_up(control: &Control, waited: Duration) -> Result<Self> {
        let random = control.cx.platform.random();
        let nonce =
            random.map_err(|error| control.failed("draw a random name for", "want", error))?;
        let want = Want {
            control: control.clone(),
            name: control::want(nonce),
            process: control.cx.platform.process_id(),
        };
        let file = control.create_unique(&want.name)?;
        want.write(&*file, waited);
        Ok(want)
    }

    /// Says that its owner is alive and how long it has waited. A want that was removed is put up again.
    pub(crate) fn beat(&self, waited: Duration) {
        let opened = self
            .control
            .open(&self.name, Access::Write)
            .ok()
            .flatten()
            .filter(|(_, metadata)| self.control.check_alone(&self.name, metadata).is_ok())
            .map(|(file, _)| file);
        let file = opened.or_else(|| {
            self.control
                .create_new(&self.name, control::PRIVATE)
                .ok()
                .flatten()
        });
        if let Some(file) = file {
            self.write(&*file, waited);
        }
    }

    /// A courtesy that cannot be recorded is none; the wait goes on without it.
    fn write(&self, file: &dyn File, waited: Duration) {
        let _ = transfer::write_all_at(file, record(waited).as_bytes(), 0);
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        if self.control.cx.platform.process_id() == self.process {
            let _ = self.control.unlink(&self.name);
        }
    }
}

/// What the file of a want holds.
pub(crate) fn record(waited: Duration) -> String {
    format!("{:020}\n", time::millis(waited))
}

/// What [`record`] was made of.
pub(crate) fn waited_for(bytes: &[u8]) -> Option<Duration> {
    let digits = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    (bytes.len() == LEN).then(|| text::digits(digits).map(Duration::from_millis))?
}

/// What one caller leaves to others: whoever finds the lease free asks here first.
#[derive(Default)]
pub(crate) struct Courtesy {
    /// For how long the lease was free and this caller left it to others.
    given: Duration,
    /// When it did so last, if nobody has taken the lease since.
    looked: Option<Monotonic>,
    watched: Vec<Watched>,
}

/// Somebody else's want.
struct Watched {
    name: String,
    bytes: Vec<u8>,
    /// For how long it was not beaten, as far as that was watched.
    silent: Duration,
}

impl Courtesy {
    /// The lease is free: whether this caller should leave it to a want that has waited longer.
    ///
    /// Nobody does so twice over: of two callers only one has waited longer, and what a want says is never more than its
    /// owner has waited. A caller whose time is up takes what is free.
    pub(crate) fn is_due(
        &mut self,
        control: &Control,
        waiter: &Waiter<'_>,
        own: Option<&Want>,
    ) -> Result<bool> {
        if control.cx.mutated(Mutation::NoCourtesy) {
            return Ok(false);
        }
        let now = waiter.now();
        // A machine that was suspended in between must not make all wants silent.
        let passed = self.looked.replace(now).map_or(Duration::ZERO, |looked| {
            now.saturating_sub(looked).min(BEAT)
        });
        self.given += passed;
        if self.given >= COURTESY || waiter.is_out_of_time() {
            return Ok(false);
        }
        let waited = waiter.waited();
        let mut before = std::mem::take(&mut self.watched);
        let mut due = false;
        for name in control.list()? {
            if control::kind_of(&name) != Kind::Want || own.is_some_and(|own| own.name == name) {
                continue;
            }
            // Gone, or nothing that we could wait for.
            let Ok(Some(bytes)) = control.read(&name, LEN + 1) else {
                continue;
            };
            let known = before.iter().position(|want| want.name == name);
            let silent = match known.map(|index| before.swap_remove(index)) {
                Some(want) if want.bytes == bytes => want.silent + passed,
                _ => Duration::ZERO,
            };
            if silent > MISSED {
                let _ = control.unlink(&name);
                continue;
            }
            // What its owner has waited by now, if it lives: whoever was first stays first, until the beats tell. Without that a
            // dead owner's want would be waited for, and not be removed, by each caller for as long as that owner had waited.
            // Unreadable: its owner is about to write it, or died before.
            due |= waited_for(&bytes).is_none_or(|theirs| theirs + silent > waited);
            self.watched.push(Watched {
                name,
                bytes,
                silent,
            });
        }
        Ok(due)
    }

    /// Somebody has the lease: until it is free again nobody is kept waiting by courtesy.
    pub(crate) fn taken(&mut self) {
        self.looked = None;
    }
}

/// For the new holder of `epoch`: removes wants whose owners are surely gone. A live owner would put its want up again. A time in
/// the future is as good as one long past: a clock was set, and the want would stay until it gets there.
pub(crate) fn sweep(control: &Control, epoch: u64, lease: Duration, names: &[String]) {
    let mut wants = names
        .iter()
        .filter(|name| control::kind_of(name) == Kind::Want)
        .peekable();
    if wants.peek().is_none() {
        return;
    }
    let Ok(Some(now)) = control.stat(&control::claim(epoch)) else {
        return;
    };
    for name in wants {
        let Ok(Some(want)) = control.stat(name) else {
            continue;
        };
        let apart = now
            .modified
            .duration_since(want.modified)
            .unwrap_or_else(|future| future.duration());
        if want.kind == FileKind::File && apart > lease * CLOCK_LEASES {
            let _ = control.unlink(name);
        }
    }
}
