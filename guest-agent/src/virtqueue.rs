//! The driver's side of a split virtqueue (virtio 1.2 §2.7).
//!
//! Which descriptors make a chain is the user's choice, fixed per request slot or buffer, so there is no free list.
//! Ring words are accessed atomically, as the device runs beside the driver.

use core::fmt;
use core::sync::atomic::{Ordering, fence};

use oprofile_wire::QUEUE_SIZE;

use crate::memory::DmaMemory;
use crate::transport::{QueueAddresses, Transport, TransportError};

/// The chain goes on at the `next` descriptor.
pub const DESC_F_NEXT: u16 = 1;
/// The device writes this descriptor's memory.
pub const DESC_F_WRITE: u16 = 2;

/// Flag of the available ring: no interrupts, please.
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// Flag of the used ring: no notifications, please.
const USED_F_NO_NOTIFY: u16 = 1;

const DESCRIPTOR_BYTES: usize = 16;

/// Memory of a queue of [`QUEUE_SIZE`] entries; it fits a 4 KiB page.
pub const QUEUE_BYTES: usize = Geometry::new(QUEUE_SIZE).end;

/// Where the parts of a queue lie, in bytes from its start.
#[derive(Clone, Copy, Debug)]
struct Geometry {
    avail: usize,
    used_event: usize,
    used: usize,
    avail_event: usize,
    end: usize,
}

impl Geometry {
    const fn new(size: u16) -> Self {
        let size = size as usize;
        let avail = DESCRIPTOR_BYTES * size;
        let used_event = avail + 4 + 2 * size;
        let used = (used_event + 2).next_multiple_of(4);
        let avail_event = used + 4 + 8 * size;
        Self {
            avail,
            used_event,
            used,
            avail_event,
            end: (avail_event + 2).next_multiple_of(8),
        }
    }
}

/// Whether the driver wants to be interrupted when the device has used a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// Yes.
    Wanted,
    /// No: the driver looks by itself.
    Suppressed,
}

/// A chain that the device is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Its first descriptor. Below the queue's size; whether it was in flight is for the user to check.
    pub head: u16,
    /// Bytes that the device says it wrote.
    pub written: u32,
}

/// The device broke the rules of the used ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFault {
    /// A used entry names no descriptor; it was skipped.
    BadHead(u32),
    /// The used index ran ahead of what was offered; the queue is of no further use.
    BadIndex(u16),
}

impl fmt::Display for RingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadHead(head) => {
                write!(f, "The device used descriptor {head}, which does not exist")
            }
            Self::BadIndex(index) => write!(
                f,
                "The device's used index {index} is ahead of the driver's"
            ),
        }
    }
}

impl core::error::Error for RingFault {}

/// A queue that the device knows.
#[derive(Debug)]
pub struct Virtqueue {
    memory: DmaMemory,
    geometry: Geometry,
    index: u16,
    size: u16,
    event_idx: bool,
    interrupts: Interrupts,
    /// Next position of the available ring.
    avail_idx: u16,
    /// `avail_idx` when it was last decided whether to notify.
    decided_idx: u16,
    /// Next position of the used ring.
    used_idx: u16,
}

impl Virtqueue {
    /// Lays out queue `index` in `memory` ([`QUEUE_BYTES`], zeroed here) and enables it. It gets [`QUEUE_SIZE`] entries,
    /// or as many as the device allows.
    ///
    /// # Errors
    /// When the device has no such queue or the memory is too small.
    pub fn enable<T: Transport>(
        transport: &T,
        index: u16,
        mut memory: DmaMemory,
        event_idx: bool,
        interrupts: Interrupts,
    ) -> Result<Self, TransportError> {
        let limit = transport.queue_limit(index).min(QUEUE_SIZE);
        if limit == 0 || memory.bytes() < QUEUE_BYTES {
            return Err(TransportError::QueueUnavailable(index));
        }
        // A split queue's size is a power of two (virtio 1.2 §2.7).
        let size = 1 << limit.ilog2();
        let geometry = Geometry::new(size);
        memory.words_mut().fill(0);
        let queue = Self {
            memory,
            geometry,
            index,
            size,
            event_idx,
            interrupts,
            avail_idx: 0,
            decided_idx: 0,
            used_idx: 0,
        };
        queue.arm_interrupts();
        let base = queue.memory.gpa();
        let addresses = QueueAddresses {
            descriptors: base,
            driver: base + geometry.avail as u64,
            device: base + geometry.used as u64,
        };
        transport.enable_queue(index, size, &addresses);
        Ok(queue)
    }

    /// Number of the queue.
    #[must_use]
    pub const fn index(&self) -> u16 {
        self.index
    }

    /// Entries, a power of two.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.size
    }

    /// Fills a descriptor, which must not be in flight; `next` counts with [`DESC_F_NEXT`] only.
    ///
    /// # Panics
    /// When `id` is not below [`Self::size`], a bug of the caller.
    pub fn set_descriptor(&self, id: u16, gpa: u64, bytes: u32, flags: u16, next: u16) {
        assert!(id < self.size, "descriptor outside the queue");
        let at = usize::from(id) * DESCRIPTOR_BYTES;
        self.memory.u64_at(at).store(gpa, Ordering::Relaxed);
        let rest = u64::from(bytes) | u64::from(flags) << 32 | u64::from(next) << 48;
        self.memory.u64_at(at + 8).store(rest, Ordering::Relaxed);
    }

    /// Makes the chain that begins at `head` available. The device sees everything written before.
    pub fn publish(&mut self, head: u16) {
        let slot = usize::from(self.avail_idx % self.size);
        let avail = self.geometry.avail;
        self.memory
            .u16_at(avail + 4 + 2 * slot)
            .store(head, Ordering::Relaxed);
        self.avail_idx = self.avail_idx.wrapping_add(1);
        // Release: descriptors, ring entry and buffer contents come first (virtio 1.2 §2.7.13.2).
        self.memory
            .u16_at(avail + 2)
            .store(self.avail_idx, Ordering::Release);
    }

    /// Whether the device wants to hear of what was published since the last time this was asked.
    pub fn wants_notification(&mut self) -> bool {
        let old = core::mem::replace(&mut self.decided_idx, self.avail_idx);
        if old == self.avail_idx {
            return false;
        }
        // The index must be visible before the device's wish is read (virtio 1.2 §2.7.13.4).
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.load_u16(self.geometry.avail_event);
            // virtio 1.2 §2.7.10: the event lies in what was published since.
            let published = self.avail_idx.wrapping_sub(old);
            self.avail_idx.wrapping_sub(event).wrapping_sub(1) < published
        } else {
            self.load_u16(self.geometry.used) & USED_F_NO_NOTIFY == 0
        }
    }

    /// Whether the device has used chains that were not taken yet.
    #[inline]
    #[must_use]
    pub fn has_used(&self) -> bool {
        self.load_u16(self.geometry.used + 2) != self.used_idx
    }

    /// Takes the next chain that the device is done with.
    ///
    /// # Errors
    /// When the ring cannot be right. After [`RingFault::BadIndex`] every call fails.
    pub fn pop_used(&mut self) -> Result<Option<Used>, RingFault> {
        let used = self.geometry.used;
        let device_idx = self.memory.u16_at(used + 2).load(Ordering::Acquire);
        let ready = device_idx.wrapping_sub(self.used_idx);
        if ready == 0 {
            return Ok(None);
        }
        if ready > self.avail_idx.wrapping_sub(self.used_idx) {
            return Err(RingFault::BadIndex(device_idx));
        }
        let at = used + 4 + 8 * usize::from(self.used_idx % self.size);
        let head = self.memory.u32_at(at).load(Ordering::Relaxed);
        let written = self.memory.u32_at(at + 4).load(Ordering::Relaxed);
        self.used_idx = self.used_idx.wrapping_add(1);
        self.arm_interrupts();
        match u16::try_from(head) {
            Ok(head) if head < self.size => Ok(Some(Used { head, written })),
            _ => Err(RingFault::BadHead(head)),
        }
    }

    /// Tells the device when to interrupt next.
    fn arm_interrupts(&self) {
        if self.event_idx {
            // An event just behind what was taken is never reached, as fewer than 65,536 chains are in flight.
            let event = match self.interrupts {
                Interrupts::Wanted => self.used_idx,
                Interrupts::Suppressed => self.used_idx.wrapping_sub(1),
            };
            self.store_u16(self.geometry.used_event, event);
            if self.interrupts == Interrupts::Wanted {
                // Else a chain used meanwhile might raise no interrupt and not be seen either (virtio 1.2 §2.7.14).
                fence(Ordering::SeqCst);
            }
        } else if self.interrupts == Interrupts::Suppressed {
            self.store_u16(self.geometry.avail, AVAIL_F_NO_INTERRUPT);
        }
    }

    #[inline]
    fn load_u16(&self, offset: usize) -> u16 {
        self.memory.u16_at(offset).load(Ordering::Relaxed)
    }

    fn store_u16(&self, offset: usize, value: u16) {
        self.memory.u16_at(offset).store(value, Ordering::Relaxed);
    }
}
