//! `opreport`: where the time went, by program or by function.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Parser};
use oprofile_tools::classes::Merge;
use oprofile_tools::cli::run::{self, tell};
use oprofile_tools::cli::values;
use oprofile_tools::error::ToolError;
use oprofile_tools::options::{Kind, Options, SortKey, SymbolFilter};
use oprofile_tools::report::{self, Sink};
use oprofile_tools::session::Places;
use oprofile_tools::spec::{Profiles, Specification};

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
Two of them in braces, { ... } { ... }, are compared (with --symbols).

When there is a directory 'root' beside 'samples' and neither --root nor archive: is given, binaries are looked
for in it: a virtual machine's session carries the guest's files there.

Examples:
  opreport --session-dir=vm1                       programs, and the images each used
  opreport --session-dir=vm1 -l -t 1               functions with at least 1 %
  opreport --session-dir=vm1 -l -g image:*postgres functions of one program, with source lines
  opreport --session-dir=vm1 -c -t 5               who calls whom
  opreport --session-dir=vm1 -l { session:before } { session:after }")]
struct Arguments {
    /// List all symbols
    #[arg(short = 'l', long)]
    symbols: bool,
    /// Show callers and callees of each symbol
    #[arg(short, long)]
    callgraph: bool,
    /// List all symbols and the samples in each by address
    #[arg(short, long)]
    details: bool,
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// Order of the rows
    #[arg(
        short,
        long,
        value_name = "vma,sample,image,app-name,symbol,debug",
        overrides_with = "sort"
    )]
    sort: Option<String>,
    /// Last row first
    #[arg(short, long)]
    reverse_sort: bool,
    /// Sum over these: cpu, lib, tid, tgid, unitmask, all
    #[arg(
        short,
        long,
        value_name = "cpu,lib,tid,tgid,unitmask,all",
        overrides_with = "merge"
    )]
    merge: Option<String>,
    /// Leave out libraries, kernel and modules
    #[arg(short = 'x', long)]
    exclude_dependent: bool,
    /// Leave these symbols out (names as in the symbol table)
    #[arg(
        short,
        long,
        value_name = "SYMBOLS",
        overrides_with = "exclude_symbols"
    )]
    exclude_symbols: Option<String>,
    /// Count only these symbols (names as in the symbol table)
    #[arg(
        short,
        long,
        value_name = "SYMBOLS",
        overrides_with = "include_symbols"
    )]
    include_symbols: Option<String>,
    /// Leave out rows below this percentage
    #[arg(short, long, value_name = "PERCENT", allow_hyphen_values = true)]
    threshold: Option<String>,
    /// How to show C++ and Rust names
    #[arg(short = 'D', long, value_name = "none|normal|smart")]
    demangle: Option<String>,
    /// Show source files and lines (with --symbols)
    #[arg(short = 'g', long)]
    debug_info: bool,
    /// Leave out banner and headings
    #[arg(short, long)]
    no_header: bool,
    /// Show the addresses of symbols (with --symbols)
    #[arg(short = 'w', long)]
    show_address: bool,
    /// Show full paths
    #[arg(short = 'f', long)]
    long_filenames: bool,
    /// Show the sums of all rows so far (with --symbols)
    #[arg(short, long)]
    accumulated: bool,
    /// Percentages of everything (with --details or --callgraph)
    #[arg(short = '%', long)]
    global_percent: bool,
    /// Write XML
    #[arg(short = 'X', long)]
    xml: bool,
    /// Accepted for the sake of scripts
    #[arg(
        short = 'V',
        long,
        value_name = "all,debug,bfd,level1,sfile,stats,xml",
        overrides_with = "verbose"
    )]
    verbose: Option<String>,
    /// Directory that holds 'samples'; default is ./oprofile_data, else /var/lib/oprofile
    #[arg(long, value_name = "DIR")]
    session_dir: Option<PathBuf>,
    /// Trees in which binaries are looked for that are not at their place
    #[arg(
        short = 'p',
        long,
        value_name = "DIR,...",
        overrides_with = "image_path"
    )]
    image_path: Option<String>,
    /// Directory that stands for the root of the profiled machine
    #[arg(short = 'R', long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Show this help
    #[arg(short = '?', short_alias = 'h', long, visible_alias = "usage", action = ArgAction::Help)]
    help: Option<bool>,
    /// Show the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
    /// Profile specification, see below
    #[arg(value_name = "SPECIFICATION")]
    specification: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = match run::arguments(|_: &Arguments| false) {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    match report(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => run::failed(&error.chain()),
    }
}

fn report(arguments: &Arguments) -> Result<(), ToolError> {
    let options = options(arguments)?;
    let profiles = Profiles::parse(&arguments.specification)?;
    options.check()?;
    if matches!(profiles, Profiles::Two(..)) {
        options.check_differential()?;
    }
    let mut out: Box<dyn Write> = match &arguments.output_file {
        Some(path) => Box::new(BufWriter::new(File::create(path).map_err(|source| {
            ToolError::CannotCreate {
                path: path.clone(),
                source,
            }
        })?)),
        None => Box::new(BufWriter::new(io::stdout().lock())),
    };
    let image_paths: Vec<PathBuf> = words(&arguments.image_path).map(PathBuf::from).collect();
    let places = |spec: &Specification| {
        Places::find(
            arguments.session_dir.as_deref(),
            arguments.root.as_deref(),
            spec,
        )
        .with_image_paths(&image_paths)
    };
    let mut sink = Sink {
        out: &mut out,
        tell: &mut |warning| tell(warning),
    };
    let result = match &profiles {
        Profiles::One(spec) => {
            let places = places(spec)?;
            values::announce(&places);
            let result = report::report(&places, spec, &options, &mut sink);
            tell_next_step(&result, &[&places]);
            result
        }
        Profiles::Two(specs) => {
            let [before, after] = &**specs;
            let both = (places(before)?, places(after)?);
            values::announce(&both.0);
            let result = report::compare((&both.0, before), (&both.1, after), &options, &mut sink);
            tell_next_step(&result, &[&both.0, &both.1]);
            result
        }
    };
    let result = result.and_then(|()| out.flush().map_err(ToolError::Output));
    report::ignore_closed_pipe(result)
}

fn options(arguments: &Arguments) -> Result<Options, ToolError> {
    if arguments.callgraph && arguments.details {
        return Err(ToolError::Usage(
            "--callgraph is incompatible with --details".to_owned(),
        ));
    }
    values::check_verbose(words(&arguments.verbose))?;
    let kind = if arguments.callgraph {
        Kind::CallGraph
    } else if arguments.details {
        Kind::Details
    } else if arguments.symbols {
        Kind::Symbols
    } else {
        Kind::Summary
    };
    let command_line = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned() + " ")
        .collect::<String>();
    Ok(Options {
        kind,
        xml: arguments.xml,
        command_line: format!("opreport {command_line}"),
        given: given(arguments),
        merge: Merge::parse(
            &words(&arguments.merge)
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )?,
        exclude_dependent: arguments.exclude_dependent,
        threshold: values::threshold(arguments.threshold.as_deref())?,
        no_header: arguments.no_header,
        long_filenames: arguments.long_filenames,
        show_address: arguments.show_address,
        debug_info: arguments.debug_info,
        accumulated: arguments.accumulated,
        global_percent: arguments.global_percent && kind != Kind::Summary,
        sort: words(&arguments.sort)
            .map(SortKey::parse)
            .collect::<Result<_, _>>()?,
        reverse: arguments.reverse_sort,
        demangle: values::demangle("opreport", arguments.demangle.as_deref())?,
        filter: SymbolFilter {
            include: words(&arguments.include_symbols)
                .map(|word| word.as_bytes().to_vec())
                .collect(),
            exclude: words(&arguments.exclude_symbols)
                .map(|word| word.as_bytes().to_vec())
                .collect(),
        },
    })
}

/// Tells who has no samples where they were looked for.
fn tell_next_step(result: &Result<(), ToolError>, places: &[&Places]) {
    if matches!(result, Err(ToolError::NoSamples)) {
        for places in places {
            tell(&places.next_step());
        }
    }
}

/// The words of a list. Of several options of one name the last counts, as in OProfile.
fn words(list: &Option<String>) -> impl Iterator<Item = &str> {
    list.iter()
        .flat_map(|list| list.split(','))
        .filter(|word| !word.is_empty())
}

/// Options that the XML form repeats.
fn given(arguments: &Arguments) -> Vec<(&'static str, String)> {
    let word = |option: &Option<String>| option.clone().unwrap_or_default();
    [
        ("session", arguments.specification.join(" ")),
        ("imagepath", word(&arguments.image_path)),
        ("excludesymbols", word(&arguments.exclude_symbols)),
        ("includesymbols", word(&arguments.include_symbols)),
        ("merge", word(&arguments.merge)),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .collect()
}
