//! `opannotate`: source or assembly with the samples of each line beside it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal as _};
use std::os::unix::ffi::OsStringExt as _;
use std::process::ExitCode;

use oprofile_tools::annotate::assembly::{self, AssemblyOptions, split_params};
use oprofile_tools::annotate::collect::{CollectOptions, Collected, collect};
use oprofile_tools::annotate::paths::SourcePaths;
use oprofile_tools::annotate::source::{self, SourceOptions};
use oprofile_tools::annotate::{AnnotateError, Sink};
use oprofile_tools::classes::Merge;
use oprofile_tools::cli::next_step;
use oprofile_tools::cli::opannotate::Arguments;
use oprofile_tools::cli::run;
use oprofile_tools::cli::values;
use oprofile_tools::demangle::Demangle;
use oprofile_tools::error::ToolError;
use oprofile_tools::names::printable;
use oprofile_tools::options::SymbolFilter;
use oprofile_tools::profile::Selection;
use oprofile_tools::progress::{After, Display, READING};
use oprofile_tools::report::Banner;
use oprofile_tools::session::Places;
use oprofile_tools::spec::Profiles;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{}", .0.told_by("opannotate"))]
    Tool(#[from] ToolError),
    #[error("opannotate error: {}", .0.chain())]
    Annotate(#[from] AnnotateError),
}

fn main() -> ExitCode {
    let arguments = match run::arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let message = match annotate(&arguments) {
        Ok(()) => return ExitCode::SUCCESS,
        // A reader that has seen enough closes the pipe; that is no error.
        Err(Failure::Annotate(AnnotateError::Output(error)))
            if error.kind() == io::ErrorKind::BrokenPipe =>
        {
            return ExitCode::SUCCESS;
        }
        Err(error) => error.to_string(),
    };
    run::failed(&message)
}

fn annotate(arguments: &Arguments) -> Result<(), Failure> {
    check(arguments)?;
    let threshold = values::threshold(arguments.threshold.as_deref())?;
    let demangle = values::demangle(arguments.demangle.as_deref())?;
    let merge = Merge::parse(&arguments.merge)?;
    let Profiles::One(spec) = Profiles::parse(&arguments.specification)? else {
        return Err(
            ToolError::Specification("opannotate cannot compare two profiles".to_owned()).into(),
        );
    };
    let places = Places::find(
        arguments.session_dir.as_deref(),
        arguments.root.as_deref(),
        &spec,
    )
    .with_image_paths(&arguments.image_path)?;
    values::announce(&places);
    let display = Display::start(READING, &places.progress);
    let advise = |error: &ToolError| {
        if let Some(step) = next_step::for_session(error, &[&places]) {
            display.tell(&step);
        }
    };
    let selection =
        Selection::new(&places, &spec, merge, arguments.exclude_dependent).inspect_err(advise)?;
    for warning in places.warnings() {
        display.tell(&warning);
    }
    let banner = Banner::read(&selection).inspect_err(advise)?;
    for warning in &banner.warnings {
        display.tell(warning);
    }
    let options = CollectOptions {
        filter: SymbolFilter {
            include: list(&arguments.include_symbols),
            exclude: list(&arguments.exclude_symbols),
        },
        demangle,
        lines: arguments.source && !arguments.assembly,
    };
    let collected = collect(&selection, &options).inspect_err(advise)?;
    for warning in &collected.warnings {
        display.tell(warning);
    }
    if let Some(step) = next_step::for_warnings(collected.warnings.iter().map(String::as_str)) {
        display.tell(step);
    }
    let heading = heading(arguments, threshold, &banner.text(&selection));
    let how = How {
        threshold,
        demangle,
    };
    write(arguments, how, &collected, &heading, &display)?;
    Ok(())
}

/// Refuses options that do not go together.
fn check(arguments: &Arguments) -> Result<(), ToolError> {
    let refuse = |message: &str| Err(ToolError::Usage(message.to_owned()));
    if !arguments.source && !arguments.assembly {
        return refuse("you must specify at least --source or --assembly");
    }
    if arguments.assembly && arguments.output_dir.is_some() {
        return refuse("--output-dir is meaningless with --assembly");
    }
    if arguments.exclude_dependent && arguments.merge.iter().any(|word| word == "lib") {
        return refuse("--merge=lib is meaningless with --exclude-dependent");
    }
    values::check_verbose(arguments.verbose.iter().map(String::as_str))
}

/// What is shown, and how.
#[derive(Clone, Copy)]
struct How {
    /// Percent below which lines or symbols are left out.
    threshold: f64,
    demangle: Demangle,
}

fn write(
    arguments: &Arguments,
    how: How,
    collected: &Collected,
    heading: &str,
    display: &Display,
) -> Result<(), AnnotateError> {
    let How {
        threshold,
        demangle,
    } = how;
    let patterns = |words: &[OsString]| {
        words
            .iter()
            .map(|word| word.clone().into_vec())
            .collect::<Vec<_>>()
    };
    let model = &collected.model;
    let stdout = io::stdout().lock();
    let terminal = stdout.is_terminal();
    let output = BufWriter::new(After {
        writer: stdout,
        display,
    });
    let mut sink = if terminal {
        Sink::terminal(output)
    } else {
        Sink::file(output)
    };
    let mut warn = |line: &str| display.tell(line);
    if arguments.assembly {
        let options = AssemblyOptions {
            source: arguments.source,
            demangle: demangle != Demangle::None,
            objdump_params: params(arguments),
            threshold,
        };
        assembly::to_sink(model, &options, heading, &mut sink, &mut warn)?;
    } else {
        if !collected.debug_info {
            display.tell(
                "opannotate (warning): no debug information available for the selected binaries, and --assembly not requested",
            );
        }
        let options = SourceOptions {
            paths: SourcePaths {
                base_dirs: arguments.base_dirs.clone(),
                search_dirs: arguments.search_dirs.clone(),
            },
            include_files: patterns(&arguments.include_file),
            exclude_files: patterns(&arguments.exclude_file),
            threshold,
        };
        match &arguments.output_dir {
            Some(directory) => {
                source::to_directory(model, &options, directory, heading, &mut warn)?;
            }
            None => {
                sink.write(heading.as_bytes())?;
                source::to_sink(model, &options, &mut sink, &mut warn)?;
            }
        }
    }
    sink.finish()?;
    Ok(())
}

fn params(arguments: &Arguments) -> Vec<OsString> {
    arguments
        .objdump_params
        .iter()
        .flat_map(|text| split_params(text))
        .collect()
}

/// The comment that says what this is.
fn heading(arguments: &Arguments, threshold: f64, banner: &str) -> String {
    let mut text = String::from("/* \n * Command line: opannotate ");
    for word in std::env::args_os().skip(1) {
        text.push_str(&printable(word.as_encoded_bytes()));
        text.push(' ');
    }
    text.push_str("\n * \n * Interpretation of command line:\n");
    if arguments.assembly {
        text.push_str(" * Output annotated assembly listing with samples\n");
        let params = params(arguments);
        if !params.is_empty() {
            text.push_str(" * Passing the following additional arguments to objdump ; \"");
            for word in params {
                text.push_str(&printable(word.as_encoded_bytes()));
                text.push(' ');
            }
            text.push_str("\"\n");
        }
    } else {
        text.push_str(" * Output annotated source file with samples\n");
        // Infallible for a String.
        let _ = if threshold > 0.0 {
            writeln!(
                text,
                " * Output files where samples count reach {threshold}% of the samples"
            )
        } else {
            writeln!(text, " * Output all files")
        };
    }
    text.push_str(" * \n");
    for line in banner.lines() {
        let _ = writeln!(text, " * {line}");
    }
    text.push_str(" */\n");
    text
}

/// The names in comma-separated lists.
fn list(words: &[String]) -> Vec<Vec<u8>> {
    words
        .iter()
        .flat_map(|word| word.split(','))
        .filter(|word| !word.is_empty())
        .map(|word| word.as_bytes().to_vec())
        .collect()
}
