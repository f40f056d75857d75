//! A session at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::export::model::{Profile, Sample};
use crate::names::printable;

/// Largest `account.txt` that is read; the collector writes some 2 KB.
const MAX_ACCOUNT: u64 = 64 * 1024;

/// What tells rows apart. All text is printable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// The function.
    pub function: String,
    /// The image it is in, without its directory.
    pub image: String,
    /// The program, without its directory.
    pub program: String,
}

/// A function of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Which.
    pub key: RowKey,
    /// All samples.
    pub samples: u64,
    /// Samples by vCPU, as many as [`Snapshot::vcpus`].
    pub by_vcpu: Vec<u64>,
}

/// A session at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The rows, sorted by their key.
    pub rows: Vec<Row>,
    /// The vCPUs' names, in numeric order. A session that does not tell vCPUs apart has one, `all`.
    pub vcpus: Vec<String>,
    /// The account of samples, in the device's order; empty when the session has none.
    pub account: Vec<(String, u64)>,
}

impl Snapshot {
    /// Sums a profile up by function.
    pub fn new(profile: &Profile, account: Vec<(String, u64)>) -> Self {
        let names: BTreeSet<&str> = profile
            .samples
            .iter()
            .map(|sample| vcpu(profile, sample))
            .collect();
        let mut vcpus: Vec<String> = names.into_iter().map(str::to_owned).collect();
        vcpus.sort_by_cached_key(|name| order(name));
        let columns: BTreeMap<String, usize> = vcpus.iter().cloned().zip(0..).collect();
        let mut rows: BTreeMap<RowKey, Vec<u64>> = BTreeMap::new();
        for sample in &profile.samples {
            // The innermost frame is where the sample was taken.
            let Some(frame) = profile.stack(sample).next_back() else {
                continue;
            };
            let key = RowKey {
                function: frame.function.clone(),
                image: profile
                    .image(frame)
                    .map(|image| image.name.clone())
                    .unwrap_or_default(),
                program: profile
                    .labels(sample)
                    .map(|labels| labels.program_name().to_owned())
                    .unwrap_or_default(),
            };
            let counts = rows.entry(key).or_insert_with(|| vec![0; vcpus.len()]);
            if let Some(count) = columns
                .get(vcpu(profile, sample))
                .and_then(|column| counts.get_mut(*column))
            {
                *count = count.saturating_add(sample.count);
            }
        }
        Self {
            rows: rows
                .into_iter()
                .map(|(key, by_vcpu)| Row {
                    key,
                    samples: sum(&by_vcpu),
                    by_vcpu,
                })
                .collect(),
            vcpus,
            account,
        }
    }

    /// All samples.
    pub fn total(&self) -> u64 {
        self.rows
            .iter()
            .fold(0, |sum, row| sum.saturating_add(row.samples))
    }

    /// All samples by vCPU.
    pub fn by_vcpu(&self) -> Vec<u64> {
        let mut sums = vec![0_u64; self.vcpus.len()];
        for row in &self.rows {
            for (sum, count) in sums.iter_mut().zip(&row.by_vcpu) {
                *sum = sum.saturating_add(*count);
            }
        }
        sums
    }

    /// Samples that the account says are not in the session, by reason; zeros left out.
    pub fn losses(&self) -> impl Iterator<Item = (&str, u64)> {
        self.account
            .iter()
            .filter(|(name, count)| *count > 0 && LOSSES.contains(&name.as_str()))
            .map(|(name, count)| (name.as_str(), *count))
    }

    /// Sum of the losses.
    pub fn lost(&self) -> u64 {
        self.losses()
            .fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// Samples that the guest took and the account knows of.
    pub fn received(&self) -> Option<u64> {
        self.account
            .iter()
            .find(|(name, _)| name == "received")
            .map(|(_, count)| *count)
    }
}

/// Counters of the account that are samples which did not reach the session: the device's, then the collector's.
pub(super) const LOSSES: [&str; 18] = [
    "no_mm",
    "no_mapping",
    "raced",
    "throttled",
    "ignored",
    "lost_in_guest",
    "invalid_in_guest",
    "lost_overflow",
    "malformed",
    "collector_no_context",
    "collector_unknown_event",
    "collector_no_kernel_image",
    "collector_no_cookie",
    "collector_unknown_cookie",
    "collector_no_region",
    "collector_no_program",
    "collector_over_capacity",
    "collector_saturated",
];

/// Numbers by their value, before other names.
fn order(name: &str) -> (bool, u64, String) {
    match name.parse() {
        Ok(number) => (false, number, String::new()),
        Err(_) => (true, 0, name.to_owned()),
    }
}

fn vcpu<'a>(profile: &'a Profile, sample: &Sample) -> &'a str {
    profile
        .labels(sample)
        .and_then(|labels| labels.vcpu.as_deref())
        .unwrap_or("all")
}

fn sum(counts: &[u64]) -> u64 {
    counts
        .iter()
        .fold(0, |sum: u64, count| sum.saturating_add(*count))
}

/// Reads the account that the collector leaves beside the samples: lines of a name and a number. What is no such line is left
/// out; no file, or a file too large to be one, is an empty account.
pub fn read_account(session_dir: &Path) -> Vec<(String, u64)> {
    let mut text = Vec::new();
    let Ok(file) = File::open(session_dir.join("account.txt")) else {
        return Vec::new();
    };
    match file.take(MAX_ACCOUNT + 1).read_to_end(&mut text) {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length <= MAX_ACCOUNT) => {
            parse_account(&text)
        }
        _ => Vec::new(),
    }
}

fn parse_account(text: &[u8]) -> Vec<(String, u64)> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let (name, value) = std::str::from_utf8(line).ok()?.rsplit_once(' ')?;
            Some((printable(name.as_bytes()), value.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::export::model::tests::example;

    /// Three functions on two vCPUs, 1,000 samples, 30 lost.
    pub(crate) fn snapshot() -> Snapshot {
        let account = [
            ("received", 1030),
            ("kernel", 50),
            ("file", 952),
            ("no_mapping", 28),
            ("raced", 0),
            ("collector_no_region", 2),
        ];
        Snapshot::new(
            &example(),
            account
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
        )
    }

    #[test]
    fn samples_are_counted_for_the_innermost_function_of_each_vcpu() {
        let snapshot = snapshot();
        assert_eq!(snapshot.vcpus, ["0", "1"]);
        assert_eq!(snapshot.total(), 1000);
        assert_eq!(snapshot.by_vcpu(), [700, 300]);
        let rows: Vec<_> = snapshot
            .rows
            .iter()
            .map(|row| (row.key.function.as_str(), row.by_vcpu.as_slice()))
            .collect();
        assert_eq!(
            rows,
            [
                ("do idle", &[0, 50][..]),
                ("main", &[100, 0]),
                ("std::vector<int; 3>::at(\"&\")", &[600, 250])
            ]
        );
    }

    #[test]
    fn losses_are_what_is_not_in_the_session() {
        let snapshot = snapshot();
        let losses: Vec<_> = snapshot.losses().collect();
        assert_eq!(losses, [("no_mapping", 28), ("collector_no_region", 2)]);
        assert_eq!(
            snapshot.received(),
            Some(snapshot.total() + snapshot.lost())
        );
    }

    #[test]
    fn account_lines_that_are_none_are_left_out() {
        assert_eq!(
            parse_account(b"received 5\nx\n\xff 1\nn\x1b 2\nlost -3\nlast 18446744073709551615"),
            [
                ("received".to_owned(), 5),
                ("n\\x1b".to_owned(), 2),
                ("last".to_owned(), u64::MAX)
            ]
        );
    }
}
