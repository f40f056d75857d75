//! The command line of `opimport`.

use std::path::PathBuf;

use clap::Parser;

use super::common::Common;

/// Convert a sample file of another byte order or layout into one of this machine.
#[derive(Debug, Parser)]
#[command(
    name = "opimport",
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true
)]
#[command(after_help = "\
Examples:
  Convert one file of a session that was recorded on a big-endian machine:
    opimport -a /mnt/router/oprofile/abi -o TIMER.0.0.all.all.all /mnt/router/…/TIMER.0.0.all.all.all
  See what is in a file that no tool reads:
    opimport -V -a abi -o /tmp/out TIMER.0.0.all.all.all")]
pub struct Arguments {
    /// Show every field that is read
    #[arg(short = 'V', long)]
    pub verbose: bool,
    /// File to make; a sample file that is there is added to
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Description of the layout: the file 'abi' of the foreign session
    #[arg(short, long, value_name = "FILE")]
    pub abi: Option<PathBuf>,
    /// Copy even a file of this machine's own layout
    #[arg(short, long)]
    pub force: bool,
    /// Help, version, usage.
    #[command(flatten)]
    pub common: Common,
    /// The sample file
    #[arg(value_name = "FILE")]
    pub input: Vec<PathBuf>,
}
