//! Measures shares until they are known well enough to be judged.

use oprofile_images::truth::Group;

use crate::measure::{Measured, Profile};
use crate::vm::Ended;

/// Largest distance from a true share, in percentage points.
const TOLERANCE: f64 = 2.0;

/// Samples that a share is measured with: chance alone then moves one by 0.7 points (one standard deviation) at most.
const ENOUGH: u64 = 5_000;

/// Fewest that the longest run is judged by, with as much more tolerance as they are fewer than [`ENOUGH`]: short processes cost a slow
/// machine more than they are sampled.
const FEWEST: u64 = 1_000;

/// Milliseconds that a scenario runs at first.
const FIRST_MS: u32 = 4_000;

/// Longest time that a scenario runs.
const LONGEST_MS: u32 = 8 * FIRST_MS;

fn is_true(measured: &Measured) -> bool {
    measured.samples >= ENOUGH && measured.worst_error() <= TOLERANCE
}

/// The same of the longest run.
fn is_true_at_last(measured: &Measured) -> bool {
    is_true(measured) || (FEWEST..ENOUGH).contains(&measured.samples) && measured.is_true()
}

/// Lets `run` run a scenario for some milliseconds, and again, longer, while the machine was too slow for [`ENOUGH`] samples or a
/// share was off: chance gets smaller with more samples, a fault stays. Returns the last run and its profile.
///
/// # Panics
/// When a share is still off after the longest run, or that has too few samples.
#[track_caller]
#[must_use]
pub fn measure_until_true(
    groups: &[&'static Group],
    run: impl Fn(u32) -> Ended,
) -> (Ended, Profile) {
    let mut milliseconds = FIRST_MS;
    loop {
        let ended = run(milliseconds);
        let profile = Profile::read(&ended.session).expect("the session is readable");
        let measured: Vec<_> = groups.iter().map(|group| profile.measure(group)).collect();
        if measured.iter().all(is_true) {
            return (ended, profile);
        }
        if milliseconds >= LONGEST_MS {
            assert!(measured.iter().all(is_true_at_last), "{measured:#?}");
            println!("few samples in {milliseconds} ms: {measured:?}");
            return (ended, profile);
        }
        let fewest = measured.iter().map(|group| group.samples).min();
        let factor = ENOUGH.div_ceil(fewest.unwrap_or(0).max(1)).max(2);
        let factor = u32::try_from(factor).unwrap_or(u32::MAX);
        milliseconds = milliseconds.saturating_mul(factor).min(LONGEST_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oprofile_images::truth;

    fn measured(counts: &[u64]) -> Measured {
        Measured {
            group: &truth::STORM,
            samples: counts.iter().sum(),
            counts: counts.to_vec(),
        }
    }

    #[test]
    fn few_samples_are_judged_by_what_they_can_tell() {
        // 66, 60, 67 and 66 percent of what is 70 percent.
        let judged = [[660, 340], [600, 400], [2_680, 1_320], [660, 339]]
            .map(|counts| is_true_at_last(&measured(&counts)));
        assert_eq!(judged, [true, false, true, false]);
        let judged =
            [[3_480, 1_520], [3_350, 1_650]].map(|counts| is_true_at_last(&measured(&counts)));
        assert_eq!(judged, [true, false]);
    }
}
