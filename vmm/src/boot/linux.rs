//! Linux's 64-bit boot protocol (`Documentation/arch/x86/boot.rst`): the zero page, and long mode with low memory mapped one to
//! one.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::map::{self, CMDLINE};
use crate::acpi;
use crate::memory::Layout;

/// Descriptor table.
const GDT: u64 = 0x500;
/// The zero page, `struct boot_params`.
pub const ZERO_PAGE: u64 = 0x8000;
/// Page tables: one page each for levels 4 and 3, four for level 2.
const PAGE_TABLES: u64 = 0x9000;

/// `type_of_loader` of a loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");

const PAGE: u64 = 4096;
/// Page-table entry: present, writable.
const TABLE: u64 = 0b11;
/// Page-table entry: present, writable, a 2 MiB page.
const LARGE_PAGE: u64 = 1 << 7 | TABLE;
/// Level-2 tables: each maps 1 GiB, together they map all that lies below 4 GiB.
const LEVEL_2_TABLES: u64 = 4;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_FIXED: u64 = 1 << 1;

/// Selectors that the protocol fixes.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
const BOOT_TSS: u16 = 0x20;
/// The table: two unused entries, then code (64-bit, execute and read), data (read and write) and a task segment of two entries,
/// all of ring 0 (Intel SDM vol. 3, 3.4.5 and 7.2.3).
const DESCRIPTORS: [u64; 6] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x0000_8b00_0000_0067,
    0,
];

/// Writes the zero page, descriptors and page tables; the command line lies at [`CMDLINE`] already. `header` is the kernel
/// image's, or none when an ELF file was loaded; `initrd` its GPA and length.
///
/// # Errors
/// When guest memory does not hold them.
pub fn write(
    memory: &GuestMemoryMmap,
    layout: Layout,
    header: Option<setup_header>,
    load: u64,
    initrd: Option<(GuestAddress, u64)>,
) -> Result<(), linux_loader::configurator::Error> {
    let mut params = boot_params {
        acpi_rsdp_addr: acpi::RSDP,
        ..Default::default()
    };
    params.hdr = header.unwrap_or(setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        ..Default::default()
    });
    let (low, high) = halves(CMDLINE);
    (params.hdr.cmd_line_ptr, params.ext_cmd_line_ptr) = (low, high);
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.code32_start = halves(load).0;
    if let Some((address, size)) = initrd {
        let (low, high) = halves(address.0);
        (params.hdr.ramdisk_image, params.ext_ramdisk_image) = (low, high);
        let (low, high) = halves(size);
        (params.hdr.ramdisk_size, params.ext_ramdisk_size) = (low, high);
    }
    let ranges = map::ranges(layout);
    for (entry, range) in params.e820_table.iter_mut().zip(&ranges) {
        *entry = boot_e820_entry {
            addr: range.start,
            size: range.end - range.start,
            r#type: range.kind,
        };
        params.e820_entries += 1;
    }
    let params = BootParams::new(&params, GuestAddress(ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&params, memory)?;
    write_tables(memory).map_err(|_| linux_loader::configurator::linux::Error::ZeroPageSetup.into())
}

fn halves(value: u64) -> (u32, u32) {
    // Truncation is meant.
    #[expect(clippy::cast_possible_truncation, reason = "the low half")]
    let low = value as u32;
    (low, u32::try_from(value >> 32).unwrap_or(0))
}

fn write_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    for (index, descriptor) in (0..).zip(DESCRIPTORS) {
        memory.write_obj(descriptor, GuestAddress(GDT + index * 8))?;
    }
    let (level_3, level_2) = (PAGE_TABLES + PAGE, PAGE_TABLES + 2 * PAGE);
    memory.write_obj(level_3 | TABLE, GuestAddress(PAGE_TABLES))?;
    for table in 0..LEVEL_2_TABLES {
        let entry = (level_2 + table * PAGE) | TABLE;
        memory.write_obj(entry, GuestAddress(level_3 + table * 8))?;
    }
    for page in 0..LEVEL_2_TABLES * 512 {
        memory.write_obj(page << 21 | LARGE_PAGE, GuestAddress(level_2 + page * 8))?;
    }
    Ok(())
}

/// General registers at the entry.
pub fn registers(entry: u64) -> kvm_regs {
    kvm_regs {
        rip: entry,
        rsi: ZERO_PAGE,
        rflags: RFLAGS_FIXED,
        ..Default::default()
    }
}

/// Puts the vCPU into long mode: flat segments, low memory mapped one to one, interrupts off.
pub fn enter_long_mode(registers: &mut kvm_sregs) {
    let flat = |selector, type_, l| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1 - l,
        s: 1,
        l,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    };
    registers.cs = flat(BOOT_CS, 0xb, 1);
    let data = flat(BOOT_DS, 0x3, 0);
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
        selector: BOOT_TSS,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    registers.gdt = kvm_dtable {
        base: GDT,
        limit: u16::try_from(size_of_val(&DESCRIPTORS) - 1).unwrap_or(u16::MAX),
        ..Default::default()
    };
    registers.idt = kvm_dtable::default();
    registers.cr0 = CR0_PE | CR0_ET | CR0_PG;
    registers.cr3 = PAGE_TABLES;
    registers.cr4 = CR4_PAE;
    registers.efer = EFER_LME | EFER_LMA;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(initrd: Option<(GuestAddress, u64)>) -> (GuestMemoryMmap, boot_params) {
        let layout = Layout::new(16 << 20).unwrap();
        let memory = layout.reserve().unwrap();
        write(&memory, layout, None, 0x10_0000, initrd).unwrap();
        let params = memory.read_obj(GuestAddress(ZERO_PAGE)).unwrap();
        (memory, params)
    }

    #[test]
    fn zero_page_tells_command_line_initrd_and_acpi() {
        let (_, params) = written(Some((GuestAddress(0x80_0000), 5000)));
        let header = params.hdr;
        let magic = header.header;
        let (line, initrd, size) = (
            header.cmd_line_ptr,
            header.ramdisk_image,
            header.ramdisk_size,
        );
        assert_eq!(magic, HEADER_MAGIC);
        assert_eq!(u64::from(line), CMDLINE);
        assert_eq!((initrd, size), (0x80_0000, 5000));
        let tables = params.acpi_rsdp_addr;
        assert_eq!(tables, acpi::RSDP);
    }

    #[test]
    fn memory_map_leaves_out_the_acpi_tables() {
        let (_, params) = written(None);
        let entries = usize::from(params.e820_entries);
        let ram: Vec<_> = params.e820_table[..entries]
            .iter()
            .filter(|entry| entry.r#type == 1)
            .map(|entry| (entry.addr, entry.addr + entry.size))
            .collect();
        assert_eq!(ram, [(0, 0xa_0000), (0x10_0000, 16 << 20)]);
    }

    #[test]
    fn low_memory_is_mapped_one_to_one() {
        let (memory, _) = written(None);
        let entry = |table: u64, index: u64| -> u64 {
            memory.read_obj(GuestAddress(table + index * 8)).unwrap()
        };
        for address in [0, 0x10_0000, 0x3fff_ffff, 0xfee0_0000_u64] {
            let level_3 = entry(PAGE_TABLES, 0) & !0xfff;
            let level_2 = entry(level_3, address >> 30) & !0xfff;
            let page = entry(level_2, address >> 21 & 511);
            assert_eq!(page, address >> 21 << 21 | LARGE_PAGE, "{address:#x}");
        }
        assert_eq!(entry(PAGE_TABLES, 1), 0);
    }

    #[test]
    fn vcpu_enters_in_64_bit_mode() {
        let mut special = kvm_sregs::default();
        enter_long_mode(&mut special);
        assert_eq!(
            (special.cs.selector, special.cs.l, special.cs.db),
            (0x10, 1, 0)
        );
        assert_eq!(special.ds.selector, 0x18);
        assert_eq!(special.efer, EFER_LME | EFER_LMA);
        assert_eq!(registers(0x10_0200).rsi, ZERO_PAGE);
    }
}
