//! The I/O APIC: routes one device's interrupt; the rest, and the two old PICs, stay masked.

use crate::arch::instructions::out8;
use crate::mm;
use crate::sync::SpinLock;

const MMIO: u64 = 0xfec0_0000;
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const VERSION: u32 = 1;
const REDIRECTIONS: u32 = 0x10;
const MASKED: u32 = 1 << 16;

static REGISTERS: SpinLock<u64> = SpinLock::new(0);

fn access(base: u64, register: u32, value: Option<u32>) -> u32 {
    // SAFETY: `base` is the mapped register page of the I/O APIC, and the lock around it is held.
    unsafe {
        ((base + SELECT) as *mut u32).write_volatile(register);
        let window = (base + WINDOW) as *mut u32;
        match value {
            Some(value) => window.write_volatile(value),
            None => return window.read_volatile(),
        }
    }
    0
}

/// Masks everything.
pub fn init() {
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    let mut registers = REGISTERS.lock();
    *registers = mm::map_device(MMIO, 4096);
    let highest = access(*registers, VERSION, None) >> 16 & 0xff;
    for pin in 0..=highest {
        access(*registers, REDIRECTIONS + 2 * pin, Some(MASKED));
    }
}

/// Sends edges of `gsi` to processor 0 as `vector`. Returns `false` when there is no such pin.
pub fn route(gsi: u32, vector: u8) -> bool {
    let registers = REGISTERS.lock();
    let highest = access(*registers, VERSION, None) >> 16 & 0xff;
    if gsi > highest {
        return false;
    }
    access(*registers, REDIRECTIONS + 2 * gsi + 1, Some(0));
    access(*registers, REDIRECTIONS + 2 * gsi, Some(u32::from(vector)));
    true
}
