//! The device's configuration space (virtio 1.2 §2.5).
//!
//! Capabilities are offered here and accepted in the hello request rather than in feature bits 0–23:
//! some monitors mask those bits on their way to the guest. After a change of the host's settings the device
//! raises a configuration interrupt; a driver reads the settings under the transport's configuration generation.

use core::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First word of the configuration space, "VOPF" in memory. A driver checks it besides the device id.
pub const MAGIC: u32 = u32::from_le_bytes(*b"VOPF");

/// What a device can do; the driver answers with the subset that it uses.
pub mod capability {
    /// Writing a vCPU index to [`super::FLUSH_DOORBELL_OFFSET`] drains that vCPU's sample queue before the
    /// write completes.
    pub const FLUSH_DOORBELL: u64 = 1 << 0;
    /// Samples may carry call chains (trace frames).
    pub const BACKTRACE: u64 = 1 << 1;
    /// The device takes kernel and module symbols.
    pub const KERNEL_SYMBOLS: u64 = 1 << 2;
    /// The device answers a task-free request only when it refers to none of its tasks any more.
    pub const TASK_FREE: u64 = 1 << 3;
    /// The driver keeps change words, see [`crate::changes`].
    pub const CHANGE_WORDS: u64 = 1 << 4;
    /// The host wants to be the sampling clock, by NMIs, see [`crate::clock`]. Offered only then.
    pub const HOST_NMI: u64 = 1 << 5;
    /// The driver sends the perf maps of processes with code of their own making that the device asks for.
    pub const PERF_MAPS: u64 = 1 << 6;
    /// Everything that this version knows.
    pub const ALL: u64 = FLUSH_DOORBELL
        | BACKTRACE
        | KERNEL_SYMBOLS
        | TASK_FREE
        | CHANGE_WORDS
        | HOST_NMI
        | PERF_MAPS;
}

/// The configuration space, 56 bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ConfigSpace {
    /// [`MAGIC`].
    pub magic: U32,
    /// [`crate::PROTOCOL_VERSION`].
    pub version: U32,
    /// What the device can do, see [`capability`].
    pub capabilities: U64,
    /// Number of sample queues: vCPUs 0 to `vcpus` − 1.
    pub vcpus: U32,
    /// 1: the host wants samples; 0: the driver stops its clocks and posts what it holds.
    pub enable: U32,
    /// Sampling period in nanoseconds, greater than 0.
    pub period_ns: U64,
    /// What to sample: 0 is time, the only event of this version.
    pub event: U32,
    /// Most frames of a call chain; 0 is none.
    pub backtrace_depth: U32,
    /// Entries (16 bytes each) that a vCPU's buffers shall hold together.
    pub cpu_buffer_entries: U32,
    /// Bytes of one sample buffer, header included; a multiple of 8.
    pub sample_buffer_bytes: U32,
    /// Write only: the vCPU whose sample queue is to be drained now. Reads as 0.
    pub flush_doorbell: U32,
    /// Changes, up and wrapping, when the device wants perf maps that it has not told of; see
    /// [`kind::WANTED_MAP`](crate::control::kind::WANTED_MAP).
    pub wanted_maps: U32,
}

/// Bytes of the configuration space.
pub const CONFIG_BYTES: usize = size_of::<ConfigSpace>();

/// Offset of the flush doorbell within the configuration space; only an aligned 4-byte write there rings it.
pub const FLUSH_DOORBELL_OFFSET: u64 = offset_of!(ConfigSpace, flush_doorbell) as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_what_a_c_header_would_state() {
        assert_eq!(CONFIG_BYTES, 56);
        assert_eq!(offset_of!(ConfigSpace, capabilities), 8);
        assert_eq!(offset_of!(ConfigSpace, vcpus), 16);
        assert_eq!(offset_of!(ConfigSpace, period_ns), 24);
        assert_eq!(offset_of!(ConfigSpace, cpu_buffer_entries), 40);
        assert_eq!(FLUSH_DOORBELL_OFFSET, 48);
        assert_eq!(offset_of!(ConfigSpace, wanted_maps), 52);
    }

    #[test]
    fn magic_reads_as_text_in_memory() {
        assert_eq!(&MAGIC.to_le_bytes(), b"VOPF");
    }
}
