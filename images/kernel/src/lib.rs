//! The tiny kernel's pure half: what needs no processor in ring 0, and is tested on the host.
//!
//! The kernel itself is the binary `tiny-kernel` (feature `bare`).
#![cfg_attr(not(test), no_std)]

pub mod buddy;
pub mod cmdline;
pub mod cpio;
pub mod elf;
pub mod start_info;
