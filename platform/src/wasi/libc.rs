//! The part of the C library that a component calls, for one that is a library and no command: in place of the one that is
//! made for programs, which is 20 KB of a guest of 200 KB.
//!
//! The standard library asks for memory through these functions, and says through them why it panics. Nothing else of a
//! component in Rust comes here: files, clocks and randomness are had from the host.

#![allow(unsafe_code, reason = "the C library's interface")]

use std::cell::UnsafeCell;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use wasi::cli::stderr::get_stderr;

use crate::heap::{ALIGNMENT, Heap};

struct Shared(UnsafeCell<Heap>);

// SAFETY: a guest has one thread.
unsafe impl Sync for Shared {}

static HEAP: Shared = Shared(UnsafeCell::new(Heap::new()));

fn allocate(len: usize, alignment: usize) -> *mut u8 {
    let more = |pages| {
        let first = core::arch::wasm32::memory_grow::<0>(pages);
        (first != usize::MAX).then(|| ptr::with_exposed_provenance_mut(first << 16))
    };
    // SAFETY: nobody else is in the heap, and nobody else has what the host gives.
    unsafe { (*HEAP.0.get()).allocate(len, alignment, more) }
}

#[unsafe(no_mangle)]
extern "C" fn malloc(len: usize) -> *mut c_void {
    allocate(len, ALIGNMENT).cast()
}

#[unsafe(no_mangle)]
extern "C" fn calloc(count: usize, len: usize) -> *mut c_void {
    let Some(len) = count.checked_mul(len) else {
        return ptr::null_mut();
    };
    let memory = allocate(len, ALIGNMENT);
    if !memory.is_null() {
        // SAFETY: it is that long.
        unsafe { memory.write_bytes(0, len) };
    }
    memory.cast()
}

/// # Safety
/// `memory` is null, or was allocated here and is nobody's any more.
#[unsafe(no_mangle)]
unsafe extern "C" fn free(memory: *mut c_void) {
    if !memory.is_null() {
        // SAFETY: nobody else is in the heap; the rest says the caller.
        unsafe { (*HEAP.0.get()).free(memory.cast()) };
    }
}

/// # Safety
/// As [`free`].
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(memory: *mut c_void, len: usize) -> *mut c_void {
    if memory.is_null() {
        return malloc(len);
    }
    // SAFETY: so says the caller.
    let has = unsafe { Heap::len(memory.cast()) };
    if (has / 2..=has).contains(&len) {
        return memory;
    }
    let new = allocate(len, ALIGNMENT);
    if !new.is_null() {
        // SAFETY: both are that long.
        unsafe {
            new.copy_from_nonoverlapping(memory.cast(), len.min(has));
            free(memory);
        }
    }
    new.cast()
}

#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(alignment: usize, len: usize) -> *mut c_void {
    allocate(len, alignment).cast()
}

/// # Safety
/// `memory` can be written.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(
    memory: *mut *mut c_void,
    alignment: usize,
    len: usize,
) -> c_int {
    /// The number of "out of memory" in WASI.
    const ENOMEM: c_int = 48;
    let new = aligned_alloc(alignment, len);
    if new.is_null() {
        return ENOMEM;
    }
    // SAFETY: so says the caller.
    unsafe { *memory = new };
    0
}

/// Only the standard library calls it, to say why it panics.
///
/// # Safety
/// `len` bytes can be read at `bytes`.
#[unsafe(no_mangle)]
unsafe extern "C" fn write(_file: c_int, bytes: *const u8, len: usize) -> isize {
    // The host need not take more at once.
    let len = len.min(4096);
    // SAFETY: so says the caller.
    let bytes = unsafe { std::slice::from_raw_parts(bytes, len) };
    // Nobody is left to tell if this fails.
    let _ = get_stderr().blocking_write_and_flush(bytes);
    len.cast_signed()
}

/// There is no environment.
#[unsafe(no_mangle)]
extern "C" fn getenv(_name: *const c_char) -> *mut c_char {
    ptr::null_mut()
}

/// There is no current directory.
#[unsafe(no_mangle)]
extern "C" fn getcwd(_buffer: *mut c_char, _len: usize) -> *mut c_char {
    ptr::null_mut()
}

/// There are no numbers of errors here that would have a name.
///
/// # Safety
/// `len` bytes can be written at `buffer`.
#[unsafe(no_mangle)]
unsafe extern "C" fn strerror_r(_number: c_int, buffer: *mut c_char, len: usize) -> c_int {
    if len > 0 {
        // SAFETY: so says the caller.
        unsafe { *buffer = 0 };
    }
    0
}
