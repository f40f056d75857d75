//! `print!` and the argument string.

use core::fmt::{self, Write};

use crate::{Errno, Failure, sys};

/// Longest line that is written in one piece, so that lines of several processes do not mix.
const LINE_BYTES: usize = 256;

/// Longest argument string that a program of ours is given.
pub const ARGUMENT_BYTES: usize = 128;

struct Line {
    fd: u64,
    bytes: [u8; LINE_BYTES],
    used: usize,
}

impl Line {
    fn flush(&mut self) {
        let mut rest = &self.bytes[..self.used];
        while !rest.is_empty() {
            match sys::write(self.fd, rest) {
                Ok(written) if written > 0 => {
                    let written = usize::try_from(written).unwrap_or(usize::MAX);
                    rest = &rest[written.min(rest.len())..];
                }
                // Nobody is left to tell about a console that takes nothing.
                Ok(_) | Err(_) => break,
            }
        }
        self.used = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.used == LINE_BYTES {
                self.flush();
            }
            self.bytes[self.used] = byte;
            self.used += 1;
        }
        Ok(())
    }
}

/// Behind the macros: formats and writes.
pub fn write_fmt(fd: u64, arguments: fmt::Arguments<'_>) {
    let mut line = Line {
        fd,
        bytes: [0; LINE_BYTES],
        used: 0,
    };
    // Ours never fails; a value's own Display may, and then prints what it got to.
    let _ = line.write_fmt(arguments);
    line.flush();
}

/// Writes to the console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::io::write_fmt(1, ::core::format_args!($($argument)*)) };
}

/// Writes a line to the console.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::print!("{}\n", ::core::format_args!($($argument)*)) };
}

/// A process's argument string.
#[derive(Clone, Copy, Debug)]
pub struct Argument {
    bytes: [u8; ARGUMENT_BYTES],
    used: usize,
}

impl Argument {
    /// Asks the kernel for it.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn get() -> Result<Self, Failure> {
        let mut bytes = [0; ARGUMENT_BYTES];
        let used = sys::getarg(&mut bytes)
            .map_err(|errno: Errno| Failure::Call("getarg", errno))?
            .len();
        Ok(Self { bytes, used })
    }

    /// An argument made of `arguments`; what is longer than [`ARGUMENT_BYTES`] is refused.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn format(arguments: fmt::Arguments<'_>) -> Result<Self, Failure> {
        let mut made = Self {
            bytes: [0; ARGUMENT_BYTES],
            used: 0,
        };
        made.write_fmt(arguments)
            .map_err(|_| Failure::Other("argument too long"))?;
        Ok(made)
    }

    /// As text; empty when it is none.
    #[must_use]
    pub fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.used]).unwrap_or("")
    }
}

impl Write for Argument {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.used + text.len();
        self.bytes
            .get_mut(self.used..end)
            .ok_or(fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.used = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argument_keeps_its_text() {
        let argument = Argument::format(format_args!("{}:{}", 12, 34)).unwrap();
        assert_eq!(argument.text(), "12:34");
    }

    #[test]
    fn argument_that_does_not_fit_is_refused() {
        assert!(Argument::format(format_args!("{:128}", 1)).is_ok());
        assert!(Argument::format(format_args!("{:129}", 1)).is_err());
    }
}
