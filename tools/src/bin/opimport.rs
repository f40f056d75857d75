//! `opimport`: a sample file of another machine becomes one of this.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use oprofile_tools::cli::opimport::Arguments;
use oprofile_tools::cli::run;
use oprofile_tools::import::{Import, ImportError};
use oprofile_tools::progress::{Display, Progress};

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// There is none, or more than one.
    #[error("error: must specify exactly 1 input file")]
    Input,
    /// There is nowhere to write to.
    #[error("error: must specify an output file (--output=FILE)")]
    Output,
    /// The conversion failed.
    #[error(transparent)]
    Import(#[from] ImportError),
}

fn main() -> ExitCode {
    match run::arguments() {
        Ok(arguments) => run::status(import(arguments)),
        Err(status) => status,
    }
}

fn import(arguments: Arguments) -> Result<(), Failure> {
    let [input] = <[_; 1]>::try_from(arguments.input).map_err(|_| Failure::Input)?;
    let progress = Progress::default();
    let import = Import {
        input,
        // Without the option, opening a file of no name fails, and the message says which file is missing.
        abi: arguments.abi.unwrap_or_default(),
        output: arguments.output.ok_or(Failure::Output)?,
        force: arguments.force,
        progress: progress.clone(),
    };
    let mut stderr = BufWriter::new(io::stderr());
    let trace = arguments.verbose.then_some(&mut stderr as &mut dyn Write);
    // What --verbose tells goes to the same terminal, and is progress enough.
    let display = (!arguments.verbose).then(|| Display::start("Converting bytes", &progress));
    let imported = import.run(trace);
    drop(display);
    // What cannot be shown is not missed: the conversion counts.
    let _ = stderr.flush();
    for warning in &imported?.warnings {
        run::tell(warning);
    }
    Ok(())
}
