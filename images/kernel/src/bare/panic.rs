//! The kernel's end when something is wrong with it: tell, then reset, so that the host can tell it from a power-off.

use core::arch::asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::context::Context;
use crate::arch::instructions::{disable_interrupts, fault_address, halt_forever};
use crate::arch::machine;
use crate::arch::serial::print_unlocked;
use crate::mm::MODULE_AREA;
use crate::mm::boot::image;

/// Most frames of a backtrace on the console.
const MAX_FRAMES: usize = 32;
/// Frames further apart than a kernel stack do not belong together.
const MAX_FRAME_BYTES: u64 = 64 * 1024;

static PANICKING: AtomicBool = AtomicBool::new(false);

/// One processor reports; others, and a panic while reporting, stop here.
fn begin() {
    disable_interrupts();
    if PANICKING.swap(true, Ordering::AcqRel) {
        halt_forever();
    }
}

fn is_code(address: u64) -> bool {
    let [text, rodata, ..] = image();
    (text..rodata).contains(&address) || MODULE_AREA.contains(&address)
}

fn backtrace(mut frame: u64) {
    for _ in 0..MAX_FRAMES {
        if frame < 1 << 63 || !frame.is_multiple_of(8) {
            return;
        }
        // SAFETY: an aligned address of the upper half that a frame-pointer register or a saved one held; should it not be
        // mapped, the exception that follows finds `PANICKING` set and stops.
        let [next, address] = unsafe { (frame as *const [u64; 2]).read_volatile() };
        if !is_code(address) {
            return;
        }
        print_unlocked(format_args!("  {address:#x}\r\n"));
        if next <= frame || next - frame > MAX_FRAME_BYTES {
            return;
        }
        frame = next;
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    begin();
    print_unlocked(format_args!("kernel: {info}\r\n"));
    let frame: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack)) };
    backtrace(frame);
    machine::reset()
}

/// An exception in the kernel itself.
pub fn stopped(context: &Context) -> ! {
    begin();
    print_unlocked(format_args!(
        "kernel: exception {} (error {:#x}, address {:#x}) at {:#x}, stack {:#x}\r\n",
        context.vector,
        context.error,
        fault_address(),
        context.rip,
        context.rsp,
    ));
    backtrace(context.rbp);
    machine::reset()
}
