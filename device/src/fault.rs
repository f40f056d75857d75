//! What a guest did wrong, by kind: counted each time, logged once.

use std::cell::Cell;
use std::fmt;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// A kind of bad input. None of them stops the device.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Fault {
            /// Every kind, in the order of reports.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Name in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

faults! {
    /// The available index of a queue is more than a queue ahead, or a ring cannot be read or written.
    BadRing = "bad_ring",
    /// A descriptor chain that loops, leaves RAM or the table, is too long or has the wrong direction.
    BadChain = "bad_descriptor_chain",
    /// A sample buffer whose header contradicts itself or its queue.
    BadBuffer = "bad_sample_buffer",
    /// A sample buffer that ends inside an entry.
    CutBuffer = "cut_sample_buffer",
    /// A note with a data record of no known kind, or of another length than its kind has: the record is left out.
    BadRecord = "bad_data_record",
    /// A sample buffer that holds another number of samples than its header says.
    SampleCount = "wrong_sample_count",
    /// A cumulative counter of a buffer header went backwards.
    BadCounter = "counter_went_back",
    /// Sample buffers that never came, by their sequence numbers; counted by gap.
    SequenceGap = "sequence_gap",
    /// A sample buffer while no hello was in force: completed unread.
    BufferBeforeHello = "buffer_before_hello",
    /// A doorbell for a vCPU that does not exist.
    BadDoorbell = "bad_doorbell",
    /// A write into configuration space that is no doorbell.
    BadConfigWrite = "bad_config_write",
    /// A notification for a queue that does not exist.
    BadKick = "bad_kick",
    /// A control request that is malformed, unknown or out of place.
    BadRequest = "bad_request",
    /// A hello whose layout descriptor cannot be used.
    BadLayout = "bad_layout",
    /// A hello whose kernel description does not agree with guest memory.
    BadKernel = "bad_kernel",
    /// A list or a number of held requests beyond what the device keeps.
    LimitExceeded = "limit_exceeded",
    /// A task pointer that leads to no readable task.
    BadTask = "bad_task_pointer",
    /// A page walk that met a table outside RAM, one that refers to itself, or a reserved bit.
    BadPageTable = "bad_page_table",
    /// An address space or mapping that cannot be read or contradicts itself.
    BadMapping = "bad_mapping",
    /// A list of mappings that is not ascending or does not end.
    CyclicList = "cyclic_list",
    /// A tree of mappings that is deeper than any can be, or has a node of no known kind.
    BadTree = "bad_mapping_tree",
    /// A file, or a path to it, that cannot be read.
    BadPath = "bad_path",
    /// A look-up that needed more reads than one sample or one sync may have.
    OverBudget = "over_budget",
    /// A line of a perf map that is no `START SIZE name`.
    BadMapLine = "bad_perf_map_line",
    /// A file or region beyond the most that get a cookie of their own.
    TooManyCookies = "too_many_cookies",
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often each kind happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    counts: [u64; Fault::ALL.len()],
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            counts: [0; Fault::ALL.len()],
        }
    }
}

impl Faults {
    /// How often `fault` happened.
    #[must_use]
    pub const fn of(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }

    /// Each kind with its count, also those that never happened.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> + '_ {
        Fault::ALL.iter().map(|&fault| (fault, self.of(fault)))
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts
            .iter()
            .fold(0, |sum, &count| sum.saturating_add(count))
    }
}

/// Counts faults, shared by those who take part in one sync.
#[derive(Debug, Default)]
pub(crate) struct FaultLog {
    counts: [Cell<u64>; Fault::ALL.len()],
}

impl FaultLog {
    /// Counts one; the first of its kind is logged, `context` then says where.
    pub fn count(&self, fault: Fault, context: impl FnOnce() -> String) {
        let count = &self.counts[fault as usize];
        count.set(count.get().saturating_add(1));
        if count.get() == 1 {
            tracing::warn!(
                %fault,
                "Guest misbehaves: {}; further ones are only counted",
                context()
            );
        }
    }

    /// Logs why the fault is one that is about to be counted, if it is the first of its kind: a guest that repeats it must not
    /// fill the host's log.
    pub fn explain(&self, fault: Fault, reason: impl FnOnce() -> String) {
        if self.counts[fault as usize].get() == 0 {
            let reason = reason();
            tracing::warn!("{reason}");
        }
    }

    pub fn snapshot(&self) -> Faults {
        Faults {
            counts: self.counts.each_ref().map(Cell::get),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_apart_and_described_once() {
        let log = FaultLog::default();
        let mut described = 0;
        for _ in 0..3 {
            log.count(Fault::BadTask, || {
                described += 1;
                String::new()
            });
        }
        let faults = log.snapshot();
        assert_eq!(faults.of(Fault::BadTask), 3);
        assert_eq!(faults.of(Fault::BadRing), 0);
        assert_eq!(faults.total(), 3);
        assert_eq!(
            described,
            u32::from(tracing::enabled!(tracing::Level::WARN))
        );
    }

    #[test]
    fn only_the_first_of_a_kind_is_explained() {
        let log = FaultLog::default();
        let mut explained = 0;
        for _ in 0..3 {
            log.explain(Fault::BadLayout, || {
                explained += 1;
                String::new()
            });
            log.count(Fault::BadLayout, String::new);
        }
        assert_eq!(explained, 1);
    }

    #[test]
    fn names_are_distinct() {
        for (index, fault) in Fault::ALL.iter().enumerate() {
            assert!(
                Fault::ALL[..index]
                    .iter()
                    .all(|other| other.name() != fault.name())
            );
        }
    }
}
