//! What is measured: one function for each operation, ours and others'. The program `bench` takes them in turns and compares;
//! `benches/alone.rs` runs each by itself.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cachelock::platform::{self, Dir};
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
    path: PathBuf,
    dir: Arc<dyn Dir>,
    control: Arc<dyn Dir>,
    tags: Arc<dyn Dir>,
    durability: Durability,
    made: u64,
}

impl Files {
    /// In the empty directory `dir`.
    #[must_use]
    pub fn new(dir: &Path, durability: Durability) -> Self {
        fs::create_dir_all(dir.join("control/tags")).unwrap();
        let [root, control, tags] = ["", "control", "control/tags"]
            .map(|path| platform::native().open_dir(&dir.join(path)).unwrap());
        Files {
            path: dir.to_owned(),
            dir: root,
            control,
            tags,
            durability,
            made: 0,
        }
    }

    /// As a refresh leaves them.
    pub fn refresh(&mut self, payload: &[u8]) {
        self.made += 1;
        let control = self.path.join("control");
        let name = |what: &str| format!("{what}-{:020}", self.made);
        let new = |name: &str, bytes: &[u8]| {
            let mut file = File::create_new(control.join(name)).unwrap();
            file.write_all(bytes).unwrap();
            file
        };
        let [claim, head, stage, tag] = ["claim", "head", "stage", "tag"].map(name);
        drop(new(&claim, &[b' '; 512]));
        new(&head, &[]).set_len(self.made).unwrap();
        self.control.rename(&head, &*self.control, "head").unwrap();
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
        for (from, folder) in [(tag, &self.tags), (stage, &self.dir)] {
            self.replace(&from, &**folder);
            if self.durability == Durability::Full {
                folder.sync().unwrap();
            }
        }
        self.control.unlink(&claim).unwrap();
    }

    /// Without durability as the library does, so that the file system writes nothing out.
    fn replace(&self, from: &str, to: &dyn Dir) {
        if self.durability != Durability::None {
            self.control.rename(from, to, "entry").unwrap();
        } else if self.control.displace(from, to, "entry").unwrap() {
            self.control.unlink(from).unwrap();
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
