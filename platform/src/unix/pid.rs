//! This process's number, without asking the system each time, and never that of a parent.
//!
//! On Linux it is noted in a page that the kernel empties in each forked child, whatever forked it. A child that shares its
//! parent's memory (`vfork`, `posix_spawn`) may do nothing but execute another program.

/// This process's number.
#[cfg(target_os = "linux")]
pub(super) fn process_id() -> u32 {
    use std::sync::atomic::Ordering::Relaxed;

    let Some(noted) = linux::note() else {
        return std::process::id();
    };
    match noted.load(Relaxed) {
        0 => {
            let pid = std::process::id();
            noted.store(pid, Relaxed);
            pid
        }
        pid => pid,
    }
}

/// This process's number.
#[cfg(not(target_os = "linux"))]
pub(super) fn process_id() -> u32 {
    std::process::id()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ptr;
    use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

    /// Where the number is noted; 0 until it is, and in a forked child. `None` where the kernel has no such pages.
    #[allow(unsafe_code, reason = "memory that is never given back")]
    pub(super) fn note() -> Option<&'static AtomicU32> {
        // No lock and no cell that is made once: in a child that another thread has forked meanwhile it would never be free.
        static NOTE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
        static NONE: AtomicU32 = AtomicU32::new(0);
        let none = ptr::from_ref(&NONE).cast_mut();
        let mut note = NOTE.load(Ordering::Acquire);
        if note.is_null() {
            let made = page().unwrap_or(none);
            // Of two threads that make one the second one's stays unused.
            note = NOTE
                .compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire)
                .map_or_else(|first| first, |_| made);
        }
        // SAFETY: it is not null, and what it points to is aligned, zero at first, and never freed.
        (note != none).then(|| unsafe { &*note })
    }

    #[allow(unsafe_code, reason = "no safe call maps memory")]
    fn page() -> Option<*mut AtomicU32> {
        let len = size_of::<AtomicU32>();
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping at a place that the kernel chooses.
        let page = unsafe { libc::mmap(ptr::null_mut(), len, access, kind, -1, 0) };
        if page == libc::MAP_FAILED {
            return None;
        }
        // Some emulators take any advice and follow none, and show it by taking one that there is not.
        // SAFETY: the page is ours and nobody has seen it; neither advice changes what is in it.
        let empties_it = unsafe {
            libc::madvise(page, len, -1) != 0
                && libc::madvise(page, len, libc::MADV_WIPEONFORK) == 0
        };
        if !empties_it {
            // SAFETY: as above; it is not used again.
            unsafe { libc::munmap(page, len) };
            return None;
        }
        Some(page.cast())
    }
}
