//! The guest's half: writes samples as OProfile's CPU buffer does and hands them to the host's device.
//!
//! `no_std`, no allocation: memory comes from the kernel at bring-up, through a trait. The same code runs in the tiny
//! guest kernel and, against a scripted device, in this crate's tests.
//!
//! ```text
//!  sampling interrupt ─> CpuAgent::sample ─> open buffer ─ full ─> sample queue of the vCPU ─> device
//!  NMI ─> NmiSampler ─> ring ─> CpuAgent::sample
//!  exit, exec, munmap ─> Flush ─> posts what is open, rings the doorbell
//!  bring-up, settings, modules, dead tasks ─> Control ─> control queue
//! ```
//!
//! How a kernel uses it: a [`CpuAgent`] for each vCPU, a [`Platform`], then [`Control::bring_up`], [`Control::hello`],
//! [`Control::cpu_state`], [`Control::modules`], [`Control::symbols`] and [`Control::update`]. The last says whether the
//! sampling clocks run; each of their interrupts calls [`CpuAgent::sample`]. The device's interrupt handler calls
//! [`Transport::acknowledge_interrupt`] on a handle of its own; then, from task context, a changed configuration wants
//! [`Control::update`] and a used queue [`Control::freed_tasks`]. Tasks exit through [`Flush::before_release`] and are freed through
//! [`Control::free_tasks`]; [`Control::quiesce`] comes before the power goes.
//!
//! | module | what it does |
//! |---|---|
//! | [`writer`] | notes, samples, call chains and data records, by OProfile's rules |
//! | [`buffers`] | sample buffers: open, free, in flight; what they refer to |
//! | [`cpu`] | a vCPU's writer, buffers and queue |
//! | [`control`], [`request`] | bring-up and the control queue |
//! | [`description`] | what the kernel tells of itself |
//! | [`flush`] | the flush doorbell |
//! | [`nmi`] | the host's clock: samples taken in NMIs |
//! | [`settings`] | the configuration space |
//! | [`x86_backtrace`] | call chains of x86 tasks by frame pointers |
//! | [`ibs`] | AMD's instruction-based sampling |
//! | [`virtqueue`], [`transport`], [`mmio`] | virtio: split rings, initialisation, the MMIO transport |
//! | [`platform`], [`memory`] | what the kernel provides |
#![cfg_attr(not(test), no_std)]

#[cfg(not(target_endian = "little"))]
compile_error!(
    "sample buffers and rings are written in the processor's byte order, which must be little endian"
);

pub mod buffers;
pub mod control;
pub mod cpu;
pub mod description;
pub mod flush;
pub mod ibs;
pub mod memory;
pub mod mmio;
pub mod nmi;
pub mod platform;
pub mod request;
pub mod settings;
pub mod transport;
pub mod virtqueue;
pub mod writer;
pub mod x86_backtrace;

mod mentions;

pub use control::{BringUpError, Clocks, Control, ControlStatistics, Status, TaskFate};
pub use cpu::{CpuAgent, CpuStatistics};
pub use description::{Description, Module, Symbol};
pub use flush::Flush;
pub use memory::DmaMemory;
pub use mmio::{MmioTransport, Window};
pub use nmi::{Frames, Nmi, NmiSampler};
pub use platform::{Clock, Platform};
pub use request::RequestError;
pub use settings::{Settings, SettingsError};
pub use transport::{InterruptCause, Transport, TransportError};
pub use writer::{Sample, Writer};

#[cfg(test)]
mod tests;
