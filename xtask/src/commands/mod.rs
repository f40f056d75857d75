//! One module a subcommand.

mod bench;
mod conformance;
mod demo;
mod fmt;
mod fuzz;
mod golden;
mod guest;
mod interop;
mod lab;
mod lint;
mod man;
mod probe;
mod test;

use std::process::ExitCode;

use clap::Subcommand;

use crate::Failure;

/// What xtask can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boots a guest with the profiling device, prints the report and measures it.
    Demo(demo::Arguments),
    /// Checks everything: format, clippy, all tests, the ones that need KVM included.
    Test(test::Arguments),
    /// Fetches and builds the parts of a Debian guest.
    Guest(guest::Arguments),
    /// Runs a command of the built tree on a machine with real KVM.
    Lab(lab::Arguments),
    /// Checks the format and runs clippy; warnings are errors.
    Lint,
    /// Runs a folder of golden scenarios of OProfile's pipeline.
    Conformance(conformance::Arguments),
    /// Runs the report tools beside what OProfile's own printed.
    Golden(golden::Arguments),
    /// Reads what opexport writes with programs that nobody here wrote.
    Interop(interop::Arguments),
    /// Measures the device and the agent.
    Bench(bench::Arguments),
    /// Runs the fuzz targets.
    Fuzz(fuzz::Arguments),
    /// Writes the man pages and shell completions of the host tools.
    Man(man::Arguments),
    /// Formats the code.
    Fmt,
    /// Says whether this machine's KVM is good enough, and why not.
    Probe,
    /// Runs the probe's test guest on this machine's KVM.
    #[command(name = crate::probe::GUEST_COMMAND, hide = true)]
    ProbeGuest,
    /// Measures boots on a machine with KVM.
    #[command(name = crate::boot_bench::INSIDE_COMMAND, hide = true)]
    BenchBootInside(crate::boot_bench::Inside),
}

impl Command {
    /// Runs the command; an exit code that is not 0 was explained already.
    pub fn run(self) -> Result<ExitCode, Failure> {
        let done = |()| ExitCode::SUCCESS;
        match self {
            Self::Demo(arguments) => demo::run(&arguments),
            Self::Test(arguments) => test::run(&arguments),
            Self::Lint => lint::run_lint().map(done).map_err(Failure::new),
            Self::Conformance(arguments) => conformance::run(&arguments),
            Self::Golden(arguments) => golden::run(&arguments),
            Self::Interop(arguments) => interop::run(&arguments),
            Self::Bench(arguments) => bench::run_bench(&arguments),
            Self::Fuzz(arguments) => fuzz::run(&arguments),
            Self::Man(arguments) => man::run(&arguments),
            Self::Fmt => fmt::run_fmt().map(done).map_err(Failure::new),
            Self::Guest(arguments) => guest::run(&arguments),
            Self::Lab(arguments) => lab::run(arguments),
            Self::Probe => Ok(probe::run()),
            Self::BenchBootInside(inside) => crate::boot_bench::run_inside(&inside)
                .map(done)
                .map_err(Failure::new),
            Self::ProbeGuest => crate::probe::run_guest().map(done).map_err(Failure::new),
        }
    }
}
