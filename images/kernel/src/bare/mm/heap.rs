//! The kernel's heap: free lists by size up to half a page, page frames beyond.
//!
//! A freed object is the first to be handed out again. Whoever still refers to it from outside, a host that walks our
//! structures for instance, soon sees another object there: such races are meant to be as real as on a big kernel.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

use crate::mm::{PAGE, frames, physical_to_virtual};
use crate::sync::SpinLock;

/// Smallest object: it holds the link of its free list, and keeps 16-byte alignment.
const SMALLEST: usize = 32;
/// Free lists: 32, 64, … 2048 bytes.
const CLASSES: usize = 7;

struct FreeObject {
    next: *mut FreeObject,
}

struct Heap {
    lists: [*mut FreeObject; CLASSES],
}

// SAFETY: the lists link memory that belongs to the heap alone.
unsafe impl Send for Heap {}

static HEAP: SpinLock<Heap> = SpinLock::new(Heap {
    lists: [ptr::null_mut(); CLASSES],
});

/// The list for a layout; `None` when it takes whole frames.
fn class(layout: &Layout) -> Option<usize> {
    let size = layout.size().max(layout.align()).max(SMALLEST);
    let class = (size.next_power_of_two() / SMALLEST).trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

impl Heap {
    fn take(&mut self, class: usize) -> Option<*mut u8> {
        if self.lists[class].is_null() {
            self.refill(class)?;
        }
        let object = self.lists[class];
        // SAFETY: objects on the list are free memory, linked by `give` with valid pointers.
        self.lists[class] = unsafe { (*object).next };
        Some(object.cast())
    }

    /// # Safety
    /// `memory` has the class's size, is aligned to it, and nobody refers to it.
    unsafe fn give(&mut self, class: usize, memory: *mut u8) {
        let object: *mut FreeObject = memory.cast();
        // SAFETY: by the contract the memory is the heap's to write to, and large and aligned enough.
        unsafe {
            object.write(FreeObject {
                next: self.lists[class],
            });
        }
        self.lists[class] = object;
    }

    fn refill(&mut self, class: usize) -> Option<()> {
        let page = physical_to_virtual(frames::allocate(PAGE as usize)?) as *mut u8;
        let size = SMALLEST << class;
        for offset in (0..PAGE as usize).step_by(size).rev() {
            // SAFETY: the pieces lie in a page that was just taken, side by side.
            unsafe { self.give(class, page.add(offset)) };
        }
        Some(())
    }
}

struct KernelHeap;

// SAFETY: memory comes from free lists and frames, each piece handed out once until it is given back, aligned to its
// size; size and alignment together choose the list, the same for allocation and release.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class(&layout) {
            Some(class) => HEAP.lock().take(class).unwrap_or(ptr::null_mut()),
            None => match frames::allocate(layout.size().max(layout.align())) {
                Some(frame) => physical_to_virtual(frame) as *mut u8,
                None => ptr::null_mut(),
            },
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        match class(&layout) {
            // SAFETY: the caller gives back what `alloc` handed out for this layout.
            Some(class) => unsafe { HEAP.lock().give(class, memory) },
            // SAFETY: as above; `alloc` took it from the frames.
            None => unsafe { frames::free_virtual(memory as u64) },
        }
    }
}

#[global_allocator]
static ALLOCATOR: KernelHeap = KernelHeap;
