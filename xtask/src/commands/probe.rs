//! `cargo xtask probe`: which machine the other commands would choose.

use std::process::ExitCode;

/// Prints `hardware` or `lab` and the reason. It is an answer, so the exit code is 0 either way.
pub fn run() -> ExitCode {
    match crate::probe::probe() {
        Ok(()) => println!("hardware: a test guest ran natively on /dev/kvm"),
        Err(unfit) => println!("lab: {unfit}"),
    }
    ExitCode::SUCCESS
}
