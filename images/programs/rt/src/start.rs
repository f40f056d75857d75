//! Where a program begins and how it ends when it panics.

use core::arch::naked_asm;
use core::panic::PanicInfo;

use crate::{Failure, io, sys};

/// Exit code of a program whose main function failed.
const FAILED: i32 = 1;

/// Exit code of a program that panicked, as in std.
const PANICKED: i32 = 101;

unsafe extern "Rust" {
    /// What `main!` defines.
    safe fn guest_main() -> Result<(), Failure>;
}

/// The ELF entry point. A zero frame pointer ends call chains.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!(
        "xor ebp, ebp",
        "and rsp, -16",
        "call {run}",
        "ud2",
        run = sym run,
    )
}

extern "C" fn run() -> ! {
    match guest_main() {
        Ok(()) => sys::exit(0),
        Err(failure) => {
            io::write_fmt(2, format_args!("failed: {failure}\n"));
            sys::exit(FAILED)
        }
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    io::write_fmt(2, format_args!("{info}\n"));
    sys::exit(PANICKED)
}
