//! Devices of a PC that a small guest needs.

pub mod power;
pub mod serial;
