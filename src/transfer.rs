//! All of a file's bytes: calls that go on until nothing is left, as one call of the platform need not.

use std::io;
use std::sync::Arc;

use cachelock_platform::{File, Filling, GUEST, failure};

use crate::payload::PIECE;

/// Reads from the start until the end of the file or `limit` bytes.
pub(crate) fn read_up_to(file: &dyn File, limit: usize) -> io::Result<Vec<u8>> {
    read_enough(file, limit, &mut |_| false)
}

/// As [`read_up_to`], but not beyond what is enough: that saves the look for the file's end. `is_enough` is asked after each read,
/// and of all that was read.
pub(crate) fn read_enough(
    file: &dyn File,
    limit: usize,
    is_enough: &mut dyn FnMut(&[u8]) -> bool,
) -> io::Result<Vec<u8>> {
    // Most files in one read: claims have 512 bytes, tags a few hundred. A guest pays for each call more than for zeros.
    let first = if GUEST { 4096 } else { 1024 };
    let mut bytes = vec![0; limit.min(first)];
    let mut len = 0;
    while len < limit {
        if len == bytes.len() {
            bytes.resize((len * 2).min(limit), 0);
        }
        let read = file.read_at(&mut bytes[len..], len as u64)?;
        len += read;
        if is_enough(&bytes[..len]) || read == 0 {
            break;
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Reads `len` bytes, which is what the file system said, or what there is of them, and calls `seen` with each piece as it
/// comes. Never allocates for more than there is.
pub(crate) fn read_whole(
    file: &dyn File,
    len: u64,
    mut seen: impl FnMut(&[u8]),
) -> io::Result<Arc<[u8]>> {
    let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let mut filling = Filling::new(len)?;
    while !filling.is_full() {
        let piece = filling.read_from(file, PIECE)?;
        if piece.is_empty() {
            break;
        }
        seen(piece);
    }
    Ok(filling.finish())
}

pub(crate) fn write_all_at(file: &dyn File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = file.write_at(bytes, offset)?;
        if written == 0 {
            return Err(failure(
                io::ErrorKind::WriteZero,
                "the file system took no bytes and gave no reason",
            ));
        }
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}
