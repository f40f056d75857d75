//! One module a subcommand.

mod lab;
mod probe;

use std::process::ExitCode;

use clap::Subcommand;

use crate::Failure;

/// What xtask can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a command of the built tree on a machine with real KVM.
    Lab(lab::Arguments),
    /// Says whether this machine's KVM is good enough, and why not.
    Probe,
    /// Runs the probe's test guest on this machine's KVM.
    #[command(name = crate::probe::GUEST_COMMAND, hide = true)]
    ProbeGuest,
}

impl Command {
    /// Runs the command; an exit code that is not 0 was explained already.
    pub fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Lab(arguments) => lab::run(arguments),
            Self::Probe => Ok(probe::run()),
            Self::ProbeGuest => crate::probe::run_guest()
                .map(|()| ExitCode::SUCCESS)
                .map_err(Failure::new),
        }
    }
}
