//! User-mode runtime of the tiny guest.
//!
//! | module | what it does |
//! |---|---|
//! | [`elf`] | reads the loadable segments and the dynamic symbols of a shared object |
//! | [`sys`] | the system calls |
//! | [`dl`] | maps a shared object at a chosen address and finds functions in it |
//! | [`io`] | `print!` and the argument string |
//!
//! Feature `bare` adds what a program without libc needs: `_start`, the panic handler, memcpy and its kin, a heap.
#![no_std]

pub mod dl;
pub mod elf;
pub mod io;
pub mod sys;

#[cfg(feature = "bare")]
mod heap;
#[cfg(feature = "bare")]
mod memory;
#[cfg(feature = "bare")]
mod start;

pub use sys::Errno;

/// Names the program's main function: `fn() -> Result<(), Failure>`.
#[macro_export]
macro_rules! main {
    ($main:path) => {
        /// Called by `_start`.
        #[unsafe(no_mangle)]
        fn guest_main() -> Result<(), $crate::Failure> {
            $main()
        }
    };
}

/// Why a program ends with a non-zero code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A system call on something, by name.
    Call(&'static str, Errno),
    /// An object that cannot be loaded, by path.
    Object(&'static str, elf::Error),
    /// Anything else, in words.
    Other(&'static str),
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Call(what, errno) => write!(f, "{what}: error {}", errno.0),
            Self::Object(path, error) => write!(f, "{path}: {error}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}
