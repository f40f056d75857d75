//! The console: a 16550 at 0x3f8, polled.

use core::fmt::{self, Write};

use crate::arch::instructions::{in8, out8};
use crate::sync::SpinLock;

const PORT: u16 = 0x3f8;
const LINE_STATUS: u16 = PORT + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Bytes that an empty transmit FIFO takes.
const FIFO_BYTES: usize = 16;
/// How often the line status is asked before a byte is sent regardless: a console must not hang the kernel.
const PATIENCE: u32 = 100_000;

static LINE: SpinLock<()> = SpinLock::new(());

/// Sets 115200 8N1, FIFOs on, interrupts off.
pub fn init() {
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        out8(PORT + register, value);
    }
}

fn send(bytes: &[u8]) {
    for chunk in bytes.chunks(FIFO_BYTES) {
        for _ in 0..PATIENCE {
            if in8(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
                break;
            }
        }
        for byte in chunk {
            out8(PORT, *byte);
        }
    }
}

/// Writes bytes as they are; a chunk of at most 16 is not interleaved with others'.
pub fn write(bytes: &[u8]) {
    for chunk in bytes.chunks(FIFO_BYTES) {
        let _line = LINE.lock();
        send(chunk);
    }
}

/// Formats a message; the line stays this processor's until it is complete.
pub fn print(arguments: fmt::Arguments<'_>) {
    let _line = LINE.lock();
    print_unlocked(arguments);
}

/// Formats a message without taking the line: for a panic, whose processor may hold it already.
pub fn print_unlocked(arguments: fmt::Arguments<'_>) {
    struct Line;
    impl Write for Line {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            send(text.as_bytes());
            Ok(())
        }
    }
    // `Line` never fails.
    let _ = Line.write_fmt(arguments);
}

/// Prints a line on the console.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => {
        $crate::arch::serial::print(format_args!("kernel: {}\r\n", format_args!($($argument)*)))
    };
}
