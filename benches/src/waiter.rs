//! The roles of this program's copies.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachelock::platform::{self, Access, Event};
use cachelock::{Durability, Policy};
use cachelock_bench::{KIB, cache, refresh};

use crate::child::{now, say};
use crate::handoff;

/// What a herd's producer takes.
pub(crate) const PRODUCER: Duration = Duration::from_millis(200);

pub(crate) fn play(role: &str, dir: &Path) {
    match role {
        "measure" => handoff::measure(dir),
        "wait" => wait(dir),
        "crowd" => crowd(dir),
        "refresh" => refreshes(dir),
        "herd" => herd(dir),
        "start" => {}
        _ => panic!("{role:?} is no role"),
    }
}

pub(crate) fn plain(dir: &Path) -> File {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("plain.lock"))
        .unwrap()
}

/// For each line, waits that way, says when it had the lock (or how long it took to get what nobody held), and releases
/// it.
fn wait(dir: &Path) {
    let cache = cache(&dir.join("cache"), Durability::None);
    let helper = Helper::start();
    for way in std::io::stdin().lines() {
        match way.unwrap().as_str() {
            "flock" => {
                let file = plain(dir);
                file.lock().unwrap();
                say(now());
                file.unlock().unwrap();
            }
            "fs4" => {
                let file = plain(dir);
                fs4::FileExt::lock(&file).unwrap();
                say(now());
                fs4::FileExt::unlock(&file).unwrap();
            }
            "fd-lock" => {
                let mut lock = fd_lock::RwLock::new(plain(dir));
                let guard = lock.write().unwrap();
                say(now());
                drop(guard);
            }
            "fslock" => {
                let mut lock = fslock::LockFile::open(&dir.join("plain.lock")).unwrap();
                lock.lock().unwrap();
                say(now());
                lock.unlock().unwrap();
            }
            "gate" => {
                let file = helper.lock(dir);
                say(now());
                file.unlock().unwrap();
            }
            "lock" => {
                let lock = cache.lock().unwrap();
                say(now());
                drop(lock);
            }
            "bare" => {
                let began = now();
                let lock = cache.lock().unwrap();
                say(now() - began);
                drop(lock);
            }
            "poll" => {
                let file = plain(dir);
                let mut pause = Duration::from_millis(10);
                while file.try_lock().is_err() {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                say(now());
                file.unlock().unwrap();
            }
            way => panic!("{way:?} is no way to wait"),
        }
    }
}

/// One of many: for each line acquires, releases at once, and says when it had the lock and when it began to release; or, of
/// a lock that nobody held, when it began and when it had released.
fn crowd(dir: &Path) {
    let cache = cache(&dir.join("cache"), Durability::None);
    let helper = Helper::start();
    for way in std::io::stdin().lines() {
        let (acquired, released) = match way.unwrap().as_str() {
            "gate" => {
                let file = helper.lock(dir);
                let times = (now(), now());
                file.unlock().unwrap();
                times
            }
            "flock" => {
                let file = plain(dir);
                file.lock().unwrap();
                let times = (now(), now());
                file.unlock().unwrap();
                times
            }
            "bare" => {
                let began = now();
                drop(cache.lock().unwrap());
                (began, now())
            }
            _ => {
                let lock = cache.lock().unwrap();
                let times = (now(), now());
                drop(lock);
                times
            }
        };
        say(acquired);
        say(released);
    }
}

/// For each line refreshes as often as it says.
fn refreshes(dir: &Path) {
    let cache = cache(&dir.join("cache"), Durability::None);
    let entry = cache.entry("entry").unwrap();
    let payload = [7; 4 * KIB];
    for times in std::io::stdin().lines() {
        for _ in 0..times.unwrap().parse().unwrap() {
            refresh(&entry, &payload);
        }
        say(now());
    }
}

/// Wants an entry that nobody has yet.
fn herd(dir: &Path) {
    let cache = cache(&dir.join("cache"), Durability::None);
    let entry = cache.entry("entry").unwrap();
    let got = entry.get_or_refresh(&Policy::any_age(), |refresh| {
        let runs = File::options()
            .create(true)
            .append(true)
            .open(dir.join("runs"));
        runs?.write_all(b"x")?;
        std::thread::sleep(PRODUCER);
        refresh.write_all(&[7; 4 * KIB])
    });
    assert_eq!(got.unwrap().unwrap().len(), 4 * KIB);
}

/// What the library's `gate` and `helper` do about a taken lock, and nothing that they do beside it: the time that the
/// mechanism takes by itself.
#[derive(Clone)]
struct Helper {
    /// The file to lock, for the thread; it sleeps while there is none.
    order: Arc<Mutex<Option<Arc<dyn platform::File>>>>,
    ordered: Arc<dyn Event>,
    locked: Arc<dyn Event>,
}

impl Helper {
    fn start() -> Self {
        let native = platform::native();
        let helper = Helper {
            order: Arc::default(),
            ordered: native.event(),
            locked: native.event(),
        };
        let thread = helper.clone();
        let task = move || {
            loop {
                let order = thread.order.lock().unwrap().take();
                match order {
                    Some(file) => {
                        file.lock().unwrap();
                        thread.locked.set();
                    }
                    None => sleep(&*thread.ordered),
                }
            }
        };
        native.spawn("gate", Box::new(task)).unwrap();
        helper
    }

    fn lock(&self, dir: &Path) -> Arc<dyn platform::File> {
        let opened = platform::native()
            .open_dir(dir)
            .unwrap()
            .open("plain.lock", Access::Write);
        let file: Arc<dyn platform::File> = Arc::from(opened.unwrap());
        if !file.try_lock().unwrap() {
            *self.order.lock().unwrap() = Some(file.clone());
            self.ordered.set();
            sleep(&*self.locked);
        }
        file
    }
}

/// Until the event is set. With a deadline, as all of the library's waits at the gate.
fn sleep(event: &dyn Event) {
    while !event.wait_until(Some(now() + Duration::from_secs(10))) {}
}
