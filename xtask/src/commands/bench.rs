//! `cargo xtask bench`: builds and runs the benchmarks, which are a workspace of their own.

use std::process::ExitCode;

use clap::Args;

use crate::Failure;
use crate::cargo::run;
use crate::repo;

/// Measures the device and the agent beside this machine's limits and published peers (memflow, vmi).
///
/// Before anything is measured, results are compared with known ones; that they differ is a failure, a missed target is not.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Measures fewer rounds.
    #[arg(long)]
    quick: bool,
    /// Jobs to run; all when none is named.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Runs the benchmarks. A missed target is in their table and no failure; a wrong result is one.
pub fn run_bench(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut command = vec!["run", "--quiet", "--release", "--"];
    if arguments.json {
        command.push("--json");
    }
    if arguments.quick {
        command.push("--quick");
    }
    command.extend(arguments.names.iter().map(String::as_str));
    run(&repo::bench(), &command).map_err(Failure::new)?;
    Ok(ExitCode::SUCCESS)
}
