//! `cargo xtask bench`: builds and runs the benchmarks, which are a workspace of their own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::Failure;
use crate::boot_bench;
use crate::cargo::{build_tools, run};
use crate::linux::overhead;
use crate::repo;

/// The job that runs the report tools.
const REPORT: &str = "report";

/// Measures the device, the agent and the report tools beside this machine's limits and published peers (memflow, vmi, addr2line).
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
    /// Counts what the module costs in a Debian guest, in instructions, instead of the jobs.
    #[arg(long, conflicts_with_all = ["session", "names"])]
    linux: bool,
    /// Writes the session that the report tools are measured with into this directory and leaves it there.
    #[arg(long, value_name = "DIR")]
    session: Option<PathBuf>,
    /// Measures how long a Debian kernel takes to its first process instead, beside QEMU on the same KVM.
    #[arg(long, conflicts_with_all = ["json", "session", "names"])]
    boot: bool,
    /// Jobs to run; all when none is named.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Runs the benchmarks. A missed target is in their table and no failure; a wrong result is one.
pub fn run_bench(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if arguments.linux {
        let costs = overhead::measure(arguments.quick).map_err(Failure::new)?;
        if arguments.json {
            let json = serde_json::to_string_pretty(&costs).map_err(Failure::new)?;
            println!("{json}");
        } else {
            print!("{costs}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.boot {
        return boot_bench::run(arguments.quick)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Failure::new);
    }
    let mut command: Vec<String> = ["run", "--quiet", "--release", "--"]
        .map(str::to_owned)
        .into();
    if arguments.json {
        command.push("--json".to_owned());
    }
    if arguments.quick {
        command.push("--quick".to_owned());
    }
    let names = &arguments.names;
    if names.is_empty() || names.iter().any(|name| name == REPORT) {
        let tools = build_tools().map_err(Failure::new)?;
        command.push(option("--tools", &tools)?);
    }
    if let Some(session) = &arguments.session {
        // The benchmarks run in another directory.
        let session = std::path::absolute(session).map_err(Failure::new)?;
        command.push(option("--session", &session)?);
    }
    command.extend(names.iter().cloned());
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    run(&repo::bench(), &command).map_err(Failure::new)?;
    Ok(ExitCode::SUCCESS)
}

/// An option whose value is a path.
fn option(name: &str, path: &Path) -> Result<String, Failure> {
    match path.to_str() {
        Some(path) => Ok(format!("{name}={path}")),
        None => Err(Failure::new(format!("{} is not UTF-8", path.display()))),
    }
}
