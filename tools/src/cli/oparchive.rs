//! The command line of `oparchive`.

use std::path::PathBuf;

use clap::Parser;

use super::common::Common;

/// Copy a session and all binaries it names into one directory, to be read elsewhere.
#[derive(Debug, Parser)]
#[command(
    name = "oparchive",
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true
)]
#[command(after_help = "\
Examples:
  Take a guest's profile along, with the guest's binaries:
    oparchive --session-dir=/srv/vm1 -o vm1.archive
  Read it on another machine:
    opreport archive:vm1.archive -l
  See which files are needed, for one program only:
    oparchive --session-dir=/srv/vm1 -l 'image:*/postgres'")]
pub struct Arguments {
    /// Directory to make the archive in
    #[arg(short, long, value_name = "DIR")]
    pub output_directory: Option<PathBuf>,
    /// Leave out libraries, kernel and modules
    #[arg(short = 'x', long)]
    pub exclude_dependent: bool,
    /// Only list the files that are needed
    #[arg(short, long)]
    pub list_files: bool,
    /// Accepted for the sake of scripts
    #[arg(
        short = 'V',
        long,
        value_name = "WORD,…",
        value_delimiter = ',',
        value_parser = ["all", "debug", "bfd", "level1", "sfile", "stats", "xml"]
    )]
    pub verbose: Vec<String>,
    /// Directory that holds 'samples'; default is ./oprofile_data, else /var/lib/oprofile
    #[arg(long, value_name = "DIR")]
    pub session_dir: Option<PathBuf>,
    /// Directories to search for binaries that are not at their place
    #[arg(short = 'p', long, value_name = "DIR,…", value_delimiter = ',')]
    pub image_path: Vec<PathBuf>,
    /// Directory that stands for the root of the profiled machine
    #[arg(short = 'R', long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Help, version, usage.
    #[command(flatten)]
    pub common: Common,
    /// Profile specification, as for opreport
    #[arg(value_name = "SPECIFICATION")]
    pub specification: Vec<String>,
}
