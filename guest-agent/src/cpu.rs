//! What a vCPU needs to sample itself.

use oprofile_wire::sample::ESCAPE;

use crate::buffers::{NoBuffers, OpenBuffer, SampleBuffers};
use crate::memory::DmaMemory;
use crate::platform::Clock;
use crate::transport::Transport;
use crate::virtqueue::Virtqueue;
use crate::writer::{Counters, EntryStore, Sample, Tracer, Writer};

/// Longest call chain that is asked of the kernel's walker, whatever the host's setting: a chain and its notes then fit
/// the default buffer of 4 KiB with half of it to spare.
pub const MAX_BACKTRACE_DEPTH: u32 = 120;

/// Most words that a sample needs besides its frames: a note with a task pointer, and itself.
const SAMPLE_WORDS: usize = 5;

/// Words of a frame.
const FRAME_WORDS: usize = 2;

/// What a vCPU has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStatistics {
    /// The writer's counters.
    pub counters: Counters,
    /// Buffers posted.
    pub posted: u64,
    /// Buffers that the device has now.
    pub in_flight: u32,
    /// Samples in the open buffer.
    pub open_samples: u32,
    /// Notifications sent.
    pub kicks: u64,
    /// Doorbells rung for this vCPU's queue, by whichever vCPU.
    pub doorbells: u64,
    /// Entries of the used ring that cannot be right.
    pub faults: u64,
}

/// A vCPU's half of the agent: writer, buffers and queue, about 35 KiB, so made for a static.
///
/// Owned by that vCPU under a lock that is only taken with its interrupts off: the sampling interrupt uses it without
/// waiting, and a flush from another vCPU excludes it for the time of a post.
///
/// An NMI cannot take that lock; [`NmiSampler`](crate::NmiSampler) is for those.
#[derive(Debug)]
pub struct CpuAgent<T> {
    writer: Writer,
    buffers: SampleBuffers,
    transport: Option<T>,
    active: bool,
    depth: u32,
    kicks: u64,
    doorbells: u64,
}

impl<T: Transport> Default for CpuAgent<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> CpuAgent<T> {
    /// A vCPU without a device: it takes no samples.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            writer: Writer::new(),
            buffers: SampleBuffers::new(),
            transport: None,
            active: false,
            depth: 0,
            kicks: 0,
            doorbells: 0,
        }
    }
}

impl<T: Transport> CpuAgent<T> {
    /// Takes a sample of what this vCPU runs, with its call chain when the host asked for one: then `walk` is told the
    /// most frames and offers them, nearest caller first. `space` is the task's address space, 0 for a kernel thread.
    ///
    /// Never waits. Does nothing, and counts nothing, while sampling is off.
    #[inline]
    pub fn sample(
        &mut self,
        clock: &impl Clock,
        sample: &Sample,
        space: u64,
        walk: impl FnOnce(u32, &mut Tracer<'_, OpenBuffer>),
    ) {
        if !self.active {
            return;
        }
        let words = SAMPLE_WORDS + FRAME_WORDS * self.depth as usize;
        if !self.buffers.has_room(words) {
            self.next_buffer(clock);
        }
        let depth = u64::from(self.depth);
        if self
            .writer
            .sample(&mut self.buffers.open, sample, depth, walk)
        {
            self.buffers.note_sample(sample.task, space);
        }
    }

    /// Counts a sample of which the address is not known.
    pub fn sample_without_registers(&mut self) {
        if self.active {
            self.writer.sample_without_registers();
        }
    }

    /// Counts samples that were taken and lost before they came here. Does nothing while sampling is off.
    pub(crate) fn lose(&mut self, count: u32) {
        if self.active {
            self.writer.lose(count);
        }
    }

    /// The vCPU is going idle: posts the open buffer, without a notification, when it was opened `age_ns` ago or earlier.
    pub fn idle(&mut self, clock: &impl Clock, age_ns: u64) {
        if let Some(since) = self.buffers.open_since() {
            let now = clock.now_ns();
            if now.saturating_sub(since) >= age_ns {
                self.post_quietly(now);
            }
        }
    }

    /// What has happened so far.
    #[must_use]
    pub fn statistics(&self) -> CpuStatistics {
        CpuStatistics {
            counters: self.writer.counters(),
            posted: self.buffers.sequence(),
            in_flight: self.buffers.count_in_flight(),
            open_samples: self.buffers.open_samples(),
            kicks: self.kicks,
            doorbells: self.doorbells,
            faults: self.buffers.faults(),
        }
    }

    /// Whether samples are taken.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        self.active
    }

    pub(crate) fn attach(
        &mut self,
        vcpu: u16,
        transport: T,
        queue: Virtqueue,
        count: u16,
        bytes: usize,
        allocate: impl FnMut(usize) -> Option<DmaMemory>,
    ) -> Result<(), NoBuffers> {
        self.buffers.attach(vcpu, queue, count, bytes, allocate)?;
        self.transport = Some(transport);
        Ok(())
    }

    pub(crate) const fn is_attached(&self) -> bool {
        self.buffers.is_attached()
    }

    pub(crate) fn activate(&mut self, depth: u32) {
        self.depth = depth.min(MAX_BACKTRACE_DEPTH);
        self.active = self.is_attached();
    }

    pub(crate) fn deactivate(&mut self) {
        self.active = false;
    }

    /// Posts the open buffer, with a note of what will happen to this address space (`event`), if it holds samples of it. Returns
    /// whether the device, once it has drained the queue, must have seen them: whether any buffer holds some.
    pub(crate) fn post_space(&mut self, clock: &impl Clock, space: u64, event: u64) -> bool {
        self.buffers.reap();
        let holds = self.buffers.may_hold_space(space);
        if holds {
            if self.buffers.open_may_hold_space(space) {
                // Without room the device finds out by itself.
                self.buffers.open.write(ESCAPE, event, &[space]);
            }
            self.post_quietly(clock.now_ns());
            self.doorbells += 1;
        }
        holds
    }

    /// Posts the open buffer if it holds samples of one of these tasks.
    pub(crate) fn post_tasks(&mut self, clock: &impl Clock, tasks: &[u64]) {
        if self.buffers.open_may_hold_task(tasks) {
            self.post_quietly(clock.now_ns());
        }
    }

    /// Posts whatever is not told yet, samples or counters. False when that needs a free buffer and there is none.
    pub(crate) fn post_everything(&mut self, clock: &impl Clock) -> bool {
        let now = clock.now_ns();
        self.post_quietly(now);
        if !self.is_attached() || !self.buffers.has_news(self.writer.counters()) {
            return true;
        }
        self.buffers.reap();
        self.buffers.ensure_open(|| now) && self.post_quietly(now)
    }

    /// Notifies the device of posted buffers unless it looks at the queue already.
    pub(crate) fn kick(&mut self) {
        if let (Some(queue), Some(transport)) = (self.buffers.queue_mut(), self.transport.as_ref())
            && queue.wants_notification()
        {
            transport.notify(queue.index());
            self.kicks += 1;
        }
    }

    /// Posts without a notification: the device looks at every queue ten times a second.
    fn post_quietly(&mut self, now_ns: u64) -> bool {
        self.buffers.post(self.writer.counters(), now_ns)
    }

    #[cold]
    fn next_buffer(&mut self, clock: &impl Clock) {
        if self.buffers.open_since().is_some() {
            self.post_quietly(clock.now_ns());
        }
        self.buffers.reap();
        if self.buffers.ensure_open(|| clock.now_ns()) {
            // It must be understood without the one before.
            self.writer.reset_notes();
        }
        if self.buffers.under_pressure() {
            self.kick();
        }
    }
}
