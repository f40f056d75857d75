//! From the boot tables to the kernel's own, and from the loader's memory map to the frame allocator.

use core::ptr;
use core::slice;

use tiny_kernel::buddy::{Buddy, Frame};
use tiny_kernel::start_info::{MAGIC, MemoryRange, Module, RAM, StartInfo, without};

use crate::arch::instructions::set_page_table_root;
use crate::mm::paging::{self, NO_EXECUTE, PRESENT, PageTable, WRITABLE};
use crate::mm::{IMAGE_BASE, LINEAR_BASE, LINEAR_BASES, PAGE, frames};

/// Most ranges of the memory map that are used: firmware reports about ten.
const MAX_RANGES: usize = 64;
/// Longest command line, as on Linux for x86.
const MAX_COMMAND_LINE: usize = 2048;
/// The boot tables map this much at 0, see `boot.s`.
const IDENTITY_END: u64 = 4 << 30;
/// Memory below this is left alone: firmware's, and the trampoline's.
const LOW_END: u64 = 1 << 20;

unsafe extern "C" {
    static kernel_start: u8;
    static rodata_start: u8;
    static data_start: u8;
    static kernel_end: u8;
}

/// The kernel image: start of text, read-only data and data, and the end.
pub fn image() -> [u64; 4] {
    // The linker script defines the symbols; only their addresses are used.
    [
        (&raw const kernel_start) as u64,
        (&raw const rodata_start) as u64,
        (&raw const data_start) as u64,
        ((&raw const kernel_end) as u64).next_multiple_of(PAGE),
    ]
}

/// What the loader told, copied to where it stays.
#[derive(Debug)]
pub struct BootInfo {
    ranges: [MemoryRange; MAX_RANGES],
    range_count: usize,
    /// Physical address and bytes of the initrd; zeros without one.
    pub initrd: (u64, u64),
    command_line: [u8; MAX_COMMAND_LINE],
}

impl BootInfo {
    /// Copies what the loader left at physical address `start_info`; `None` when it is no PVH loader's.
    ///
    /// # Safety
    /// The boot tables are in use, and `start_info` is what the loader passed.
    pub unsafe fn read(start_info: u64) -> Option<Self> {
        let mut boot = Self {
            ranges: [MemoryRange {
                address: 0,
                size: 0,
                kind: 0,
                reserved: 0,
            }; MAX_RANGES],
            range_count: 0,
            initrd: (0, 0),
            command_line: [0; MAX_COMMAND_LINE],
        };
        // SAFETY: the loader's structures are RAM below 4 GiB, which the boot tables map at its own address; the counts and
        // pointers are the loader's, and it is trusted.
        unsafe {
            let info = (start_info as *const StartInfo).read_unaligned();
            if info.magic != MAGIC || info.version == 0 || info.memory_map == 0 {
                return None;
            }
            boot.range_count = (info.memory_ranges as usize).min(MAX_RANGES);
            for index in 0..boot.range_count {
                let range = (info.memory_map as *const MemoryRange).add(index);
                boot.ranges[index] = range.read_unaligned();
            }
            if info.module_count > 0 && info.modules != 0 {
                let module = (info.modules as *const Module).read_unaligned();
                boot.initrd = (module.address, module.size);
            }
            if info.command_line != 0 {
                let text = info.command_line as *const u8;
                for (offset, byte) in boot.command_line.iter_mut().enumerate() {
                    *byte = text.add(offset).read();
                    if *byte == 0 {
                        break;
                    }
                }
            }
        }
        Some(boot)
    }

    /// The command line's bytes, NUL-terminated or cut.
    pub fn command_line(&self) -> &[u8] {
        &self.command_line
    }

    fn ram(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges[..self.range_count]
            .iter()
            .filter(|range| range.kind == RAM)
            .map(|range| (range.address, range.address.saturating_add(range.size)))
    }

    /// Frame numbers that are RAM but taken, sorted.
    fn taken(&self) -> [(u64, u64); 3] {
        let [start, .., end] = image();
        let (initrd, bytes) = self.initrd;
        let mut holes = [
            (0, LOW_END / PAGE),
            ((start - IMAGE_BASE) / PAGE, (end - IMAGE_BASE) / PAGE),
            (initrd / PAGE, (initrd + bytes).div_ceil(PAGE)),
        ];
        holes.sort_unstable();
        holes
    }

    /// Calls `piece` with each range of free frames.
    fn free_ranges(&self, mut piece: impl FnMut(u64, u64)) {
        for (start, end) in self.ram() {
            without(start.div_ceil(PAGE), end / PAGE, &self.taken(), &mut piece);
        }
    }
}

/// Hands out the frames of one range, upwards; what page tables and the allocator's own table need before it works.
struct Early {
    next: u64,
    end: u64,
}

impl Early {
    fn take(&mut self, bytes: u64) -> Option<u64> {
        let physical = self.next;
        let end = physical + bytes.next_multiple_of(PAGE);
        if end > self.end {
            return None;
        }
        self.next = end;
        Some(physical)
    }

    fn zeroed(&mut self) -> Option<u64> {
        let frame = self.take(PAGE)?;
        // SAFETY: a free frame below 4 GiB, mapped at its own address by the boot tables.
        unsafe { ptr::write_bytes(frame as *mut u8, 0, PAGE as usize) };
        Some(frame)
    }
}

/// Builds the kernel's tables, switches to them, and starts the frame allocator. Returns the initrd.
///
/// # Safety
/// The boot processor calls it once, while the boot tables are in use.
///
/// # Panics
/// When there is too little memory.
pub unsafe fn init(boot: &BootInfo) -> &'static [u8] {
    let mut early = Early { next: 0, end: 0 };
    boot.free_ranges(|start, end| {
        let (start, end) = (start * PAGE, (end * PAGE).min(IDENTITY_END));
        if end > start && end - start > early.end - early.next {
            early = Early { next: start, end };
        }
    });
    let taken_from = early.next;
    let base = LINEAR_BASES[paging::levels() - 4];
    let table = build(boot, base, &mut early).expect("no memory for page tables");
    paging::set_kernel(table);
    // SAFETY: the new tables map the image, on whose stack this runs, where it was. What lay in the identity map has been
    // copied; from here on RAM is at `base`.
    unsafe { set_page_table_root(table.root()) };
    LINEAR_BASE.store(base, core::sync::atomic::Ordering::Relaxed);

    let highest = boot.ram().map(|(_, end)| end / PAGE).max().unwrap_or(0) as usize;
    let bytes = (highest * size_of::<Frame>()) as u64;
    let memory = early.take(bytes).expect("no memory for the frame table");
    let memory = super::physical_to_virtual(memory) as *mut Frame;
    // SAFETY: the memory was just taken for this, is mapped, and holds `highest` frames once it is written.
    let entries = unsafe {
        for index in 0..highest {
            memory.add(index).write(Frame::RESERVED);
        }
        slice::from_raw_parts_mut(memory, highest)
    };
    let mut buddy = Buddy::new(entries);
    boot.free_ranges(|start, end| {
        let used = [(taken_from / PAGE, early.next / PAGE)];
        without(start, end, &used, |start, end| {
            buddy.add(start as usize, end as usize);
        });
    });
    frames::init(buddy);
    let (initrd, bytes) = boot.initrd;
    // SAFETY: the initrd is RAM, kept out of the allocator, and nothing writes to it.
    unsafe {
        slice::from_raw_parts(
            super::physical_to_virtual(initrd) as *const u8,
            bytes as usize,
        )
    }
}

fn build(boot: &BootInfo, base: u64, early: &mut Early) -> Result<PageTable, paging::OutOfMemory> {
    let source = &mut || early.zeroed();
    let table = PageTable::new(source)?;
    for (start, end) in boot.ram() {
        let (start, end) = (start & !(PAGE - 1), end.next_multiple_of(PAGE));
        table.map(base + start, start, end - start, paging::DATA, source)?;
    }
    let [text, rodata, data, end] = image();
    for (start, end, flags) in [
        (text, rodata, PRESENT),
        (rodata, data, PRESENT | NO_EXECUTE),
        (data, end, PRESENT | WRITABLE | NO_EXECUTE),
    ] {
        table.map(start, start - IMAGE_BASE, end - start, flags, source)?;
    }
    Ok(table)
}
