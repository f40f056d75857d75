//! The heap: a bump allocator that starts anew when nothing is allocated any more.
//!
//! That is enough for programs that work in rounds and drop everything between them, in one thread.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;

use crate::sys;

/// Room for one round of any program here; mapped at the first allocation.
const HEAP_BYTES: u64 = 4 << 20;

#[derive(Clone, Copy)]
struct State {
    start: u64,
    next: u64,
    live: u64,
}

struct Heap(UnsafeCell<State>);

// SAFETY: programs of this runtime have one thread each.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(State {
    start: 0,
    next: 0,
    live: 0,
}));

impl State {
    fn allocate(&mut self, layout: Layout) -> Option<u64> {
        if self.start == 0 {
            let protection = sys::PROT_READ | sys::PROT_WRITE;
            self.start = sys::mmap(0, HEAP_BYTES, protection, None).ok()?;
        }
        if self.live == 0 {
            self.next = self.start;
        }
        let address = self.next.checked_next_multiple_of(layout.align() as u64)?;
        let end = address.checked_add(layout.size() as u64)?;
        if end > self.start + HEAP_BYTES {
            return None;
        }
        self.next = end;
        self.live += 1;
        Some(address)
    }
}

// SAFETY: blocks come from a mapping that is never unmapped, are aligned as asked and do not overlap: `next` only
// moves back when no block is live.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: one thread, and no reference to the state outlives a call.
        let state = unsafe { &mut *self.0.get() };
        state
            .allocate(layout)
            .map_or(ptr::null_mut(), |address| address as *mut u8)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {
        // SAFETY: as above.
        let state = unsafe { &mut *self.0.get() };
        state.live -= 1;
    }
}
