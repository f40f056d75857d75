//! The command line of `optop`.

use std::path::PathBuf;

use clap::Parser;

use super::common::Common;
use crate::top::state::SortKey;

/// Show the functions that a running virtual machine spends its time in.
#[derive(Debug, Parser)]
#[command(
    name = "optop",
    version,
    disable_help_flag = true,
    disable_version_flag = true
)]
#[command(after_help = "\
Keys: q quit, p pause, / filter, Esc no filter, s sort, r reverse, h help, arrows and page keys scroll.

The profile specification is that of opreport. Terminals that cannot move their cursor (TERM=dumb, vt100) and pipes get
plain lines.

Examples:
  Watch a virtual machine:
    optop --session-dir=vm1
  The five hottest functions, for a script:
    optop --session-dir=vm1 --once --lines=5
  With the losses by name and rate, as the VM itself counts them:
    optop --session-dir=vm1 --socket=/run/vm1.sock
  A document whenever the session has changed:
    optop --session-dir=vm1 --json | jq '.functions[0]'")]
pub struct Arguments {
    /// Print once and end
    #[arg(long)]
    pub once: bool,
    /// Print JSON, a document a line
    #[arg(long)]
    pub json: bool,
    /// Control socket of the VM, for its own account of losses: socket= of its --oprofile-dev
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Seconds between looks at the session and at the VM
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    pub interval: f64,
    /// Rows to print where there is no screen to fill; 0 for all
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub lines: usize,
    /// What to sort by
    #[arg(short, long, value_enum, default_value_t)]
    pub sort: SortKey,
    /// Show only rows with this in function, image or program
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    pub filter: String,
    /// Look for missing images below these directories, too
    #[arg(short = 'p', long, value_name = "DIR,...", value_delimiter = ',')]
    pub image_path: Vec<PathBuf>,
    /// Directory that holds 'samples'; default is what the VM behind --socket writes, else ./oprofile_data, else /var/lib/oprofile
    #[arg(long, value_name = "DIR")]
    pub session_dir: Option<PathBuf>,
    /// Directory that stands for the root of the profiled machine
    #[arg(short = 'R', long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Help, version, usage.
    #[command(flatten)]
    pub common: Common,
    /// Profile specification, see opreport
    #[arg(value_name = "SPECIFICATION")]
    pub specification: Vec<String>,
}

/// An interval that neither floods the terminal nor looks dead.
fn interval(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.05..=3600.0).contains(seconds))
        .ok_or_else(|| "0.05 to 3600 seconds".to_owned())
}
