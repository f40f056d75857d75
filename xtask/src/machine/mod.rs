//! The machine with KVM that a job runs on: this one, if its KVM is real, or the lab.

mod host;

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::lab::{Lab, LabError};
use crate::probe;
use crate::step::note;

/// Most labs at once: each takes 3 GiB of memory.
const MOST_LABS: usize = 4;

/// A command to be run on a machine with KVM.
#[derive(Debug, Clone)]
pub struct Job {
    /// The program and its arguments; not empty.
    pub command: Vec<OsString>,
    /// Working directory.
    pub directory: PathBuf,
    /// Variables set on top of the ones that every job gets.
    pub environment: Vec<(OsString, OsString)>,
    /// A directory of this machine that the job finds, writable, at `/mnt`.
    pub share: PathBuf,
    /// The job is killed after this time.
    pub limit: Duration,
    /// Tells jobs that run at once apart.
    pub slot: u32,
}

impl Job {
    /// A job in the current directory, with the default share and a limit of ten minutes.
    pub fn new<I, S>(command: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Self {
            command: command
                .into_iter()
                .map(|word| word.as_ref().to_owned())
                .collect(),
            directory: env::current_dir().unwrap_or_else(|_| crate::repo::root()),
            environment: Vec::new(),
            share: crate::repo::lab_dir().join("share"),
            limit: Duration::from_secs(600),
            slot: 0,
        }
    }
}

/// How a job ended that did run. Its output went to our own stdout and stderr at once.
#[derive(Debug)]
pub struct Finished {
    /// Exit code as a shell gives it: 128 + n for death by signal n, 127 for no such command.
    pub code: u8,
}

/// Why a job could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The lab could not be made, or failed.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The share cannot be made.
    #[error("Cannot create the shared directory {}", path.display())]
    Share {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The job cannot be started here.
    #[error("Cannot run {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The job ran into its time limit.
    #[error("The time limit of {} s ended the command", .0.as_secs())]
    TimeLimit(Duration),
}

/// Which machine was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This machine if its KVM is real, else the lab.
    Probe,
    /// The lab.
    Lab,
    /// This machine.
    Host,
}

/// A machine with KVM.
#[derive(Debug)]
pub enum Machine {
    /// This one.
    Host,
    /// An emulated one.
    Lab(Lab),
}

/// Chooses the machine, says which and why, and sets up the lab if that is the choice.
pub fn choose(choice: Choice) -> Result<Machine, MachineError> {
    let (host, reason) = match choice {
        Choice::Host => (true, "--host asks for it".to_owned()),
        Choice::Lab => (false, "--lab asks for it".to_owned()),
        Choice::Probe => match probe::probe() {
            Ok(()) => (true, "a test guest ran natively on it".to_owned()),
            Err(unfit) => (false, unfit.to_string()),
        },
    };
    if host {
        note(format_args!("KVM: this machine's own ({reason})"));
        Ok(Machine::Host)
    } else {
        note(format_args!("KVM: the lab's ({reason})"));
        Ok(Machine::Lab(Lab::prepare()?))
    }
}

impl Machine {
    /// What `OPROFILE_KVM` says to the job: `hardware` or `lab`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Host => "hardware",
            Self::Lab(_) => "lab",
        }
    }

    /// How many jobs may run at once and still have time as they would alone: on KVM itself one, labs one for each processor.
    pub fn at_once(&self) -> usize {
        match self {
            Self::Host => 1,
            Self::Lab(_) => thread::available_parallelism()
                .map_or(1, |processors| processors.get().min(MOST_LABS)),
        }
    }

    /// Runs a job to its end.
    pub fn run(&self, job: &Job) -> Result<Finished, MachineError> {
        let share = |source| MachineError::Share {
            path: job.share.clone(),
            source,
        };
        std::fs::create_dir_all(&job.share).map_err(share)?;
        let mut job = job.clone();
        job.share = job.share.canonicalize().map_err(share)?;
        job.environment
            .push(("OPROFILE_KVM".into(), self.name().into()));
        match self {
            Self::Host => host::run(&job),
            Self::Lab(lab) => Ok(lab.run(&job)?),
        }
    }
}

/// `path` as it is shown to a person: relative to the repository where it lies in it.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(crate::repo::root())
        .unwrap_or(path)
        .display()
        .to_string()
}
