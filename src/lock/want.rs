//! Fairness between callers that queue at the gate and callers that can only poll.
//!
//! Natives hand the gate to each other in microseconds; whoever polls sees the lease free for a few percent of the time at
//! best and would starve. So a caller outside of the gate's queue that has found the lease taken twice puts up a `want`, a
//! small file that says how long it has waited and that it keeps rewriting. A native that has just got the gate lets the
//! longest want go first if that has waited longer than itself. No safety rests on it: a stale want costs its beat's time
//! once, and a forged one 500 ms.

use std::time::Duration;

use cachelock_platform::{Access, File, FileKind, Monotonic};

use super::expiry::{CLOCK_LEASES, Sight};
use crate::control::{self, Control, Kind};
use crate::error::{Result, WaitingFor};
use crate::time;
use crate::wait::Waiter;

/// How often a want is beaten at least.
pub(crate) const BEAT: Duration = Duration::from_millis(50);
/// A want that missed its beats for so long is nobody's.
const MISSED: Duration = Duration::from_millis(100);
/// What a native gives to wants at most, in all.
const COURTESY: Duration = Duration::from_millis(500);
/// How often a native looks whether the want was served. Half a guest's shortest poll.
const LOOK: Duration = Duration::from_micros(2500);

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
        let nonce = random.map_err(|error| {
            crate::Error::io("draw a random name for", control.path("want"), error)
        })?;
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
        let text = format!("{:020}\n", time::millis(waited));
        let _ = control::write_all_at(file, text.as_bytes(), 0);
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        if self.control.cx.platform.process_id() == self.process {
            let _ = self.control.unlink(&self.name);
        }
    }
}

fn waited_for(bytes: &[u8]) -> Option<Duration> {
    let digits = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
    (bytes.len() == LEN).then(|| digits.parse().ok().map(Duration::from_millis))?
}

/// For a native that has just got the gate: lets wants that have waited longer than it go first.
pub(crate) fn give_way(control: &Control, waiter: &mut Waiter<'_>) -> Result<()> {
    let mut names: Vec<_> = control
        .list()?
        .into_iter()
        .filter(|name| control::kind_of(name) == Kind::Want)
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let own = waiter.waited();
    let until = waiter.now().saturating_add(COURTESY);
    let head = control.head()?;
    let mut watched: Vec<(String, Vec<u8>, Monotonic)> = Vec::new();
    waiter.waits_for(WaitingFor::Lease);
    loop {
        let now = waiter.now();
        let mut ahead = false;
        names.retain(|name| match control.read(name, LEN + 1) {
            Ok(Some(bytes)) => {
                let known = watched.iter_mut().find(|(watched, ..)| watched == name);
                let beaten = match known {
                    None => {
                        watched.push((name.clone(), bytes.clone(), now));
                        now
                    }
                    Some((_, last, beaten)) => {
                        if *last != bytes {
                            *last = bytes.clone();
                            *beaten = now;
                        }
                        *beaten
                    }
                };
                if now.saturating_sub(beaten) > MISSED {
                    let _ = control.unlink(name);
                    return false;
                }
                // Unreadable: its owner is about to write it, or died before. Its beats tell.
                let goes_first = waited_for(&bytes).is_none_or(|waited| waited > own);
                ahead |= goes_first;
                goes_first
            }
            // Gone, or nothing that we could wait for.
            _ => false,
        });
        let served = || -> Result<bool> {
            let sight = Sight::look(control)?;
            Ok(sight.head > head && sight.is_free())
        };
        if !ahead || now >= until || served()? {
            return Ok(());
        }
        waiter.pause(now + LOOK)?;
    }
}

/// For the new holder of `epoch`: removes wants whose owners are surely gone. A live owner would put its want up again.
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
        let age = now
            .modified
            .duration_since(want.modified)
            .unwrap_or_default();
        if want.kind == FileKind::File && age > lease * CLOCK_LEASES {
            let _ = control.unlink(name);
        }
    }
}
