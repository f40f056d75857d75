//! The one entry point: `cargo xtask COMMAND`.

mod apt;
mod archive;
mod boot_bench;
mod cargo;
mod fuzz;
mod kvm_tests;
mod lab;
mod linux;
mod machine;
mod probe;
mod repo;
mod shell;
mod step;
mod supervise;
mod tally;

mod commands;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use commands::Command;

/// Builds, tests and shows virtio-oprofile.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    match command.run() {
        Ok(code) => code,
        Err(failure) => {
            report(&*failure.error);
            ExitCode::from(failure.code)
        }
    }
}

/// Tells an error and its causes on stderr, in one line.
fn report(error: &dyn Error) {
    let mut message = format!("xtask: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    eprintln!("{message}");
}

/// What ended a command, and the exit code that tells it.
#[derive(Debug)]
struct Failure {
    error: Box<dyn Error>,
    code: u8,
}

impl Failure {
    fn new(error: impl Into<Box<dyn Error>>) -> Self {
        Self {
            error: error.into(),
            code: 1,
        }
    }
}

/// The last `count` lines of `text`.
fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
