//! `cargo xtask fuzz`: runs the fuzz targets.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::Failure;
use crate::fuzz;
use crate::step::note;

/// Seconds of a target when nothing is said.
const SECONDS: u64 = 600;
/// Seconds of a target with `--smoke`.
const SMOKE_SECONDS: u64 = 20;

/// Runs fuzz targets, one after the other, with a stable toolchain and a C++ compiler.
///
/// A line a target says how much was run. The exit code is 1 when one found something, or ran nothing. What is found is kept
/// in target/fuzz, not in fuzz/corpus; --merge takes over what reaches more code.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Targets [default: all].
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Names the targets and ends.
    #[arg(long)]
    list: bool,
    /// Runs each target for 20 s instead of 600 s.
    #[arg(long)]
    smoke: bool,
    /// Runs each target so long.
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Runs the target on this input only, with its output.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["smoke", "seconds", "merge"])]
    input: Option<PathBuf>,
    /// Runs nothing, and takes inputs of target/fuzz that reach more code into fuzz/corpus.
    #[arg(long, conflicts_with_all = ["smoke", "seconds"])]
    merge: bool,
}

/// Does what the arguments say.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let targets = fuzz::targets(&arguments.targets).map_err(Failure::new)?;
    if arguments.list {
        for target in targets {
            println!("{}", target.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(input) = &arguments.input {
        let [target] = &targets[..] else {
            return Err(Failure::new("--input wants one target"));
        };
        fuzz::build().map_err(Failure::new)?;
        return Ok(exit_code(
            fuzz::reproduce(target, input).map_err(Failure::new)?,
        ));
    }
    fuzz::build().map_err(Failure::new)?;
    if arguments.merge {
        for target in &targets {
            let (inputs, bytes) = fuzz::merge(target).map_err(Failure::new)?;
            println!("{:<18} {inputs:>6} inputs {bytes:>9} bytes", target.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let usual = match arguments.smoke {
        true => SMOKE_SECONDS,
        false => SECONDS,
    };
    let seconds = arguments.seconds.unwrap_or(usual);
    let mut passed = true;
    for target in &targets {
        note(format_args!("fuzzing {} for {seconds} s", target.name));
        let ran = fuzz::run(target, seconds).map_err(Failure::new)?;
        println!("{ran}");
        passed &= ran.passed();
    }
    Ok(exit_code(passed))
}

fn exit_code(passed: bool) -> ExitCode {
    match passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
