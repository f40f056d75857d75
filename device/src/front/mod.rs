//! The virtio side: configuration space, virtqueues, doorbell, and what ties them to the profiling engine.

pub(crate) mod chain;
pub(crate) mod config;
mod device;

pub use device::{ActivateError, Device, Interrupt, SYNC_PERIOD};
