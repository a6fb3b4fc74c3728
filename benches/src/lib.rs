//! What is measured: one function for each operation, ours and others'. The program `bench` takes them in turns and compares;
//! `benches/alone.rs` runs each by itself.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cachelock::{Cache, Durability, Entry};

/// Of a payload's length.
pub const KIB: usize = 1024;
/// Of a payload's length.
pub const MIB: usize = 1024 * KIB;

/// A cache for one way of measuring.
#[must_use]
pub fn cache(dir: &Path, durability: Durability) -> Cache {
    Cache::builder(dir)
        .durability(durability)
        .timeout(Duration::from_secs(3600))
        .open()
        .unwrap()
}

/// Lock, write, tag, publish, release.
pub fn refresh(entry: &Entry, payload: &[u8]) {
    let mut refresh = entry.refresh().unwrap();
    refresh.write_all(payload).unwrap();
    refresh.publish().unwrap();
}

/// What many tools do by hand: a kernel lock by `fs4`, and `tempfile`'s rename over the old file under it.
pub fn tempfile_under_fs4(dir: &Path, payload: &[u8]) {
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("lock"))
        .unwrap();
    fs4::FileExt::lock(&lock).unwrap();
    let mut file = tempfile::NamedTempFile::new_in(dir).unwrap();
    file.write_all(payload).unwrap();
    file.persist(dir.join("entry")).unwrap();
    fs4::FileExt::unlock(&lock).unwrap();
}

/// Write, sync the file, rename, sync the directory; no lock.
pub fn atomic_write_file(dir: &Path, payload: &[u8]) {
    let mut file = atomic_write_file::AtomicWriteFile::open(dir.join("entry")).unwrap();
    file.write_all(payload).unwrap();
    file.commit().unwrap();
}

/// The files that a refresh makes, renames and removes, with its syncs, and nothing else: no lock, no look, no check.
pub struct Files {
    dir: PathBuf,
    durability: Durability,
    made: u64,
}

impl Files {
    /// In the empty directory `dir`.
    #[must_use]
    pub fn new(dir: &Path, durability: Durability) -> Self {
        for folder in [dir.join("control"), dir.join("control/tags")] {
            fs::create_dir(folder).unwrap();
        }
        Files {
            dir: dir.to_owned(),
            durability,
            made: 0,
        }
    }

    /// As a refresh leaves them.
    pub fn refresh(&mut self, payload: &[u8]) {
        self.made += 1;
        let control = self.dir.join("control");
        let name = |what: &str| control.join(format!("{what}-{:020}", self.made));
        let new = |path: &Path, bytes: &[u8]| {
            let mut file = File::create_new(path).unwrap();
            file.write_all(bytes).unwrap();
            file
        };
        let [claim, head, stage, tag] = ["claim", "head", "stage", "tag"].map(name);
        drop(new(&claim, &[b' '; 512]));
        File::create_new(&head).unwrap().set_len(self.made).unwrap();
        fs::rename(head, control.join("head")).unwrap();
        let payload = new(&stage, payload);
        // As long as one of a short name.
        let record = new(&tag, &[b' '; 340]);
        if self.durability != Durability::None {
            payload.sync_data().unwrap();
        }
        if self.durability == Durability::Full {
            record.sync_data().unwrap();
        }
        drop((payload, record));
        for (from, folder) in [(tag, control.join("tags")), (stage, self.dir.clone())] {
            self.replace(&from, &folder.join("entry"));
            if self.durability == Durability::Full {
                File::open(folder).unwrap().sync_all().unwrap();
            }
        }
        fs::remove_file(claim).unwrap();
    }

    #[cfg(not(target_os = "linux"))]
    fn replace(&self, from: &Path, to: &Path) {
        fs::rename(from, to).unwrap();
    }

    #[cfg(target_os = "linux")]
    fn replace(&self, from: &Path, to: &Path) {
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        let exchanged = self.durability == Durability::None
            && rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, exchange)
                .is_ok();
        match exchanged {
            true => fs::remove_file(from).unwrap(),
            false => fs::rename(from, to).unwrap(),
        }
    }
}

/// Write, sync the file if asked, rename.
pub fn plain_replace(dir: &Path, payload: &[u8], sync: bool) {
    let new = dir.join("entry.new");
    let mut file = File::create(&new).unwrap();
    file.write_all(payload).unwrap();
    if sync {
        file.sync_all().unwrap();
    }
    drop(file);
    fs::rename(new, dir.join("entry")).unwrap();
}

/// `cacache`, which hashes and keeps an index, and has no lock.
pub fn cacache_write(dir: &Path, payload: &[u8]) {
    cacache::write_sync(dir, "entry", payload).unwrap();
}

/// The verified read of `cacache`.
#[must_use]
pub fn cacache_read(dir: &Path) -> usize {
    cacache::read_sync(dir, "entry").unwrap().len()
}
