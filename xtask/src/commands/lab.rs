//! `cargo xtask lab`: runs one command on a machine with real KVM.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::Failure;
use crate::lab::LabError;
use crate::machine::{self, Choice, Job, Machine, MachineError};

/// Exit code: the machine could not be set up.
const NO_MACHINE: u8 = 250;
/// Exit code: the time limit ended the command.
const TIME_LIMIT: u8 = 251;
/// Exit code: the lab ended before the command did (a kernel panic, for instance), or froze.
const NO_EXIT_CODE: u8 = 252;

/// Runs COMMAND on this machine if a probe finds its KVM real, else in an emulated machine.
///
/// In the lab the host's files are read-only, /tmp is writable but forgotten, and /mnt is the shared
/// directory. The exit code is the command's; 250 says that the machine could not be set up, 251
/// that the time limit ended it, 252 that the lab itself went down.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    pub choice: ChoiceArguments,
    /// Ends the command after this many seconds.
    #[arg(long, value_name = "SECS", default_value_t = 600)]
    timeout: u64,
    /// The lab's memory in MiB.
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u32).range(256..))]
    memory: Option<u32>,
    /// The lab's processors.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// Directory of this machine that the command finds at /mnt [default: target/lab/share].
    #[arg(long, value_name = "DIR")]
    share: Option<PathBuf>,
    /// Shows the lab's kernel messages on stderr.
    #[arg(long)]
    verbose: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The options that force the choice of the machine.
#[derive(Debug, Clone, Copy, Args)]
#[group(multiple = false)]
pub struct ChoiceArguments {
    /// Uses the lab, even where there is hardware KVM.
    #[arg(long)]
    lab: bool,
    /// Uses this machine's /dev/kvm, whatever the probe says.
    #[arg(long)]
    host: bool,
}

impl From<ChoiceArguments> for Choice {
    fn from(arguments: ChoiceArguments) -> Self {
        match arguments {
            ChoiceArguments { lab: true, .. } => Self::Lab,
            ChoiceArguments { host: true, .. } => Self::Host,
            _ => Self::Probe,
        }
    }
}

/// Runs the command and gives back its exit code.
pub fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let mut machine = machine::choose(arguments.choice.into()).map_err(failure)?;
    if let Machine::Lab(lab) = &mut machine {
        lab.cpus = arguments.cpus.unwrap_or(lab.cpus);
        lab.memory_mib = arguments.memory.unwrap_or(lab.memory_mib);
        lab.verbose = arguments.verbose;
    }
    let mut job = Job::new(arguments.command);
    job.limit = Duration::from_secs(arguments.timeout);
    if let Some(share) = arguments.share {
        job.share = share;
    }
    let finished = machine.run(&job).map_err(failure)?;
    Ok(ExitCode::from(finished.code))
}

fn failure(error: MachineError) -> Failure {
    let code = match error {
        MachineError::TimeLimit(_) | MachineError::Lab(LabError::TimeLimit(_)) => TIME_LIMIT,
        MachineError::Lab(LabError::NoExitCode(_) | LabError::Frozen) => NO_EXIT_CODE,
        _ => NO_MACHINE,
    };
    Failure {
        error: error.into(),
        code,
    }
}
