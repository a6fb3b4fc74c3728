//! Two threads that read all the time: one through a [`cachelock::Reader`], one anew each time and past the library.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cachelock::{Entry, Verification};

use super::ground::{Fault, FaultKind};
use crate::payload::origin_of;
use crate::process::{goes_on, last_claimer};
use crate::threads::locked;

/// Between two reads, so that there is time for anything else.
const PAUSE: Duration = Duration::from_micros(500);

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    floor: AtomicU64,
    reads: AtomicU64,
    fault: Mutex<Option<Fault>>,
    /// When the last payloads were seen first, or a holder was seen that lives and takes its time.
    news: Mutex<VecDeque<Instant>>,
}

/// So many of those, which are of more time than anybody waits.
const NEWS: usize = 100_000;

/// The threads; they end when this is dropped.
#[derive(Default)]
pub(super) struct Readers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(super) fn start(entry: &Entry) -> io::Result<Self> {
        let mut readers = Readers::default();
        for remembers in [true, false] {
            let (entry, shared) = (entry.clone(), readers.shared.clone());
            let thread = thread::Builder::new().spawn(move || {
                if let Err(fault) = read_on(&entry, &shared, remembers) {
                    locked(&shared.fault).get_or_insert(fault);
                }
            });
            readers.threads.push(thread?);
        }
        Ok(readers)
    }

    /// No read that begins from now on may be older.
    pub(super) fn set_floor(&self, generation: u64) {
        self.shared.floor.fetch_max(generation, Ordering::SeqCst);
    }

    pub(super) fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::Relaxed)
    }

    /// The longest time since `began` in which nothing new was seen, nor a holder that lives.
    pub(super) fn silence_since(&self, began: Instant) -> Duration {
        let news = locked(&self.shared.news);
        let meanwhile = news.iter().rev().copied().filter(|seen| *seen > began);
        let mut last = began;
        let mut longest = Duration::ZERO;
        for seen in meanwhile.chain([Instant::now()]) {
            longest = longest.max(seen.saturating_duration_since(last));
            last = seen;
        }
        longest
    }

    /// What they have found wrong.
    pub(super) fn check(&self) -> Result<(), Fault> {
        match &*locked(&self.shared.fault) {
            Some(fault) => Err(fault.clone()),
            None => Ok(()),
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn read_on(entry: &Entry, shared: &Shared, remembers: bool) -> Result<(), Fault> {
    let torn = |why: String| FaultKind::Torn.with(format!("a reader: {why}"));
    let mut reader = entry.reader();
    let (mut last, mut newest, mut looked) = (0, 0, Instant::now());
    while !shared.ends.load(Ordering::Relaxed) {
        last = last.max(shared.floor.load(Ordering::SeqCst));
        let read = match remembers {
            true => reader.read(),
            false => entry.read(),
        };
        let snapshot = read.map_err(|error| torn(error.to_string()))?;
        let snapshot = snapshot.ok_or_else(|| torn("there is nothing".to_owned()))?;
        origin_of(&snapshot).map_err(torn)?;
        let meta = snapshot.meta();
        if meta.verification != Verification::Verified {
            return Err(torn(meta.verification.name().to_owned()));
        }
        let generation = meta.generation.unwrap_or_default();
        if generation < last {
            let text = format!("a reader sees generation {generation} after {last}");
            return Err(FaultKind::Generation.with(text));
        }
        if !remembers {
            let is_news = std::mem::replace(&mut newest, generation) != generation;
            let looks = looked.elapsed() > SILENT;
            if is_news || looks {
                looked = Instant::now();
            }
            if is_news || (looks && holder_lives(entry)) {
                let mut news = locked(&shared.news);
                news.truncate(NEWS);
                news.push_front(Instant::now());
            }
            let bytes = fs::read(entry.path()).map_err(|error| torn(error.to_string()))?;
            origin_of(&bytes).map_err(torn)?;
            shared.reads.fetch_add(1, Ordering::Relaxed);
        }
        last = generation;
        shared.reads.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// After so much of nothing new the holder is looked at.
const SILENT: Duration = Duration::from_millis(100);

/// Whether the last claim is a process's that is neither dead nor stopped: it waits for the disk, say.
fn holder_lives(entry: &Entry) -> bool {
    let control = entry.path().with_file_name(".cachelock");
    last_claimer(&control).is_some_and(goes_on)
}
