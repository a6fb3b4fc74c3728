//! The simulated disk as its processes see it: inodes, names and contents. What of it would survive a power cut is kept
//! by [`durable`](super::durable).
//!
//! Nothing here locks, waits or knows of processes; each method is one atomic step on the whole disk.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::SystemTime;

use super::content::Content;
use super::durable::{Change, DataOp, NameOp, NameSet};
use crate::{FileId, FileKind, Metadata, Owner};

pub(super) type Ino = u64;

/// The inode of `/`.
pub(super) const ROOT: Ino = 1;

/// How many bytes a file may really hold; beyond that it may only be longer, as a hole. Keeps a wrong offset from taking
/// the host's memory.
const MAX_DATA: u64 = 1 << 31;

/// Links that may be passed on the way to a directory; the same number as on Linux.
const MAX_LINKS: usize = 40;

#[derive(Debug, Clone, Default)]
pub(super) struct FileBody {
    pub(super) now: Content,
    pub(super) durable: Content,
    pub(super) pending: Vec<DataOp>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct DirBody {
    pub(super) now: BTreeMap<String, Ino>,
    pub(super) durable: BTreeMap<String, Ino>,
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    File(FileBody),
    Dir(DirBody),
    Symlink(String),
    Other,
}

#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) body: Body,
    /// The number of names; a directory without one has been removed.
    pub(super) links: u64,
    pub(super) mode: u32,
    pub(super) owner: Owner,
    pub(super) modified: SystemTime,
    /// Handles have a clone: an inode stays while there is one. (A count would go wrong when a killed process's handles
    /// are dropped after the power cut that closed them.)
    pub(super) pin: Arc<()>,
    /// The name it last got, for people.
    pub(super) name: String,
}

#[derive(Clone)]
pub(super) struct Disk {
    pub(super) inodes: BTreeMap<Ino, Inode>,
    next: Ino,
    pub(super) next_op: u64,
    /// Name changes that are not durable yet, the oldest first.
    pub(super) pending: Vec<NameOp>,
    /// Whether changes become durable by a sync only; else at once.
    pub(super) tracks: bool,
    pub(super) capacity: Option<u64>,
    pub(super) read_only: bool,
    /// Directories in which a name was removed or renamed, or that were removed, since this was last taken.
    pub(super) touched: Vec<Ino>,
    collect_at: usize,
}

pub(super) fn error(kind: ErrorKind, why: &'static str) -> io::Error {
    io::Error::new(kind, why)
}

/// Refuses what is not a single plain segment.
pub(super) fn plain(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(error(ErrorKind::InvalidInput, "not a plain file name"));
    }
    Ok(())
}

impl Disk {
    pub(super) fn new(tracks: bool, now: SystemTime) -> Self {
        let mut disk = Self {
            inodes: BTreeMap::new(),
            next: ROOT,
            next_op: 0,
            pending: Vec::new(),
            tracks,
            capacity: None,
            read_only: false,
            touched: Vec::new(),
            collect_at: 256,
        };
        let root = disk.add(Body::Dir(DirBody::default()), 0o755, Owner::Me, "/", now);
        disk.inodes.get_mut(&root).expect("just added").links = 1;
        disk
    }

    fn add(&mut self, body: Body, mode: u32, owner: Owner, name: &str, now: SystemTime) -> Ino {
        let ino = self.next;
        self.next += 1;
        let pin = Arc::new(());
        self.inodes.insert(
            ino,
            Inode {
                body,
                links: 0,
                mode,
                owner,
                modified: now,
                pin,
                name: name.to_owned(),
            },
        );
        ino
    }

    /// An inode that somebody has a handle on or that has a name, so it is there.
    pub(super) fn get(&self, ino: Ino) -> &Inode {
        &self.inodes[&ino]
    }

    pub(super) fn get_mut(&mut self, ino: Ino) -> &mut Inode {
        self.inodes
            .get_mut(&ino)
            .expect("inodes in use are never collected")
    }

    pub(super) fn is_dir(&self, ino: Ino) -> bool {
        matches!(self.get(ino).body, Body::Dir(_))
    }

    pub(super) fn names(&self, dir: Ino) -> io::Result<&BTreeMap<String, Ino>> {
        match &self.get(dir).body {
            Body::Dir(body) => Ok(&body.now),
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn file_mut(&mut self, ino: Ino) -> io::Result<&mut FileBody> {
        match &mut self.get_mut(ino).body {
            Body::File(body) => Ok(body),
            Body::Dir(_) => Err(ErrorKind::IsADirectory.into()),
            _ => Err(error(ErrorKind::InvalidInput, "not an ordinary file")),
        }
    }

    pub(super) fn lookup(&self, dir: Ino, name: &str) -> io::Result<Ino> {
        plain(name)?;
        self.names(dir)?
            .get(name)
            .copied()
            .ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// What `path`, taken from `/`, names. Links are followed only if `follow`.
    pub(super) fn resolve(&self, path: &Path, follow: bool) -> io::Result<Ino> {
        let mut rest: Vec<String> = segments(path)?;
        rest.reverse();
        let mut above = vec![ROOT];
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == ".." {
                if above.len() > 1 {
                    above.pop();
                }
                continue;
            }
            let ino = self.lookup(*above.last().expect("the root stays"), &name)?;
            match &self.get(ino).body {
                Body::Symlink(target) if follow => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(error(ErrorKind::Other, "too many symbolic links"));
                    }
                    if target.starts_with('/') {
                        above.truncate(1);
                    }
                    rest.extend(segments(Path::new(target))?.into_iter().rev());
                }
                _ => above.push(ino),
            }
        }
        Ok(*above.last().expect("the root stays"))
    }

    pub(super) fn create(
        &mut self,
        dir: Ino,
        name: &str,
        body: Body,
        mode: u32,
        owner: Owner,
        now: SystemTime,
    ) -> io::Result<Ino> {
        plain(name)?;
        self.writable()?;
        if self.names(dir)?.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if self.get(dir).links == 0 {
            return Err(ErrorKind::NotFound.into());
        }
        self.collect();
        let ino = self.add(body, mode, owner, name, now);
        self.change_names(vec![(dir, name.to_owned(), Some(ino))], now);
        Ok(ino)
    }

    pub(super) fn unlink(&mut self, dir: Ino, name: &str, now: SystemTime) -> io::Result<()> {
        let ino = self.lookup(dir, name)?;
        self.writable()?;
        if self.is_dir(ino) {
            return Err(ErrorKind::IsADirectory.into());
        }
        self.remove_name(dir, name, now);
        Ok(())
    }

    /// Removes a name that is there, of a file or an empty directory.
    pub(super) fn remove_name(&mut self, dir: Ino, name: &str, now: SystemTime) {
        self.change_names(vec![(dir, name.to_owned(), None)], now);
        self.touched.push(dir);
    }

    /// Lets what has two names change places, as Linux does with whatever it is; tells whether there were two.
    pub(super) fn displace(
        &mut self,
        (from_dir, from): (Ino, &str),
        (to_dir, to): (Ino, &str),
        now: SystemTime,
    ) -> io::Result<bool> {
        let found = self.lookup(from_dir, from).and_then(|ino| {
            let old = self.lookup(to_dir, to)?;
            Ok((ino, old))
        });
        let (ino, old) = match found {
            Ok((ino, old)) if ino != old => (ino, old),
            // What cannot be done so, and why not, an ordinary rename finds out.
            _ => {
                return self
                    .rename((from_dir, from), (to_dir, to), now)
                    .map(|()| false);
            }
        };
        self.writable()?;
        self.change_names(
            vec![
                (from_dir, from.to_owned(), Some(old)),
                (to_dir, to.to_owned(), Some(ino)),
            ],
            now,
        );
        for (ino, name) in [(ino, to), (old, from)] {
            name.clone_into(&mut self.get_mut(ino).name);
        }
        self.touched.extend([from_dir, to_dir, ino, old]);
        Ok(true)
    }

    pub(super) fn rename(
        &mut self,
        (from_dir, from): (Ino, &str),
        (to_dir, to): (Ino, &str),
        now: SystemTime,
    ) -> io::Result<()> {
        let ino = self.lookup(from_dir, from)?;
        plain(to)?;
        self.writable()?;
        if self.get(to_dir).links == 0 {
            return Err(ErrorKind::NotFound.into());
        }
        if let Some(&old) = self.names(to_dir)?.get(to) {
            match (self.is_dir(ino), self.is_dir(old)) {
                _ if ino == old => return Ok(()),
                (false, true) => return Err(ErrorKind::IsADirectory.into()),
                (true, false) => return Err(ErrorKind::NotADirectory.into()),
                (true, true) if !self.names(old)?.is_empty() => {
                    return Err(ErrorKind::DirectoryNotEmpty.into());
                }
                _ => {}
            }
        }
        if self.contains(ino, to_dir) {
            return Err(error(
                ErrorKind::InvalidInput,
                "a directory cannot be moved into itself",
            ));
        }
        self.change_names(
            vec![
                (from_dir, from.to_owned(), None),
                (to_dir, to.to_owned(), Some(ino)),
            ],
            now,
        );
        to.clone_into(&mut self.get_mut(ino).name);
        self.touched.extend([from_dir, to_dir, ino]);
        Ok(())
    }

    fn contains(&self, ino: Ino, below: Ino) -> bool {
        match &self.get(ino).body {
            Body::Dir(body) => {
                ino == below || body.now.values().any(|&child| self.contains(child, below))
            }
            _ => false,
        }
    }

    /// Gives a file one more name.
    pub(super) fn link(&mut self, ino: Ino, dir: Ino, name: &str, now: SystemTime) {
        self.change_names(vec![(dir, name.to_owned(), Some(ino))], now);
    }

    /// Does a change of names, as one atomic step.
    fn change_names(&mut self, sets: Vec<NameSet>, now: SystemTime) {
        for (dir, name, ino) in &sets {
            self.get_mut(*dir).modified = now;
            let Body::Dir(body) = &mut self.get_mut(*dir).body else {
                unreachable!("names are in directories")
            };
            let old = match ino {
                Some(ino) => body.now.insert(name.clone(), *ino),
                None => body.now.remove(name),
            };
            if let Some(old) = old {
                self.get_mut(old).links -= 1;
                self.touched.push(old);
            }
            if let Some(ino) = *ino {
                self.get_mut(ino).links += 1;
            }
        }
        self.log_names(sets);
    }

    pub(super) fn read(&self, ino: Ino, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.get(ino).body {
            Body::File(body) => Ok(body.now.read(buf, offset)),
            Body::Dir(_) => Err(ErrorKind::IsADirectory.into()),
            _ => Err(error(ErrorKind::InvalidInput, "not an ordinary file")),
        }
    }

    pub(super) fn write(
        &mut self,
        ino: Ino,
        bytes: &[u8],
        offset: u64,
        now: SystemTime,
    ) -> io::Result<usize> {
        let end = offset
            .checked_add(bytes.len() as u64)
            .filter(|end| *end <= MAX_DATA);
        let end = end.ok_or_else(|| io::Error::from(ErrorKind::FileTooLarge))?;
        let mut bytes = bytes;
        if let Some(capacity) = self.capacity {
            let more = end.saturating_sub(self.file_mut(ino)?.now.data.len() as u64);
            let room = capacity.saturating_sub(self.used());
            if more > room {
                // As a real disk does: what still fits is written, and the next call gets the error.
                let fits =
                    usize::try_from((bytes.len() as u64).saturating_sub(more - room)).unwrap_or(0);
                if fits == 0 {
                    return Err(ErrorKind::StorageFull.into());
                }
                bytes = &bytes[..fits];
            }
        }
        self.file_mut(ino)?.now.write(offset, bytes);
        self.log_data(ino, || Change::Write {
            offset,
            bytes: bytes.to_vec(),
        });
        self.get_mut(ino).modified = now;
        Ok(bytes.len())
    }

    fn used(&self) -> u64 {
        let size = |inode: &Inode| match &inode.body {
            Body::File(body) if inode.links > 0 || Arc::strong_count(&inode.pin) > 1 => {
                body.now.data.len() as u64
            }
            _ => 0,
        };
        self.inodes.values().map(size).sum()
    }

    pub(super) fn set_len(&mut self, ino: Ino, len: u64, now: SystemTime) -> io::Result<()> {
        if i64::try_from(len).is_err() {
            return Err(error(ErrorKind::InvalidInput, "longer than a file can be"));
        }
        self.file_mut(ino)?.now.set_len(len);
        self.log_data(ino, || Change::SetLen(len));
        self.get_mut(ino).modified = now;
        Ok(())
    }

    pub(super) fn metadata(&self, ino: Ino) -> Metadata {
        let inode = self.get(ino);
        let (kind, len) = match &inode.body {
            Body::File(body) => (FileKind::File, body.now.len),
            Body::Dir(_) => (FileKind::Directory, 0),
            Body::Symlink(target) => (FileKind::Symlink, target.len() as u64),
            Body::Other => (FileKind::Other, 0),
        };
        Metadata {
            kind,
            len,
            modified: inode.modified,
            id: FileId {
                device: 1,
                inode: u128::from(ino),
            },
            links: inode.links,
            mode: Some(inode.mode),
            owner: inode.owner,
            shared: inode.mode & 0o022 != 0,
        }
    }

    pub(super) fn writable(&self) -> io::Result<()> {
        if self.read_only {
            Err(ErrorKind::ReadOnlyFilesystem.into())
        } else {
            Ok(())
        }
    }

    /// Forgets inodes that nobody can reach any more, now and then.
    fn collect(&mut self) {
        if self.inodes.len() < self.collect_at {
            return;
        }
        let kept = self.durably_named();
        self.inodes.retain(|ino, inode| {
            inode.links > 0 || Arc::strong_count(&inode.pin) > 1 || kept.contains(ino)
        });
        self.collect_at = (self.inodes.len() * 2).max(256);
    }
}

/// The segments of `path`, `..` among them, without the root.
pub(super) fn segments(path: &Path) -> io::Result<Vec<String>> {
    let text = |part: &std::ffi::OsStr| match part.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(error(ErrorKind::InvalidInput, "the path is not UTF-8")),
    };
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(text(name)),
        Component::ParentDir => Some(Ok("..".to_owned())),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}
