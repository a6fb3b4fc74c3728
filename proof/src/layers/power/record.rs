//! Refreshes on an ext4 whose device records each write.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cachelock::{Cache, Durability, Mutation};
use rustix::process::{Pid, Signal, kill_process};

use super::log::Log;
use crate::payload::{Origin, make};
use crate::random::Random;

pub(super) const ENTRY: &str = "entry";

pub(super) const LEASE: Duration = Duration::from_secs(2);

/// In one recording.
const PUBLISHES: u64 = 3;

pub(super) const DISK: u64 = 16 << 20;

/// Who publishes, and how. All but the first two are planted defects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Data,
    Full,
    /// `Durability::None`, of which nobody promises anything.
    NoneForData,
    /// `Durability::Data`, from which an acknowledged publish need not survive.
    DataForFull,
    /// [`Mutation::NoSync`].
    NoSync,
    /// Writes a file and renames it, without the library.
    Plain,
}

impl Style {
    pub(super) const ALL: [Style; 6] = [
        Style::Data,
        Style::Full,
        Style::NoneForData,
        Style::DataForFull,
        Style::NoSync,
        Style::Plain,
    ];

    /// Whether an acknowledged publish must be there.
    pub(super) fn is_full(self) -> bool {
        matches!(self, Style::Full | Style::DataForFull | Style::NoSync)
    }

    fn durability(self) -> Durability {
        match self {
            Style::Full | Style::NoSync => Durability::Full,
            Style::Data | Style::DataForFull => Durability::Data,
            Style::NoneForData | Style::Plain => Durability::None,
        }
    }
}

pub(super) fn cache_in(dir: &Path) -> PathBuf {
    dir.join("cache")
}

/// How long the log was when a publish began, and when it was acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Published {
    pub(super) began: u64,
    pub(super) acknowledged: u64,
}

/// What was recorded.
pub(super) struct Recording {
    pub(super) base: Vec<u8>,
    pub(super) log: Log,
    /// In order: the first one is generation 1, and its payload has the number 1.
    pub(super) published: Vec<Published>,
}

/// The device: a program that serves a file through FUSE and writes down what is written.
struct Device {
    child: Child,
}

impl Device {
    fn start(dir: &Path) -> io::Result<Self> {
        File::create(dir.join("log"))?;
        File::create(dir.join("device"))?;
        let child = Command::new("qemu-storage-daemon")
            .args(["--blockdev", "driver=file,node-name=disk,filename=disk"])
            .args(["--blockdev", "driver=file,node-name=writes,filename=log"])
            .arg("--blockdev")
            .arg("driver=blklogwrites,node-name=recorded,file=disk,log=writes,log-super-update-interval=1")
            .arg("--export")
            .arg("type=fuse,id=device,node-name=recorded,mountpoint=device,writable=on")
            .current_dir(dir)
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| said("qemu-storage-daemon (Debian: qemu-utils)", &error))?;
        let mut device = Self { child };
        let began = Instant::now();
        while fs::metadata(dir.join("device"))?.len() != DISK {
            if let Some(status) = device.child.try_wait()? {
                return Err(other(format!("qemu-storage-daemon ended with {status}")));
            }
            if began.elapsed() > Duration::from_secs(20) {
                return Err(other("qemu-storage-daemon exports nothing"));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(device)
    }

    /// Until all is in the log.
    fn end(mut self) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.ok_or_else(|| other("no process"))?, Signal::TERM)?;
        self.child.wait().map(drop)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Both fail only for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn other(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

fn said(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Runs a program of the system to its end.
pub(super) fn system(dir: &Path, words: &[&str]) -> io::Result<()> {
    let [program, arguments @ ..] = words else {
        return Ok(());
    };
    let out = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| said(program, &error))?;
    if out.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&out.stderr);
    Err(other(format!("{}: {why}", words.join(" "))))
}

/// A mounted image; not mounted any more when this is dropped.
pub(super) struct Mounted<'a> {
    dir: &'a Path,
    name: String,
    pub(super) at: PathBuf,
}

impl<'a> Mounted<'a> {
    /// The file `image` in `dir`, mounted beside it.
    pub(super) fn new(dir: &'a Path, image: &str) -> io::Result<Self> {
        let name = format!("{image}-at");
        let at = dir.join(&name);
        fs::create_dir_all(&at)?;
        // Without what ext4 does for programs that rename without a sync: other file systems do not.
        let options = "loop,noatime,noauto_da_alloc";
        system(dir, &["mount", "-t", "ext4", "-o", options, image, &name])?;
        Ok(Self { dir, name, at })
    }

    pub(super) fn end(mut self) -> io::Result<()> {
        let name = std::mem::take(&mut self.name);
        system(self.dir, &["umount", &name])
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            let _ = system(self.dir, &["umount", "-l", &self.name]);
        }
    }
}

/// Records some publishes by `writer`, in the empty directory `dir`.
pub(super) fn record(dir: &Path, style: Style, writer: u64) -> io::Result<Recording> {
    File::create(dir.join("disk"))?.set_len(DISK)?;
    let lazy = "lazy_itable_init=0,lazy_journal_init=0";
    system(
        dir,
        &[
            "mkfs.ext4",
            "-q",
            "-F",
            "-b",
            "4096",
            "-J",
            "size=4",
            "-E",
            lazy,
            "disk",
        ],
    )?;
    let base = fs::read(dir.join("disk"))?;
    let device = Device::start(dir)?;
    let mounted = Mounted::new(dir, "device")?;
    let published = publish_all(dir, &mounted.at, style, writer);
    mounted.end()?;
    device.end()?;
    let published = published?;
    let log = Log::parse(fs::read(dir.join("log"))?).map_err(other)?;
    for name in ["disk", "log", "device"] {
        fs::remove_file(dir.join(name))?;
    }
    Ok(Recording {
        base,
        log,
        published,
    })
}

fn publish_all(dir: &Path, at: &Path, style: Style, writer: u64) -> io::Result<Vec<Published>> {
    let log_len = || fs::metadata(dir.join("log")).map(|log| log.len());
    let mut builder = Cache::builder(cache_in(at))
        .lease(LEASE)
        .durability(style.durability());
    if style == Style::NoSync {
        builder = builder.mutation(Mutation::NoSync);
    }
    let cache = builder.open()?;
    let entry = cache.entry(ENTRY)?;
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let neighbour = scope.spawn(|| be_neighbour(at, writer, &ends));
        let published = (1..=PUBLISHES).map(|number| {
            let payload = make(Origin { writer, number });
            let began = log_len()?;
            if style == Style::Plain {
                fs::create_dir_all(cache_in(at))?;
                let new = cache_in(at).join("new");
                fs::write(&new, &payload)?;
                fs::rename(&new, entry.path())?;
            } else {
                let mut refresh = entry.refresh()?;
                refresh.write_all(&payload)?;
                let generation = refresh.publish()?.generation;
                if generation != number {
                    return Err(other(format!(
                        "publish {number} is generation {generation}"
                    )));
                }
            }
            let acknowledged = log_len()?;
            // Time for the neighbour.
            thread::sleep(Duration::from_millis(3));
            Ok(Published {
                began,
                acknowledged,
            })
        });
        let published: io::Result<Vec<Published>> = published.collect();
        ends.store(true, Ordering::Relaxed);
        let neighbour = neighbour.join();
        neighbour.map_err(|_| other("the neighbour panicked"))??;
        published
    })
}

/// Somebody else on the same file system who syncs: with that the journal is written, and what others have renamed but not
/// synced.
fn be_neighbour(at: &Path, seed: u64, ends: &AtomicBool) -> io::Result<()> {
    let mut random = Random::new(seed);
    let mut file = File::create(at.join("neighbour"))?;
    while !ends.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_micros(random.below(3000)));
        file.write_all(b"x")?;
        if random.one_in(6) {
            rustix::fs::syncfs(&file)?;
        } else {
            file.sync_all()?;
        }
    }
    Ok(())
}
