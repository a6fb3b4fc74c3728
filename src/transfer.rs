//! All of a file's bytes: calls that go on until nothing is left, as one call of the platform need not.

use std::io;

use cachelock_platform::{File, failure};

/// Reads from the start until the end of the file or `limit` bytes.
pub(crate) fn read_up_to(file: &dyn File, limit: usize) -> io::Result<Vec<u8>> {
    // One byte more than a record shows the end of most files without a second read.
    let mut bytes = vec![0; limit.min(4096)];
    let mut len = 0;
    while len < limit {
        if len == bytes.len() {
            bytes.resize((len * 2).min(limit), 0);
        }
        let read = file.read_at(&mut bytes[len..], len as u64)?;
        if read == 0 {
            break;
        }
        len += read;
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Reads to the end; `len` is what the file system said. Never allocates for more than there is.
pub(crate) fn read_whole(file: &dyn File, len: u64) -> io::Result<Vec<u8>> {
    let expected = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let mut bytes = Vec::new();
    // One byte more, so that the end shows in the same call. A sparse file may claim any length: no abort for that.
    bytes
        .try_reserve_exact(expected.saturating_add(1))
        .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    bytes.resize(expected + 1, 0);
    let mut at = 0;
    loop {
        if at == bytes.len() {
            bytes.resize(at * 2, 0);
        }
        let read = file.read_at(&mut bytes[at..], at as u64)?;
        if read == 0 {
            bytes.truncate(at);
            return Ok(bytes);
        }
        at += read;
    }
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
