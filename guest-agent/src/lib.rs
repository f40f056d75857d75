//! The guest's half: writes samples as OProfile's CPU buffer does and hands them to the host's device.
//!
//! `no_std`, no allocation: memory comes from the kernel at bring-up, through a trait. The same code runs in the tiny
//! guest kernel and, against a scripted device, in this crate's tests.
//!
//! | module | what it does |
//! |---|---|
//! | [`writer`] | notes, samples, call chains and data records, by OProfile's rules |
#![cfg_attr(not(test), no_std)]

#[cfg(not(target_endian = "little"))]
compile_error!(
    "sample buffers and rings are written in the processor's byte order, which must be little endian"
);

pub mod writer;
