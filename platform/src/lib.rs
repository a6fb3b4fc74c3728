//! The seam below [cachelock]: everything that depends on the target, and nothing that is policy.
//!
//! The library above decides *what* happens (who may write, when a lease has expired, in which order two files are
//! renamed); a backend in this crate only knows *how* one step is done on its target. So a backend is small, each of
//! its methods is one step with one contract, and a step is either done or not done when it returns.
//!
//! | module | target | what backs it |
//! | --- | --- | --- |
//! | `unix` | Linux, macOS, the BSDs | `openat` and its family, `flock` through `fs4`, inotify on Linux |
//! | `windows` | Windows 10 and later | `NtCreateFile` and its family, `LockFileEx` through `fs4` |
//! | `wasi` | WASI preview 2 | the `wasi` crate, below preopened directories |
//! | [`memory`] | every target; `wasm32-unknown-unknown` has no other | a simulated disk, clock and process table |
//! | `unsupported` | anything else | a typed error for each call |
//!
//! # Rules for every backend
//!
//! - Names given to a [`Dir`] are single plain segments; the library has validated them. A backend refuses a name
//!   with a separator in it all the same.
//! - No call follows a symbolic link in a name that it is given, ever. A link is an error or, for
//!   [`Dir::stat`], [`FileKind::Symlink`].
//! - What is said about a name or a file is what the file system says now, not what some cache remembers, as far as the
//!   target lets one ask so. Above all "not found": the library takes it for the truth.
//! - Nothing is inherited by child processes.
//! - An interrupted system call (`EINTR`) is retried inside the backend.
//! - Errors are [`std::io::Error`]s whose [`kind`](std::io::Error::kind) is meaningful:
//!   `NotFound`, `AlreadyExists`, `PermissionDenied`, `ReadOnlyFilesystem`, `StorageFull`, `CrossesDevices`,
//!   `NotADirectory`, `IsADirectory` and `Unsupported` are told apart by the library, everything else is passed on.
//!   What a target cannot do is `Unsupported`, never success.
//!
//! [cachelock]: https://docs.rs/cachelock

use std::any::Any;
use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

mod bytes;
pub mod folders;
#[cfg(any(test, all(feature = "bare", target_os = "wasi")))]
mod heap;
pub mod input;
pub mod memory;
pub mod process;
mod said;
pub mod standard;
mod text;

cfg_if::cfg_if! {
    if #[cfg(unix)] {
        mod condvar;
        mod unix;
        use unix as backend;
    } else if #[cfg(windows)] {
        mod condvar;
        mod windows;
        use windows as backend;
    } else if #[cfg(all(target_os = "wasi", target_env = "p2"))] {
        mod wasi;
        use wasi as backend;
    } else if #[cfg(all(target_family = "wasm", target_os = "unknown"))] {
        use memory as backend;
    } else {
        mod unsupported;
        use unsupported as backend;
    }
}

pub use bytes::Filling;
/// Whether this target's processes are guests in a sandbox: without kernel locks, threads and watches, whatever the host
/// has. What is built for those can be left out then.
pub const GUEST: bool = cfg!(all(target_os = "wasi", target_env = "p2"));

pub use said::{Escaped, Quoted, Reason, Shown, failure};
pub use text::{cut, parts, prefixes};

/// Whether [`File::set_mode`] does anything on this target: where it does not, a file keeps the access that it was created
/// with.
pub const SETS_MODES: bool = cfg!(unix);

/// The platform of this target: one object for each process, the same at every call.
#[must_use]
pub fn native() -> Arc<dyn Platform> {
    backend::native()
}

/// A point on a monotonic clock: the time since an origin that is unspecified but the same for all calls in one
/// process.
///
/// It does not go backwards, and it may stand still while the machine is suspended. Never write it to disk: another
/// process need not share the origin.
pub type Monotonic = Duration;

/// A background task; see [`Platform::spawn`].
pub type Task = Box<dyn FnOnce() + Send>;

/// What a process can ask of its environment apart from files: clocks, waiting, randomness, identity.
pub trait Platform: Send + Sync {
    /// The name of the backend, for people: `unix`, `memory`, ...
    fn name(&self) -> &'static str;

    /// `path` made absolute against the current directory, without touching the disk or resolving links.
    ///
    /// # Errors
    /// An empty path, or a current directory that cannot be had.
    fn absolute(&self, path: &Path) -> io::Result<PathBuf>;

    /// Opens the existing directory at `path`. Links in `path` are followed, the last segment's too: this is the one
    /// path that comes from the user.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `PermissionDenied`, and what the system says.
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>>;

    /// Which directory is at `path`, whose links are followed as by [`Platform::open_dir`].
    ///
    /// # Errors
    /// As [`Platform::open_dir`].
    fn dir_id(&self, path: &Path) -> io::Result<FileId> {
        Ok(self.open_dir(path)?.metadata()?.id)
    }

    /// Creates the directory at `path` and its missing parents, with the process's default mode less what would let others
    /// write to them (on unix `0755` less the umask). An existing directory is success, whatever its mode. Not atomic: a
    /// failure may leave some of the parents behind.
    ///
    /// # Errors
    /// What the system says for the first directory that could not be created.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes the names of the directories on the way to the directory at `path` durable, as far as that can be done.
    fn sync_parents(&self, path: &Path) {
        for parent in path.ancestors().skip(1) {
            if let Ok(dir) = self.open_dir(parent) {
                let _ = dir.sync();
            }
        }
    }

    /// Now, on the monotonic clock.
    fn monotonic(&self) -> Monotonic;

    /// Whether anybody else runs while a thread of this process waits. On the web nobody does: there is one thread, which
    /// whoever waits has. Whatever somebody else would have to do then is not done during the wait, however long.
    fn can_wait(&self) -> bool {
        true
    }

    /// Now, on the wall clock. It may step in both directions; no safety may rest on it.
    fn wall(&self) -> SystemTime;

    /// 128 bits that no other call, on any machine, returns.
    ///
    /// # Errors
    /// The system has no randomness to give.
    fn random(&self) -> io::Result<u128>;

    /// A new event, not set.
    fn event(&self) -> Arc<dyn Event>;

    /// Runs `task` in the background of this process. It is not joined: the process may end before the task does.
    ///
    /// # Errors
    /// `Unsupported` where there are no threads; what the system says when it refuses another one.
    fn spawn(&self, name: &str, task: Task) -> io::Result<()>;

    /// Who this process is. A child made by `fork` gets an identity of its own.
    fn identity(&self) -> Identity;

    /// A number that differs between a process and a child made by `fork`, at the cost of at most one cheap system
    /// call.
    fn process_id(&self) -> u32;

    /// A cell for the library's state of this process; a child made by `fork` sees an empty one.
    fn slot(&self) -> Arc<Slot>;

    /// Whether a failed [`Dir::rename`] or [`Dir::unlink`] may succeed later because somebody has the file open, which
    /// only some systems mind.
    fn is_busy(&self, error: &io::Error) -> bool;

    /// The permission bits a newly created ordinary file would get (on unix `0666` less the umask); `None` where files
    /// have none.
    fn default_mode(&self) -> Option<u32>;
}

/// The library's state of one process; see [`Platform::slot`].
pub type Slot = OnceLock<Arc<dyn Any + Send + Sync>>;

/// Who a process is, as far as the system tells. Written into lease records, for people and to recognize the dead.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// The process number; `None` in a sandbox.
    pub pid: Option<u32>,
    /// A number that is new at each boot of the machine (in a container: of its host); `None` where there is none.
    pub boot: Option<u128>,
    /// The machine's name.
    pub host: Option<String>,
}

/// Something to wait for. Sticky: setting it before the wait is as good as during it.
pub trait Event: Send + Sync {
    /// Ends the wait under way, or else the next one, at once.
    fn set(&self);

    /// Waits until the event is set or the clock has reached `deadline` (`None`: no deadline), unsets it, and tells
    /// whether it was set. May return `false` early; callers look at the clock. Where nobody could set it meanwhile (see
    /// [`Platform::can_wait`]), it does so at once.
    ///
    /// Only one thread waits for an event at a time.
    fn wait_until(&self, deadline: Option<Monotonic>) -> bool;
}

/// An open directory. Its handle stays on the same directory when that is renamed or deleted.
pub trait Dir: Send + Sync {
    /// The directory's own metadata.
    ///
    /// # Errors
    /// What the system says.
    fn metadata(&self) -> io::Result<Metadata>;

    /// What kind of file system this directory is on. Asked before the first kernel lock, because a lock call on some
    /// network file systems can hang. Never hangs itself where the system lets it not.
    ///
    /// # Errors
    /// What the system says.
    fn file_system(&self) -> io::Result<FileSystem>;

    /// Opens the subdirectory `name`.
    ///
    /// # Errors
    /// `NotFound`; `NotADirectory` for everything that is not a directory, a symbolic link included.
    fn open_dir(&self, name: &str) -> io::Result<Arc<dyn Dir>>;

    /// Opens the same directory anew, past caches that belong to a handle.
    ///
    /// # Errors
    /// As [`Dir::open_dir`].
    fn reopen(&self) -> io::Result<Arc<dyn Dir>>;

    /// Creates the subdirectory `name` with exactly the permission bits `mode` whatever the umask; they are ignored
    /// where there are none. Atomic, but for the permission bits, which may be narrower for a moment.
    ///
    /// # Errors
    /// `AlreadyExists`, whatever has the name; what the system says.
    fn create_dir(&self, name: &str, mode: u32) -> io::Result<()>;

    /// Opens the file `name`. Does not block, whatever kind of object has the name; what
    /// it is the caller learns from [`File::metadata`], or from a read that fails. Never truncates.
    ///
    /// # Errors
    /// `NotFound`; with [`Access::CreateNew`] `AlreadyExists`, whatever has the name. A symbolic link is an error of
    /// another kind than these.
    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn File>>;

    /// Renames `from` of this directory to `to` of `to_dir`, replacing a file that is there. Atomic: at each moment
    /// `to` names the old file or the new one. Both directories come from the same backend. Where somebody's open
    /// handle forbids it, see [`Platform::is_busy`].
    ///
    /// # Errors
    /// `NotFound` when `from` *or* `to_dir` is gone (the caller finds out which), `CrossesDevices`, `IsADirectory`,
    /// and what the system says. After an error nothing was renamed.
    fn rename(&self, from: &str, to_dir: &dyn Dir, to: &str) -> io::Result<()>;

    /// As [`Dir::rename`], for a file that replaces another and need not outlive a power loss. What it has replaced may have the
    /// name `from` afterwards, which the caller removes then; tells whether it is so. Then it may have been a directory, too:
    /// once more changes the places back.
    ///
    /// Some file systems write out what is renamed over another file, while the caller waits. They do not if both change places.
    ///
    /// # Errors
    /// As [`Dir::rename`].
    fn displace(&self, from: &str, to_dir: &dyn Dir, to: &str) -> io::Result<bool> {
        self.rename(from, to_dir, to).map(|()| false)
    }

    /// Removes the name `name` of a file. Handles that are open on it stay good.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory` or `PermissionDenied` for a directory, what the system says.
    fn unlink(&self, name: &str) -> io::Result<()>;

    /// The names in this directory, in no order, without `.` and `..`. Names that are not UTF-8 are left out: none of
    /// ours is among them. A name created or removed meanwhile may be in it or not; all others are.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// The metadata of `name` itself, not of what a link points to.
    ///
    /// # Errors
    /// `NotFound`, what the system says.
    fn stat(&self, name: &str) -> io::Result<Metadata>;

    /// The same without its [identity](FileId::UNKNOWN) where that takes another call.
    ///
    /// # Errors
    /// As [`Dir::stat`].
    fn glance(&self, name: &str) -> io::Result<Metadata> {
        self.stat(name)
    }

    /// Makes the names in this directory durable.
    ///
    /// # Errors
    /// `Unsupported` where directories cannot be synced, what the system says.
    fn sync(&self) -> io::Result<()>;

    /// Sets `wake` whenever a name in this directory is removed or renamed, or the directory itself is, until the
    /// returned watch is dropped. In force on return. It may set `wake` without cause, and changes made by other
    /// machines may go unnoticed: the caller looks again from time to time.
    ///
    /// # Errors
    /// `Unsupported` where there is no such thing; what the system says when it has no more to give.
    fn watch(&self, wake: Arc<dyn Event>) -> io::Result<Box<dyn Watch>>;

    /// The backend's own type, so that a backend can recognize its directories in [`Dir::rename`].
    fn as_any(&self) -> &dyn Any;
}

/// A watch on a directory; ends when dropped. See [`Dir::watch`].
pub trait Watch: Send + Sync {}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A file that must not exist yet, for reading and writing, with exactly these permission bits whatever the
    /// umask. Atomic: of several callers one succeeds. What root creates in somebody's directory becomes that user's.
    CreateNew(u32),
}

/// An open file. The handle stays on the same file when that is renamed or unlinked, except in sandboxes, where a
/// backend may open a file that is written by name for each call, and on file systems that lose what has no name any more (NFS, when
/// another machine replaces it); there every call may answer `NotFound`.
pub trait File: Send + Sync {
    /// Whether the handle may be kept when the library returns or waits: it stays on its file, whatever happens to the name, and
    /// is not in the way of whoever replaces or removes that name. If not, it is one of these:
    ///
    /// - One that is written, and does not stay on its file: each call answers `NotFound` once the name is gone.
    /// - As long as it is open, the name cannot be replaced, or might not be; see [`Platform::is_busy`].
    fn is_pinned(&self) -> bool {
        true
    }

    /// The file's metadata.
    ///
    /// # Errors
    /// What the system says.
    fn metadata(&self) -> io::Result<Metadata>;

    /// What is known of the file without a call, where each costs much: then it is what the name was like right before it was
    /// opened, without an identity ([`FileId::UNKNOWN`]), and so perhaps another file's. Else as [`File::metadata`]. For
    /// whoever finds out from what he reads whether it is right.
    ///
    /// # Errors
    /// As [`File::metadata`].
    fn glance(&self) -> io::Result<Metadata> {
        self.metadata()
    }

    /// What the open file itself is like, without its [identity](FileId::UNKNOWN) where that takes another call.
    ///
    /// # Errors
    /// As [`File::metadata`].
    fn stat(&self) -> io::Result<Metadata> {
        self.metadata()
    }

    /// Reads at most `buf.len()` bytes at `offset`; 0 is the end of the file. May return less than asked for.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// As [`File::read_at`], into memory that holds nothing yet: returns what was read, at its start.
    ///
    /// # Errors
    /// As [`File::read_at`].
    fn read_new_at<'b>(
        &self,
        buf: &'b mut [MaybeUninit<u8>],
        offset: u64,
    ) -> io::Result<&'b mut [u8]> {
        let buf = bytes::zeroed(buf);
        let read = self.read_at(buf, offset)?;
        Ok(&mut buf[..read])
    }

    /// Writes at most `buf.len()` bytes at `offset`. May write less than asked for. Not atomic for readers.
    ///
    /// # Errors
    /// `StorageFull`, what the system says.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;

    /// Cuts the file, or extends it with zeros that take no space where the file system can do that.
    ///
    /// # Errors
    /// What the system says, a length beyond the file system's limit included.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Lets the file system begin to make `len` bytes at `offset` durable, where it can do that in the background. Whether it
    /// has succeeded only [`File::sync`] tells.
    ///
    /// # Errors
    /// `StorageFull` and others that a write did not report.
    fn write_out(&self, offset: u64, len: u64) -> io::Result<()> {
        let _ = (offset, len);
        Ok(())
    }

    /// Makes the file's bytes and length durable, but not its name. After an error the bytes may be lost although a
    /// second call succeeds: never repeat it.
    ///
    /// # Errors
    /// `StorageFull` and others that a write did not report.
    fn sync(&self) -> io::Result<()>;

    /// Sets the permission bits; does nothing where there are none.
    ///
    /// # Errors
    /// What the system says.
    fn set_mode(&self, mode: u32) -> io::Result<()>;

    /// Sets the modification time to the file system's own present.
    ///
    /// # Errors
    /// What the system says.
    fn touch(&self) -> io::Result<()>;

    /// Closes the file and reports what dropping it would swallow: some file systems find out only now that the disk
    /// is full.
    ///
    /// # Errors
    /// What the system says. The file is closed all the same.
    fn close(self: Box<Self>) -> io::Result<()>;

    /// Takes the kernel's exclusive lock on this file if nobody has it; `false` if somebody does, in this process
    /// (through another handle) or in another. The kernel gives it back when the process ends.
    ///
    /// # Errors
    /// `Unsupported` where there are no kernel locks (`ENOLCK` and `ENOSYS` too).
    fn try_lock(&self) -> io::Result<bool>;

    /// As [`File::try_lock`], but blocks the thread until nobody has the lock. Cannot be cancelled.
    ///
    /// # Errors
    /// As [`File::try_lock`]; `Deadlock` where nobody could give it back meanwhile (see [`Platform::can_wait`]).
    fn lock(&self) -> io::Result<()>;

    /// Gives the lock back, or closes nothing and does nothing in a child made by `fork`: the parent still has it.
    ///
    /// # Errors
    /// What the system says.
    fn unlock(&self) -> io::Result<()>;
}

/// Which file it is, whatever its name: equal for two names or handles of one file, and different for two files that
/// exist at the same time. A deleted file's identity may be given to a new one unless a handle is open on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// The file system.
    pub device: u64,
    /// The file in it.
    pub inode: u128,
}

impl FileId {
    /// Of a file that was not asked for its identity.
    pub const UNKNOWN: Self = Self {
        device: u64::MAX,
        inode: u128::MAX,
    };
}

/// What kind of object a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// An ordinary file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link (on Windows every reparse point).
    Symlink,
    /// A FIFO, socket, device, or something else that is not for us.
    Other,
}

/// Whose an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The user that this process acts as.
    Me,
    /// Somebody else, by number.
    Other(u32),
    /// The system does not say.
    Unknown,
}

/// What is known about a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Its kind.
    pub kind: FileKind,
    /// Its length in bytes; unspecified for what is not a file.
    pub len: u64,
    /// When it was last written to, by the file system's clock.
    pub modified: SystemTime,
    /// Which file it is.
    pub id: FileId,
    /// How many names it has; 1 where the system does not say.
    pub links: u64,
    /// The permission bits (on unix the lower 12 of `st_mode`).
    pub mode: Option<u32>,
    /// Whose it is.
    pub owner: Owner,
    /// Whether others than its owner (and, on unix, a group that is the user's own private one) may write to it.
    pub shared: bool,
}

impl Metadata {
    /// Whether no other name leads to it, as far as the system says.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.links <= 1
    }
}

/// What kind of file system a directory is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Its name as the system has it (`btrfs`, `nfs`; on Linux ext2 to ext4 are all called `ext`), else its number in
    /// hexadecimal, or `unknown`.
    pub name: String,
    /// Whether kernel locks are known to exclude everybody who can reach the directory.
    pub kernel_locks: bool,
    /// Whether other machines may write to it, or caches of another kernel lie between.
    pub remote: bool,
}
