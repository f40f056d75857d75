//! The profiling device in this VMM: its virtio face, its worker, and the collector that writes the session.

mod collector;
mod device;
mod files;
mod names;
mod summary;
mod worker;

pub use collector::{CollectorResult, CollectorThread};
pub use device::ProfilingDevice;
pub use files::InitrdFiles;
pub use summary::Summary;
pub use worker::Worker;
