//! The device's account: what came in, and where each sample ended.

use crate::clock::ClockAccount;
use crate::fault::{Fault, Faults};
use crate::sync::{self, Statistics};

/// Figures of one vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuAccount {
    /// Sample buffers taken from its queue, good or bad.
    pub buffers: u64,
    /// Samples: those in its buffers and those that its driver reported lost.
    pub received: u64,
    /// Samples that its driver took since its start, by its own count.
    pub guest_received: u64,
    /// Samples that its driver could not store for want of a free buffer.
    pub lost: u64,
    /// Samples that its driver took without a valid address.
    pub invalid: u64,
    /// Samples that its buffers' headers claim but that are not in them.
    pub malformed: u64,
    /// Call chains that its driver cut short for want of room.
    pub aborted: u64,
    /// Notifications (kicks) of its queue.
    pub kicks: u64,
    /// Doorbells that named it.
    pub doorbells: u64,
    /// Syncs of its queue.
    pub syncs: u64,
}

/// A snapshot of every counter. All of them only grow for the life of a device, also over resets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// A hello has been accepted, now or before a reset.
    pub said_hello: bool,
    /// Samples that came in or were reported lost; each is in exactly one of [`Account::ends`].
    pub received: u64,
    /// Where the samples of readable buffers ended, and frames and data records apart.
    pub sync: sync::Account,
    /// OProfile's own counters.
    pub statistics: Statistics,
    /// Samples lost in the guest for want of a free buffer.
    pub lost: u64,
    /// Samples lost in the guest for want of a valid address.
    pub invalid: u64,
    /// Samples that buffer headers claim but that are not in the buffers.
    pub malformed: u64,
    /// Call chains that the guest cut short.
    pub aborted: u64,
    /// Words that did not fit the event buffer.
    pub lost_words: u64,
    /// Sample buffers taken, good or bad.
    pub buffers: u64,
    /// Sample buffers completed unread: no hello was in force, or they could not be read at all. What they held is unknown
    /// and not in `received`.
    pub buffers_unread: u64,
    /// Control requests taken.
    pub requests: u64,
    /// Notifications (kicks) of any queue.
    pub kicks: u64,
    /// Doorbells, also bad ones.
    pub doorbells: u64,
    /// Syncs of a vCPU.
    pub syncs: u64,
    /// Cookies given out.
    pub cookies: u64,
    /// What became of the host's clock's ticks, where it is the host that gives the clock.
    pub clock: ClockAccount,
    /// Events of a vCPU's own between samples, as the guest's driver said in its last hello; 0: it samples by time.
    pub guest_clock_events: u32,
    /// Files whose build-id was read.
    pub build_ids: u64,
    /// Files that were read and have none.
    pub build_ids_none: u64,
    /// Files whose build-id could not be read: its page was not in memory, or the start of the file not mapped.
    pub build_ids_unreadable: u64,
    /// Processes whose perf map named a function.
    pub perf_maps: u64,
    /// Functions that perf maps named.
    pub perf_map_functions: u64,
    /// Perf maps that were left out in part: they were too long, or all together too large.
    pub perf_maps_cut: u64,
    /// Bad input by kind.
    pub faults: Faults,
    /// The same by vCPU; index is the vCPU.
    pub vcpus: Vec<VcpuAccount>,
}

impl Account {
    /// Where samples end, by name.
    #[must_use]
    pub const fn ends(&self) -> [(&'static str, u64); 12] {
        [
            ("kernel", self.sync.kernel),
            ("file", self.sync.file),
            ("anonymous", self.sync.anonymous),
            ("no_mm", self.sync.no_mm),
            ("no_mapping", self.sync.no_mapping),
            ("raced", self.sync.raced),
            ("throttled", self.sync.throttled),
            ("ignored", self.sync.ignored),
            ("lost_in_guest", self.lost),
            ("invalid_in_guest", self.invalid),
            ("lost_overflow", self.sync.lost_overflow),
            ("malformed", self.malformed),
        ]
    }

    /// Sum of [`Account::ends`].
    #[must_use]
    pub fn ends_sum(&self) -> u64 {
        self.ends()
            .iter()
            .fold(0, |sum, (_, count)| sum.wrapping_add(*count))
    }

    /// Whether no sample vanished and none was counted twice.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.ends_sum() == self.received
    }

    /// How often `fault` happened.
    #[must_use]
    pub const fn fault(&self, fault: Fault) -> u64 {
        self.faults.of(fault)
    }

    /// Every counter with its name, in the order of a report: `received`, its ends, the rest, faults.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let rest = [
            ("frames", self.sync.frames),
            ("frames_lost", self.sync.frames_lost),
            ("chains_aborted_in_guest", self.aborted),
            ("chains_cut", self.statistics.bt_lost_no_mapping),
            ("data_records", self.sync.data_records),
            ("data_raced", self.sync.data_raced),
            ("data_throttled", self.sync.data_throttled),
            ("data_short", self.sync.data_short),
            ("data_overflow", self.sync.data_overflow),
            ("lost_words", self.lost_words),
            ("buffers", self.buffers),
            ("buffers_unread", self.buffers_unread),
            ("requests", self.requests),
            ("kicks", self.kicks),
            ("doorbells", self.doorbells),
            ("syncs", self.syncs),
            ("cookies", self.cookies),
            ("nmis_sent", self.clock.sent),
            ("nmis_refused", self.clock.refused),
            ("ticks_idle", self.clock.idle),
            ("ticks_pending", self.clock.pending),
            ("ticks_missed", self.clock.missed),
            ("guest_clock_events", self.guest_clock_events.into()),
            ("build_ids", self.build_ids),
            ("build_ids_none", self.build_ids_none),
            ("build_ids_unreadable", self.build_ids_unreadable),
            ("perf_maps", self.perf_maps),
            ("perf_map_functions", self.perf_map_functions),
            ("perf_maps_cut", self.perf_maps_cut),
        ];
        let faults = self
            .faults
            .iter()
            .map(|(fault, count)| (fault.name(), count));
        [("received", self.received)]
            .into_iter()
            .chain(self.ends())
            .chain(rest)
            .chain(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_adds_up_only_when_every_sample_has_one_end() {
        let mut account = Account {
            received: 3,
            ..Account::default()
        };
        account.sync.file = 1;
        account.lost = 1;
        assert!(!account.adds_up());
        account.malformed = 1;
        assert!(account.adds_up());
        account.invalid = 1;
        assert!(!account.adds_up());
    }

    #[test]
    fn a_report_begins_with_received_and_names_nothing_twice() {
        let account = Account::default();
        let names: Vec<_> = account.iter().map(|(name, _)| name).collect();
        assert_eq!(names[0], "received");
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name}");
        }
    }
}
