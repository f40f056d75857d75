//! The statistics of a session as text, in OProfile's words where it has them.

use std::fmt::Write as _;

use super::CollectorError;
use super::directory::SessionDirectory;
use super::stats::{Account, CollectorStats};

/// Counters of the device for samples that lie in no known mapping.
const UNMAPPED: [&str; 4] = ["no_mapping", "no_mm", "raced", "throttled"];
/// Counters of the device for samples that never reached the event buffer. Named one by one: other counters of a device
/// count words, frames or buffers.
const LOST_BEFORE: [&str; 5] = [
    "ignored",
    "lost_in_guest",
    "invalid_in_guest",
    "lost_overflow",
    "malformed",
];

/// Lost samples in OProfile's categories.
struct Losses {
    invalid_domain: u64,
    kernel: u64,
    sample_file: u64,
    no_mapping: u64,
    no_app_for_user_sample: u64,
    backtrace_no_mapping: u64,
    by_kernel: u64,
}

impl Losses {
    fn new(stats: &CollectorStats, account: &Account) -> Self {
        let unmapped = account.sum(&UNMAPPED);
        Self {
            invalid_domain: stats.no_context + stats.unknown_event,
            kernel: stats.no_kernel_image,
            sample_file: stats.unknown_cookie + stats.over_capacity + stats.saturated,
            no_mapping: (stats.no_region + stats.no_cookie).saturating_add(unmapped),
            no_app_for_user_sample: stats.no_program,
            backtrace_no_mapping: stats.frames_cut,
            by_kernel: account.sum(&LOST_BEFORE),
        }
    }

    /// The files of the `stats` directory.
    fn files(&self) -> [(&'static str, u64); 7] {
        [
            ("lost_invalid_domain", self.invalid_domain),
            ("lost_kernel", self.kernel),
            ("lost_samplefile", self.sample_file),
            ("lost_no_mapping", self.no_mapping),
            ("lost_no_app_for_user_sample", self.no_app_for_user_sample),
            ("lost_bt_no_mapping", self.backtrace_no_mapping),
            ("lost_records_by_kernel", self.by_kernel),
        ]
    }
}

/// Writes `stats/`, `operf.log` and `account.txt`.
pub(super) fn write(
    directory: &mut SessionDirectory,
    stats: &CollectorStats,
    account: &Account,
) -> Result<(), CollectorError> {
    let losses = Losses::new(stats, account);
    let files = losses.files();
    // As operf does: a file for what is not zero, the total only if anything was lost.
    let mut any = false;
    for (name, value) in files.into_iter().filter(|(_, value)| *value != 0) {
        any = true;
        directory.place_in_session(&format!("stats/{name}"), format!("{value}\n").as_bytes())?;
    }
    if any {
        let total = account.get("received").unwrap_or(stats.samples);
        directory.place_in_session("stats/total_samples", format!("{total}\n").as_bytes())?;
    }
    directory.place("samples/operf.log", operf_log(stats, &losses).as_bytes())?;
    let mut text = String::new();
    for (name, value) in account.iter().chain(stats.pairs()) {
        // Infallible for a String.
        let _ = writeln!(text, "{name} {value}");
    }
    directory.place("account.txt", text.as_bytes())
}

fn operf_log(stats: &CollectorStats, losses: &Losses) -> String {
    let lines = [
        ("Nr. non-backtrace samples", stats.accepted()),
        ("Nr. kernel samples", stats.kernel),
        ("Nr. user space samples", stats.file + stats.anonymous),
        (
            "Nr. samples lost due to sample address not in expected range for domain",
            losses.invalid_domain,
        ),
        ("Nr. lost kernel samples", losses.kernel),
        (
            "Nr. samples lost due to sample file open failure",
            losses.sample_file,
        ),
        (
            "Nr. samples lost due to no permanent mapping",
            losses.no_mapping,
        ),
        (
            "Nr. user context kernel samples lost due to no app info available",
            0,
        ),
        (
            "Nr. user samples lost due to no app info available",
            losses.no_app_for_user_sample,
        ),
        (
            "Nr. backtraces skipped due to no file mapping",
            losses.backtrace_no_mapping,
        ),
        (
            "Nr. hypervisor samples dropped due to address out-of-range",
            0,
        ),
        (
            "Nr. samples lost reported by perf_events kernel",
            losses.by_kernel,
        ),
    ];
    let mut text = String::from("\n-- OProfile/operf Statistics --\n");
    for (label, value) in lines {
        let _ = writeln!(text, "{label}: {value}");
    }
    text
}
