//! A native process that reads, or refreshes and reads, and writes down when it did what.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use cachelock::{Cache, Entry, Event, EventKind, Locking, Mutation, Snapshot, Verification};

use super::history::{End, Hold, Read, failure, now};
use crate::payload::{Origin, make, origin_of};
use crate::process::ends_with_parent;
use crate::random::Random;

pub(super) const ENTRY: &str = "entry";

/// What a process does. The last two are planted defects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Reader,
    /// Refreshes with the kernel lock and the lease.
    Native,
    /// Refreshes with the lease alone.
    Lease,
    /// With [`Mutation::StateReadEarly`].
    StateReadEarly,
    /// Puts back, without the lock, what was there before.
    Restorer,
}

impl Role {
    const ALL: [Role; 5] = [
        Role::Reader,
        Role::Native,
        Role::Lease,
        Role::StateReadEarly,
        Role::Restorer,
    ];
}

/// What a process is told.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    pub(super) dir: PathBuf,
    pub(super) owner: u64,
    pub(super) role: Role,
    pub(super) lease: Duration,
    /// When it ends, on the clock of [`now`].
    pub(super) until: u64,
    pub(super) seed: u64,
}

pub(super) fn cache_in(dir: &Path) -> PathBuf {
    dir.join("cache")
}

pub(super) fn log_in(dir: &Path, owner: u64) -> PathBuf {
    dir.join(format!("history-{owner}"))
}

impl Orders {
    pub(super) fn words(&self) -> Vec<String> {
        vec![
            self.dir.display().to_string(),
            self.owner.to_string(),
            format!("{:?}", self.role),
            self.lease.as_millis().to_string(),
            self.until.to_string(),
            self.seed.to_string(),
        ]
    }

    fn parse(words: &[String]) -> Option<Self> {
        let [dir, owner, role, lease, until, seed] = words else {
            return None;
        };
        Some(Self {
            dir: dir.into(),
            owner: owner.parse().ok()?,
            role: Role::ALL
                .into_iter()
                .find(|of| format!("{of:?}") == *role)?,
            lease: Duration::from_millis(lease.parse().ok()?),
            until: until.parse().ok()?,
            seed: seed.parse().ok()?,
        })
    }
}

/// The process.
pub(super) fn run(words: &[String]) -> ExitCode {
    let Some(orders) = Orders::parse(words) else {
        eprintln!("no orders: {words:?}");
        return ExitCode::from(2);
    };
    if !ends_with_parent() {
        return ExitCode::FAILURE;
    }
    // Kept in memory meanwhile: writing it down must not take the time of what it is about.
    let mut log = String::new();
    if let Err(error) = work(&orders, &mut log) {
        log.push_str(&failure(orders.owner, &error.to_string()));
    }
    match fs::write(log_in(&orders.dir, orders.owner), log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("a history: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work(orders: &Orders, log: &mut String) -> io::Result<()> {
    let overtook = Arc::new(AtomicBool::new(false));
    let heard = overtook.clone();
    let mut builder = Cache::builder(cache_in(&orders.dir))
        .lease(orders.lease)
        .timeout(Duration::from_secs(60))
        .observer(move |event: &Event<'_>| {
            if event.kind == EventKind::LeaseTakenOver {
                heard.store(true, Ordering::Relaxed);
            }
        });
    if orders.role == Role::Lease {
        builder = builder.locking(Locking::Lease);
    }
    if orders.role == Role::StateReadEarly {
        builder = builder.mutation(Mutation::StateReadEarly);
    }
    let entry = builder.open()?.entry(ENTRY)?;
    let mut random = Random::new(orders.seed);
    let mut reader = entry.reader();
    let mut number = 0;
    while now() < orders.until {
        let writes = orders.role != Role::Reader && random.one_in(3);
        if writes && orders.role == Role::Restorer {
            restore(&orders.dir, &entry)?;
        } else if writes {
            number += 1;
            overtook.store(false, Ordering::Relaxed);
            if let Some(mut hold) = refresh(orders, &entry, number, &mut random)? {
                hold.overtook = Some(overtook.load(Ordering::Relaxed));
                log.push_str(&hold.line());
            }
        } else {
            // With and without what a reader remembers.
            let began = now();
            let read = match orders.owner % 2 {
                0 => entry.read(),
                _ => reader.read(),
            };
            let ended = now();
            let read = read
                .map_err(io::Error::from)
                .and_then(|snapshot| read_of(orders.owner, began, ended, snapshot));
            match read {
                Ok(read) => log.push_str(&read.line()),
                // The next ones are wanted, too.
                Err(error) => log.push_str(&failure(orders.owner, &error.to_string())),
            }
        }
        thread::sleep(Duration::from_micros(random.below(2000)));
    }
    Ok(())
}

fn read_of(reader: u64, began: u64, ended: u64, snapshot: Option<Snapshot>) -> io::Result<Read> {
    let snapshot = snapshot.ok_or_else(|| other("there is nothing"))?;
    if snapshot.meta().verification != Verification::Verified {
        return Err(other(snapshot.meta().verification.name()));
    }
    Ok(Read {
        reader,
        began,
        ended,
        origin: origin_of(&snapshot).map_err(other)?,
        generation: snapshot.meta().generation,
    })
}

pub(super) fn other(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

fn is_lease_lost(error: &io::Error) -> bool {
    let ours = error.get_ref();
    let ours = ours.and_then(|error| error.downcast_ref::<cachelock::Error>());
    ours.is_some_and(cachelock::Error::is_lease_lost)
}

/// `None` if the lease was lost before it was had for certain.
fn refresh(
    orders: &Orders,
    entry: &Entry,
    number: u64,
    random: &mut Random,
) -> io::Result<Option<Hold>> {
    let asked = now();
    let mut refresh = match entry.refresh() {
        Ok(refresh) => refresh,
        Err(error) if error.is_lease_lost() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let acquired = now();
    let origin = Origin {
        writer: orders.owner,
        number,
    };
    let mut hold = Hold {
        owner: orders.owner,
        native: orders.role != Role::Lease,
        asked,
        acquired,
        publishing: acquired,
        ended: acquired,
        epoch: Some(refresh.epoch()),
        overtook: None,
        origin,
        end: End::Lost,
    };
    let payload = make(origin);
    let mut publish = || {
        let (first, rest) = payload.split_at(payload.len() / 2);
        refresh.write_all(first)?;
        refresh.flush()?;
        // Time to be frozen in.
        thread::sleep(Duration::from_micros(random.below(1500)));
        refresh.write_all(rest)
    };
    let written = publish();
    hold.publishing = now();
    let published = match written {
        Ok(()) => refresh.publish().map_err(io::Error::from),
        Err(error) => Err(error),
    };
    hold.ended = now();
    match published {
        Ok(published) => {
            let generation = published.generation;
            hold.end = End::Committed { generation };
        }
        Err(error) if is_lease_lost(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(Some(hold))
}

/// As somebody would who knows where the files are, and not of the lock.
fn restore(dir: &Path, entry: &Entry) -> io::Result<()> {
    let tag = cache_in(dir).join(".cachelock/tags").join(ENTRY);
    let saved = [(entry.path(), dir.join("payload")), (tag, dir.join("tag"))];
    for (from, to) in &saved {
        fs::copy(from, to)?;
    }
    thread::sleep(Duration::from_millis(20));
    for (from, to) in &saved {
        fs::rename(to, from)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_back() {
        for role in Role::ALL {
            let orders = Orders {
                dir: "/a b/c".into(),
                owner: 3,
                role,
                lease: Duration::from_millis(100),
                until: u64::MAX,
                seed: 7,
            };
            let back = Orders::parse(&orders.words()).expect("they are whole");
            assert_eq!(format!("{back:?}"), format!("{orders:?}"));
        }
    }
}
