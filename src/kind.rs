//! The kinds of errors.

/// The kinds of [`Error`](crate::Error) that a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The timeout passed before the lock could be had. Nothing was changed.
    Timeout,
    /// The wait was cancelled through its [`CancelToken`](crate::CancelToken). Nothing was changed.
    Cancelled,
    /// The holder was overtaken: its lease expired while it slept, or an operator broke it; or somebody deleted what the lease
    /// consists of. Nothing was published; what is there now stands.
    LeaseLost,
    /// An entry, or a file of the control directory, does not hold what it should.
    Corrupt,
    /// There is no payload that could be kept, although a producer said that it is still right.
    Missing,
    /// The name cannot be an entry, or the directory cannot be a cache.
    InvalidName,
    /// No lock can be had here.
    NoLock,
    /// The cache directory belongs to another user or others may write to it.
    Untrusted,
    /// A file of the cache is not the ordinary file of one's own that it should be: a link, a FIFO, a directory.
    NotAFile,
    /// No permission, or a read-only file system.
    Permission,
    /// The disk, the quota or the inodes are used up.
    StorageFull,
    /// The payload's length is not the one that the caller announced.
    LengthMismatch,
    /// Published and visible to all, but the directory could not be synced, so it may be gone after a power loss; or what an
    /// absent entry was before could not be removed.
    NotDurable,
    /// A value is beyond what the format can hold.
    Limit,
    /// What was written cannot be published after an earlier failure; see [`Refresh::restart`](crate::Refresh::restart).
    Poisoned,
    /// Anything else that the system said.
    Io,
}

impl ErrorKind {
    /// The kind's stable name, as in the program's `--json` output: `timeout`, `lease-lost`, ...
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Timeout => "timeout",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::LeaseLost => "lease-lost",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Missing => "missing",
            ErrorKind::InvalidName => "invalid-name",
            ErrorKind::NoLock => "no-lock",
            ErrorKind::Untrusted => "untrusted",
            ErrorKind::NotAFile => "not-a-file",
            ErrorKind::Permission => "permission",
            ErrorKind::StorageFull => "storage-full",
            ErrorKind::LengthMismatch => "length-mismatch",
            ErrorKind::NotDurable => "not-durable",
            ErrorKind::Limit => "limit",
            ErrorKind::Poisoned => "poisoned",
            ErrorKind::Io => "io",
        }
    }
}
