//! The command line of `opannotate`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

use super::common::Common;

/// Show source or assembly with the samples of each line beside it.
#[derive(Debug, Parser)]
#[command(
    name = "opannotate",
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true
)]
#[command(after_help = "\
A profile specification is a list of tag:value[,value...] and paths of programs or libraries, as for opreport.

Examples:
  Source, looked for below ~/src:
    opannotate --session-dir=vm1 -s -d ~/src 'image:*/postgres'
  Only source files with at least 5 % of the samples:
    opannotate --session-dir=vm1 -s -t 5
  A file for each source file:
    opannotate --session-dir=vm1 -s -o annotated
  The disassembly of one function, in Intel's notation:
    opannotate --session-dir=vm1 -a -i hot --objdump-params=-Mintel 'image:*/work'")]
pub struct Arguments {
    /// Annotate source files
    #[arg(short, long)]
    pub source: bool,
    /// Annotate the disassembly, which objdump makes; with --source both are mixed
    #[arg(short, long)]
    pub assembly: bool,
    /// Write a file for each source file below this directory, instead of all to standard output
    #[arg(short, long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Prefixes to take away from the names of source files before they are looked for
    #[arg(short, long, value_name = "DIR,...", value_delimiter = ',')]
    pub base_dirs: Vec<PathBuf>,
    /// Directories below which source files are looked for
    #[arg(short = 'd', long, value_name = "DIR,...", value_delimiter = ',')]
    pub search_dirs: Vec<PathBuf>,
    /// Only source files that match (with --source)
    #[arg(long, value_name = "GLOB,...", value_delimiter = ',')]
    pub include_file: Vec<OsString>,
    /// Not source files that match (with --source)
    #[arg(long, value_name = "GLOB,...", value_delimiter = ',')]
    pub exclude_file: Vec<OsString>,
    /// Count only these symbols (names as in the symbol table)
    #[arg(short, long, value_name = "SYMBOLS")]
    pub include_symbols: Vec<String>,
    /// Leave these symbols out (names as in the symbol table)
    #[arg(short, long, value_name = "SYMBOLS")]
    pub exclude_symbols: Vec<String>,
    /// More arguments for objdump (with --assembly)
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    pub objdump_params: Vec<String>,
    /// Leave out source files or, with --assembly, symbols below this percentage
    #[arg(short, long, value_name = "PERCENT", allow_hyphen_values = true)]
    pub threshold: Option<String>,
    /// How to show C++ and Rust names
    #[arg(short = 'D', long, value_name = "none|normal|smart")]
    pub demangle: Option<String>,
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
    /// Accepted for the sake of scripts
    #[arg(
        short = 'V',
        long,
        value_name = "all,debug,bfd,level1,sfile,stats,xml",
        value_delimiter = ','
    )]
    pub verbose: Vec<String>,
    /// Directory that holds 'samples'; default is ./oprofile_data, else /var/lib/oprofile
    #[arg(long, value_name = "DIR")]
    pub session_dir: Option<PathBuf>,
    /// Trees in which binaries are looked for that are not at their place
    #[arg(short = 'p', long, value_name = "DIR,...", value_delimiter = ',')]
    pub image_path: Vec<PathBuf>,
    /// Directory that stands for the root of the profiled machine
    #[arg(short = 'R', long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Help, version, usage.
    #[command(flatten)]
    pub common: Common,
    /// Profile specification, see below
    #[arg(value_name = "SPECIFICATION")]
    pub specification: Vec<String>,
}
