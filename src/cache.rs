//! The cache, its settings, its entries, and the lock that covers them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cachelock_platform::FileSystem;

use crate::context::Context;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::key::Key;
use crate::lock::{self, Acquired, Hold, Holder, How, Look, Sight};
use crate::mutation::Mutation;
use crate::name::EntryName;
use crate::refresh::Refresh;
use crate::root::Root;
use crate::state::current_state;
use crate::wait::Waiter;

/// A cache: one directory that many processes share. Cheap to clone.
///
/// Opening it touches nothing on disk. Reads never write and take no lock; the directory is created by the first refresh.
///
/// # After `fork`
///
/// A child made by `fork` without `exec` may use the cache that its parent has opened, to read and to take locks of its
/// own. Its copies of what the parent holds, a [`WriteLock`] or a [`Refresh`], are dead: dropping them gives nothing back and
/// removes nothing, and each call that touches the disk is an error. The parent goes on as if nothing had happened.
///
/// - Not supported: to fork while another thread is inside a call on the same cache. What that thread has locked in memory
///   stays locked in the child.
/// - If the parent is killed while it holds the lock and such a child lives on, the kernel lock lives on in the child's copy.
///   Others then wait for one lease, as for a frozen holder, until the child drops its copy, executes a program or ends.
///
/// ```
/// use std::io::Write;
///
/// let dir = std::env::temp_dir().join("cachelock-doc-cache");
/// let cache = cachelock::Cache::open(&dir)?;
/// let entry = cache.entry("versions.json")?;
///
/// let mut refresh = entry.refresh()?; // waits for the lock, at most 10 s
/// refresh.write_all(br#"["1.0", "1.1"]"#)?;
/// refresh.publish()?;
///
/// let snapshot = entry.read()?.expect("it was just published");
/// assert_eq!(&snapshot[..], br#"["1.0", "1.1"]"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Cache {
    pub(crate) cx: Arc<Context>,
    /// What readers have open.
    root: Arc<Mutex<Option<Arc<Root>>>>,
}

impl Cache {
    pub(crate) fn new(cx: Arc<Context>) -> Self {
        Cache {
            cx,
            root: Arc::default(),
        }
    }

    /// The cache in the directory `path`, with the default settings.
    ///
    /// # Errors
    /// A path that is empty, or in the control directory of a cache, or relative when the current directory cannot be had.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder(path).open()
    }

    /// The cache's directory, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.cx.path
    }

    /// The entry `name`: a relative path of plain segments, such as `index.json` or `crates/serde.json`.
    ///
    /// # Errors
    /// [`InvalidName`](crate::ErrorKind::InvalidName) for a name that could leave the directory, or that would not work on
    /// another system: absolute, `..`, empty, with one of `<>:"|?*`, a backslash or control characters, ending in a dot or a
    /// space, a device name of Windows, `.cachelock` or what Windows may call it (`CACHEL~1`), a segment of more than 255 bytes,
    /// more than 1024 bytes in all. [`Cache::entry_for_key`] takes any bytes, up to 16 KiB.
    pub fn entry(&self, name: &str) -> Result<Entry> {
        Ok(Entry {
            cache: self.clone(),
            name: EntryName::new(name)?,
            key: None,
        })
    }

    /// Waits for the writer lock and takes it. One lock covers all entries of the cache.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), [`Cancelled`](crate::ErrorKind::Cancelled),
    /// [`Untrusted`](crate::ErrorKind::Untrusted) for a directory that others may write to,
    /// [`Permission`](crate::ErrorKind::Permission) also for a read-only one, and what the system says.
    pub fn lock(&self) -> Result<WriteLock> {
        match self.acquire(How::Wait, &mut |_| Ok(false))? {
            Acquired::Held(hold) => Ok(WriteLock { hold }),
            Acquired::Satisfied { .. } => {
                unreachable!("nothing satisfies a caller that asks for the lock itself")
            }
        }
    }

    /// Takes the lock from whoever has it, at once: an operator's force. The old holder's publish fails with
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost). Returns who held it. Does nothing where there is no cache.
    ///
    /// # Errors
    /// As [`Cache::lock`].
    pub fn break_lock(&self) -> Result<Option<Holder>> {
        let Some(control) = self.control_if_there()? else {
            return Ok(None);
        };
        let holder = Sight::look(&control)?.holder();
        if let Acquired::Held(hold) = self.acquire(How::Force, &mut |_| Ok(false))? {
            hold.release_forced()?;
        }
        Ok(holder)
    }

    /// Removes what dead holders have left: an acquire and a release. Every refresh does that, too. Does nothing where there is no
    /// cache.
    ///
    /// # Errors
    /// As [`Cache::lock`].
    pub fn sweep(&self) -> Result<()> {
        if self.control_if_there()?.is_some() {
            drop(self.lock()?);
        }
        Ok(())
    }

    fn control_if_there(&self) -> Result<Option<Control>> {
        match Root::open_for_reading(&self.cx)? {
            Some(root) => root.control_if_there(&self.cx),
            None => Ok(None),
        }
    }

    /// What can be told about the lock without taking it; `None` if the cache has never been written to.
    ///
    /// ```
    /// let dir = std::env::temp_dir().join("cachelock-doc-status");
    /// let cache = cachelock::Cache::open(&dir)?;
    /// let lock = cache.lock()?;
    /// let status = cache.status()?.expect("it was written to");
    /// assert_eq!(status.holder.expect("this process").pid, Some(std::process::id()));
    /// # Ok::<(), cachelock::Error>(())
    /// ```
    ///
    /// # Errors
    /// What the system says.
    pub fn status(&self) -> Result<Option<Status>> {
        let Some(control) = self.control_if_there()? else {
            return Ok(None);
        };
        let view = lock::view(&control)?;
        Ok(Some(Status {
            holder: view.holder,
            locked: view.gate_held,
            private: view.private,
            epoch: view.head,
            file_system: view.file_system,
        }))
    }

    /// Acquires, unless `look` is satisfied meanwhile.
    pub(crate) fn acquire(&self, how: How, look: &mut Look<'_>) -> Result<Acquired> {
        let cx = &self.cx;
        let mut waiter = match how {
            How::Try => Waiter::trying(cx),
            How::Wait | How::Force => {
                Waiter::new(cx, cx.options.timeout, cx.options.cancel.as_ref())
            }
        };
        // A directory that was replaced has a lock of its own, and is what this cache is from now on.
        lock::acquire(cx, &mut waiter, how == How::Force, &mut |root| {
            self.adopt(root);
            look(root)
        })
    }

    fn adopt(&self, root: &Arc<Root>) {
        let mut known = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|known| known.id() != root.id()) {
            *known = Some(root.clone());
        }
    }

    /// The directory as readers have it open; `None` if there is none.
    pub(crate) fn root(&self) -> Result<Option<Arc<Root>>> {
        let cached = || self.root.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = cached().clone() {
            return Ok(Some(root));
        }
        let root = Root::open_for_reading(&self.cx)?;
        cached().clone_from(&root);
        Ok(root)
    }

    /// For a reader that found nothing: opens the path anew, and tells whether it names another directory now.
    pub(crate) fn root_was_replaced(&self, root: &Root) -> Result<bool> {
        let current = Root::open_for_reading(&self.cx)?;
        let replaced = current
            .as_ref()
            .is_none_or(|current| current.id() != root.id());
        if replaced {
            *self.root.lock().unwrap_or_else(PoisonError::into_inner) = current;
        }
        Ok(replaced)
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cache").field(&self.cx.path).finish()
    }
}

/// The state of a cache's lock; see [`Cache::status`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Status {
    /// Who holds the lease, as its record says. It may be dead.
    pub holder: Option<Holder>,
    /// Whether some process has the kernel lock; `None` where kernel locks are not used.
    pub locked: Option<bool>,
    /// Whether the lock's files may not be read by this user, being private to who made them: then there may be a holder, and
    /// somebody who has the kernel lock, and neither is told.
    pub private: bool,
    /// The highest epoch that ever acquired: how often the lock was taken.
    pub epoch: u64,
    /// The file system that the cache is on.
    pub file_system: FileSystem,
}

/// One entry of a [`Cache`]: a name, whether or not it has a payload. Cheap to clone.
#[derive(Clone)]
pub struct Entry {
    pub(crate) cache: Cache,
    pub(crate) name: EntryName,
    /// What it was asked for by, if not by its name.
    pub(crate) key: Option<Key>,
}

impl Entry {
    pub(crate) fn cx(&self) -> &Arc<Context> {
        &self.cache.cx
    }

    /// The entry's name; that of an entry for a key holds the key's hash.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The payload's path: exactly the published bytes, for programs that know nothing of cachelock. They see the whole old
    /// or the whole new payload as long as they open it once and read it to its end. Of an entry that is known to be absent the
    /// file, if there ever was one, is empty.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.cx().path.join(self.name.as_str())
    }

    /// Waits for the lock and begins a refresh, whatever the entry holds now. To refresh only what is missing or old, see
    /// [`Entry::get_or_refresh`].
    ///
    /// # Errors
    /// As [`Cache::lock`]; [`NotAFile`](crate::ErrorKind::NotAFile) if something else has the entry's name;
    /// [`InvalidName`](crate::ErrorKind::InvalidName) if a folder on the way is an entry, a link or a cache of its own;
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) if it is overtaken at once.
    pub fn refresh(&self) -> Result<Refresh> {
        let early = match self.cx().mutated(Mutation::StateReadEarly) {
            true => {
                let (cx, root) = (self.cx(), Root::open_for_writing(self.cx())?);
                let tags = root.tag_folder(cx, &self.name, false)?;
                Some(current_state(cx, &root, &self.name, tags.as_deref())?.record)
            }
            false => None,
        };
        let mut refresh = self.cache.lock()?.refresh(self)?;
        refresh.early = early;
        Ok(refresh)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tuple = f.debug_tuple("Entry");
        tuple.field(&self.path());
        if let Some(key) = &self.key {
            tuple.field(key);
        }
        tuple.finish()
    }
}

/// The held writer lock of a cache. Released when it and all its refreshes are gone, those in a
/// [`PublishError`](crate::PublishError) and their [`Scratch`](crate::Scratch) files included.
///
/// As long as it is not lost, nobody else can publish into the cache. It is no mutual exclusion for anything else: a holder
/// that stands still for its lease is overtaken, and may go on computing without knowing.
///
/// The copy in a child made by `fork` is dead; see [`Cache`]. Programs that this process executes inherit nothing of it.
///
/// ```
/// use std::io::Write;
///
/// let dir = std::env::temp_dir().join("cachelock-doc-writelock");
/// let cache = cachelock::Cache::open(&dir)?;
/// let lock = cache.lock()?; // waits, at most 10 s
/// for name in ["a.json", "b.json"] {
///     let mut refresh = lock.refresh(&cache.entry(name)?)?;
///     refresh.write_all(b"{}")?;
///     refresh.publish()?;
/// }
/// lock.check()?; // nobody has taken over
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the lock is released when this is dropped"]
pub struct WriteLock {
    hold: Arc<Hold>,
}

impl WriteLock {
    /// Begins a refresh of one more entry under this lock.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost) if the lock was lost; [`NotAFile`](crate::ErrorKind::NotAFile) if
    /// something else has the entry's name; [`InvalidName`](crate::ErrorKind::InvalidName) for an entry of another cache.
    pub fn refresh(&self, entry: &Entry) -> Result<Refresh> {
        // One directory may have several paths.
        let is_covered = entry.cx().path.as_os_str() == self.hold.control.cx.path.as_os_str()
            || Root::open_for_reading(entry.cx())?
                .is_some_and(|root| root.id() == self.hold.root.id());
        if !is_covered {
            return entry.of_key(Err(Error::invalid_name(
                entry.name(),
                "it is an entry of another cache than the lock's",
            )));
        }
        let mut locked = entry.clone();
        // What its own cache has open may have been replaced before this lock was taken.
        locked.cache.root = Arc::new(Mutex::new(Some(self.hold.root.clone())));
        entry.of_key(Refresh::begin(locked, self.hold.clone()))
    }

    /// The epoch of the lease: one more for each acquire of this cache, by whomever.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.hold.lease.epoch
    }

    /// How long this caller waited for the lock.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.hold.waited
    }

    /// Whether this holder is known to be overtaken. `false` is no proof of the contrary.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.hold.lease.is_lost()
    }

    /// Looks now whether this holder was overtaken, and shows others that it is alive.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost), or what the system says.
    pub fn check(&self) -> Result<()> {
        self.hold.refuse_copy()?;
        self.hold.lease.beat()
    }

    /// Looks now whether this holder was overtaken, and writes nothing: two looks at file names, cheap enough to ask many
    /// times a second, for whoever has long work to end as soon as somebody else has the lock. Overtaken between two beats,
    /// [`WriteLock::is_lost`] tells only at the next one.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::ErrorKind::LeaseLost), or what the system says.
    pub fn check_held(&self) -> Result<()> {
        self.hold.check_held()
    }

    /// What gave the lock.
    #[must_use]
    pub fn backend(&self) -> crate::Backend {
        self.hold.backend()
    }
}

impl fmt::Debug for WriteLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteLock")
            .field("cache", &self.hold.control.cx.path)
            .field("epoch", &self.epoch())
            .finish()
    }
}
