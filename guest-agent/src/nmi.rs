//! The host's clock on one vCPU: NMIs, which no lock keeps out, and what carries their samples to where locks may be taken.
//!
//! ```text
//!  NMI ─> NmiSampler::nmi ─> ring ─ interrupt that the NMI asks for, or a flush ─> NmiSampler::drain ─> CpuAgent
//! ```
//!
//! The [clock cell](oprofile_wire::clock) tells the host's NMIs from others, and the host that a vCPU idles.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use oprofile_wire::clock::{BUSY, ClockCell, SENT, TAKEN};

use crate::cpu::{CpuAgent, MAX_BACKTRACE_DEPTH};
use crate::memory::SharedMemory;
use crate::platform::Clock;
use crate::transport::Transport;
use crate::writer::Sample;

/// Samples that wait at most: a vCPU at 1 kHz may have its interrupts off for 32 ms. A power of two.
const ENTRIES: usize = 32;

const MAX_FRAMES: usize = MAX_BACKTRACE_DEPTH as usize;

/// Bytes from one vCPU's cell to the next: a cache line each.
pub(crate) const CELL_STRIDE: usize = 64;

/// What a vCPU's NMI was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nmi {
    /// Not the host's clock: somebody else's.
    NotOurs,
    /// The host's clock, of a vCPU that idles or whose clock is being stopped: no sample.
    NoSample,
    /// The host's clock, and a sample waits: interrupt this vCPU, so that it is drained.
    Sampled,
    /// The host's clock, but the ring is full. It is counted as lost at the next drain.
    Lost,
}

/// Takes the frames of a call chain.
#[derive(Debug)]
pub struct Frames<'a> {
    frames: &'a mut [u64; MAX_FRAMES],
    count: &'a mut usize,
}

impl Frames<'_> {
    /// Takes the next caller's address; false when there is room for no other.
    pub fn frame(&mut self, pc: u64) -> bool {
        let Some(frame) = self.frames.get_mut(*self.count) else {
            return false;
        };
        *frame = pc;
        *self.count += 1;
        *self.count < MAX_FRAMES
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    sample: Sample,
    space: u64,
    frames: [u64; MAX_FRAMES],
    count: usize,
}

impl Entry {
    const EMPTY: Self = Self {
        sample: Sample {
            pc: 0,
            is_kernel: false,
            event: 0,
            task: 0,
        },
        space: 0,
        frames: [0; MAX_FRAMES],
        count: 0,
    };
}

/// One vCPU's part of the host's clock, about 33 KiB, so made for a static.
///
/// [`NmiSampler::nmi`] is for this vCPU's NMI handler, [`NmiSampler::drain`] for whoever holds this vCPU's [`CpuAgent`]. A kernel drains
/// before it uses the agent for anything else, so in its [`Platform::with_cpu`](crate::Platform::with_cpu): samples then come in order, and
/// those of an address space or a task are with the device before it goes.
#[derive(Debug)]
pub struct NmiSampler {
    /// The clock cell; null until the driver is up.
    cell: AtomicPtr<ClockCell>,
    depth: AtomicU32,
    pub(crate) online: AtomicBool,
    /// The host has been asked for NMIs.
    pub(crate) armed: AtomicBool,
    /// They are samples. Cleared before the agent stops, so that none is left behind in the ring.
    pub(crate) sampling: AtomicBool,
    /// Entries written and read since the start, wrapping.
    written: AtomicU32,
    read: AtomicU32,
    lost: AtomicU32,
    /// One handler writes at a time, and one drain reads.
    writing: AtomicBool,
    reading: AtomicBool,
    entries: [UnsafeCell<Entry>; ENTRIES],
}

// SAFETY: an entry between `read` and `written` is touched by the holder of `reading` only, any other by the holder of `writing` only;
// each moves its index, with release and acquire, when it is done. The cell is reached by atomics.
unsafe impl Sync for NmiSampler {}

impl Default for NmiSampler {
    fn default() -> Self {
        Self::new()
    }
}

impl NmiSampler {
    /// A vCPU without a clock of the host's.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            cell: AtomicPtr::new(ptr::null_mut()),
            depth: AtomicU32::new(0),
            online: AtomicBool::new(false),
            armed: AtomicBool::new(false),
            sampling: AtomicBool::new(false),
            written: AtomicU32::new(0),
            read: AtomicU32::new(0),
            lost: AtomicU32::new(0),
            writing: AtomicBool::new(false),
            reading: AtomicBool::new(false),
            entries: [const { UnsafeCell::new(Entry::EMPTY) }; ENTRIES],
        }
    }

    /// Gives it its cell in `memory`; false when there is none of that index.
    pub(crate) fn attach(&self, memory: SharedMemory, index: usize) -> bool {
        let word = index * CELL_STRIDE / size_of::<u64>();
        let last = memory.half(word + 1, 0);
        let Some((cell, _)) = memory.half(word, 0).zip(last) else {
            return false;
        };
        let cell = ptr::from_ref(cell).cast_mut().cast();
        self.cell.store(cell, Ordering::Release);
        true
    }

    pub(crate) fn set_depth(&self, depth: u32) {
        let depth = depth.min(MAX_BACKTRACE_DEPTH);
        self.depth.store(depth, Ordering::Relaxed);
    }

    /// A field of the cell; `None` without one.
    fn field(&self, offset: usize) -> Option<&AtomicU32> {
        let cell = self.cell.load(Ordering::Acquire);
        if cell.is_null() {
            return None;
        }
        let field = cell.cast::<u8>().wrapping_add(offset);
        // SAFETY: `attach` saw that both words of the cell lie in shared memory, which lasts as long as the kernel and is accessed
        // by atomics alone; fields are 4 bytes, aligned.
        Some(unsafe { AtomicU32::from_ptr(field.cast()) })
    }

    /// Begins anew: nothing was sent. The device is not sending.
    pub(crate) fn reset(&self) {
        for offset in [SENT, TAKEN] {
            if let Some(field) = self.field(offset) {
                field.store(0, Ordering::Release);
            }
        }
    }

    /// The vCPU begins or ends idling, interrupts off. Idle, it gets no NMIs.
    pub fn set_busy(&self, busy: bool) {
        if let Some(field) = self.field(BUSY) {
            field.store(u32::from(busy), Ordering::Release);
        }
    }

    /// This vCPU's NMI handler. If the NMI is the host's and a sample is due, `sample` takes it: it gets the most frames and where to
    /// put them, and returns the sample and its task's address space (0 for a kernel thread). It may neither wait nor lock.
    pub fn nmi(&self, sample: impl FnOnce(u32, &mut Frames<'_>) -> (Sample, u64)) -> Nmi {
        let (Some(sent), Some(taken), Some(busy)) =
            (self.field(SENT), self.field(TAKEN), self.field(BUSY))
        else {
            return Nmi::NotOurs;
        };
        let now = sent.load(Ordering::Acquire);
        if taken.swap(now, Ordering::AcqRel) == now {
            return Nmi::NotOurs;
        }
        if !self.sampling.load(Ordering::Acquire) || busy.load(Ordering::Relaxed) == 0 {
            return Nmi::NoSample;
        }
        if self.writing.swap(true, Ordering::Acquire) {
            return self.lose();
        }
        let written = self.written.load(Ordering::Relaxed);
        let waiting = written.wrapping_sub(self.read.load(Ordering::Acquire));
        let outcome = if waiting as usize >= ENTRIES {
            self.lose()
        } else {
            let slot = &self.entries[written as usize % ENTRIES];
            // SAFETY: not between `read` and `written`, and `writing` is ours.
            let entry = unsafe { &mut *slot.get() };
            entry.count = 0;
            let mut frames = Frames {
                frames: &mut entry.frames,
                count: &mut entry.count,
            };
            (entry.sample, entry.space) = sample(self.depth.load(Ordering::Relaxed), &mut frames);
            self.written
                .store(written.wrapping_add(1), Ordering::Release);
            Nmi::Sampled
        };
        self.writing.store(false, Ordering::Release);
        outcome
    }

    fn lose(&self) -> Nmi {
        self.lost.fetch_add(1, Ordering::Relaxed);
        Nmi::Lost
    }

    /// Hands what waits over to this vCPU's agent.
    pub fn drain<T: Transport>(&self, agent: &mut CpuAgent<T>, clock: &impl Clock) {
        self.each(|entry| {
            agent.sample(clock, &entry.sample, entry.space, |depth, tracer| {
                for &pc in entry.frames.iter().take(entry.count.min(depth as usize)) {
                    if !tracer.frame(pc) {
                        break;
                    }
                }
            });
        });
        if self.lost.load(Ordering::Relaxed) != 0 {
            agent.lose(self.lost.swap(0, Ordering::Relaxed));
        }
    }

    fn each(&self, mut take: impl FnMut(&Entry)) {
        if self.written.load(Ordering::Acquire) == self.read.load(Ordering::Relaxed)
            || self.reading.swap(true, Ordering::Acquire)
        {
            return;
        }
        // No more than a ring of them: an NMI may add another one at any time, and asks for a drain of its own then.
        for _ in 0..ENTRIES {
            let read = self.read.load(Ordering::Relaxed);
            if read == self.written.load(Ordering::Acquire) {
                break;
            }
            let slot = &self.entries[read as usize % ENTRIES];
            // SAFETY: between `read` and `written`, and `reading` is ours.
            let entry = unsafe { &*slot.get() };
            take(entry);
            self.read.store(read.wrapping_add(1), Ordering::Release);
        }
        self.reading.store(false, Ordering::Release);
    }

    #[cfg(test)]
    pub(crate) fn drain_for_tests(&self, mut take: impl FnMut(&Sample)) {
        self.each(|entry| take(&entry.sample));
    }

    #[cfg(test)]
    pub(crate) fn cell_for_tests(&self) -> &AtomicU32 {
        self.field(SENT).unwrap()
    }
}

/// Cells of so many vCPUs, in bytes.
pub(crate) const fn cell_bytes(vcpus: u16) -> usize {
    vcpus as usize * CELL_STRIDE
}

const _: () = assert!(ENTRIES.is_power_of_two() && size_of::<ClockCell>() <= CELL_STRIDE);
