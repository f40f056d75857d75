//! A vCPU's sample buffers: one open, the others free or in flight.
//!
//! Buffer *n* is descriptor *n* of the vCPU's queue. A buffer that is in flight belongs to the device until it comes back in
//! the used ring. Nothing here waits: when no buffer is free, none is open and samples are lost, counted.

use oprofile_wire::sample::{
    BufferHeader, ESCAPE, MAGIC, MAX_BUFFER_BYTES, MAX_NOTE_DATA, MIN_BUFFER_BYTES, WORD_BYTES,
    note_word,
};
use oprofile_wire::{PROTOCOL_VERSION, QUEUE_SIZE};
use zerocopy::IntoBytes;

use crate::memory::DmaMemory;
use crate::mentions::Mentions;
use crate::virtqueue::{RingFault, Virtqueue};
use crate::writer::{Counters, EntryStore};

/// Most buffers of a vCPU: each one in flight takes a descriptor.
pub const MAX_BUFFERS: u16 = QUEUE_SIZE;

/// Fewest buffers: one to write to while the device has the other.
pub const MIN_BUFFERS: u16 = 2;

/// Bytes of a buffer's header.
const HEADER_BYTES: u16 = 72;
const _: () = assert!(size_of::<BufferHeader>() == HEADER_BYTES as usize);

/// Words of a buffer's header.
const HEADER_WORDS: usize = size_of::<BufferHeader>() / WORD_BYTES;

/// Bytes of an entry without data, the unit of the host's `cpu_buffer_entries`.
const ENTRY_BYTES: u64 = 16;

/// How many buffers of `sample_buffer_bytes` hold `cpu_buffer_entries` entries, from [`MIN_BUFFERS`] to [`MAX_BUFFERS`].
#[must_use]
pub const fn buffer_count(cpu_buffer_entries: u32, sample_buffer_bytes: u32) -> u16 {
    let room = (sample_buffer_bytes as u64).saturating_sub((HEADER_WORDS * WORD_BYTES) as u64);
    if room == 0 {
        return MIN_BUFFERS;
    }
    let count = (cpu_buffer_entries as u64 * ENTRY_BYTES).div_ceil(room);
    if count < MIN_BUFFERS as u64 {
        MIN_BUFFERS
    } else if count > MAX_BUFFERS as u64 {
        MAX_BUFFERS
    } else {
        #[expect(clippy::cast_possible_truncation, reason = "compared above")]
        let count = count as u16;
        count
    }
}

/// Where the samples go: the words of the open buffer, or nowhere.
#[derive(Debug)]
pub struct OpenBuffer {
    memory: Option<DmaMemory>,
    id: u16,
    /// Words used, header included.
    used: usize,
    /// Words in all; 0 while no buffer is open.
    capacity: usize,
    samples: u32,
    /// Clock when it was opened, in nanoseconds.
    opened_ns: u64,
}

impl OpenBuffer {
    const fn closed() -> Self {
        Self {
            memory: None,
            id: 0,
            used: 0,
            capacity: 0,
            samples: 0,
            opened_ns: 0,
        }
    }
}

impl EntryStore for OpenBuffer {
    #[inline]
    fn reserve(&mut self, eip: u64, event: u64, data_words: usize) -> Option<&mut [u64]> {
        if data_words > MAX_NOTE_DATA {
            return None;
        }
        let end = self.used + 2 + data_words;
        let words = self.memory.as_mut()?.words_mut().get_mut(self.used..end)?;
        let (head, data) = words.split_first_chunk_mut()?;
        *head = if eip == ESCAPE {
            [ESCAPE, note_word(event, data_words)]
        } else {
            [eip, event]
        };
        data.fill(0);
        self.used = end;
        Some(data)
    }
}

/// A buffer that is not open.
#[derive(Debug)]
struct Slot {
    /// `None` while open, and beyond the number of buffers.
    memory: Option<DmaMemory>,
    mentions: Mentions,
}

/// All buffers of a vCPU and the queue that carries them.
#[derive(Debug)]
pub(crate) struct SampleBuffers {
    pub(crate) open: OpenBuffer,
    slots: [Slot; MAX_BUFFERS as usize],
    queue: Option<Virtqueue>,
    vcpu: u16,
    count: u16,
    /// Bit *n*: buffer *n* is free.
    free: u128,
    /// Bit *n*: the device has buffer *n*.
    in_flight: u128,
    sequence: u64,
    /// What the last header told.
    told: Counters,
    faults: u64,
    /// The used ring cannot be followed any more.
    broken: bool,
}

/// Why a vCPU's buffers cannot be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoBuffers;

const _: () = assert!(MAX_BUFFERS as u32 <= u128::BITS);

impl SampleBuffers {
    pub(crate) const fn new() -> Self {
        Self {
            open: OpenBuffer::closed(),
            slots: [const {
                Slot {
                    memory: None,
                    mentions: Mentions::new(),
                }
            }; MAX_BUFFERS as usize],
            queue: None,
            vcpu: 0,
            count: 0,
            free: 0,
            in_flight: 0,
            sequence: 0,
            told: Counters {
                received: 0,
                lost: 0,
                aborted: 0,
                invalid: 0,
            },
            faults: 0,
            broken: false,
        }
    }

    /// Takes the queue and up to `count` buffers of `bytes` from `allocate`; fewer than [`MIN_BUFFERS`] are an error.
    pub(crate) fn attach(
        &mut self,
        vcpu: u16,
        queue: Virtqueue,
        count: u16,
        bytes: usize,
        mut allocate: impl FnMut(usize) -> Option<DmaMemory>,
    ) -> Result<(), NoBuffers> {
        self.count = 0;
        self.free = 0;
        self.in_flight = 0;
        self.open = OpenBuffer::closed();
        let count = count.min(queue.size()).min(MAX_BUFFERS);
        let fits = |memory: &DmaMemory| {
            memory.bytes() >= bytes && (MIN_BUFFER_BYTES..=MAX_BUFFER_BYTES).contains(&bytes)
        };
        for slot in &mut self.slots[..usize::from(count)] {
            slot.memory = allocate(bytes).filter(fits);
            if slot.memory.is_none() {
                break;
            }
            self.free |= 1 << self.count;
            self.count += 1;
        }
        if self.count < MIN_BUFFERS {
            return Err(NoBuffers);
        }
        self.vcpu = vcpu;
        self.queue = Some(queue);
        Ok(())
    }

    pub(crate) const fn is_attached(&self) -> bool {
        self.queue.is_some()
    }

    pub(crate) fn queue_mut(&mut self) -> Option<&mut Virtqueue> {
        self.queue.as_mut()
    }

    pub(crate) const fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(crate) const fn faults(&self) -> u64 {
        self.faults
    }

    pub(crate) const fn count_in_flight(&self) -> u32 {
        self.in_flight.count_ones()
    }

    /// More than half of the buffers are in flight.
    pub(crate) const fn under_pressure(&self) -> bool {
        self.count_in_flight() * 2 > self.count as u32
    }

    /// Whether the open buffer has room for `words`, or is empty and so as good as any.
    #[inline]
    pub(crate) const fn has_room(&self, words: usize) -> bool {
        self.open.used + words <= self.open.capacity
            || (self.open.capacity != 0 && self.open.used == HEADER_WORDS)
    }

    /// A sample of this task has been written to the open buffer.
    #[inline]
    pub(crate) fn note_sample(&mut self, task: u64, space: u64) {
        self.open.samples += 1;
        if let Some(slot) = self.slots.get_mut(usize::from(self.open.id)) {
            slot.mentions.insert(task, space);
        }
    }

    /// Samples in the open buffer.
    pub(crate) const fn open_samples(&self) -> u32 {
        self.open.samples
    }

    /// Clock when the open buffer was opened, if it holds anything.
    pub(crate) const fn open_since(&self) -> Option<u64> {
        if self.open.used > HEADER_WORDS {
            Some(self.open.opened_ns)
        } else {
            None
        }
    }

    /// Makes the open buffer available to the device and closes it. An empty one stays open unless the counters have news.
    /// Returns whether a buffer was posted.
    pub(crate) fn post(&mut self, counters: Counters, clock_ns: u64) -> bool {
        let worth =
            self.open.used > HEADER_WORDS || (self.open.capacity != 0 && counters != self.told);
        let (true, Some(queue)) = (worth, self.queue.as_mut()) else {
            return false;
        };
        let Some(mut memory) = self.open.memory.take() else {
            return false;
        };
        let id = self.open.id;
        let bytes = self.open.used * WORD_BYTES;
        let header = BufferHeader {
            magic: MAGIC.into(),
            version: PROTOCOL_VERSION.into(),
            header_bytes: HEADER_BYTES.into(),
            vcpu: u32::from(self.vcpu).into(),
            entry_bytes: bytes_u32(bytes - size_of::<BufferHeader>()).into(),
            sequence: self.sequence.into(),
            clock_ns: clock_ns.into(),
            received: counters.received.into(),
            lost: counters.lost.into(),
            aborted: counters.aborted.into(),
            invalid: counters.invalid.into(),
            samples: self.open.samples.into(),
            reserved: 0.into(),
        };
        let written = memory.write_at(0, header.as_bytes());
        debug_assert!(written, "a buffer is never smaller than its header");
        queue.set_descriptor(id, memory.gpa(), bytes_u32(bytes), 0, 0);
        queue.publish(id);
        self.slots[usize::from(id)].memory = Some(memory);
        self.in_flight |= 1 << id;
        self.sequence += 1;
        self.told = counters;
        self.open = OpenBuffer::closed();
        true
    }

    /// Counters have changed since the last buffer told them.
    pub(crate) fn has_news(&self, counters: Counters) -> bool {
        counters != self.told
    }

    /// Opens a free buffer if none is open; false when there is none.
    pub(crate) fn ensure_open(&mut self, clock_ns: impl FnOnce() -> u64) -> bool {
        if self.open.capacity != 0 {
            return true;
        }
        let Some(id) = lowest(self.free) else {
            return false;
        };
        self.free &= !(1 << id);
        let slot = &mut self.slots[usize::from(id)];
        let Some(memory) = slot.memory.take() else {
            return false;
        };
        slot.mentions.clear();
        self.open = OpenBuffer {
            capacity: memory.bytes() / WORD_BYTES,
            memory: Some(memory),
            id,
            used: HEADER_WORDS,
            samples: 0,
            opened_ns: clock_ns(),
        };
        true
    }

    /// Takes back what the device is done with; bounded by what is in flight.
    pub(crate) fn reap(&mut self) {
        let Some(queue) = self.queue.as_mut() else {
            return;
        };
        if self.broken {
            return;
        }
        for _ in 0..QUEUE_SIZE {
            match queue.pop_used() {
                Ok(None) => break,
                Ok(Some(used)) => {
                    let bit = 1 << used.head;
                    if self.in_flight & bit == 0 {
                        self.faults += 1;
                        continue;
                    }
                    self.in_flight &= !bit;
                    self.free |= bit;
                    self.slots[usize::from(used.head)].mentions.clear();
                }
                Err(RingFault::BadHead(_)) => self.faults += 1,
                Err(RingFault::BadIndex(_)) => {
                    self.faults += 1;
                    self.broken = true;
                    break;
                }
            }
        }
    }

    /// Whether a buffer, open or in flight, may hold samples of this address space.
    pub(crate) fn may_hold_space(&self, space: u64) -> bool {
        self.any_pending(|mentions| mentions.may_contain_space(space))
    }

    /// Whether the open buffer may hold samples of this address space.
    pub(crate) fn open_may_hold_space(&self, space: u64) -> bool {
        self.open_since().is_some()
            && self.slots[usize::from(self.open.id)]
                .mentions
                .may_contain_space(space)
    }

    /// Whether the open buffer may hold samples of one of these tasks.
    pub(crate) fn open_may_hold_task(&self, tasks: &[u64]) -> bool {
        self.open_since().is_some() && {
            let mentions = &self.slots[usize::from(self.open.id)].mentions;
            tasks.iter().any(|&task| mentions.may_contain_task(task))
        }
    }

    fn any_pending(&self, matches: impl Fn(&Mentions) -> bool) -> bool {
        let mut pending = self.in_flight;
        if self.open_since().is_some() {
            pending |= 1 << self.open.id;
        }
        while let Some(id) = lowest(pending) {
            if matches(&self.slots[usize::from(id)].mentions) {
                return true;
            }
            pending &= pending - 1;
        }
        false
    }
}

/// The lowest bit that is set.
fn lowest(mask: u128) -> Option<u16> {
    #[expect(clippy::cast_possible_truncation, reason = "below 128")]
    (mask != 0).then_some(mask.trailing_zeros() as u16)
}

/// Lengths of buffers are at most [`MAX_BUFFER_BYTES`].
fn bytes_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
