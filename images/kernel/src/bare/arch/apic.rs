//! The local APIC, by MSR (x2APIC) when the processor offers that, else by memory.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::instructions::{cpuid, read_msr, write_msr};
use crate::mm;

const APIC_BASE: u32 = 0x1b;
const ENABLE: u64 = 1 << 11;
const ENABLE_X2APIC: u64 = 1 << 10;
const MMIO: u64 = 0xfee0_0000;
/// MSR of the register at MMIO offset 0; each further one is 16 bytes of MMIO apart.
const X2APIC_MSRS: u32 = 0x800;

const END_OF_INTERRUPT: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const COMMAND: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const TIMER: u32 = 0x320;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;
/// In x2APIC mode only.
const SELF: u32 = 0x3f0;
const SOFTWARE_ENABLE: u32 = 1 << 8;
const DELIVERY_PENDING: u32 = 1 << 12;

/// How the local timer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TimerMode {
    /// Down from a count of bus ticks, once.
    OneShot = 0,
    /// To a value of the time-stamp counter.
    TscDeadline = 2 << 17,
}

/// Address of the mapped registers; 0: x2APIC.
static REGISTERS: AtomicU64 = AtomicU64::new(0);

fn read(register: u32) -> u32 {
    match REGISTERS.load(Ordering::Relaxed) {
        // SAFETY: x2APIC mode is on, so these MSRs exist.
        0 => unsafe { read_msr(X2APIC_MSRS + (register >> 4)) as u32 },
        // SAFETY: `base` is the mapped register page; the register lies inside it.
        base => unsafe { ((base + u64::from(register)) as *const u32).read_volatile() },
    }
}

fn write(register: u32, value: u32) {
    match REGISTERS.load(Ordering::Relaxed) {
        // SAFETY: x2APIC mode is on, so these MSRs exist; the APIC reaches no memory of ours.
        0 => unsafe { write_msr(X2APIC_MSRS + (register >> 4), u64::from(value)) },
        // SAFETY: `base` is the mapped register page; the register lies inside it.
        base => unsafe { ((base + u64::from(register)) as *mut u32).write_volatile(value) },
    }
}

/// Finds the access method. The boot processor calls it once, when device memory can be mapped.
pub fn init() {
    let x2apic = cpuid(1, 0)[2] & 1 << 21 != 0;
    if !x2apic {
        REGISTERS.store(mm::map_device(MMIO, 4096), Ordering::Relaxed);
    }
}

/// Turns this processor's local APIC on.
pub fn enable(spurious_vector: u8) {
    let mut base = MMIO | ENABLE;
    // SAFETY: every x86-64 processor has this register.
    base |= unsafe { read_msr(APIC_BASE) } & 1 << 8;
    if REGISTERS.load(Ordering::Relaxed) == 0 {
        base |= ENABLE_X2APIC;
    }
    // SAFETY: as above; the base address stays where it is.
    unsafe { write_msr(APIC_BASE, base) };
    write(SPURIOUS, SOFTWARE_ENABLE | u32::from(spurious_vector));
    // Divide by 1.
    write(DIVIDE, 0b1011);
}

/// Acknowledges the interrupt that is being handled.
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

fn command(apic_id: u32, low: u32) {
    match REGISTERS.load(Ordering::Relaxed) {
        0 => {
            let value = u64::from(apic_id) << 32 | u64::from(low);
            // SAFETY: x2APIC mode is on; the command reaches processors, not memory.
            unsafe { write_msr(X2APIC_MSRS + (COMMAND >> 4), value) };
        }
        _ => {
            while read(COMMAND) & DELIVERY_PENDING != 0 {
                core::hint::spin_loop();
            }
            write(COMMAND_HIGH, apic_id << 24);
            write(COMMAND, low);
        }
    }
}

/// Interrupts another processor. Interrupts are off, so that the two halves of the command stay together.
pub fn interrupt(apic_id: usize, vector: u8) {
    command(apic_id as u32, 1 << 14 | u32::from(vector));
}

/// Interrupts this processor, from an NMI too: it may have come between the two halves of a command, so this one has but one.
pub fn interrupt_self(vector: u8) {
    match REGISTERS.load(Ordering::Relaxed) {
        // SAFETY: x2APIC mode is on; the register interrupts this processor and nothing else.
        0 => unsafe { write_msr(X2APIC_MSRS + (SELF >> 4), u64::from(vector)) },
        // The destination is a shorthand, not in the other half.
        _ => write(COMMAND, 1 << 18 | 1 << 14 | u32::from(vector)),
    }
}

/// Sends INIT.
pub fn send_init(apic_id: usize) {
    command(apic_id as u32, 1 << 14 | 5 << 8);
}

/// Sends a start-up IPI for code at the real-mode page `page`.
pub fn send_startup(apic_id: usize, page: u8) {
    command(apic_id as u32, 1 << 14 | 6 << 8 | u32::from(page));
}

/// Sets what this processor's timer does when it fires.
pub fn set_timer(mode: TimerMode, vector: u8) {
    write(TIMER, mode as u32 | u32::from(vector));
}

/// Starts the timer in one-shot mode; 0 stops it.
pub fn set_timer_count(count: u32) {
    write(INITIAL_COUNT, count);
}

/// What is left of the count.
pub fn timer_count() -> u32 {
    read(CURRENT_COUNT)
}
