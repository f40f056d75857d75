//! The PVH boot protocol (Xen's `docs/misc/pvh.pandoc`): boot structures in low memory, 32-bit entry without paging.

use std::mem::size_of_val;

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::map::{self, CMDLINE};
use crate::acpi;
use crate::memory::Layout;

/// `hvm_start_info`.
pub const START_INFO: u64 = 0x6000;
/// The module list.
const MODULES: u64 = 0x6800;
/// The memory map.
const MEMORY_MAP: u64 = 0x7000;

const START_MAGIC: u32 = 0x336e_c578;

const CR0_PE: u64 = 1;
/// Fixed to 1 on every processor since the 486.
const CR0_ET: u64 = 1 << 4;
/// Bit 1 of RFLAGS is always 1 (Intel SDM vol. 1, 3.4.3).
const RFLAGS_FIXED: u64 = 1 << 1;

fn memory_map(layout: Layout) -> Vec<hvm_memmap_table_entry> {
    map::ranges(layout)
        .into_iter()
        .map(|range| hvm_memmap_table_entry {
            addr: range.start,
            size: range.end - range.start,
            type_: range.kind,
            reserved: 0,
        })
        .collect()
}

/// Writes the start info, memory map and module list; the command line lies at [`CMDLINE`] already. `initrd` is its GPA
/// and length.
///
/// # Errors
/// When guest memory does not hold them.
pub fn write(
    memory: &GuestMemoryMmap,
    layout: Layout,
    initrd: Option<(GuestAddress, u64)>,
) -> Result<(), linux_loader::configurator::Error> {
    let map = memory_map(layout);
    let modules: Vec<_> = initrd
        .map(|(address, size)| hvm_modlist_entry {
            paddr: address.0,
            size,
            ..Default::default()
        })
        .into_iter()
        .collect();
    debug_assert!(size_of_val(&map[..]) as u64 <= CMDLINE - MEMORY_MAP);
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let info = hvm_start_info {
        magic: START_MAGIC,
        version: 1,
        nr_modules: count(modules.len()),
        modlist_paddr: if modules.is_empty() { 0 } else { MODULES },
        cmdline_paddr: CMDLINE,
        rsdp_paddr: acpi::RSDP,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: count(map.len()),
        ..Default::default()
    };
    let mut params = BootParams::new(&info, GuestAddress(START_INFO));
    params.set_sections(&map, GuestAddress(MEMORY_MAP));
    if !modules.is_empty() {
        params.set_modules(&modules, GuestAddress(MODULES));
    }
    PvhBootConfigurator::write_bootparams(&params, memory)
}

/// General registers at the entry.
pub fn registers(entry: u32) -> kvm_regs {
    kvm_regs {
        rip: u64::from(entry),
        rbx: START_INFO,
        rflags: RFLAGS_FIXED,
        ..Default::default()
    }
}

/// Puts the vCPU into 32-bit protected mode: flat segments, paging and interrupts off. The descriptor table is empty: PVH
/// lets a kernel rely on the segments' hidden parts only.
pub fn enter_protected_mode(registers: &mut kvm_sregs) {
    let flat = |selector, kind| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    };
    // Types of code (execute, read) and data (read, write), both marked accessed: Intel SDM vol. 3, 3.4.5.1.
    let (code, data) = (flat(0x8, 0xb), flat(0x10, 0x3));
    registers.cs = code;
    for segment in [
        &mut registers.ds,
        &mut registers.es,
        &mut registers.fs,
        &mut registers.gs,
        &mut registers.ss,
    ] {
        *segment = data;
    }
    registers.tr = kvm_segment {
        limit: 0x67,
        selector: 0x18,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    registers.gdt = kvm_dtable::default();
    registers.idt = kvm_dtable::default();
    registers.cr0 = CR0_PE | CR0_ET;
    registers.cr3 = 0;
    registers.cr4 = 0;
    registers.efer = 0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{HIGH_START, HOLE_START, LOW_END};
    use vm_memory::Bytes;

    #[test]
    fn memory_map_leaves_out_video_memory_tables_and_the_hole() {
        let map = memory_map(Layout::new(HOLE_START + 0x2000).unwrap());
        let ram: Vec<_> = map
            .iter()
            .filter(|entry| entry.type_ == 1)
            .map(|entry| (entry.addr, entry.size))
            .collect();
        let expected = [
            (0, 0xa_0000),
            (LOW_END, HOLE_START - LOW_END),
            (HIGH_START, 0x2000),
        ];
        assert_eq!(ram, expected);
    }

    #[test]
    fn start_info_leads_to_map_command_line_and_initrd() {
        let layout = Layout::new(4 << 20).unwrap();
        let memory = layout.reserve().unwrap();
        write(&memory, layout, Some((GuestAddress(0x3f_0000), 77))).unwrap();
        let info: hvm_start_info = memory.read_obj(GuestAddress(START_INFO)).unwrap();
        assert_eq!((info.magic, info.version), (START_MAGIC, 1));
        assert_eq!(info.cmdline_paddr, CMDLINE);
        assert_eq!((info.memmap_paddr, info.memmap_entries), (MEMORY_MAP, 3));
        assert_eq!((info.modlist_paddr, info.nr_modules), (MODULES, 1));
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(MODULES)).unwrap();
        assert_eq!((module.paddr, module.size), (0x3f_0000, 77));
    }

    #[test]
    fn without_an_initrd_there_is_no_module() {
        let layout = Layout::new(4 << 20).unwrap();
        let memory = layout.reserve().unwrap();
        write(&memory, layout, None).unwrap();
        let info: hvm_start_info = memory.read_obj(GuestAddress(START_INFO)).unwrap();
        assert_eq!((info.modlist_paddr, info.nr_modules), (0, 0));
    }

    #[test]
    fn entry_is_in_flat_protected_mode_with_the_start_info_in_ebx() {
        let mut special = kvm_sregs {
            efer: 0x500,
            cr4: 0x20,
            cr3: 0x1000,
            ..Default::default()
        };
        enter_protected_mode(&mut special);
        assert_eq!(special.cr0, CR0_PE | CR0_ET);
        assert_eq!((special.efer, special.cr4, special.cr3), (0, 0, 0));
        assert_eq!(
            (special.cs.base, special.cs.limit, special.cs.db),
            (0, u32::MAX, 1)
        );
        assert_eq!(special.ss.type_, 0x3);
        let general = registers(0x10_0000);
        assert_eq!(
            (general.rip, general.rbx, general.rflags),
            (0x10_0000, START_INFO, 2)
        );
    }
}
