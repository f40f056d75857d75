//! The samples of one image below one program, by position.

use std::ops::Range;
use std::path::Path;

use oprofile_session::sample_file::{Header, read_sorted};

use crate::error::ToolError;
use crate::profile::Counts;

/// Most counts of one image: 1 GiB. Each position has one for every class, and a planted session may have many of both.
const MAX_COUNTS: usize = 1 << 27;

/// Counts of several files that are kept before those of one position and class are summed: 24 MiB. Many files are about the
/// same positions.
const SUM_AFTER: usize = 1 << 20;

/// Counts by position and class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SampleCounts {
    /// Sorted, each once.
    pub positions: Vec<u64>,
    /// As many for each position as there are classes.
    counts: Vec<u64>,
    classes: usize,
}

impl SampleCounts {
    /// The counts of the sample with this index, one for each class.
    pub fn counts(&self, sample: usize) -> &[u64] {
        let from = sample.saturating_mul(self.classes);
        self.counts
            .get(from..from.saturating_add(self.classes))
            .unwrap_or_default()
    }

    /// Sum by class over samples with these indices.
    pub fn sum(&self, samples: Range<usize>) -> Counts {
        let mut sums = vec![0u64; self.classes];
        for sample in samples {
            for (sum, count) in sums.iter_mut().zip(self.counts(sample)) {
                *sum = sum.saturating_add(*count);
            }
        }
        sums
    }

    /// Position and counts of each sample.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u64])> {
        self.positions
            .iter()
            .enumerate()
            .map(|(index, position)| (*position, self.counts(index)))
    }
}

/// Reads sample files, each with its class. `base` says what to add to the keys of a file with that header.
pub fn read_counts(
    files: &[(&Path, usize)],
    classes: usize,
    mut base: impl FnMut(&Header) -> u64,
) -> Result<SampleCounts, ToolError> {
    let mut read = |path: &Path| {
        let (header, mut counts) =
            read_sorted(path).map_err(|source| ToolError::sample_file(path, source))?;
        let base = base(&header);
        if base != 0 {
            for (key, _) in &mut counts {
                *key = key.wrapping_add(base);
            }
        }
        Ok::<_, ToolError>(counts)
    };
    if let ([(path, _)], 1) = (files, classes) {
        let mut counts = read(path)?;
        // Adding may have wrapped.
        counts.sort_unstable_by_key(|(position, _)| *position);
        let (positions, counts) = counts.into_iter().unzip();
        return Ok(SampleCounts {
            positions,
            counts,
            classes,
        });
    }
    let mut all: Vec<(u64, usize, u64)> = Vec::new();
    let mut limit = SUM_AFTER;
    for (path, class) in files {
        let counts = read(path)?;
        all.extend(
            counts
                .into_iter()
                .map(|(position, count)| (position, *class, count)),
        );
        if all.len() > limit {
            sum_up(&mut all);
            if all.len() > MAX_COUNTS {
                return Err(ToolError::TooManyCounts { limit: MAX_COUNTS });
            }
            limit = SUM_AFTER.max(all.len().saturating_mul(2));
        }
    }
    sum_up(&mut all);
    let mut sorted = SampleCounts {
        classes,
        ..SampleCounts::default()
    };
    for (position, class, count) in all {
        if sorted.positions.last() != Some(&position) {
            let length = sorted.counts.len().saturating_add(classes);
            if length > MAX_COUNTS {
                return Err(ToolError::TooManyCounts { limit: MAX_COUNTS });
            }
            sorted.positions.push(position);
            sorted.counts.resize(length, 0);
        }
        let from = sorted.counts.len() - classes;
        if let Some(sum) = sorted.counts[from..].get_mut(class) {
            *sum = sum.saturating_add(count);
        }
    }
    Ok(sorted)
}

/// Sorts by position and class, and adds up what has both in common.
fn sum_up(counts: &mut Vec<(u64, usize, u64)>) {
    counts.sort_unstable_by_key(|(position, class, _)| (*position, *class));
    counts.dedup_by(|later, kept| {
        let same = (later.0, later.1) == (kept.0, kept.1);
        if same {
            kept.2 = kept.2.saturating_add(later.2);
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use oprofile_session::sample_file::encode;

    fn file(counts: &[(u64, u64)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = encode(&Header::timer(0, 0, 0), counts.iter().copied());
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn files_of_several_classes_are_merged_by_position() {
        let (a, b, c) = (file(&[(8, 1), (4, 2)]), file(&[(4, 10)]), file(&[(8, 5)]));
        let files = [(a.path(), 0), (b.path(), 1), (c.path(), 0)];
        let counts = read_counts(&files, 2, |_| 0x1000).unwrap();
        assert_eq!(
            counts.iter().collect::<Vec<_>>(),
            [(0x1004, &[2, 10][..]), (0x1008, &[6, 0][..])]
        );
        assert_eq!(counts.sum(0..2), [8, 10]);
    }

    #[test]
    fn very_many_counts_of_few_positions_are_summed_on_the_way() {
        let positions = 1 << 12;
        let counts: Vec<(u64, u64)> = (0..positions).map(|position| (position, 1)).collect();
        let one = file(&counts);
        let times = 2 * SUM_AFTER / counts.len() + 1;
        let files = vec![(one.path(), 0); times];
        let sums = read_counts(&files, 1, |_| 0).unwrap();
        assert_eq!(sums.positions.len(), counts.len());
        assert!(sums.iter().all(|(_, count)| count == [times as u64]));
    }

    #[test]
    fn positions_stay_sorted_when_a_base_wraps() {
        let a = file(&[(u64::MAX, 1), (0, 2)]);
        let counts = read_counts(&[(a.path(), 0)], 1, |_| 1).unwrap();
        assert_eq!(counts.positions, [0, 1]);
    }
}
