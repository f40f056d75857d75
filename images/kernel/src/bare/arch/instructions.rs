//! Single privileged instructions.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

/// RFLAGS.IF: interrupts are on.
pub const INTERRUPT_FLAG: u64 = 1 << 9;

/// Writes a byte to an I/O port.
pub fn out8(port: u16, value: u8) {
    // SAFETY: port I/O touches no memory; what the ports used here do is the platform's contract.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// Writes two bytes to an I/O port.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as in `out8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack)) };
}

/// Writes four bytes to an I/O port.
pub fn out32(port: u16, value: u32) {
    // SAFETY: as in `out8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) };
}

/// Reads a byte from an I/O port.
pub fn in8(port: u16) -> u8 {
    let value: u8;
    // SAFETY: as in `out8`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) };
    value
}

/// Reads a model-specific register.
///
/// # Safety
/// The processor has this register.
pub unsafe fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller vouches for the register; reading one changes no memory.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The processor has this register, and the value keeps the kernel's view of the machine true.
pub unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: the caller vouches for both.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    }
}

/// The physical address of the page table in use.
pub fn page_table_root() -> u64 {
    let value: u64;
    // SAFETY: reading CR3 has no effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack)) };
    value
}

/// Switches page tables and forgets every cached translation.
///
/// # Safety
/// `root` is a page table that maps the running code, its stack and the kernel's data as they are mapped now.
pub unsafe fn set_page_table_root(root: u64) {
    // SAFETY: the caller vouches for the table.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack)) };
}

/// The address whose access caused the page fault that is being handled.
pub fn fault_address() -> u64 {
    let value: u64;
    // SAFETY: reading CR2 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack)) };
    value
}

/// Whether the processor runs with five levels of page tables.
pub fn five_level_paging() -> bool {
    let value: u64;
    // SAFETY: reading CR4 has no effect.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack)) };
    value & 1 << 12 != 0
}

/// Turns interrupts off and says whether they were on.
pub fn disable_interrupts() -> bool {
    let flags: u64;
    // SAFETY: reads the flags and masks interrupts; not `nomem`, so that memory accesses stay behind it.
    unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) };
    flags & INTERRUPT_FLAG != 0
}

/// Turns interrupts on.
pub fn enable_interrupts() {
    // SAFETY: handlers are installed before the first call; not `nomem`, as in `disable_interrupts`.
    unsafe { asm!("sti", options(nostack)) };
}

/// Turns interrupts on and waits for one; an interrupt that is pending already ends the wait.
pub fn wait_for_interrupt() {
    // SAFETY: the instruction behind `sti` still runs without interrupts, so none is missed.
    unsafe { asm!("sti", "hlt", options(nostack)) };
}

/// Stops this processor for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: no interrupt is taken any more; nothing else depends on this processor.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// The time-stamp counter.
pub fn time_stamp() -> u64 {
    // SAFETY: the instruction is there on every x86-64 processor.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// CPUID: EAX, EBX, ECX, EDX of a leaf; zeros for a leaf beyond the range it belongs to.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let highest = __cpuid_count(leaf & 0xc000_0000, 0).eax;
    if leaf > highest || highest < leaf & 0xc000_0000 {
        return [0; 4];
    }
    let result = __cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}
