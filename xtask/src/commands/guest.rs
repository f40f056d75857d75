//! `cargo xtask guest`: the parts of a Debian guest, for a machine that is started by hand.

use std::process::ExitCode;

use clap::Args;

use crate::Failure;
use crate::linux;

/// Fetches and builds what a Debian guest with the agent's module needs, and prints where it is.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The guest's kernel.
    #[arg(long, value_name = "FLAVOUR", default_value = "6.1-cloud")]
    kernel: linux::Flavour,
}

/// Prints the words for `oprofile-vmm run`.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let guest = linux::prepare(arguments.kernel).map_err(Failure::new)?;
    println!("--kernel={}", guest.kernel.display());
    println!("--initrd={}", guest.initrd.display());
    println!("--disk={}", guest.disk.display());
    Ok(ExitCode::SUCCESS)
}
