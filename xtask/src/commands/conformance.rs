//! `cargo xtask conformance DIR`: golden scenarios of OProfile's pipeline.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use oprofile_conformance::run_dir;

use crate::Failure;

/// Runs every scenario (*.json) in DIR and compares value by value.
///
/// The last line is `N passed, N failed, N skipped`; the exit code is 1 when one failed.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder of scenarios, for instance tests/conformance/vectors.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints what came of the scenarios.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let report = run_dir(&arguments.folder).map_err(Failure::new)?;
    println!("{report}");
    Ok(match report.failed() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}
