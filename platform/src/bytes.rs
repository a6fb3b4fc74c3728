//! Memory that is shared from the start, and holds nothing at first: what is read into it is neither copied to be shared, nor
//! zeroed to be read into.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;

use crate::File;

/// Shared memory that is filled from a file, from the start of both.
///
/// ```
/// # use cachelock_platform::{Access, Filling, native};
/// # let path = std::env::temp_dir().join(format!("cachelock-doc-filling-{:x}", native().random()?));
/// # native().create_dir_all(&path)?;
/// # let dir = native().open_dir(&path)?;
/// # dir.open("file", Access::CreateNew(0o600))?.write_at(b"bytes", 0)?;
/// let file = dir.open("file", Access::Read)?;
/// let mut filling = Filling::new(5)?;
/// assert_eq!(filling.read_from(&*file, 3)?, b"byt");
/// assert_eq!(filling.read_from(&*file, 3)?, b"es");
/// assert_eq!(filling.finish()[..], *b"bytes");
/// assert!(Filling::new(usize::MAX / 2).is_err());
/// # drop(file);
/// # dir.unlink("file")?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Filling {
    memory: Arc<[MaybeUninit<u8>]>,
    /// How much of it was filled.
    len: usize,
}

impl Filling {
    /// Room for `len` bytes.
    ///
    /// # Errors
    /// `OutOfMemory`, where an allocation would end the process: a sparse file may claim any length.
    pub fn new(len: usize) -> io::Result<Self> {
        // What cannot be had here cannot be had below. A small allocation does not fail by its size.
        if len > PROBED {
            Vec::<u8>::new()
                .try_reserve_exact(len)
                .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        }
        let memory = Arc::new_uninit_slice(len);
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if len >= LARGE {
            crate::unix::expect_to_fill(&memory);
        }
        Ok(Self { memory, len: 0 })
    }

    /// Reads the next bytes of `file`, at most `most`, and returns them; none at its end, or if there is no room.
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub fn read_from(&mut self, file: &dyn File, most: usize) -> io::Result<&[u8]> {
        let room = Arc::get_mut(&mut self.memory).unwrap_or_default();
        let room = &mut room[self.len..];
        let most = most.min(room.len());
        let begin = room.as_ptr();
        let read = file.read_new_at(&mut room[..most], self.len as u64)?;
        // Whoever says so without unsafe code has written them there.
        assert!(ptr::eq(read.as_ptr(), begin.cast()) && read.len() <= most);
        self.len += read.len();
        Ok(read)
    }

    /// Whether there is no room left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == self.memory.len()
    }

    /// What was read; a copy, if that was less than there was room for.
    #[must_use]
    pub fn finish(self) -> Arc<[u8]> {
        if self.is_full() {
            // SAFETY: `read_from` has counted only bytes that were written.
            #[allow(unsafe_code)]
            unsafe {
                self.memory.assume_init()
            }
        } else {
            // SAFETY: as above.
            #[allow(unsafe_code)]
            let read = unsafe { self.memory[..self.len].assume_init_ref() };
            read.into()
        }
    }
}

/// Longer allocations are tried first.
const PROBED: usize = 1 << 20;

/// From here on it pays to tell the system that all of it will be filled.
#[cfg(any(target_os = "linux", target_os = "android"))]
const LARGE: usize = 4 << 20;

/// Zeros, for who can only read into what holds something.
pub(crate) fn zeroed(memory: &mut [MaybeUninit<u8>]) -> &mut [u8] {
    memory.fill(MaybeUninit::new(0));
    // SAFETY: each of them was just written.
    #[allow(unsafe_code)]
    unsafe {
        memory.assume_init_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::World;
    use crate::{Access, Platform};

    fn file(bytes: &[u8]) -> Box<dyn File> {
        let world = World::live();
        let process = world.process("reader");
        let path = std::path::Path::new("/files");
        process.create_dir_all(path).expect("there is room");
        let dir = process.open_dir(path).expect("just made");
        let file = dir.open("file", Access::CreateNew(0o600)).expect("new");
        file.write_at(bytes, 0).expect("there is room");
        file
    }

    #[test]
    fn what_is_shorter_than_its_room_is_all_that_there_is() {
        let mut filling = Filling::new(10).expect("there is memory");
        let file = file(b"short");
        assert_eq!(filling.read_from(&*file, 10).expect("readable"), b"short");
        assert_eq!(filling.read_from(&*file, 10).expect("readable"), b"");
        assert!(!filling.is_full());
        assert_eq!(filling.finish()[..], *b"short");
    }

    #[test]
    fn nothing_is_read_beyond_the_room() {
        let mut filling = Filling::new(3).expect("there is memory");
        let file = file(b"longer");
        assert_eq!(filling.read_from(&*file, 10).expect("readable"), b"lon");
        assert!(filling.is_full());
        assert_eq!(filling.read_from(&*file, 10).expect("readable"), b"");
        assert_eq!(filling.finish()[..], *b"lon");
    }
}
