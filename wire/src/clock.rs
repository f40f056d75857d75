//! The host's clock: NMIs that the host sends at the sampling period, so that code which runs with interrupts off is
//! sampled where it is.
//!
//! It is a clock of those vCPUs that ask for it ([`HostClock`](crate::control::HostClock)), where
//! [`capability::HOST_NMI`](crate::config::capability::HOST_NMI) is in force. Each has a [`ClockCell`] in guest memory. The host
//! counts in `sent` before it sends, and the handler copies that to `taken`; so an NMI that finds the two equal is
//! somebody else's, and while they differ the host sends no other one.

use core::mem::offset_of;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where driver and device agree on the NMIs of one vCPU, 16 bytes. Each field has one writer, and is written at once.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ClockCell {
    /// Written by the device: NMIs sent, wrapping.
    pub sent: U32,
    /// Written by the driver: `sent` as its handler found it last.
    pub taken: U32,
    /// Written by the driver: 0 while the vCPU idles, so that it is left alone.
    pub busy: U32,
    /// Zero.
    pub reserved: U32,
}

/// What a cell's GPA is a multiple of: no field of it crosses a cache line.
pub const ALIGNMENT: u64 = 16;

/// Offset of [`ClockCell::sent`].
pub const SENT: usize = offset_of!(ClockCell, sent);

/// Offset of [`ClockCell::taken`].
pub const TAKEN: usize = offset_of!(ClockCell, taken);

/// Offset of [`ClockCell::busy`].
pub const BUSY: usize = offset_of!(ClockCell, busy);

/// Highest APIC id that a message-signalled interrupt can name alone: 255 is every vCPU (Intel SDM vol. 3, 11.11.1).
pub const MAX_APIC_ID: u32 = 254;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_what_a_c_header_would_state() {
        assert_eq!(size_of::<ClockCell>() as u64, ALIGNMENT);
        assert_eq!((SENT, TAKEN, BUSY), (0, 4, 8));
    }
}
