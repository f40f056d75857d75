//! The command line of `opcontrol`.

use std::path::PathBuf;

use clap::{ArgAction, Parser};

use without_meaning::WithoutMeaning;

pub mod without_meaning;

/// Control the profiling of a virtual machine that runs.
#[derive(Debug, Parser)]
#[command(
    name = "opcontrol",
    version,
    disable_help_flag = true,
    disable_version_flag = true
)]
#[command(after_help = "\
Settings are applied first, then the one command. Buffers and call chains can be set while profiling is stopped.

Examples:
  Is the guest profiled, and what became of its samples?
    opcontrol --socket=/run/vm.sock --status
  Sample call chains, 250 times a second:
    opcontrol --socket=/run/vm.sock --stop
    opcontrol --socket=/run/vm.sock --callgraph=16 --hz=250 --start
  Have all samples in the session, for opreport:
    opcontrol --socket=/run/vm.sock --dump
  Keep the session, and begin another one:
    opcontrol --socket=/run/vm.sock --save=before-the-change
  See what comes in, each second:
    opcontrol --socket=/run/vm.sock --watch")]
pub struct Arguments {
    /// Control socket of the VM: socket= of its --oprofile-dev
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// What is set before the command.
    #[command(flatten)]
    pub settings: Settings,
    /// The command.
    #[command(flatten)]
    pub command: Commands,
    /// Print the status as JSON
    #[arg(long)]
    pub json: bool,
    /// Options that are answered with what to use instead.
    #[command(flatten)]
    pub without_meaning: WithoutMeaning,
    // Not the options that all tools share: -h has another meaning here.
    /// Show this help
    #[arg(short = '?', long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Show the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
    /// Show the usage in short
    #[arg(long)]
    usage: bool,
}

#[derive(Debug, clap::Args)]
#[expect(
    missing_docs,
    reason = "a doc comment would become the description of the tool"
)]
pub struct Settings {
    /// What to sample; a VM is sampled by its timer, so TIMER and default are all there is
    #[arg(short, long, value_name = "EVENT")]
    pub event: Option<String>,
    /// Samples a second and vCPU
    #[arg(long, value_name = "N")]
    pub hz: Option<u64>,
    /// Most frames of a call chain, 0 for none
    #[arg(short, long, value_name = "DEPTH")]
    pub callgraph: Option<u32>,
    /// How samples are filed: none, library, kernel, cpu, all; while the session is empty
    #[arg(short = 'p', long, value_name = "HOW", value_delimiter = ',')]
    pub separate: Vec<String>,
    /// Event buffer in words
    #[arg(long, value_name = "WORDS")]
    pub buffer_size: Option<u64>,
    /// Free words at which the event buffer is read
    #[arg(long, value_name = "WORDS")]
    pub buffer_watershed: Option<u64>,
    /// Entries of a vCPU's buffers
    #[arg(long, value_name = "ENTRIES")]
    pub cpu_buffer_size: Option<u64>,
    /// Accepted for the sake of scripts: settings are applied at once
    #[arg(long, hide = true)]
    pub setup: bool,
    /// Accepted for the sake of scripts: the guest sends its kernel's symbols, no file is needed
    #[arg(long, hide = true)]
    pub no_vmlinux: bool,
    /// Accepted for the sake of scripts
    #[arg(short = 'V', long, hide = true, value_name = "WORD,…", num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    pub verbose: Option<String>,
}

#[derive(Debug, clap::Args)]
#[expect(
    missing_docs,
    reason = "a doc comment would become the description of the tool"
)]
#[group(multiple = false)]
pub struct Commands {
    /// Print what is known of the profiling (the default)
    #[arg(long)]
    pub status: bool,
    /// Start profiling
    #[arg(short, long)]
    pub start: bool,
    /// Stop profiling
    #[arg(short = 't', long)]
    pub stop: bool,
    /// Bring every sample into the session, and wait for it
    #[arg(short, long)]
    pub dump: bool,
    /// Stop profiling and bring every sample into the session
    #[arg(short = 'h', long)]
    pub shutdown: bool,
    /// Forget what is in the session
    #[arg(long)]
    pub reset: bool,
    /// Keep the session under a name and begin another one
    #[arg(long, value_name = "NAME")]
    pub save: Option<String>,
    /// Accepted for the sake of scripts: the device is there as long as the VM
    #[arg(long, hide = true)]
    pub init: bool,
    /// See that somebody takes the samples: the VM does, unless it was started without session=
    #[arg(long, hide = true)]
    pub start_daemon: bool,
    /// Print what came in, each second
    #[arg(long)]
    pub watch: bool,
    /// List the control files
    #[arg(long)]
    pub list_files: bool,
    /// Print a control file
    #[arg(long, value_name = "FILE")]
    pub read: Option<String>,
    /// Write a control file
    #[arg(long, value_name = "FILE=TEXT")]
    pub write: Option<String>,
}
