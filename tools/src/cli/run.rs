//! How a tool reads its command line and tells what went wrong.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Command, Parser};

use crate::names::printable;

/// Reads the command line. The error is the status to exit with: help, version and usage were shown, or what is wrong.
///
/// # Errors
/// When there is nothing more to do.
pub fn arguments<A: Parser>() -> Result<A, ExitCode> {
    let mut command = A::command();
    if wants_usage(&command) {
        // Nothing is left to be told to a closed terminal.
        let _ = writeln!(io::stdout(), "{}", command.render_usage());
        return Err(ExitCode::SUCCESS);
    }
    command
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|mut matches| A::from_arg_matches_mut(&mut matches))
        .map_err(|error| {
            let status = if error.use_stderr() {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            };
            let _ = error.format(&mut command).print();
            status
        })
}

/// Whether `--usage` is given before anything wrong; what is missing does not matter then, as in OProfile.
fn wants_usage(command: &Command) -> bool {
    let matches = command
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(std::env::args_os());
    matches.is_ok_and(|matches| matches!(matches.try_get_one("usage"), Ok(Some(true))))
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
