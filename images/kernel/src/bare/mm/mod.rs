//! Memory: page frames, the kernel's heap and page tables, address spaces of processes.

pub mod boot;
pub mod frames;
pub mod heap;
pub mod page_cache;
pub mod paging;
pub mod space;
pub mod tlb;
pub mod vma;

use core::sync::atomic::{AtomicU64, Ordering};

use crate::sync::SpinLock;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// Where the kernel image runs: this plus its physical address. `kernel.ld` states the same.
pub const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where modules go: near the image, in a page-table page of their own, outside the linear map.
pub const MODULE_AREA: core::ops::Range<u64> = 0xffff_ffff_c000_0000..0xffff_ffff_e000_0000;
/// Where device registers go.
const DEVICE_AREA: u64 = 0xffff_ffff_e000_0000;
/// Where RAM is mapped linearly, with four and with five levels of page tables.
const LINEAR_BASES: [u64; 2] = [0xffff_9000_0000_0000, 0xff22_0000_0000_0000];

/// Where RAM is mapped now; 0 while the boot tables with their identity map are in use.
static LINEAR_BASE: AtomicU64 = AtomicU64::new(0);
/// Where the next device goes.
static NEXT_DEVICE: SpinLock<u64> = SpinLock::new(DEVICE_AREA);

/// Where RAM is mapped linearly.
pub fn linear_base() -> u64 {
    LINEAR_BASE.load(Ordering::Relaxed)
}

/// Where the kernel sees a byte of RAM.
pub fn physical_to_virtual(physical: u64) -> u64 {
    linear_base() + physical
}

/// The address behind the last that user mode can map: one page below the end of the lower half, so that a `syscall` at its
/// end cannot return to a non-canonical address.
pub fn user_end() -> u64 {
    (1 << (if paging::levels() == 5 { 56 } else { 47 })) - PAGE
}

/// Maps the registers of a device, uncached, and returns where.
///
/// # Panics
/// When there is no memory for page tables, at boot.
pub fn map_device(physical: u64, bytes: u64) -> u64 {
    let mut next = NEXT_DEVICE.lock();
    let address = *next;
    let first = physical & !(PAGE - 1);
    let length = (physical + bytes).next_multiple_of(PAGE) - first;
    *next += length;
    paging::kernel()
        .map(
            address,
            first,
            length,
            paging::DEVICE,
            &mut frames::allocate_zeroed,
        )
        .expect("no memory to map a device");
    address + (physical - first)
}
