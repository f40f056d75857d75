//! Measures shares until they are known well enough to be judged.

use oprofile_images::truth::Group;

use crate::measure::{Measured, Profile};
use crate::vm::Ended;

/// Largest distance from a true share, in percentage points.
const TOLERANCE: f64 = 2.0;

/// Fewest samples that a share is measured with: chance alone then moves one by 0.7 points (one standard deviation) at most.
const ENOUGH: u64 = 5_000;

/// Milliseconds that a scenario runs at first.
const FIRST_MS: u32 = 4_000;

/// Longest time that a scenario runs.
const LONGEST_MS: u32 = 8 * FIRST_MS;

fn is_true(measured: &Measured) -> bool {
    measured.samples >= ENOUGH && measured.worst_error() <= TOLERANCE
}

/// Lets `run` run a scenario for some milliseconds, and again, longer, while the machine was too slow for [`ENOUGH`] samples or a
/// share was off: chance gets smaller with more samples, a fault stays. Returns the last run and its profile.
///
/// # Panics
/// When a share is still off after the longest run.
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
        assert!(milliseconds < LONGEST_MS, "{measured:#?}");
        let fewest = measured.iter().map(|group| group.samples).min();
        let factor = ENOUGH.div_ceil(fewest.unwrap_or(0).max(1)).max(2);
        let factor = u32::try_from(factor).unwrap_or(u32::MAX);
        milliseconds = milliseconds.saturating_mul(factor).min(LONGEST_MS);
    }
}
