//! Who this process is, and the one cell that belongs to it alone.

use std::sync::{Arc, OnceLock};

use super::pid::process_id;
use crate::{Identity, Slot};

/// Asked anew each time, but for the boot, which no process survives.
pub(super) fn identity() -> Identity {
    static BOOT: OnceLock<Option<u128>> = OnceLock::new();
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    Identity {
        pid: Some(process_id()),
        boot: *BOOT.get_or_init(boot),
        host: (!host.is_empty()).then_some(host),
    }
}

/// The kernel's random number of this boot.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn boot() -> Option<u128> {
    parse_uuid(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?)
}

/// The kernel's random number of this boot.
#[cfg(target_vendor = "apple")]
#[allow(unsafe_code, reason = "no safe call for a sysctl by name")]
fn boot() -> Option<u128> {
    let mut text = [0_u8; 64];
    let mut len = text.len();
    // SAFETY: the name is a C string; `text` is writable for the `len` bytes announced, and `len` is updated to how
    // many of them were written; there is no new value, so null and 0.
    let status = unsafe {
        libc::sysctlbyname(
            c"kern.bootsessionuuid".as_ptr(),
            text.as_mut_ptr().cast(),
            &raw mut len,
            std::ptr::null_mut(),
            0,
        )
    };
    if status != 0 {
        return None;
    }
    let text = std::ffi::CStr::from_bytes_until_nul(&text).ok()?;
    parse_uuid(text.to_str().ok()?)
}

/// Nothing: the time of the boot, which the BSDs do tell, moves when the clock is set, and a boot that seems to be
/// another one makes living holders look dead.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn boot() -> Option<u128> {
    None
}

#[cfg(any(
    test,
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple"
))]
fn parse_uuid(text: &str) -> Option<u128> {
    let digits = text.trim().replace('-', "");
    if digits.len() != 32 {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok()
}

/// One cell for each process. A forked child finds its parent's at the end of the list, and appends its own.
///
/// A list and no mutex, because a mutex that another thread holds at the moment of the fork stays locked in the child
/// for ever. The cells of the ancestors stay; they must not be dropped here, as what is in them is theirs.
struct Cell {
    pid: u32,
    slot: Arc<Slot>,
    next: OnceLock<Box<Cell>>,
}

impl Cell {
    fn new(pid: u32) -> Self {
        Self {
            pid,
            slot: Arc::default(),
            next: OnceLock::new(),
        }
    }
}

/// This process's cell.
pub(super) fn slot() -> Arc<Slot> {
    static FIRST: OnceLock<Cell> = OnceLock::new();
    let pid = process_id();
    let mut cell = FIRST.get_or_init(|| Cell::new(pid));
    // Only the last one can be ours: an earlier one with our number belonged to an ancestor that is dead.
    loop {
        match cell.next.get() {
            Some(next) => cell = next,
            None if cell.pid == pid => return cell.slot.clone(),
            None => cell = cell.next.get_or_init(|| Box::new(Cell::new(pid))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_read_whatever_its_dress() {
        let expected = Some(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(
            parse_uuid("01234567-89ab-cdef-0123-456789abcdef\n"),
            expected
        );
        assert_eq!(parse_uuid("01234567-89AB-CDEF-0123-456789ABCDEF"), expected);
        for odd in [
            "",
            "\n",
            "0123",
            "01234567-89ab-cdef-0123-456789abcdeg",
            "+1234567-89ab-cdef-0123-456789abcdef1",
        ] {
            assert_eq!(parse_uuid(odd), None, "{odd:?} is no boot id");
        }
    }

    #[test]
    fn the_slot_is_one_and_the_same_in_all_threads() {
        let mine = slot();
        let theirs = std::thread::spawn(slot).join().unwrap();
        assert!(Arc::ptr_eq(&mine, &theirs), "one process, one cell");
    }
}
