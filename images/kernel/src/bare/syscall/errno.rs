//! Error numbers, those of Linux.

use core::fmt;

/// Why a system call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(u16);

impl Errno {
    /// No such file.
    pub const NOT_FOUND: Self = Self(2);
    /// Not a program or module for this machine.
    pub const NOT_EXECUTABLE: Self = Self(8);
    /// Not an open file.
    pub const BAD_FILE: Self = Self(9);
    /// No such child.
    pub const NO_CHILD: Self = Self(10);
    /// Out of memory or address space.
    pub const NO_MEMORY: Self = Self(12);
    /// A pointer to memory that is not the caller's.
    pub const FAULT: Self = Self(14);
    /// An argument makes no sense.
    pub const INVALID: Self = Self(22);
    /// Too many open files.
    pub const TOO_MANY_FILES: Self = Self(24);
    /// A path or argument is too long.
    pub const NAME_TOO_LONG: Self = Self(36);
    /// No such system call.
    pub const NO_CALL: Self = Self(38);

    /// The value that user mode sees.
    pub fn to_result(self) -> u64 {
        u64::from(self.0).wrapping_neg()
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}", self.0)
    }
}
