//! `cargo xtask conformance DIR`: golden scenarios of OProfile's pipeline.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use oprofile_conformance::{run_dir, run_dir_via_ram};

use crate::Failure;

/// Runs every scenario (*.json) in DIR and compares value by value.
///
/// The last line is `N passed, N failed, N skipped`; the exit code is 1 when one failed.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder of scenarios, for instance tests/conformance/vectors.
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// Lay each scenario's tasks, address spaces and files out in guest RAM, and let the device's walk answer: once for each
    /// kernel and VMA store, levels of page tables and page size. What cannot be laid out is skipped, with the reason.
    #[arg(long)]
    via_ram: bool,
}

/// Prints what came of the scenarios.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let run = match arguments.via_ram {
        true => run_dir_via_ram,
        false => run_dir,
    };
    let report = run(&arguments.folder).map_err(Failure::new)?;
    println!("{report}");
    Ok(match report.failed() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
