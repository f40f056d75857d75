//! `cargo xtask bench`: measures the device and the agent, beside this machine's limits and published peers.
//!
//! | module | what it does |
//! |---|---|
//! | `measure` | the clock, and figures as medians with their spread |
//! | `machine` | what this machine can do: copies, loads, atomics |
//! | `jobs` | what is measured, each job checked against known results first |
//! | `report` | the table, and the same as JSON |
//!
//! All jobs take turns in each round, so that what is compared has run under the same neighbours.

mod jobs;
mod machine;
mod measure;
mod report;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use machine::Machine;
use report::Report;

/// Rounds of a run, and of a quick one. Odd, so that a median is a value that was measured.
const ROUNDS: usize = 25;
const QUICK_ROUNDS: usize = 5;

/// Measures the device and the agent, beside this machine's limits and published peers.
///
/// A figure is the median over all rounds of the processor time of one thread; the spread is that of the middle 80 %. A missed
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
    /// Jobs to run; all when none is named.
    #[arg(value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(jobs::names()))]
    names: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
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
    measure::stay_on_this_cpu()?;
    let mut jobs = jobs::prepare(&arguments.names)?;
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
