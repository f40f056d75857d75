//! `opreport`: where the time went, by program or by function.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Parser};
use oprofile_tools::classes::Merge;
use oprofile_tools::demangle::Demangle;
use oprofile_tools::error::ToolError;
use oprofile_tools::names::printable;
use oprofile_tools::report::{self, Options};
use oprofile_tools::session::Places;
use oprofile_tools::spec::Specification;

/// Report where the time went, by program or by function.
#[derive(Debug, Parser)]
#[command(
    name = "opreport",
    version,
    disable_help_flag = true,
    disable_version_flag = true
)]
#[command(after_help = "\
A profile specification is a list of tag:value[,value...] and paths of programs or libraries:
  archive:DIR         session in DIR/var/lib/oprofile, binaries below DIR
  session:NAME        session below samples/, or the path of a directory that holds {root}
  session-exclude:NAME
  image:GLOB  lib-image:GLOB  image-exclude:GLOB
  event:NAME  count:N  unit-mask:N  cpu:N  tgid:N  tid:N

When there is a directory 'root' beside 'samples' and neither --root nor archive: is given, binaries are looked
for in it: a virtual machine's session carries the guest's files there.")]
struct Arguments {
    /// List all symbols
    #[arg(short = 'l', long)]
    symbols: bool,
    /// Sum over these: cpu, lib, tid, tgid, unitmask, all
    #[arg(
        short,
        long,
        value_name = "cpu,lib,tid,tgid,unitmask,all",
        value_delimiter = ','
    )]
    merge: Vec<String>,
    /// Leave out libraries, kernel and modules
    #[arg(short = 'x', long)]
    exclude_dependent: bool,
    /// Leave out rows below this percentage
    #[arg(short, long, value_name = "PERCENT", allow_hyphen_values = true)]
    threshold: Option<String>,
    /// Leave out banner and headings
    #[arg(short, long)]
    no_header: bool,
    /// Show full paths
    #[arg(short = 'f', long)]
    long_filenames: bool,
    /// Show the addresses of symbols (with --symbols)
    #[arg(short = 'w', long)]
    show_address: bool,
    /// How to show C++ and Rust names
    #[arg(short = 'D', long, value_name = "none|normal")]
    demangle: Option<String>,
    /// Directory that holds 'samples'; default is ./oprofile_data, else /var/lib/oprofile
    #[arg(long, value_name = "DIR")]
    session_dir: Option<PathBuf>,
    /// Directory that stands for the root of the profiled machine
    #[arg(short = 'R', long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Show this help
    #[arg(short = '?', short_alias = 'h', long, action = ArgAction::Help)]
    help: Option<bool>,
    /// Show the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
    /// Profile specification, see below
    #[arg(value_name = "SPECIFICATION")]
    specification: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let status = if error.use_stderr() {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            };
            // Nothing is left to be told to a closed terminal.
            let _ = error.print();
            return status;
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.chain().lines() {
                tell(&printable(line.as_bytes()));
            }
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), ToolError> {
    let options = Options {
        symbols: arguments.symbols,
        merge: Merge::parse(&arguments.merge)?,
        exclude_dependent: arguments.exclude_dependent,
        threshold: arguments.threshold.as_deref().map_or(Ok(0.0), threshold)?,
        no_header: arguments.no_header,
        long_filenames: arguments.long_filenames,
        show_address: arguments.show_address,
        demangle: arguments
            .demangle
            .as_deref()
            .map_or(Ok(Demangle::Normal), demangle)?,
    };
    let spec = Specification::parse(&arguments.specification)?;
    let places = Places::find(
        arguments.session_dir.as_deref(),
        arguments.root.as_deref(),
        &spec,
    );
    if places.announce {
        tell(&format!(
            "Using {}/samples/ for samples directory.",
            places.session_dir.display()
        ));
    }
    let report = report::report(&places, &spec, &options)?;
    for warning in &report.warnings {
        tell(warning);
    }
    match io::stdout().lock().write_all(report.text.as_bytes()) {
        // A reader that has seen enough closes the pipe; that is no error.
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(ToolError::Output(source)),
        _ => Ok(()),
    }
}

/// Writes a line to standard error. There is nobody to tell when that fails.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn threshold(text: &str) -> Result<f64, ToolError> {
    text.parse()
        .ok()
        .filter(|value| (0.0..=100.0).contains(value))
        .ok_or_else(|| {
            ToolError::Usage(format!(
                "illegal threshold value: {} allowed range: [0-100]",
                printable(text.as_bytes())
            ))
        })
}

fn demangle(text: &str) -> Result<Demangle, ToolError> {
    match text {
        "none" => Ok(Demangle::None),
        "normal" => Ok(Demangle::Normal),
        _ => Err(ToolError::Usage(format!(
            "opreport error: invalid option --demangle={}",
            printable(text.as_bytes())
        ))),
    }
}
