//! What each process of a scene does, and what comes of it.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::Mutex;

use cachelock::{Cache, Error, GetError, Policy};

use crate::sim::Found;
use crate::threads::locked;

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    /// Publishes so many times.
    Publish(usize),
    /// The same from each of two threads, which queue up.
    Pair,
    /// Gets the entry, and publishes it if it is missing.
    Get,
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
        cache: &Cache,
        who: usize,
        thread: usize,
        log: &Mutex<Log>,
    ) -> Vec<Said> {
        let publish = |bytes| publishes(cache, who, bytes, log);
        match self.does {
            Does::Publish(times) => (0..times)
                .map(|time| publish(format!("{who} {time}")))
                .collect(),
            Does::Pair => vec![publish(format!("{who} thread {thread}"))],
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
}

/// What came of one task.
#[derive(Debug, Clone)]
pub(super) enum Said {
    Published(u64, Vec<u8>),
    Read(Found),
    /// It published, and was given what others have published since.
    Surpassed(Found),
    /// Overtaken, or out of time.
    Gave(String, Vec<u8>),
    Wrong(String),
}

fn publishes(cache: &Cache, who: usize, bytes: String, log: &Mutex<Log>) -> Said {
    let bytes = bytes.into_bytes();
    let publish = || -> Result<u64, Error> {
        let mut refresh = cache.entry("entry")?.refresh()?;
        refresh.write_all(&bytes).expect("it stays in the buffer");
        let held = held(who, log, || refresh.check_held());
        held?;
        Ok(refresh.publish()?.generation)
    };
    match publish() {
        Ok(generation) => Said::Published(generation, bytes),
        Err(error) => failed(&error, bytes),
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

fn failed(error: &Error, bytes: Vec<u8>) -> Said {
    match error.is_lease_lost() || error.is_timeout() {
        true => Said::Gave(error.to_string(), bytes),
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
                    Said::Published(generation, bytes)
                }
                (true, _) => Said::Surpassed(Found::Value(snapshot.to_vec(), generation)),
                _ => Said::Read(Found::Value(snapshot.to_vec(), generation)),
            }
        }
        Ok(None) => Said::Wrong("it got nothing".to_owned()),
        Err(GetError::Cache(error)) => failed(&error, bytes),
        Err(GetError::Produce(error)) => Said::Gave(error.to_string(), bytes),
    }
}

fn reads(cache: &Cache) -> Said {
    match cache.entry("entry").and_then(|entry| entry.read()) {
        Ok(None) => Said::Read(Found::Missing),
        Ok(Some(read)) => Said::Read(Found::Value(read.to_vec(), read.meta().generation)),
        Err(error) => Said::Wrong(error.to_string()),
    }
}
