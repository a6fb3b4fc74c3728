//! Memory that is shared from the start, so that what is read into it need not be copied to be shared.

use std::io;
use std::sync::Arc;

/// `len` zeros, which [`Arc::get_mut`] lets one write to as long as nobody shares them. For many of them the system has pages
/// that are zero already.
///
/// # Errors
/// `OutOfMemory`, where an allocation would end the process: a sparse file may claim any length.
///
/// ```
/// use std::sync::Arc;
///
/// let mut bytes = cachelock_platform::zeros(3)?;
/// Arc::get_mut(&mut bytes).expect("nobody shares it")[1] = 7;
/// assert_eq!(bytes[..], [0, 7, 0]);
/// assert!(cachelock_platform::zeros(usize::MAX / 2).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn zeros(len: usize) -> io::Result<Arc<[u8]>> {
    let mut probe = Vec::<u8>::new();
    // What cannot be had here cannot be had below. A small allocation does not fail by its size.
    if len > PROBED {
        probe
            .try_reserve_exact(len)
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        drop(probe);
    }
    let zeros = Arc::<[u8]>::new_zeroed_slice(len);
    // SAFETY: all bytes were set to zero, and any value is a good `u8`.
    #[allow(unsafe_code)]
    Ok(unsafe { zeros.assume_init() })
}

/// Longer allocations are tried first.
const PROBED: usize = 1 << 20;
