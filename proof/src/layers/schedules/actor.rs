//! What each process of a scene does, and what comes of it.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use cachelock::platform::Platform as _;
use cachelock::platform::memory::Process;
use cachelock::{Cache, Error, GetError, Policy};

use crate::sim::{Found, OLD};
use crate::support::{LEASE, sleep};
use crate::threads::locked;

/// For how long what is absent is known to be.
const VALID_FOR: Duration = Duration::from_secs(60);

/// Short, for whoever can only poll polls until a lease expires.
pub(super) const SCENE_LEASE: Duration = LEASE.checked_div(5).unwrap();

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    /// Publishes so many times.
    Publish(usize),
    /// Publishes once more what was there before.
    Again,
    /// Publishes something else, and then what was there before.
    Back,
    /// Publishes that there is nothing.
    Absent,
    /// Publishes from each of two threads, which queue up.
    Pair,
    /// Gets the entry, and publishes it if it is missing.
    Get,
    /// Publishes once, after it has held the lock for so many leases.
    Hold(u32),
    /// Reads so many times.
    Read(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Actor {
    pub(super) guest: bool,
    pub(super) does: Does,
}

impl Actor {
    /// What it does with one of its threads. `who` is its number.
    pub(super) fn work(
        self,
        process: &Process,
        cache: &Cache,
        who: usize,
        thread: usize,
        log: &Mutex<Log>,
    ) -> Vec<Said> {
        let publish_after = |held, content| publishes(process, cache, who, held, content, log);
        let publish = |content| publish_after(Duration::ZERO, content);
        let bytes = |bytes: String| Some(bytes.into_bytes());
        match self.does {
            Does::Publish(times) => (0..times)
                .map(|time| publish(bytes(format!("{who} {time}"))))
                .collect(),
            Does::Again => vec![publish(Some(OLD.to_vec()))],
            Does::Back => vec![publish(bytes(who.to_string())), publish(Some(OLD.to_vec()))],
            Does::Absent => vec![publish(None)],
            Does::Hold(leases) => vec![publish_after(SCENE_LEASE * leases, bytes(who.to_string()))],
            Does::Pair => vec![publish(bytes(format!("{who} thread {thread}")))],
            Does::Get => vec![gets(cache, who, log)],
            Does::Read(times) => (0..times).map(|_| reads(cache)).collect(),
        }
    }
}

/// What the callers note, outside of the simulation.
#[derive(Default)]
pub(super) struct Log {
    pub(super) holds: Option<usize>,
    /// Who has stood still at some time.
    pub(super) stood_still: HashSet<usize>,
    pub(super) overlap: Option<String>,
    pub(super) produced: usize,
    /// Somebody has deleted the gate.
    pub(super) ungated: bool,
}

/// What was published: these bytes, or that there is nothing.
pub(super) type Content = Option<Vec<u8>>;

/// What came of one task.
#[derive(Debug, Clone)]
pub(super) enum Said {
    Published(u64, Content),
    Read(Found),
    /// It published, and was given what others have published since.
    Surpassed(Found),
    /// Overtaken, or out of time.
    Gave(String, Content),
    Wrong(String),
}

/// `hold`: for how long it holds the lock before it publishes, at least.
fn publishes(
    process: &Process,
    cache: &Cache,
    who: usize,
    hold: Duration,
    content: Content,
    log: &Mutex<Log>,
) -> Said {
    let publish = || -> Result<u64, Error> {
        let mut refresh = cache.entry("entry")?.refresh()?;
        if let Some(bytes) = &content {
            refresh.add(bytes)?;
        }
        held(who, log, || {
            let until = process.monotonic() + hold;
            while process.monotonic() < until {
                // As a producer does that works for a while: whoever has no thread to beat for it beats when it is due.
                let rest = until - process.monotonic();
                sleep(
                    process,
                    refresh.heartbeat_due().map_or(rest, |due| due.min(rest)),
                );
                refresh.heartbeat()?;
            }
            refresh.check_held()
        })?;
        let published = match content {
            Some(_) => refresh.publish(),
            None => refresh.publish_absent(VALID_FOR),
        };
        Ok(published?.generation)
    };
    match publish() {
        Ok(generation) => Said::Published(generation, content),
        Err(error) => failed(&error, content),
    }
}

/// Something while the lock is held. Where nobody stood still, nobody else may hold it then.
fn held<R>(who: usize, log: &Mutex<Log>, work: impl FnOnce() -> R) -> R {
    {
        let mut log = locked(log);
        if let (Some(other), true) = (log.holds.replace(who), log.stood_still.is_empty()) {
            log.overlap = Some(format!("{who} and {other} hold the lock"));
        }
    }
    let result = work();
    let mut log = locked(log);
    log.holds = log.holds.filter(|holder| *holder != who);
    result
}

fn failed(error: &Error, content: Content) -> Said {
    match error.is_lease_lost() || error.is_timeout() {
        true => Said::Gave(error.to_string(), content),
        false => Said::Wrong(error.to_string()),
    }
}

fn gets(cache: &Cache, who: usize, log: &Mutex<Log>) -> Said {
    let bytes = format!("{who} got").into_bytes();
    let mut produced = false;
    let got = cache
        .entry("entry")
        .map_err(GetError::Cache)
        .and_then(|entry| {
            entry.get_or_refresh(&Policy::any_age(), |refresh| {
                produced = true;
                locked(log).produced += 1;
                refresh.write_all(&bytes)
            })
        });
    match got {
        Ok(Some(snapshot)) => {
            let generation = snapshot.meta().generation;
            match (produced, generation) {
                (true, Some(generation)) if snapshot[..] == bytes[..] => {
                    Said::Published(generation, Some(bytes))
                }
                (true, _) => Said::Surpassed(Found::Value(snapshot.to_vec(), generation)),
                _ => Said::Read(Found::Value(snapshot.to_vec(), generation)),
            }
        }
        Ok(None) => Said::Wrong("it got nothing".to_owned()),
        Err(GetError::Cache(error)) => failed(&error, Some(bytes)),
        Err(GetError::Produce(error)) => Said::Gave(error.to_string(), Some(bytes)),
    }
}

fn reads(cache: &Cache) -> Said {
    match cache.entry("entry").and_then(|entry| entry.read()) {
        Ok(read) => Said::Read(Found::of(read)),
        Err(error) => Said::Wrong(error.to_string()),
    }
}
