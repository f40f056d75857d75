//! The clock, and figures.

use std::io;

use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// Keeps this thread on the processor that it runs on now, one of those that the caller allows.
///
/// # Errors
/// When the system refuses.
pub fn stay_on_this_cpu() -> io::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(sched_getcpu());
    Ok(sched_setaffinity(None, &cpus)?)
}

/// Processor time that this thread has used, in nanoseconds. Where neighbours want the processor as well it tells what
/// the work costs, and a wall clock would tell who was scheduled.
fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Runs `work` and adds the nanoseconds it took to `total`.
#[inline]
pub fn add_time<R>(total: &mut f64, work: impl FnOnce() -> R) -> R {
    let start = now_ns();
    let result = work();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
    let took = (now_ns() - start) as f64;
    *total += took;
    result
}

/// Runs `work`; the nanoseconds it took.
pub fn time<R>(work: impl FnOnce() -> R) -> (f64, R) {
    let mut total = 0.0;
    let result = add_time(&mut total, work);
    (total, result)
}

/// Unit of a figure that is one value divided by another.
pub const RATIO: &str = "×";

/// One figure, a value a round.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What it is of.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// What it should be.
    pub reach: Option<f64>,
    /// What is known of others.
    pub known: &'static str,
    values: Vec<f64>,
}

impl Figure {
    /// A figure without a target.
    pub fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            unit,
            reach: None,
            known: "",
            values: Vec::new(),
        }
    }

    /// It should be at most `reach`.
    #[must_use]
    pub const fn reach(mut self, reach: f64) -> Self {
        self.reach = Some(reach);
        self
    }

    /// What is known of others.
    #[must_use]
    pub const fn known(mut self, known: &'static str) -> Self {
        self.known = known;
        self
    }

    /// Adds the value of a round.
    pub fn add(&mut self, value: f64) {
        self.values.push(value);
    }

    /// The value below which a share `part` of the rounds lies; 0 without rounds.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index of a short list"
        )]
        let index = (part * sorted.len().saturating_sub(1) as f64).round() as usize;
        sorted.get(index).copied().unwrap_or(0.0)
    }

    /// The middle value.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(values: &[f64]) -> Figure {
        let mut figure = Figure::new("test", "ns");
        for &value in values {
            figure.add(value);
        }
        figure
    }

    #[test]
    fn a_median_is_a_value_that_was_measured() {
        assert_eq!(figure(&[3.0, 1.0, 100.0]).median(), 3.0);
        assert_eq!(figure(&[7.0]).median(), 7.0);
        assert_eq!(figure(&[]).median(), 0.0);
    }

    #[test]
    fn the_spread_leaves_out_a_tenth_on_each_side() {
        let values: Vec<f64> = (0..=10).rev().map(f64::from).collect();
        let figure = figure(&values);
        assert_eq!((figure.quantile(0.1), figure.quantile(0.9)), (1.0, 9.0));
    }

    #[test]
    fn time_passes_only_while_this_thread_works() {
        let (busy, sum) = time(|| (0..200_000_u64).fold(0, |sum, i| std::hint::black_box(sum ^ i)));
        assert!(busy > 0.0, "{sum}");
    }
}
