//! What the guest's driver and the host's device say to each other.
//!
//! Layouts only: no I/O, no allocation, no `std`. Every multi-byte field is little endian and every
//! structure is `repr(C)` without hidden padding, so that a C header can state the same layouts.
//!
//! | module | what crosses the boundary |
//! |---|---|
//! | [`changes`] | change words: which address spaces are about to lose executable mappings |
//! | [`clock`] | clock cells: NMIs as the sampling clock |
//! | [`config`] | the device's configuration space, with the host's settings and the flush doorbell |
//! | [`control`] | requests on the control queue (queue 0) and their answers |
//! | [`layout`] | the layout descriptor: where the guest kernel keeps the fields that the host walks |
//! | [`sample`] | sample buffers on the vCPU queues (queue 1 + vCPU): header and entries |
#![no_std]

pub mod changes;
pub mod clock;
pub mod config;
pub mod control;
pub mod layout;
pub mod sample;

mod cursor;

pub use cursor::Cursor;

/// Virtio device type. 63 is the highest that a virtio-pci device id can express (0x1040 + type must
/// stay at or below 0x107f, the last id that Linux's `virtio_pci` binds). Both sides can be told another one.
pub const DEFAULT_DEVICE_ID: u32 = 63;

/// Version of everything in this crate. A device refuses a hello with another one.
pub const PROTOCOL_VERSION: u16 = 1;

/// Index of the control queue.
pub const CONTROL_QUEUE: u16 = 0;

/// Index of the queue that carries the sample buffers of `vcpu`.
#[must_use]
pub const fn sample_queue(vcpu: u16) -> u16 {
    vcpu.saturating_add(1)
}

/// Most vCPUs that one device serves: as many sample queues fit beside the control queue below the
/// 1,024 queues at which Linux's virtio core stops.
pub const MAX_VCPUS: u16 = 1_023;

/// Entries in each virtqueue. At most this many sample buffers of one vCPU are in flight.
pub const QUEUE_SIZE: u16 = 128;
