//! The machine's page frames.

use core::ptr;

use tiny_kernel::buddy::{Buddy, order_for};

use crate::mm::{PAGE, linear_base, physical_to_virtual};
use crate::sync::SpinLock;

static FRAMES: SpinLock<Option<Buddy<'static>>> = SpinLock::new(None);

/// Takes the allocator into use.
pub fn init(buddy: Buddy<'static>) {
    *FRAMES.lock() = Some(buddy);
}

/// Takes physically contiguous memory for `bytes`, aligned to its size rounded up to a power of two; the content is whatever
/// it was. Returns its physical address.
pub fn allocate(bytes: usize) -> Option<u64> {
    let index = FRAMES.lock().as_mut()?.allocate(order_for(bytes)?)?;
    Some(index as u64 * PAGE)
}

/// Takes one frame that holds `contents`, a page at most, and zeros behind them.
pub fn allocate_holding(contents: &[u8]) -> Option<u64> {
    let frame = allocate(PAGE as usize)?;
    let memory = physical_to_virtual(frame) as *mut u8;
    let length = contents.len().min(PAGE as usize);
    // SAFETY: the frame was free, so nobody refers to it; RAM is mapped linearly; both parts lie inside it.
    unsafe {
        ptr::copy_nonoverlapping(contents.as_ptr(), memory, length);
        ptr::write_bytes(memory.add(length), 0, PAGE as usize - length);
    }
    Some(frame)
}

/// Takes one zeroed frame, as a page table begins.
pub fn allocate_zeroed() -> Option<u64> {
    allocate_holding(&[])
}

/// Gives memory back.
///
/// # Safety
/// `physical` came from this module, and nothing refers to the memory any more, page tables and caches of them included.
///
/// # Panics
/// When no block in use starts there: a bug that must not go on.
pub unsafe fn free(physical: u64) {
    let freed = FRAMES
        .lock()
        .as_mut()
        .is_some_and(|frames| frames.free((physical / PAGE) as usize));
    assert!(freed, "frame {physical:#x} was not in use");
}

/// Gives memory back by its linear-map address; see [`free`].
///
/// # Safety
/// As for [`free`].
pub unsafe fn free_virtual(address: u64) {
    // SAFETY: the caller's promise is the callee's.
    unsafe { free(address - linear_base()) };
}

/// Frames not in use.
pub fn available() -> usize {
    FRAMES.lock().as_ref().map_or(0, Buddy::free_frames)
}
