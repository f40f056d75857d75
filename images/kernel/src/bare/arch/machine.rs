//! Turning the machine off.

use crate::arch::instructions::{disable_interrupts, halt_forever, out8, out16, out32};

/// QEMU's `isa-debug-exit`, for development; nothing is there in our own monitor.
const DEBUG_EXIT: u16 = 0xf4;
const PM1A_CONTROL: u16 = 0x604;
/// SLP_EN with SLP_TYP 0, which is S5 on q35.
const SOFT_OFF: u16 = 0x2000;
const KEYBOARD_CONTROLLER: u16 = 0x64;
const PULSE_RESET: u8 = 0xfe;

/// Powers off; `code` reaches whoever watches the debug-exit port.
pub fn power_off(code: u32) -> ! {
    disable_interrupts();
    out32(DEBUG_EXIT, code);
    out16(PM1A_CONTROL, SOFT_OFF);
    halt_forever()
}

/// Resets: the host can tell it from a power-off.
pub fn reset() -> ! {
    disable_interrupts();
    out8(KEYBOARD_CONTROLLER, PULSE_RESET);
    halt_forever()
}
