//! What becomes of the entries.

/// OProfile's own counters of a sync, with its names; `event_lost_overflow` is
/// [`EventBuffer::lost_words`](crate::event_buffer::EventBuffer::lost_words).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// User samples and frames whose task has no address space.
    pub sample_lost_no_mm: u64,
    /// User samples and frames in no mapping, and data records there, which are emitted nevertheless.
    pub sample_lost_no_mapping: u64,
    /// Call chains cut short because the sample or a frame could not be resolved.
    pub bt_lost_no_mapping: u64,
}

/// Where each entry ended.
///
/// OProfile has silent losses; here each sample is in exactly one of the first nine, each frame in one of the next two,
/// and each data record is emitted, short, or cut by overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Samples in kernel mode.
    pub kernel: u64,
    /// Samples in a mapped file.
    pub file: u64,
    /// Samples in memory without a file.
    pub anonymous: u64,
    /// Samples whose task has no address space.
    pub no_mm: u64,
    /// Samples in no mapping.
    pub no_mapping: u64,
    /// Samples whose look-up the guest kept outrunning.
    pub raced: u64,
    /// Samples whose look-up would have cost more work than samples may.
    pub throttled: u64,
    /// Samples before the first mode note, or behind a cut call chain without one of their own.
    pub ignored: u64,
    /// Samples whose words did not all fit the event buffer.
    pub lost_overflow: u64,

    /// Frames of call chains that were emitted.
    pub frames: u64,
    /// Frames that could not be resolved, came behind one, or did not fit.
    pub frames_lost: u64,

    /// Data records that were emitted, resolved or not.
    pub data_records: u64,
    /// Of the data records, those whose look-up the guest kept outrunning; they are not resolved.
    pub data_raced: u64,
    /// Of the data records, those whose look-up would have cost too much work; they are not resolved.
    pub data_throttled: u64,
    /// Data records of fewer than three words, which say nothing.
    pub data_short: u64,
    /// Data records whose words did not all fit the event buffer.
    pub data_overflow: u64,

    /// Task switches to a pointer that leads to no readable task.
    pub bad_task: u64,
}

impl Account {
    /// Samples that came to any end: all that were decoded.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.kernel
            + self.file
            + self.anonymous
            + self.no_mm
            + self.no_mapping
            + self.raced
            + self.throttled
            + self.ignored
            + self.lost_overflow
    }
}
