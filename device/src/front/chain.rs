//! Descriptor chains and rings (virtio 1.2 §2.7), read as hostile input.

use std::sync::atomic::Ordering;

use thiserror::Error;
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// Why a chain is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum ChainError {
    /// It loops, leaves its table or RAM, or nests indirect tables.
    #[error("Chain does not end")]
    Broken,
    /// A readable descriptor behind a writable one (virtio 1.2 §2.7.4.2).
    #[error("Readable descriptor behind a writable one")]
    Order,
    /// More readable bytes or descriptors than allowed.
    #[error("Chain is too long")]
    TooLong,
    /// A buffer outside RAM.
    #[error("Buffer outside RAM")]
    OutOfRam,
}

/// A piece of guest memory that a descriptor names; whether it is RAM shows when it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    address: GuestAddress,
    bytes: usize,
}

/// The buffers of one chain; reused from chain to chain.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    readable: Vec<Segment>,
    readable_bytes: usize,
    writable: Vec<Segment>,
}

impl Segments {
    /// Takes all descriptors of `chain`: at most `max_descriptors` (a chain may not be longer than its queue, virtio 1.2
    /// §2.7.5.3.1) with `max_bytes` readable bytes.
    pub fn collect<M: GuestMemoryBackend>(
        &mut self,
        chain: DescriptorChain<&M>,
        max_descriptors: u16,
        max_bytes: usize,
    ) -> Result<(), ChainError> {
        self.readable.clear();
        self.writable.clear();
        self.readable_bytes = 0;
        let mut unfinished = true;
        // The iterator ends alike for the last descriptor and for one that it cannot read; only the
        // flag of the one before tells these apart.
        for descriptor in chain {
            if self.readable.len() + self.writable.len() >= usize::from(max_descriptors) {
                return Err(ChainError::TooLong);
            }
            unfinished = descriptor.has_next();
            let segment = Segment {
                address: descriptor.addr(),
                bytes: descriptor.len() as usize,
            };
            if descriptor.is_write_only() {
                self.writable.push(segment);
                continue;
            }
            if !self.writable.is_empty() {
                return Err(ChainError::Order);
            }
            self.readable_bytes = self.readable_bytes.saturating_add(segment.bytes);
            if self.readable_bytes > max_bytes {
                return Err(ChainError::TooLong);
            }
            self.readable.push(segment);
        }
        if unfinished {
            return Err(ChainError::Broken);
        }
        Ok(())
    }

    /// Bytes that the driver wrote for the device.
    pub const fn readable_bytes(&self) -> usize {
        self.readable_bytes
    }

    /// Whether the device may write any of the chain.
    pub fn is_writable(&self) -> bool {
        !self.writable.is_empty()
    }

    /// Whether all readable bytes are in RAM.
    pub fn is_in_ram<M: GuestMemoryBackend>(&self, memory: &M) -> bool {
        let is_ram = |segment: &Segment| memory.check_range(segment.address, segment.bytes);
        self.readable.iter().all(is_ram)
    }

    /// Copies readable bytes from `offset` on into `into`; there must be as many.
    pub fn read<M: GuestMemoryBackend>(
        &self,
        memory: &M,
        mut offset: usize,
        mut into: &mut [u8],
    ) -> Result<(), ChainError> {
        for segment in &self.readable {
            let Some(left) = segment.bytes.checked_sub(offset) else {
                offset -= segment.bytes;
                continue;
            };
            let (part, rest) = into.split_at_mut(left.min(into.len()));
            let start = segment.address.0.checked_add(offset as u64);
            start
                .and_then(|start| memory.read_slice(part, GuestAddress(start)).ok())
                .ok_or(ChainError::OutOfRam)?;
            if rest.is_empty() {
                return Ok(());
            }
            (into, offset) = (rest, 0);
        }
        match into {
            [] => Ok(()),
            _ => Err(ChainError::TooLong),
        }
    }

    /// The first `bytes` of the writable part, to be written now or later; `None` when it is shorter.
    pub fn room(&self, bytes: usize) -> Option<Vec<Segment>> {
        let mut missing = bytes;
        let mut room = Vec::new();
        for segment in &self.writable {
            if missing == 0 {
                break;
            }
            let taken = segment.bytes.min(missing);
            missing -= taken;
            if taken != 0 {
                room.push(Segment {
                    bytes: taken,
                    ..*segment
                });
            }
        }
        (missing == 0).then_some(room)
    }
}

/// Writes `bytes` into `room`, which has exactly as many.
pub(crate) fn write<M: GuestMemoryBackend>(
    memory: &M,
    room: &[Segment],
    mut bytes: &[u8],
) -> Result<(), ChainError> {
    for segment in room {
        let (part, rest) = bytes
            .split_at_checked(segment.bytes)
            .ok_or(ChainError::TooLong)?;
        memory
            .write_slice(part, segment.address)
            .map_err(|_| ChainError::OutOfRam)?;
        bytes = rest;
    }
    Ok(())
}

/// Chains that the driver made available and that have not been taken yet: a snapshot.
pub(crate) fn pending<M: GuestMemoryBackend>(
    queue: &Queue,
    memory: &M,
) -> Result<u16, virtio_queue::Error> {
    if !queue.ready() {
        return Ok(0);
    }
    let available = queue.avail_idx(memory, Ordering::Acquire)?.0;
    let pending = available.wrapping_sub(queue.next_avail());
    if pending > queue.size() {
        return Err(virtio_queue::Error::InvalidAvailRingIndex);
    }
    Ok(pending)
}

/// Takes the next chain, if there is one.
pub(crate) fn take<'m, M: GuestMemoryBackend>(
    queue: &mut Queue,
    memory: &'m M,
) -> Result<Option<DescriptorChain<&'m M>>, virtio_queue::Error> {
    Ok(queue.iter(memory)?.next())
}

/// Whether the driver wants an interrupt for what has been put into the used ring since this was asked last.
pub(crate) fn wants_interrupt<M: GuestMemoryBackend>(
    queue: &mut Queue,
    memory: &M,
) -> Result<bool, virtio_queue::Error> {
    if queue.event_idx_enabled() {
        return queue.needs_notification(memory);
    }
    // virtio-queue leaves the flag to its user (virtio 1.2 §2.7.7).
    let flags: u16 = memory
        .load(GuestAddress(queue.avail_ring()), Ordering::Relaxed)
        .map_err(virtio_queue::Error::GuestMemory)?;
    Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
}
