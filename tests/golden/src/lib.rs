//! Compares the report tools with what OProfile's own printed on the same sessions.
//!
//! | module | what it does |
//! |---|---|
//! | [`case`] | the cases in `cases/` |
//! | [`stage`], [`big`] | a copy of `data/` with file times, empty directories and the computed session |
//! | [`run`] | runs a tool |
//! | [`judge`] | compares |
//! | [`text`], [`xml`], [`files`] | what counts of text, XML and written files |
//! | [`expected`] | the list of cases that are known to fail |
//! | [`report`] | what came of it |
//!
//! `README.md` has the rules.

pub mod big;
pub mod case;
pub mod expected;
pub mod files;
pub mod judge;
pub mod report;
pub mod run;
pub mod stage;
pub mod text;
pub mod xml;

use std::collections::BTreeSet;
use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use regex::Regex;

use case::Case;
use report::{CaseReport, Report, Verdict};
use stage::Stage;

/// A program that a case may need, by the name that it has in `needs`. The other needs are our own tools' to meet.
const NEEDED_PROGRAM: &str = "objdump";

/// Why cases cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("Cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is no case.
    #[error("{}:{line} is no case", path.display())]
    Case {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The manifest of the data is none.
    #[error("{} is no manifest", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// There is nothing to run.
    #[error("There are no cases in {}", .0.display())]
    NoCases(PathBuf),
    /// Nothing is left to run.
    #[error("No case matches {0}")]
    NoMatch(Regex),
    /// Two cases have one name.
    #[error("Two cases have the id {0}")]
    SameId(String),
    /// The list names what is no case.
    #[error("{name} names {0}, which is no case", name = expected::FILE)]
    NoSuchCase(String),
    /// An image of the computed session cannot be written.
    #[error("Cannot make an image")]
    Image(#[from] object::write::Error),
}

impl Error {
    /// Wraps an error with the path that it is about.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// Runs the cases of `folder` (which holds `cases/`, `data/` and perhaps a list of expected failures) with the tools in
/// `binaries`; only those for which `filter` is found in `id tool arguments`.
///
/// # Errors
/// When the folder cannot be used. That a tool does not exist fails its cases.
pub fn run_folder(folder: &Path, binaries: &Path, filter: Option<&Regex>) -> Result<Report, Error> {
    let mut cases = case::load(&folder.join("cases"))?;
    let mut ids = BTreeSet::new();
    for case in &cases {
        if !ids.insert(case.id.as_str()) {
            return Err(Error::SameId(case.id.clone()));
        }
    }
    let expected_failures = expected::load(&folder.join(expected::FILE))?;
    if let Some(id) = expected_failures
        .iter()
        .find(|id| !ids.contains(id.as_str()))
    {
        return Err(Error::NoSuchCase(id.clone()));
    }
    if let Some(filter) = filter {
        cases.retain(|case| filter.is_match(&format!("{} {}", case.id, case.command())));
        if cases.is_empty() {
            return Err(Error::NoMatch(filter.clone()));
        }
    }
    let binaries = binaries.canonicalize().map_err(Error::io(binaries))?;
    let stage = Stage::new(
        &folder.join("data"),
        cases.iter().filter_map(|case| case.big).max(),
    )?;
    let verdicts = in_parallel(&cases, |case| judge_case(case, &binaries, &stage))?;
    let reports = cases
        .iter()
        .zip(verdicts)
        .map(|(case, verdict)| CaseReport {
            id: case.id.clone(),
            command: case.command(),
            verdict,
        });
    Ok(Report {
        cases: reports.collect(),
        expected_failures,
    })
}

fn judge_case(case: &Case, binaries: &Path, stage: &Stage) -> Result<Verdict, Error> {
    if case.needs.iter().any(|need| need == NEEDED_PROGRAM) && !is_in_path(NEEDED_PROGRAM) {
        return Ok(Verdict::NotRun(NEEDED_PROGRAM.to_owned()));
    }
    let differences = judge::differences(case, &run::run(case, binaries, stage)?);
    Ok(match differences.is_empty() {
        alike if case.is_mere_defect() => Verdict::Defect { alike },
        true => Verdict::Passed,
        false => Verdict::Failed(differences),
    })
}

fn is_in_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// `work` on each case, on all processors; the results in the cases' order, or an error of one.
fn in_parallel(
    cases: &[Case],
    work: impl Fn(&Case) -> Result<Verdict, Error> + Sync,
) -> Result<Vec<Verdict>, Error> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(cases.len()));
    let worker = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(index) else {
                return;
            };
            let verdict = work(case);
            let mut done = done.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            done.push((index, verdict));
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(worker);
        }
    });
    let mut done = done
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_by_key(|&(index, _)| index);
    done.into_iter().map(|(_, verdict)| verdict).collect()
}
