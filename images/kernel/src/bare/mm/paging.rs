//! Page tables of four or five levels (Intel SDM 3A §4.5).

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::arch::instructions::five_level_paging;
use crate::mm::physical_to_virtual;

/// The entry leads somewhere.
pub const PRESENT: u64 = 1 << 0;
/// Writable.
pub const WRITABLE: u64 = 1 << 1;
/// User mode may use it.
pub const USER: u64 = 1 << 2;
const CACHE_DISABLE: u64 = 1 << 4;
const LARGE: u64 = 1 << 7;
/// The frame belongs to the address space alone (a bit that the processor leaves to software); else it is the page cache's.
pub const PRIVATE: u64 = 1 << 9;
/// No instructions are fetched from it.
pub const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Kernel data.
pub const DATA: u64 = PRESENT | WRITABLE | NO_EXECUTE;
/// Device registers.
pub const DEVICE: u64 = DATA | CACHE_DISABLE;

const ENTRIES: usize = 512;
/// log2 of the bytes that an entry of each level covers, lowest level first.
const SHIFTS: [u32; 5] = [12, 21, 30, 39, 48];

/// Root of the kernel's own tables; `boot.s` loads it on each further processor.
static KERNEL_ROOT: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static kernel_root: AtomicU64;
}

/// No frame was left for a table.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory;

/// Where new tables come from: zeroed frames.
pub type TableSource<'a> = &'a mut dyn FnMut() -> Option<u64>;

/// Levels in use, once somebody has asked; 0 before.
static LEVELS: AtomicUsize = AtomicUsize::new(0);

/// Levels in use: 4 or 5. They do not change after boot, and asking the processor leaves the guest (KVM intercepts reads of CR4).
pub fn levels() -> usize {
    match LEVELS.load(Ordering::Relaxed) {
        0 => {
            let levels = if five_level_paging() { 5 } else { 4 };
            LEVELS.store(levels, Ordering::Relaxed);
            levels
        }
        levels => levels,
    }
}

/// A set of page tables, by the physical address of its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageTable(u64);

/// The kernel's own tables: nothing in the lower half.
pub fn kernel() -> PageTable {
    PageTable(KERNEL_ROOT.load(Ordering::Relaxed))
}

/// Declares `table` the kernel's own.
pub fn set_kernel(table: PageTable) {
    KERNEL_ROOT.store(table.0, Ordering::Relaxed);
    // SAFETY: a word in `.data` of `boot.s`, for processors that are not started yet.
    unsafe { kernel_root.store(table.0, Ordering::Release) };
}

fn index(address: u64, level: usize) -> usize {
    (address >> SHIFTS[level]) as usize % ENTRIES
}

/// The entry for `address` in the table at physical address `table`.
fn entry(table: u64, address: u64, level: usize) -> *mut u64 {
    let entries = physical_to_virtual(table) as *mut u64;
    // SAFETY: a table has 512 entries, and the index is below that.
    unsafe { entries.add(index(address, level)) }
}

fn load(entry: *mut u64) -> u64 {
    // SAFETY: made by `entry`, so it points into a page table in the linear map. Volatile: other processors and
    // the page walker of the hardware use it too.
    unsafe { entry.read_volatile() }
}

fn store(entry: *mut u64, value: u64) {
    // SAFETY: as in `load`.
    unsafe { entry.write_volatile(value) };
}

impl PageTable {
    /// Empty tables.
    pub fn new(source: TableSource<'_>) -> Result<Self, OutOfMemory> {
        source().map(Self).ok_or(OutOfMemory)
    }

    /// Tables for a process: the kernel's upper half, nothing below. The kernel never adds entries to its root after boot, so
    /// the copies stay true.
    pub fn for_process(source: TableSource<'_>) -> Result<Self, OutOfMemory> {
        let table = Self::new(source)?;
        let top = levels() - 1;
        for slot in ENTRIES / 2..ENTRIES {
            let address = (slot as u64) << SHIFTS[top];
            store(
                entry(table.0, address, top),
                load(entry(kernel().0, address, top)),
            );
        }
        Ok(table)
    }

    /// Physical address of the root.
    pub fn root(self) -> u64 {
        self.0
    }

    /// Maps `bytes` from `address` on to `physical` on, in the largest pages that fit.
    ///
    /// # Errors
    /// When no frame is left for a table; the part before is mapped.
    pub fn map(
        self,
        address: u64,
        physical: u64,
        bytes: u64,
        flags: u64,
        source: TableSource<'_>,
    ) -> Result<(), OutOfMemory> {
        let mut offset = 0;
        while offset < bytes {
            let (to, from) = (address + offset, physical + offset);
            // Pages of 2 MiB, not of 1 GiB, which CPUID need not offer.
            let large = 1 << SHIFTS[1];
            let level = usize::from((to | from) % large == 0 && bytes - offset >= large);
            let slot = self.slot(to, level, source)?;
            let page_size = if level > 0 { LARGE } else { 0 };
            store(slot, from | flags | page_size);
            offset += 1 << SHIFTS[level];
        }
        Ok(())
    }

    /// The entry of level `level` for `address`, with tables down to it.
    fn slot(
        self,
        address: u64,
        level: usize,
        source: TableSource<'_>,
    ) -> Result<*mut u64, OutOfMemory> {
        let mut table = self.0;
        for above in (level + 1..levels()).rev() {
            let slot = entry(table, address, above);
            if load(slot) & PRESENT == 0 {
                let new = source().ok_or(OutOfMemory)?;
                // What a lower entry forbids stays forbidden.
                store(slot, new | PRESENT | WRITABLE | USER);
            }
            table = load(slot) & ADDRESS;
        }
        Ok(entry(table, address, level))
    }

    /// The 4 KiB entry for `address`; `None` when there is none, or a larger page.
    fn find(self, address: u64) -> Option<*mut u64> {
        let mut table = self.0;
        for level in (1..levels()).rev() {
            let value = load(entry(table, address, level));
            if value & PRESENT == 0 || value & LARGE != 0 {
                return None;
            }
            table = value & ADDRESS;
        }
        Some(entry(table, address, 0))
    }

    /// Physical address of the user page at `address` if it allows all of `flags`.
    pub fn user_page(self, address: u64, flags: u64) -> Option<u64> {
        let value = load(self.find(address)?);
        let wanted = PRESENT | USER | flags;
        (value & wanted == wanted).then_some(value & ADDRESS)
    }

    /// Unmaps the 4 KiB page at `address` and returns its frame if it was [`PRIVATE`]. Cached translations are the caller's to
    /// remove.
    pub fn unmap(self, address: u64) -> Option<u64> {
        let slot = self.find(address)?;
        let value = load(slot);
        if value & PRESENT == 0 {
            return None;
        }
        store(slot, 0);
        (value & PRIVATE != 0).then_some(value & ADDRESS)
    }

    /// Frees the tables of the lower half and the root, handing each frame to `free`; pages that are still mapped are
    /// not touched.
    ///
    /// # Safety
    /// The tables are a process's, no processor uses them, and nobody will.
    pub unsafe fn free(self, free: &mut dyn FnMut(u64)) {
        let top = levels() - 1;
        for slot in 0..ENTRIES / 2 {
            let value = load(entry(self.0, (slot as u64) << SHIFTS[top], top));
            if value & PRESENT != 0 {
                free_table(value & ADDRESS, top - 1, free);
            }
        }
        free(self.0);
    }
}

/// Frees a table of level `level` and those below it.
fn free_table(table: u64, level: usize, free: &mut dyn FnMut(u64)) {
    if level > 0 {
        for slot in 0..ENTRIES {
            let value = load(entry(table, (slot as u64) << SHIFTS[level], level));
            if value & PRESENT != 0 {
                free_table(value & ADDRESS, level - 1, free);
            }
        }
    }
    free(table);
}
