//! What processes of this test's own binary do: natives, and the host of two guests.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use cachelock::{Cache, Durability, Entry, Error, Event, EventKind};
use cachelock_host::{Caches, Limits};
use rustix::time::{ClockId, clock_gettime};
use wasmtime::component::Component;
use wasmtime_wasi::{FsPerms, HostMonotonicClock, WasiCtx};

use crate::part::{self, Eyes, LEN, Part, Refreshed, payload};
use crate::support::{self, ENGINE, built};

/// The words of a [`Part`].
pub(crate) const PART: &str = "CACHELOCK_TEST_PART";
/// For a host: how each of its guests locks, `gate` or `lease`.
pub(crate) const GUESTS: &str = "CACHELOCK_TEST_INSTANCES";

/// The one clock of this machine.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The same clock for guests.
struct Clock;

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        now()
    }
}

pub(crate) fn play(words: &str) {
    let words: Vec<_> = words.split(' ').map(str::to_owned).collect();
    let part = Part::parse(&words);
    // The test harness has left a line unfinished.
    println!();
    match &*part.verb {
        "write" => write(&part),
        "read" => read(&part),
        "plain" => plain(&part),
        "rename" => without_lock(&part, rename),
        "overwrite" => without_lock(&part, overwrite),
        "host" => host(&part),
        verb => panic!("nobody can {verb}"),
    }
}

fn say_wrong(part: &Part, error: &dyn std::fmt::Display) {
    println!("{}", part::wrong(part.id, &error.to_string()));
}

fn write(part: &Part) {
    let [acquired, published] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    let stamps = [acquired.clone(), published.clone()];
    let cache = Cache::builder(&part.cache)
        .timeout(Duration::from_secs(60))
        .lease(Duration::from_millis(part.lease_ms))
        .durability(Durability::None)
        .observer(move |event: &Event<'_>| match event.kind {
            EventKind::LockAcquired => stamps[0].store(now(), Ordering::Relaxed),
            // Said while the lock is held.
            EventKind::RefreshPublished => stamps[1].store(now(), Ordering::Relaxed),
            _ => {}
        })
        .open()
        .expect("opening touches nothing");
    let entry = cache.entry("entry").expect("a name");
    let until = part::start(part.run_ms, now);
    let mut number = 0;
    while now() < until {
        number += 1;
        let asked = now();
        let generation = match refresh(part, &entry, number) {
            Ok(generation) => Some(generation),
            Err(error) if error.is_lease_lost() => None,
            Err(error) => return say_wrong(part, &error),
        };
        let ended = now();
        let closing = match generation {
            Some(_) => published.load(Ordering::Relaxed),
            None => ended,
        };
        let acquired = acquired.load(Ordering::Relaxed);
        Refreshed {
            number,
            asked,
            acquired,
            closing,
            ended,
            generation,
        }
        .report(part.id);
    }
    println!("done {} {number}", part.id);
}

fn refresh(part: &Part, entry: &Entry, number: u64) -> Result<u64, Error> {
    let payload = payload(part.id, number);
    let mut refresh = entry.refresh()?;
    println!("took {} {number}", part.id);
    let written = refresh.write_all(&payload);
    written.map_err(|error| error.downcast::<Error>().expect("the library's own"))?;
    thread::sleep(Duration::from_millis(part.work_ms));
    Ok(refresh.publish()?.generation)
}

fn read(part: &Part) {
    let cache = Cache::open(&part.cache).expect("opening touches nothing");
    let mut reader = cache.entry("entry").expect("a name").reader();
    read_all_the_time(part, || {
        let snapshot = reader.read()?;
        let generation = snapshot.as_ref().and_then(|found| found.meta().generation);
        if snapshot.is_some() && generation.is_none() {
            return Err("the payload is not verified".into());
        }
        Ok((generation, snapshot))
    });
}

fn plain(part: &Part) {
    let path = Path::new(&part.cache).join("entry");
    read_all_the_time(part, || match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((None, None)),
        read => Ok((None, Some(read?))),
    });
}

type Found<B> = Result<(Option<u64>, Option<B>), Box<dyn std::error::Error>>;

fn read_all_the_time<B: AsRef<[u8]>>(part: &Part, mut read: impl FnMut() -> Found<B>) {
    let until = part::start(part.run_ms, now);
    let mut eyes = Eyes::new(part.id);
    while now() < until {
        let began = now();
        let report = match read() {
            Ok((generation, bytes)) => {
                let bytes = bytes.as_ref().map(AsRef::as_ref);
                eyes.saw(generation, bytes, [began, now()])
            }
            Err(error) => Some(eyes.wrong(&error.to_string())),
        };
        if let Some(report) = report {
            println!("{report}");
        }
    }
    println!("{}", eyes.close());
}

/// A defect: publishes without asking anybody.
fn without_lock(part: &Part, publish: fn(&Path, &[u8]) -> io::Result<()>) {
    let cache = Path::new(&part.cache);
    // It may be the first one here.
    std::fs::create_dir_all(cache).expect("there is room");
    let path = cache.join("entry");
    let until = part::start(part.run_ms, now);
    let mut number = 0;
    while now() < until {
        number += 1;
        publish(&path, &payload(part.id, number)).expect("nobody keeps it from that");
        thread::sleep(Duration::from_millis(20));
    }
    println!("done {} {number}", part.id);
}

fn rename(path: &Path, payload: &[u8]) -> io::Result<()> {
    let new = path.with_file_name("new");
    std::fs::write(&new, payload)?;
    std::fs::rename(new, path)
}

fn overwrite(path: &Path, payload: &[u8]) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    for half in payload.chunks(LEN / 2) {
        file.write_all(half)?;
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Guests that write, each in a thread and a store of its own. Their ids count up from the host's.
fn host(part: &Part) {
    let guests = std::env::var(GUESTS).expect("what the guests lock with");
    let guests: Vec<_> = guests
        .split(' ')
        .map(|locks| {
            let bytes = match locks {
                "gate" => std::fs::read(built("stress-guest.wasm")).expect("readable"),
                _ => support::joined("stress-guest.wasm"),
            };
            let guest = Component::from_binary(&ENGINE, &bytes).expect("a component");
            (locks == "gate", guest)
        })
        .collect();
    part::start(part.run_ms, now);
    thread::scope(|scope| {
        for (id, (has_gate, guest)) in (part.id..).zip(&guests) {
            scope.spawn(move || instance(part, id, *has_gate, guest));
        }
    });
}

fn instance(part: &Part, id: u32, has_gate: bool, guest: &Component) {
    let mut wasi = WasiCtx::builder();
    let mut limits = Limits::default();
    limits.timeout = Duration::from_secs(60);
    let mut caches = Caches::new(limits);
    if has_gate {
        caches = caches.grant("/cache", &part.cache);
    } else {
        wasi.preopened_dir(&part.cache, "/cache", FsPerms::ReadWrite)
            .expect("the directory is there");
    }
    let its_part = Part {
        verb: "write".into(),
        id,
        cache: "/cache".into(),
        ..part.clone()
    };
    // No input: it starts when this process does.
    wasi.arg("guest")
        .args(&its_part.words())
        .monotonic_clock(Clock)
        .inherit_stdout()
        .inherit_stderr();
    let (_, ended) = support::run_command(guest, caches, &mut wasi);
    if !matches!(ended, Ok(Ok(()))) {
        say_wrong(part, &format!("guest {id} ended with {ended:?}"));
    }
}
