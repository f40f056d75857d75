//! The command line of `opexport`.

use std::path::PathBuf;

use clap::Parser;

use super::common::Common;
use crate::export::Format;

/// Write a profile in the format of another viewer.
#[derive(Debug, Parser)]
#[command(
    name = "opexport",
    version,
    disable_help_flag = true,
    disable_version_flag = true
)]
#[command(after_help = "\
The profile specification is that of opreport. docs/opexport.md says what each format can carry.

Examples:
  A flame graph for a browser:
    opexport --session-dir=vm1 -F flamegraph -o profile.svg
  For pprof -http=: profile.pb.gz
    opexport --session-dir=vm1 -F pprof -o profile.pb.gz
  For profiler.firefox.com:
    opexport --session-dir=vm1 -F firefox -o profile.json
  For npx speedscope profile.json
    opexport --session-dir=vm1 -F speedscope -o profile.json
  The stacks of one program, the most frequent last:
    opexport --session-dir=vm1 -F folded --merge=all image:/usr/bin/python3 | sort -k2 -n")]
pub struct Arguments {
    /// File format
    #[arg(short = 'F', long, value_enum)]
    pub format: Format,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output_file: Option<PathBuf>,
    /// Leave callers out, even where they were sampled
    #[arg(long)]
    pub flat: bool,
    /// Tell the source lines of a function apart, where there is debug information
    #[arg(short = 'g', long)]
    pub debug_info: bool,
    /// Sum over these: cpu, lib, tid, tgid, unitmask, all
    #[arg(
        short,
        long,
        value_name = "cpu,lib,tid,tgid,unitmask,all",
        value_delimiter = ','
    )]
    pub merge: Vec<String>,
    /// Leave out libraries, kernel and modules
    #[arg(short = 'x', long)]
    pub exclude_dependent: bool,
    /// How to show C++ and Rust names
    #[arg(short = 'D', long, value_name = "none|normal|smart")]
    pub demangle: Option<String>,
    /// Look for missing images below these directories, too
    #[arg(short = 'p', long, value_name = "DIR,...", value_delimiter = ',')]
    pub image_path: Vec<PathBuf>,
    /// Directory that holds 'samples'; default is ./oprofile_data, else /var/lib/oprofile
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
