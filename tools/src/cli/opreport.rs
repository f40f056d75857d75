//! The command line of `opreport`.

use std::path::PathBuf;

use clap::Parser;

use super::common::Common;

/// Report where the time went, by program or by function.
#[derive(Debug, Parser)]
#[command(
    name = "opreport",
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true
)]
#[command(after_help = "\
A profile specification is a list of tag:value[,value...] and paths of programs or libraries:
  archive:DIR         session in DIR/var/lib/oprofile, binaries below DIR
  session:NAME        session below samples/, or the path of a directory that holds {root}
  session-exclude:NAME
  image:GLOB  lib-image:GLOB  image-exclude:GLOB
  event:NAME  count:N  unit-mask:N  cpu:N  tgid:N  tid:N

Two of them in braces, { ... } { ... }, are compared (with --symbols).

When there is a directory 'root' beside 'samples' and neither --root nor archive: is given, binaries are looked
for in it: a virtual machine's session carries the guest's files there.

Examples:
  Programs, and the images each used:
    opreport --session-dir=vm1
  Functions with at least 1 %:
    opreport --session-dir=vm1 -l -t 1
  Functions of one program, with source lines:
    opreport --session-dir=vm1 -l -g 'image:*/postgres'
  Who calls whom:
    opreport --session-dir=vm1 -c -t 5
  The ten functions with most samples, for a script:
    opreport --session-dir=vm1 -l -m all --json | jq -r '.symbols[:10][] | [.counts[0], .symbol] | @tsv'
  What a change did:
    opreport --session-dir=vm1 -l { session:before } { session:after }")]
pub struct Arguments {
    /// List all symbols
    #[arg(short = 'l', long)]
    pub symbols: bool,
    /// Show callers and callees of each symbol
    #[arg(short, long)]
    pub callgraph: bool,
    /// List all symbols and the samples in each by address
    #[arg(short, long)]
    pub details: bool,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output_file: Option<PathBuf>,
    /// Order of the rows
    #[arg(short, long, value_name = "vma,sample,image,app-name,symbol,debug")]
    pub sort: Option<String>,
    /// Last row first
    #[arg(short, long)]
    pub reverse_sort: bool,
    /// Sum over these: cpu, lib, tid, tgid, unitmask, all
    #[arg(short, long, value_name = "cpu,lib,tid,tgid,unitmask,all")]
    pub merge: Option<String>,
    /// Leave out libraries, kernel and modules
    #[arg(short = 'x', long)]
    pub exclude_dependent: bool,
    /// Leave these symbols out (names as in the symbol table)
    #[arg(short, long, value_name = "SYMBOLS")]
    pub exclude_symbols: Option<String>,
    /// Count only these symbols (names as in the symbol table)
    #[arg(short, long, value_name = "SYMBOLS")]
    pub include_symbols: Option<String>,
    /// Leave out rows below this percentage
    #[arg(short, long, value_name = "PERCENT", allow_hyphen_values = true)]
    pub threshold: Option<String>,
    /// How to show C++ and Rust names
    #[arg(short = 'D', long, value_name = "none|normal|smart")]
    pub demangle: Option<String>,
    /// Show source files and lines (with --symbols)
    #[arg(short = 'g', long)]
    pub debug_info: bool,
    /// Leave out banner and headings
    #[arg(short, long)]
    pub no_header: bool,
    /// Show the addresses of symbols (with --symbols)
    #[arg(short = 'w', long)]
    pub show_address: bool,
    /// Show full paths
    #[arg(short = 'f', long)]
    pub long_filenames: bool,
    /// Show the sums of all rows so far (with --symbols)
    #[arg(short, long)]
    pub accumulated: bool,
    /// Percentages of everything (with --details or --callgraph)
    #[arg(short = '%', long)]
    pub global_percent: bool,
    /// Write XML
    #[arg(short = 'X', long)]
    pub xml: bool,
    /// Write JSON, for scripts: programs, or with --symbols or --details symbols
    #[arg(long)]
    pub json: bool,
    /// Accepted for the sake of scripts
    #[arg(short = 'V', long, value_name = "all,debug,bfd,level1,sfile,stats,xml")]
    pub verbose: Option<String>,
    /// Directory that holds 'samples'; default is ./oprofile_data, else /var/lib/oprofile
    #[arg(long, value_name = "DIR")]
    pub session_dir: Option<PathBuf>,
    /// Trees in which binaries are looked for that are not at their place
    #[arg(short = 'p', long, value_name = "DIR,...")]
    pub image_path: Option<String>,
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
