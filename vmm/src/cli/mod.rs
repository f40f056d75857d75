//! The command line.

mod run;
pub mod size;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs a virtual machine under KVM and profiles it from the outside.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Calls to begin with.
const EXAMPLES: &str = "\
Examples:
  Run the guest inside this program, and profile it:
    oprofile-vmm run --cpus=4 --oprofile-dev=session=vm1
  Read the profile:
    opreport --session-dir=vm1 --symbols
  A kernel of one's own, whose profiling opcontrol controls:
    oprofile-vmm run --kernel=vmlinux --initrd=initrd.cpio --oprofile-dev=session=vm1,socket=vm1.sock";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
}

/// Does what the command line says; returns the program's exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::Level::WARN.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
    match arguments.command {
        Command::Run(arguments) => run::run(arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn examples_are_understood() {
        let calls = EXAMPLES.lines().map(str::trim_start);
        let calls: Vec<&str> = calls
            .filter(|line| line.starts_with("oprofile-vmm "))
            .collect();
        assert!(!calls.is_empty());
        for call in calls {
            Arguments::try_parse_from(call.split(' '))
                .unwrap_or_else(|error| panic!("{call}: {error}"));
        }
    }
}
