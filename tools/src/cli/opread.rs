//! The command line of `opread`.

use std::path::PathBuf;

use clap::Parser;

use super::common::Common;

/// Print the event stream of a virtual machine, a line for each record.
#[derive(Debug, Parser)]
#[command(
    name = "opread",
    version,
    disable_help_flag = true,
    disable_version_flag = true
)]
#[command(after_help = "\
The stream has one reader: the VM must have been started without session=.

Examples:
  Start profiling, and print what comes:
    opread --socket=/run/vm.sock
  Keep the words, and decode them later:
    opread --socket=/run/vm.sock --raw > words
    opread --file=words")]
pub struct Arguments {
    /// Control socket of the VM: socket= of its --oprofile-dev
    #[arg(long, value_name = "PATH", required_unless_present = "file")]
    pub socket: Option<PathBuf>,
    /// File of raw words, each 8 bytes, little endian; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "no_start", "reads"])]
    pub file: Option<PathBuf>,
    /// Do not start profiling
    #[arg(long)]
    pub no_start: bool,
    /// End after so many reads of the event buffer
    #[arg(long, value_name = "N")]
    pub reads: Option<u64>,
    /// Write the words as they are instead of text
    #[arg(long)]
    pub raw: bool,
    /// Help, version, usage.
    #[command(flatten)]
    pub common: Common,
}
