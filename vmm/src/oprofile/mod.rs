//! The profiling device in this VMM: its virtio face, its worker, the host's clock, the collector that writes the session, and the control socket.

mod collector;
mod device;
mod files;
mod names;
mod nmi_clock;
mod relief;
pub mod socket;
mod summary;
mod worker;

pub use collector::{CollectorHandle, CollectorResult, CollectorThread};
pub use device::ProfilingDevice;
pub use files::{HostedFiles, InitrdFiles, Sources, UnpackError, archive_bytes, unpack};
pub use nmi_clock::NmiClock;
pub use summary::{SessionEnd, Summary};
pub use worker::Worker;
