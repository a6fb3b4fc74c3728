//! File systems in a process of their own (FUSE), and what they get wrong.
//!
//! With `libfuse`'s usual interface such a server knows a file by its path alone, gives the path a number, and the kernel
//! remembers lengths, times and contents by that number. Seen with it:
//!
//! - While a file is renamed to a name, that name is "not found" for a moment. The server has forgotten the replaced file
//!   and the kernel still asks for its number. A `head` that is missing means that nobody ever held the lock.
//! - When a file is replaced by another way than this mount, the new one inherits the number, and readers of the one are
//!   given cached pages of the other.
//! - For a second the kernel repeats lengths and times as it knows them. That is dealt with where it is asked, in
//!   [`meta`](super::meta).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use super::fs_type;

/// Whether a directory is on such a file system; found out when it matters.
#[derive(Default)]
pub(super) struct Fuse {
    known: OnceLock<bool>,
}

/// How often in a row a name may be lost that is there. Each time takes one more rename to it.
const LOST_MAX: u32 = 100;

impl Fuse {
    fn is(&self, dir: BorrowedFd<'_>) -> bool {
        *self.known.get_or_init(|| fs_type::is_fuse(dir))
    }

    /// What `look` finds under `name` in `dir`. `list` lists `dir`, which waits for a rename that is under way.
    pub(super) fn find<T>(
        &self,
        dir: BorrowedFd<'_>,
        name: &str,
        list: impl Fn(BorrowedFd<'_>) -> io::Result<Vec<String>>,
        look: impl Fn() -> io::Result<T>,
    ) -> io::Result<T> {
        let is_lost =
            || self.is(dir) && list(dir).is_ok_and(|names| names.iter().any(|there| there == name));
        for _ in 0..LOST_MAX {
            match look() {
                Err(error) if error.kind() == io::ErrorKind::NotFound && is_lost() => {}
                result => return result,
            }
        }
        Err(io::Error::other(format!(
            "{name:?} is listed in its directory and cannot be found there"
        )))
    }

    /// Makes `file`, which is in `dir`, be read from the server and not from the kernel's pages. Only the kernel learns of
    /// this: to open the file so would ask the server for more, which not every server can do. Where it is refused, mixed
    /// contents show by their hash.
    pub(super) fn read_from_server(&self, dir: BorrowedFd<'_>, file: impl AsFd) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if self.is(dir) {
            use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

            let _ = fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags | OFlags::DIRECT));
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = (dir, file);
    }
}
