//! `cargo xtask bench`: measures the device, the agent and the report tools, beside this machine's limits and published peers.
//!
//! | module | what it does |
//! |---|---|
//! | `child` | wall clock, processor time and memory of a program |
//! | `measure` | the clock, and figures as medians with their spread |
//! | `machine` | what this machine can do: copies, loads, atomics |
//! | `jobs` | what is measured, each job checked against known results first |
//! | `report` | the table, and the same as JSON |
//!
//! All jobs take turns in each round, so that what is compared has run under the same neighbours.

mod child;
mod jobs;
mod machine;
mod measure;
mod report;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use child::Runner;
use jobs::report::Tools;
use machine::Machine;
use report::Report;

/// Rounds of a run, and of a quick one. Odd, so that a median is a value that was measured.
const ROUNDS: usize = 25;
const QUICK_ROUNDS: usize = 5;

/// Measures the device, the agent and the report tools, beside this machine's limits and published peers.
///
/// A figure is the median over all rounds of the processor time of one thread (of `report`: of the time that a program takes); the
/// spread is that of the middle 80 %. A missed
/// target is said in the verdict and does not change the exit code. Before anything is measured each job checks that its
/// results are right; the exit code is 1 when they are not.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Measures fewer rounds.
    #[arg(long)]
    quick: bool,
    /// Directory of the tools that `report` runs, built for release.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release"))]
    tools: PathBuf,
    /// Writes `report`'s session into this directory and leaves it there.
    #[arg(long, value_name = "DIR")]
    session: Option<PathBuf>,
    /// Jobs to run; all when none is named.
    #[arg(value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(jobs::names()))]
    names: Vec<String>,
}

fn main() -> ExitCode {
    let result = child::measure_if_asked().unwrap_or_else(|| run(&Arguments::parse()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut message = format!("bench: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                message.push_str(&format!(": {error}"));
                cause = error.source();
            }
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let rounds = if arguments.quick {
        QUICK_ROUNDS
    } else {
        ROUNDS
    };
    let tools = Tools {
        directory: arguments.tools.clone(),
        runner: Runner::new()?,
        session: arguments.session.clone(),
    };
    measure::stay_on_this_cpu()?;
    let mut jobs = jobs::prepare(&arguments.names, &tools)?;
    let mut machine = Machine::new();
    for round in 1..=rounds {
        eprintln!("==> round {round} of {rounds}");
        machine.round();
        for job in &mut jobs {
            job.round()?;
        }
    }
    let report = Report::new(rounds, &machine, &jobs);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
