//! `opreport`: where the time went, by program or by function.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use oprofile_tools::classes::Merge;
use oprofile_tools::cli::opreport::Arguments;
use oprofile_tools::cli::values;
use oprofile_tools::cli::{next_step, run};
use oprofile_tools::error::ToolError;
use oprofile_tools::options::{Kind, Options, SortKey, SymbolFilter};
use oprofile_tools::progress::{After, Display, Progress, READING};
use oprofile_tools::report::{self, Sink};
use oprofile_tools::session::Places;
use oprofile_tools::spec::{Profiles, Specification};

fn main() -> ExitCode {
    let arguments = match run::arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    match report(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => run::failed(&error.told_by("opreport")),
    }
}

fn report(arguments: &Arguments) -> Result<(), ToolError> {
    let options = options(arguments)?;
    let profiles = Profiles::parse(&arguments.specification)?;
    options.check()?;
    if matches!(profiles, Profiles::Two(..)) {
        options.check_differential()?;
    }
    let progress = Progress::default();
    let display = Display::start(READING, &progress);
    let mut out: Box<dyn Write> = match &arguments.output_file {
        Some(path) => Box::new(BufWriter::new(File::create(path).map_err(|source| {
            ToolError::CannotCreate {
                path: path.clone(),
                source,
            }
        })?)),
        None => Box::new(BufWriter::new(After {
            writer: io::stdout().lock(),
            display: &display,
        })),
    };
    let image_paths: Vec<PathBuf> = words(&arguments.image_path).map(PathBuf::from).collect();
    let places = |spec: &Specification| {
        let places = Places::find(
            arguments.session_dir.as_deref(),
            arguments.root.as_deref(),
            spec,
        );
        Places {
            progress: progress.clone(),
            ..places
        }
        .with_image_paths(&image_paths)
    };
    let mut step = None;
    let mut sink = Sink {
        out: &mut out,
        tell: &mut |warning| {
            step = step.or(next_step::for_warnings(std::iter::once(warning)));
            display.tell(warning);
        },
    };
    let result = match &profiles {
        Profiles::One(spec) => {
            let places = places(spec)?;
            values::announce(&places);
            let result = report::report(&places, spec, &options, &mut sink);
            tell_next_step(&result, &[&places], &display);
            result
        }
        Profiles::Two(specs) => {
            let [before, after] = &**specs;
            let both = (places(before)?, places(after)?);
            values::announce(&both.0);
            let result = report::compare((&both.0, before), (&both.1, after), &options, &mut sink);
            tell_next_step(&result, &[&both.0, &both.1], &display);
            result
        }
    };
    let result = result.and_then(|()| out.flush().map_err(ToolError::Output));
    if let Some(step) = step {
        display.tell(step);
    }
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
        json: arguments.json,
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
        demangle: values::demangle(arguments.demangle.as_deref())?,
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

/// Tells what to do about an error.
fn tell_next_step(result: &Result<(), ToolError>, places: &[&Places], display: &Display) {
    let step = result.as_ref().err();
    if let Some(step) = step.and_then(|error| next_step::for_session(error, places)) {
        display.tell(&step);
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
