//! What the host decides before the guest starts.

use oprofile_wire::MAX_VCPUS;
use oprofile_wire::sample::{MAX_BUFFER_BYTES, MIN_BUFFER_BYTES, WORD_BYTES};
use thiserror::Error;

/// Shortest sampling period: 100,000 samples a second and vCPU is far past what a guest can bear.
pub const MIN_PERIOD_NS: u64 = 10_000;

/// Longest sampling period, one hour: a larger one is surely a slip of units.
pub const MAX_PERIOD_NS: u64 = 3_600_000_000_000;

/// Deepest call chain: perf's default is 127, and each frame costs 16 bytes in every buffer on its way.
pub const MAX_BACKTRACE_DEPTH: u32 = 256;

/// Largest event buffer in words (1 GiB), for it is allocated at once.
pub const MAX_EVENT_BUFFER_WORDS: usize = 128 * 1024 * 1024;

/// Largest per-vCPU buffer in entries (16 MiB of guest memory each).
pub const MAX_CPU_BUFFER_ENTRIES: u32 = 1024 * 1024;

/// What makes a vCPU take a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// A timer of the guest: its samples wait while interrupts are off.
    #[default]
    GuestTimer,
    /// NMIs that the host sends to running vCPUs; a guest without a handler for them falls back to its timer.
    HostNmi,
}

/// Settings that a device is made with. Depth and the buffers' sizes can be changed later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// vCPUs of the VM, 1 to [`MAX_VCPUS`]; each has a sample queue.
    pub vcpus: u16,
    /// Sampling period in nanoseconds, [`MIN_PERIOD_NS`] to [`MAX_PERIOD_NS`].
    pub period_ns: u64,
    /// Most frames of a call chain, 0 for none, at most [`MAX_BACKTRACE_DEPTH`].
    pub backtrace_depth: u32,
    /// Size of the event buffer in words, at most [`MAX_EVENT_BUFFER_WORDS`].
    pub buffer_size: usize,
    /// Free words at which the event buffer's reader is woken; below `buffer_size`.
    pub buffer_watershed: usize,
    /// Entries (16 bytes each) that a vCPU's sample buffers hold together, 1 to [`MAX_CPU_BUFFER_ENTRIES`].
    pub cpu_buffer_size: u32,
    /// Bytes of one sample buffer: a multiple of 8, [`MIN_BUFFER_BYTES`] to [`MAX_BUFFER_BYTES`].
    pub sample_buffer_bytes: u32,
    /// Whether samples that come when their process is gone are resolved by what is remembered of it; OProfile loses them.
    pub late_samples: bool,
    /// What makes a vCPU take a sample. With [`Clock::HostNmi`] somebody must serve [`crate::HostClock`].
    pub clock: Clock,
}

impl Default for Settings {
    /// One vCPU, 1,000 samples a second, OProfile's buffer sizes.
    fn default() -> Self {
        Self {
            vcpus: 1,
            period_ns: 1_000_000,
            backtrace_depth: 0,
            buffer_size: 131_072,
            buffer_watershed: 32_768,
            cpu_buffer_size: 8_192,
            sample_buffer_bytes: 4_096,
            late_samples: true,
            clock: Clock::GuestTimer,
        }
    }
}

/// A setting out of its range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// No vCPU, or more than the device has queues for.
    #[error("A device serves 1 to {MAX_VCPUS} vCPUs, not {0}")]
    Vcpus(u16),
    /// Sampling period out of range.
    #[error("Sampling period must be {MIN_PERIOD_NS} to {MAX_PERIOD_NS} ns, not {0}")]
    Period(u64),
    /// Call chains too deep.
    #[error("Call chains have at most {MAX_BACKTRACE_DEPTH} frames, not {0}")]
    BacktraceDepth(u32),
    /// Event buffer empty or too large.
    #[error("Event buffer must have 1 to {MAX_EVENT_BUFFER_WORDS} words, not {0}")]
    BufferSize(usize),
    /// Watershed not below the buffer's size.
    #[error("Event buffer watershed of {watershed} words must be below the buffer's {size}")]
    Watershed {
        /// Size asked for, in words.
        size: usize,
        /// Watershed asked for, in words.
        watershed: usize,
    },
    /// More than the host has memory for.
    #[error("No memory for an event buffer of {0} words")]
    Memory(usize),
    /// Per-vCPU buffer out of range.
    #[error("CPU buffer must have 1 to {MAX_CPU_BUFFER_ENTRIES} entries, not {0}")]
    CpuBufferSize(u32),
    /// Sample buffer out of range.
    #[error(
        "Sample buffer must be a multiple of 8 from {MIN_BUFFER_BYTES} to {MAX_BUFFER_BYTES} bytes, not {0}"
    )]
    SampleBufferBytes(u32),
}

impl Settings {
    /// Checks every range.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(SettingsError::Vcpus(self.vcpus));
        }
        if !(MIN_PERIOD_NS..=MAX_PERIOD_NS).contains(&self.period_ns) {
            return Err(SettingsError::Period(self.period_ns));
        }
        if self.backtrace_depth > MAX_BACKTRACE_DEPTH {
            return Err(SettingsError::BacktraceDepth(self.backtrace_depth));
        }
        if !(1..=MAX_EVENT_BUFFER_WORDS).contains(&self.buffer_size) {
            return Err(SettingsError::BufferSize(self.buffer_size));
        }
        if self.buffer_watershed >= self.buffer_size {
            return Err(SettingsError::Watershed {
                size: self.buffer_size,
                watershed: self.buffer_watershed,
            });
        }
        if !(1..=MAX_CPU_BUFFER_ENTRIES).contains(&self.cpu_buffer_size) {
            return Err(SettingsError::CpuBufferSize(self.cpu_buffer_size));
        }
        let bytes = self.sample_buffer_bytes as usize;
        if !(MIN_BUFFER_BYTES..=MAX_BUFFER_BYTES).contains(&bytes)
            || !bytes.is_multiple_of(WORD_BYTES)
        {
            return Err(SettingsError::SampleBufferBytes(self.sample_buffer_bytes));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(Settings::default().validate(), Ok(()));
    }

    #[test]
    fn each_setting_out_of_range_is_named() {
        type Change = fn(&mut Settings);
        let cases: [(Change, SettingsError); 8] = [
            (|s| s.vcpus = 0, SettingsError::Vcpus(0)),
            (|s| s.vcpus = 1_024, SettingsError::Vcpus(1_024)),
            (|s| s.period_ns = 0, SettingsError::Period(0)),
            (
                |s| s.backtrace_depth = 257,
                SettingsError::BacktraceDepth(257),
            ),
            (|s| s.buffer_size = 0, SettingsError::BufferSize(0)),
            (
                |s| s.buffer_watershed = s.buffer_size,
                SettingsError::Watershed {
                    size: 131_072,
                    watershed: 131_072,
                },
            ),
            (|s| s.cpu_buffer_size = 0, SettingsError::CpuBufferSize(0)),
            (
                |s| s.sample_buffer_bytes = 4_100,
                SettingsError::SampleBufferBytes(4_100),
            ),
        ];
        for (change, error) in cases {
            let mut settings = Settings::default();
            change(&mut settings);
            assert_eq!(settings.validate(), Err(error));
        }
    }
}
