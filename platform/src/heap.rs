//! Memory for a guest that is a component: see `wasi/libc.rs`. Here because it can be tested on every target.
//!
//! A list of free blocks in the order of their addresses. The first that is large enough is taken; one that is given back is
//! joined with its neighbours. That takes longer the more holes there are, and a component has few.

#![allow(unsafe_code, reason = "what memory is made of")]

use std::ptr;

/// What all memory is aligned to at least.
pub(crate) const ALIGNMENT: usize = UNIT;

/// What the host gives at once.
const PAGE: usize = 65_536;
const UNIT: usize = size_of::<Block>();

/// What stands before each block; while that is free, its link in the list. Blocks are whole numbers of this long.
#[repr(C, align(16))]
struct Block {
    next: *mut Block,
    /// Its length, this header included.
    units: usize,
}

pub(crate) struct Heap {
    /// The first free block.
    free: *mut Block,
}

impl Heap {
    pub(crate) const fn new() -> Self {
        Self {
            free: ptr::null_mut(),
        }
    }

    /// `len` bytes at a multiple of `alignment`, which is a power of two; null if `more` has no more. That is asked for a
    /// number of pages, and returns where they begin.
    ///
    /// # Safety
    /// What `more` returns is this heap's from then on.
    pub(crate) unsafe fn allocate(
        &mut self,
        len: usize,
        alignment: usize,
        more: impl FnOnce(usize) -> Option<*mut u8>,
    ) -> *mut u8 {
        // As many more as may have to be skipped.
        let skipped = alignment.saturating_sub(UNIT);
        let Some(len) = len.checked_add(skipped) else {
            return ptr::null_mut();
        };
        // SAFETY: so says the caller.
        unsafe {
            let memory = self.allocate_any(len, more);
            let skip = memory.align_offset(alignment.max(1)) / UNIT;
            if memory.is_null() || skip == 0 {
                return memory;
            }
            let block = memory.cast::<Block>().sub(1);
            let aligned = block.add(skip);
            (*aligned).units = (*block).units - skip;
            (*block).units = skip;
            self.give_back(block);
            aligned.add(1).cast()
        }
    }

    /// # Safety
    /// As [`Heap::allocate`].
    unsafe fn allocate_any(
        &mut self,
        len: usize,
        more: impl FnOnce(usize) -> Option<*mut u8>,
    ) -> *mut u8 {
        let Some(units) = len.checked_add(2 * UNIT - 1).map(|len| len / UNIT) else {
            return ptr::null_mut();
        };
        // SAFETY: the list has whole blocks that are nobody's.
        unsafe {
            let found = self.take(units);
            if !found.is_null() {
                return found;
            }
            let pages = units.div_ceil(PAGE / UNIT);
            let Some(new) = more(pages) else {
                return ptr::null_mut();
            };
            let new = new.cast::<Block>();
            (*new).units = pages * (PAGE / UNIT);
            self.give_back(new);
            self.take(units)
        }
    }

    /// # Safety
    /// `memory` was allocated here and is nobody's any more.
    pub(crate) unsafe fn free(&mut self, memory: *mut u8) {
        // SAFETY: a header stands before it.
        unsafe { self.give_back(memory.cast::<Block>().sub(1)) };
    }

    /// How many bytes there are at `memory`.
    ///
    /// # Safety
    /// `memory` was allocated here.
    pub(crate) unsafe fn len(memory: *mut u8) -> usize {
        // SAFETY: a header stands before it.
        unsafe { ((*memory.cast::<Block>().sub(1)).units - 1) * UNIT }
    }

    /// The memory of a block of `units`; null if there is none.
    ///
    /// # Safety
    /// The list is whole.
    unsafe fn take(&mut self, units: usize) -> *mut u8 {
        let mut link = &raw mut self.free;
        // SAFETY: it has blocks that are nobody's.
        unsafe {
            while !(*link).is_null() {
                let block = *link;
                let has = (*block).units;
                if has >= units {
                    // From its end, so that what is left stays in its place in the list.
                    let taken = block.add(has - units);
                    if taken == block {
                        *link = (*block).next;
                    } else {
                        (*block).units = has - units;
                        (*taken).units = units;
                    }
                    return taken.add(1).cast();
                }
                link = &raw mut (*block).next;
            }
        }
        ptr::null_mut()
    }

    /// # Safety
    /// `block` is a whole block, not in the list, and nobody's.
    unsafe fn give_back(&mut self, block: *mut Block) {
        let mut link = &raw mut self.free;
        let mut before = ptr::null_mut::<Block>();
        // SAFETY: the list has whole blocks in the order of their addresses.
        unsafe {
            while !(*link).is_null() && *link < block {
                before = *link;
                link = &raw mut (*before).next;
            }
            (*block).next = *link;
            *link = block;
            join(block);
            if !before.is_null() {
                join(before);
            }
        }
    }
}

/// Makes one block of `block` and the next free one, if that begins where it ends.
///
/// # Safety
/// `block` is in a list.
unsafe fn join(block: *mut Block) {
    // SAFETY: so are those that it leads to.
    unsafe {
        let next = (*block).next;
        if block.add((*block).units) == next {
            (*block).units += (*next).units;
            (*block).next = (*next).next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory as a host gives it: page after page, until there is no more.
    struct Pages {
        all: Vec<[u128; PAGE / 16]>,
        given: usize,
    }

    impl Pages {
        fn new(count: usize) -> Self {
            Self {
                all: vec![[0; PAGE / 16]; count],
                given: 0,
            }
        }

        fn more(&mut self, pages: usize) -> Option<*mut u8> {
            let first = self.given;
            self.given = first
                .checked_add(pages)
                .filter(|end| *end <= self.all.len())?;
            // SAFETY: it is one of them.
            Some(unsafe { self.all.as_mut_ptr().add(first) }.cast())
        }
    }

    #[test]
    fn what_is_allocated_is_nobody_elses_and_what_is_freed_is_one_again() {
        for seed in 1..20_u64 {
            let mut pages = Pages::new(64);
            let mut heap = Heap::new();
            let mut random = seed;
            let mut draw = |below: usize| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (random >> 33) as usize % below
            };
            let mut held: Vec<(*mut u8, usize, u8)> = Vec::new();
            let check = |(memory, len, mark): (*mut u8, usize, u8)| {
                // SAFETY: it is held.
                let bytes = unsafe { std::slice::from_raw_parts(memory, len) };
                assert!(
                    bytes.iter().all(|byte| *byte == mark),
                    "seed {seed}: overwritten"
                );
            };
            for step in 0..4000 {
                if held.len() > 100 || (!held.is_empty() && draw(3) == 0) {
                    let freed = held.swap_remove(draw(held.len()));
                    check(freed);
                    // SAFETY: it was held.
                    unsafe { heap.free(freed.0) };
                    continue;
                }
                let len = match draw(10) {
                    0 => draw(3 * PAGE),
                    _ => draw(300),
                };
                let alignment = 1 << draw(8);
                // SAFETY: pages are given once.
                let memory = unsafe { heap.allocate(len, alignment, |count| pages.more(count)) };
                if memory.is_null() {
                    continue;
                }
                let aligned = memory.addr() % alignment.max(ALIGNMENT);
                assert_eq!(aligned, 0, "seed {seed}");
                let mark = step as u8;
                // SAFETY: it is ours, and that long.
                unsafe {
                    assert!(Heap::len(memory) >= len, "seed {seed}: too short");
                    memory.write_bytes(mark, len);
                }
                held.push((memory, len, mark));
            }
            for freed in held {
                check(freed);
                // SAFETY: it was held.
                unsafe { heap.free(freed.0) };
            }
            // SAFETY: the list is whole.
            let (next, units) = unsafe { ((*heap.free).next, (*heap.free).units) };
            assert!(next.is_null(), "seed {seed}: not joined");
            assert_eq!(units * UNIT, pages.given * PAGE, "seed {seed}: lost");
        }
    }

    #[test]
    fn more_than_there_is_is_refused_and_harms_nothing() {
        let mut pages = Pages::new(2);
        let mut heap = Heap::new();
        let mut allocate = |len| {
            // SAFETY: pages are given once.
            unsafe { heap.allocate(len, 1, |count| pages.more(count)) }
        };
        assert!(!allocate(100).is_null());
        for len in [3 * PAGE, usize::MAX, usize::MAX - 20] {
            assert!(allocate(len).is_null(), "{len}");
        }
        assert!(!allocate(100).is_null());
    }
}
