//! Runs golden scenarios of the OProfile pipeline against this implementation.
//!
//! A scenario is a JSON file: a small world, operations, and what the original did (`vectors/README.md`). The operations
//! run on the device's sync pipeline, event buffer and control files and on the guest's writer, with a scripted world in
//! place of guest memory or with that world laid out in RAM; results and final state are compared value by value.
//!
//! | module | what it does |
//! |---|---|
//! | `session` | executes operations: those on control files; the others are the machine's |
//! | `machine` | syncs, notifications, the world's changes, the writer |
//! | `x86_ops`, `ibs_ops` | samples with a walked stack, and those of AMD's own sampling |
//! | `profiler` | the machine as the control files drive it |
//! | `guest` | what a scenario needs of its guest |
//! | `world`, `fifo` | what stands in for guest memory and for CPU buffers |
//! | `ram` | guest memory itself, laid out and walked |
//! | `model`, `diff`, `report` | files, comparison, what came of it |

mod diff;
mod fifo;
mod guest;
mod ibs_ops;
mod machine;
mod model;
mod profiler;
mod ram;
mod report;
mod session;
mod world;
mod x86_ops;

use std::fs;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};

use oprofile_device::control_files::ControlError;
use oprofile_device::event_buffer::RingRangeError;
use serde_json::Value;
use thiserror::Error;

use guest::Guest;
use model::{Head, SCHEMA, Scenario};
use ram::RamGuest;
use session::Session;
use world::ScriptedWorld;

pub use ram::RamShape;
pub use report::{FileReport, Outcome, Report};

/// Why a folder could not be run at all.
#[derive(Debug, Error)]
pub enum Error {
    /// The folder cannot be listed.
    #[error("Cannot read the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// There is nothing to run, which must not look like success.
    #[error("No scenarios (*.json) in {}", .0.display())]
    Empty(PathBuf),
}

/// Why a scenario cannot be run: the file is at fault.
#[derive(Debug, Error)]
enum ScenarioError {
    /// The file cannot be read.
    #[error("Cannot read the file")]
    Read(#[from] io::Error),
    /// No JSON, or not of the scenario's form.
    #[error("Not a scenario")]
    Malformed(#[from] serde_json::Error),
    /// Another version of the format.
    #[error("Schema {0} is not known, only {SCHEMA} is")]
    Schema(u64),
    /// Operations and expected results do not pair up.
    #[error("{ops} operations have {results} expected results")]
    ResultCount {
        /// Number of operations.
        ops: usize,
        /// Number of results.
        results: usize,
    },
    /// It shall begin opened and started, which its settings do not allow.
    #[error("auto_start is refused")]
    NotStarted(#[source] ControlError),
    /// More CPUs than a device serves.
    #[error("{0} CPUs are more than a device serves")]
    TooManyCpus(u16),
    /// A buffer beyond reason.
    #[error("A buffer of {value} exceeds the limit of {max}")]
    BufferTooLarge {
        /// Size asked for.
        value: u64,
        /// Largest size.
        max: u64,
    },
    /// More time at once than a scenario may take.
    #[error("{0} jiffies are too many at once")]
    TickTooLong(u64),
    /// A `put_buff` that reads outside its buffer or never ends.
    #[error(transparent)]
    RingRange(#[from] RingRangeError),
    /// No such CPU.
    #[error("There is no CPU {0}")]
    UnknownCpu(u16),
    /// No such task.
    #[error("There is no task {0}")]
    UnknownTask(u64),
    /// No such address space.
    #[error("There is no mm {0}")]
    UnknownMm(u64),
    /// No such file.
    #[error("There is no file {0}")]
    UnknownFile(usize),
    /// An entry without address and event.
    #[error("An entry needs at least two words, not {0}")]
    ShortEntry(usize),
    /// A memory area without its address.
    #[error("A memory area begins with its address")]
    AreaWithoutAddress,
    /// Only writer operations may arrive during a sync.
    #[error("Only a writer's operation can be injected into a sync")]
    NotAWriterOp,
}

/// Runs every `*.json` in `folder`, in order of name. A file that cannot be read or understood fails.
///
/// # Errors
/// When the folder cannot be listed or has no scenarios.
pub fn run_dir(folder: &Path) -> Result<Report, Error> {
    let files = scenarios(folder)?.into_iter().map(|path| FileReport {
        outcome: run_file(&path, None),
        path,
        shape: None,
    });
    Ok(Report {
        files: files.collect(),
    })
}

/// As [`run_dir`], once for every [`RamShape`]: the scenario's guest is laid out so in RAM, and what the pipeline asks is
/// answered by walking it. A scenario that cannot be laid out is skipped, with the reason.
///
/// # Errors
/// As [`run_dir`].
pub fn run_dir_via_ram(folder: &Path) -> Result<Report, Error> {
    let paths = scenarios(folder)?;
    let runs = RamShape::all().flat_map(|shape| paths.iter().map(move |path| (shape, path)));
    let files = runs.map(|(shape, path)| FileReport {
        path: path.clone(),
        shape: Some(shape),
        outcome: run_file(path, Some(shape)),
    });
    Ok(Report {
        files: files.collect(),
    })
}

/// The scenario files of `folder`, in order of name.
fn scenarios(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Folder {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(Error::Empty(folder.to_owned()));
    }
    paths.sort();
    Ok(paths)
}

/// Runs one scenario file, with a guest in RAM when it has a shape.
#[must_use]
pub fn run_file(path: &Path, shape: Option<RamShape>) -> Outcome {
    let run = || run_text(&fs::read(path)?, shape);
    run().unwrap_or_else(|error| Outcome::Failed(vec![with_causes(&error)]))
}

/// The message of `error` and of what caused it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |message, cause| {
        format!("{message}: {cause}")
    })
}

fn run_text(text: &[u8], shape: Option<RamShape>) -> Result<Outcome, ScenarioError> {
    let head: Head = serde_json::from_slice(text)?;
    if head.schema != SCHEMA {
        return Err(ScenarioError::Schema(head.schema));
    }
    let scenario: Scenario = serde_json::from_slice(text)?;
    let Some(shape) = shape else {
        return run_scenario(scenario, |script| script);
    };
    match ram::misfit(&scenario) {
        Some(reason) => Ok(Outcome::Skipped(reason)),
        None => run_scenario(scenario, |script| RamGuest::new(script, shape)),
    }
}

fn run_scenario<G: Guest>(
    scenario: Scenario,
    guest: impl FnOnce(ScriptedWorld) -> G,
) -> Result<Outcome, ScenarioError> {
    let Scenario {
        config,
        files,
        mms,
        tasks,
        ops,
        mut expected,
    } = scenario;
    if ops.len() != expected.results.len() {
        return Err(ScenarioError::ResultCount {
            ops: ops.len(),
            results: expected.results.len(),
        });
    }
    let guest = guest(ScriptedWorld::new(files, mms, tasks)?);
    let mut session = Session::new(&config, guest)?;
    let mut differences = Vec::new();
    for (index, (op, expected)) in ops.iter().zip(&expected.results).enumerate() {
        let path = format!("results[{index}]");
        differences.extend(diff::differences(&path, expected, &session.execute(op)?));
    }
    // How the original counts inside itself; the format leaves it out of the comparison.
    if let Value::Object(end) = &mut expected.end {
        end.remove("internal");
    }
    differences.extend(diff::differences("final", &expected.end, &session.end()));
    differences.extend_from_slice(session.contradictions());
    Ok(if differences.is_empty() {
        Outcome::Passed
    } else {
        Outcome::Failed(differences)
    })
}

#[cfg(test)]
mod tests;
