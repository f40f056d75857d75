//! How a tool reads its command line and tells what went wrong.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser;

use crate::names::printable;

/// Reads the command line. The error is the status to exit with: help, version and usage were shown, or what is wrong.
///
/// # Errors
/// When there is nothing more to do.
pub fn arguments<A: Parser>(wants_usage: impl Fn(&A) -> bool) -> Result<A, ExitCode> {
    match A::try_parse() {
        Ok(arguments) if wants_usage(&arguments) => {
            let usage = A::command().render_usage();
            // Nothing is left to be told to a closed terminal.
            let _ = writeln!(io::stdout(), "{usage}");
            Err(ExitCode::SUCCESS)
        }
        Ok(arguments) => Ok(arguments),
        Err(error) => {
            let status = if error.use_stderr() {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            };
            let _ = error.print();
            Err(status)
        }
    }
}

/// The status of a run that ended like this. An error is told with its causes.
pub fn status(result: Result<(), impl Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&with_causes(&error)),
    }
}

/// The status of a run that ended with this message, which is told.
pub fn failed(message: &str) -> ExitCode {
    tell(message);
    ExitCode::FAILURE
}

/// An error's message with those of its causes.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Writes a text to standard error, safe for a terminal. There is nobody to tell when that fails.
pub fn tell(text: &str) {
    let mut stderr = io::stderr().lock();
    for line in text.lines() {
        let _ = writeln!(stderr, "{}", printable(line.as_bytes()));
    }
}
