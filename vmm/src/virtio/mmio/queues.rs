//! Queue registers: what the driver writes before the device takes the queues.

use thiserror::Error;
use virtio_queue::{Error as SetupError, Queue, QueueT};
use vm_memory::GuestAddress;

/// A queue that the driver set up badly.
#[derive(Debug, Error)]
#[error("Queue {queue} is set up badly")]
pub struct QueueError {
    queue: usize,
    #[source]
    source: SetupError,
}

/// Registers of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueRegisters {
    /// Largest size, fixed by the device.
    pub max_size: u16,
    /// Size chosen by the driver; any value until the queue is built.
    pub size: u32,
    /// The driver has finished with it.
    pub ready: bool,
    /// GPA of the descriptor table.
    pub descriptors: u64,
    /// GPA of the driver area: the available ring.
    pub driver: u64,
    /// GPA of the device area: the used ring.
    pub device: u64,
}

impl QueueRegisters {
    /// Registers after a reset.
    pub fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: u32::from(max_size),
            ..Self::default()
        }
    }

    fn build(&self) -> Result<Queue, SetupError> {
        let mut queue = Queue::new(self.max_size)?;
        if self.ready {
            let size = u16::try_from(self.size).map_err(|_| SetupError::InvalidSize)?;
            queue.try_set_size(size)?;
            queue.try_set_desc_table_address(GuestAddress(self.descriptors))?;
            queue.try_set_avail_ring_address(GuestAddress(self.driver))?;
            queue.try_set_used_ring_address(GuestAddress(self.device))?;
            queue.set_ready(true);
        }
        Ok(queue)
    }
}

/// Builds the device's queues. One that is not ready is built too, so that the others keep their indices.
///
/// # Errors
/// At a size that is no power of two or too large, or a misaligned ring.
pub fn build(registers: &[QueueRegisters]) -> Result<Vec<Queue>, QueueError> {
    registers
        .iter()
        .enumerate()
        .map(|(queue, registers)| {
            registers
                .build()
                .map_err(|source| QueueError { queue, source })
        })
        .collect()
}

/// Replaces the low or high half of `address`.
pub fn set_half(address: &mut u64, high: bool, value: u32) {
    *address = if high {
        *address & 0xffff_ffff | u64::from(value) << 32
    } else {
        *address & !0xffff_ffff | u64::from(value)
    };
}
