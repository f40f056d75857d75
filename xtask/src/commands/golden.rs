//! `cargo xtask golden [DIR]`: the report tools beside what OProfile's own printed.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use oprofile_golden::{expected, run_folder};
use regex::Regex;

use crate::Failure;
use crate::{cargo, repo};

/// Runs every case (cases/*.jsonl) in DIR with the release tools and compares what they print and write.
///
/// The last line begins with `N passed, N failed`; the exit code is 1 when a case failed that is not in
/// DIR/expected-failures.txt, or one passed that is.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder of cases and their data; tests/golden when none is given.
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Runs only cases in whose `id tool arguments` this regular expression is found.
    #[arg(long, value_name = "RE")]
    filter: Option<Regex>,
    /// Tools to run; those of this checkout are built and taken when none are given.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Prints no differences of cases that are known to fail.
    #[arg(short, long)]
    quiet: bool,
    /// Takes cases that pass out of the list of expected failures.
    #[arg(long)]
    shrink: bool,
}

/// Prints what came of the cases.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let folder = match &arguments.folder {
        Some(folder) => folder.clone(),
        None => repo::root().join("tests/golden"),
    };
    let binaries = match &arguments.bin_dir {
        Some(binaries) => binaries.clone(),
        None => cargo::build_tools().map_err(Failure::new)?,
    };
    let mut report =
        run_folder(&folder, &binaries, arguments.filter.as_ref()).map_err(Failure::new)?;
    if arguments.shrink {
        let solved = report.solved().map(|case| case.id.as_str()).collect();
        let list = folder.join(expected::FILE);
        expected::shrink(&list, &solved).map_err(Failure::new)?;
        report.expected_failures = expected::load(&list).map_err(Failure::new)?;
    }
    let mut details = String::new();
    report
        .write_details(&mut details, !arguments.quiet)
        .map_err(Failure::new)?;
    print!("{details}");
    println!("{report}");
    Ok(match report.is_as_expected() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
