//! A split virtqueue from the driver's side, which also writes what no driver should.

use std::sync::Arc;

use oprofile_wire::QUEUE_SIZE;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const DESCRIPTOR_BYTES: u64 = 16;
const USED_BYTES: u64 = 8;

/// A descriptor as it stands in the table.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// GPA.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// `VRING_DESC_F_*`.
    pub flags: u16,
    /// Next of the chain, with `VRING_DESC_F_NEXT`.
    pub next: u16,
}

impl Descriptor {
    /// Bytes that the device reads.
    #[must_use]
    pub const fn readable(address: u64, length: u32) -> Self {
        Self {
            address,
            length,
            flags: 0,
            next: 0,
        }
    }

    /// Bytes that the device writes.
    #[must_use]
    pub fn writable(address: u64, length: u32) -> Self {
        Self {
            flags: u16::try_from(VRING_DESC_F_WRITE).unwrap(),
            ..Self::readable(address, length)
        }
    }

    /// The same with `next` behind it.
    #[must_use]
    pub fn then(self, next: u16) -> Self {
        Self {
            flags: self.flags | u16::try_from(VRING_DESC_F_NEXT).unwrap(),
            next,
            ..self
        }
    }
}

/// Links `descriptors`, which will stand at `first` and behind it, to one chain.
#[must_use]
pub fn chain_of(first: u16, descriptors: &[Descriptor]) -> Vec<Descriptor> {
    let last = descriptors.len().saturating_sub(1);
    let place = |index| first + u16::try_from(index).unwrap();
    let link = |(index, descriptor): (usize, &Descriptor)| match index == last {
        true => *descriptor,
        false => descriptor.then(place(index + 1)),
    };
    descriptors.iter().enumerate().map(link).collect()
}

/// One queue.
#[derive(Debug)]
pub struct Ring {
    memory: Arc<GuestMemoryMmap>,
    base: u64,
    available: u16,
    seen: u16,
    next_descriptor: u16,
}

impl Ring {
    /// Bytes of guest RAM that a ring takes.
    pub const BYTES: u64 = 8192;

    /// A ring at GPA `base`, a multiple of 4,096, in zeroed RAM.
    #[must_use]
    pub const fn new(memory: Arc<GuestMemoryMmap>, base: u64) -> Self {
        Self {
            memory,
            base,
            available: 0,
            seen: 0,
            next_descriptor: 0,
        }
    }

    /// GPA of the available ring.
    #[must_use]
    pub const fn available_ring(&self) -> u64 {
        self.base + 2048
    }

    /// GPA of the used ring.
    #[must_use]
    pub const fn used_ring(&self) -> u64 {
        self.base + 4096
    }

    /// The device's view of it, ready.
    #[must_use]
    pub fn queue(&self) -> Queue {
        let mut queue = Queue::new(QUEUE_SIZE).unwrap();
        let low = |address: u64| Some(u32::try_from(address & 0xffff_ffff).unwrap());
        let high = |address: u64| Some(u32::try_from(address >> 32).unwrap());
        queue.set_desc_table_address(low(self.base), high(self.base));
        let available = self.available_ring();
        queue.set_avail_ring_address(low(available), high(available));
        let used = self.used_ring();
        queue.set_used_ring_address(low(used), high(used));
        queue.set_ready(true);
        queue
    }

    /// Where `count` descriptors in a row can stand. Reuses the oldest; no test has more than a table of them in flight.
    pub fn reserve(&mut self, count: u16) -> u16 {
        if self.next_descriptor + count > QUEUE_SIZE {
            self.next_descriptor = 0;
        }
        let first = self.next_descriptor;
        self.next_descriptor += count;
        first
    }

    /// Writes one descriptor.
    pub fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        let mut bytes = Vec::from(descriptor.address.to_le_bytes());
        bytes.extend(descriptor.length.to_le_bytes());
        bytes.extend(descriptor.flags.to_le_bytes());
        bytes.extend(descriptor.next.to_le_bytes());
        let address = GuestAddress(self.base + u64::from(index) * DESCRIPTOR_BYTES);
        self.memory.write_slice(&bytes, address).unwrap();
    }

    /// Makes the chain that begins at `head` available.
    pub fn publish(&mut self, head: u16) {
        let slot = self.available_ring() + 4 + u64::from(self.available % QUEUE_SIZE) * 2;
        self.memory
            .write_obj(head.to_le(), GuestAddress(slot))
            .unwrap();
        self.set_available(self.available.wrapping_add(1));
    }

    /// Sets the available index.
    pub fn set_available(&mut self, index: u16) {
        self.available = index;
        let address = GuestAddress(self.available_ring() + 2);
        self.memory.write_obj(index.to_le(), address).unwrap();
    }

    /// Posts `descriptors` as one chain; returns its head.
    pub fn post(&mut self, descriptors: &[Descriptor]) -> u16 {
        let head = self.reserve(u16::try_from(descriptors.len()).unwrap());
        let chain = chain_of(head, descriptors);
        for (index, descriptor) in (head..).zip(chain) {
            self.set_descriptor(index, descriptor);
        }
        self.publish(head);
        head
    }

    /// Heads and lengths of the chains that came back since this was asked last.
    pub fn take_used(&mut self) -> Vec<(u32, u32)> {
        let index: u16 = self
            .memory
            .read_obj(GuestAddress(self.used_ring() + 2))
            .unwrap();
        let mut used = Vec::new();
        while self.seen != u16::from_le(index) {
            let slot = self.used_ring() + 4 + u64::from(self.seen % QUEUE_SIZE) * USED_BYTES;
            let element: [u32; 2] = self.memory.read_obj(GuestAddress(slot)).unwrap();
            used.push((u32::from_le(element[0]), u32::from_le(element[1])));
            self.seen = self.seen.wrapping_add(1);
        }
        used
    }
}
