//! What is measured.

mod ram;
pub mod report;
mod rings;
mod translation;
mod vcpus;
mod workload;
mod worst;
mod writer;

use std::error::Error;
use std::fmt;

use crate::measure::Figure;

/// Something to measure, in rounds.
pub trait Job {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Measures everything once, what is compared side by side.
    ///
    /// # Errors
    /// When a result is wrong.
    fn round(&mut self) -> Result<(), Failure>;

    /// What came out so far.
    fn figures(&self) -> &[Figure];
}

/// Why something cannot be measured.
pub type Failure = Box<dyn Error>;

/// Not every sample came out as it should.
#[derive(Debug)]
struct WrongCount {
    expected: usize,
    found: u64,
}

impl fmt::Display for WrongCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, found } = self;
        write!(f, "{found} of {expected} samples were resolved")
    }
}

impl Error for WrongCount {}

/// Makes a job ready; it has checked its results once then.
type Prepare = fn() -> Result<Box<dyn Job>, Failure>;

/// All jobs that run in this process, in the order of the table; `report` is behind them.
const JOBS: [(&str, Prepare); 9] = [
    (workload::MIXED_NAME, workload::mixed),
    (workload::TRACE_NAME, workload::trace),
    (writer::NAME, writer::prepare),
    (rings::NAME, rings::prepare),
    (ram::NAME, ram::recorded),
    (ram::VMAS_NAME, ram::vmas),
    (translation::NAME, translation::prepare),
    (vcpus::NAME, vcpus::prepare),
    (worst::NAME, worst::prepare),
];

/// Names of all jobs.
pub fn names() -> impl Iterator<Item = &'static str> {
    JOBS.iter().map(|&(name, _)| name).chain([report::NAME])
}

/// Makes the jobs of these names ready, or all when there is none.
///
/// # Errors
/// When a job's data cannot be read or its results are not those that are known.
pub fn prepare(wanted: &[String], tools: &report::Tools) -> Result<Vec<Box<dyn Job>>, Failure> {
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|other| other == name);
    let mut jobs = Vec::new();
    for (name, prepare) in JOBS {
        if is_wanted(name) {
            eprintln!("==> preparing {name}");
            jobs.push(prepare()?);
        }
    }
    if is_wanted(report::NAME) {
        eprintln!("==> preparing {}", report::NAME);
        jobs.push(report::prepare(tools)?);
    }
    Ok(jobs)
}
