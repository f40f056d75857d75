//! The command line of `opgprof`.

use std::path::PathBuf;

use clap::Parser;

use super::common::Common;

/// Write the samples of one binary as a file for gprof.
#[derive(Debug, Parser)]
#[command(
    name = "opgprof",
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true
)]
#[command(after_help = "\
The profile specification must leave one binary and one event; it is a list of tag:value[,value...] and paths of
programs or libraries, as for opreport.

Examples:
  Have gprof show the functions of one program:
    opgprof --session-dir=vm1 -o work.gmon 'image:*/work' && gprof -p work work.gmon")]
pub struct Arguments {
    /// The file to write
    #[arg(
        short = 'o',
        long,
        visible_alias = "output-file",
        value_name = "FILE",
        default_value = "gmon.out"
    )]
    pub output_filename: PathBuf,
    /// Leave out symbols below this percentage
    #[arg(short, long, value_name = "PERCENT", allow_hyphen_values = true)]
    pub threshold: Option<String>,
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
