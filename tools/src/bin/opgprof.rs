//! `opgprof`: the samples of one binary as a file for gprof.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use oprofile_tools::classes::Merge;
use oprofile_tools::cli::next_step;
use oprofile_tools::cli::opgprof::Arguments;
use oprofile_tools::cli::run::{self, tell};
use oprofile_tools::cli::values;
use oprofile_tools::error::ToolError;
use oprofile_tools::gmon::{Capped, GmonError, collect};
use oprofile_tools::profile::Selection;
use oprofile_tools::progress::{Display, READING};
use oprofile_tools::session::Places;
use oprofile_tools::spec::Profiles;

/// Full bins that have a warning of their own.
const MAX_WARNINGS: usize = 20;

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The session or the command line.
    #[error("{}", .0.told_by("opgprof"))]
    Tool(ToolError),
    /// The samples are not those of a program.
    #[error("opgprof error: {}", path.display())]
    Gmon {
        /// The program.
        path: PathBuf,
        /// What is wrong.
        source: GmonError,
    },
}

impl From<ToolError> for Failure {
    fn from(error: ToolError) -> Self {
        Self::Tool(error)
    }
}

fn main() -> ExitCode {
    let arguments = match run::arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    run::status(convert(&arguments))
}

fn convert(arguments: &Arguments) -> Result<(), Failure> {
    values::check_verbose(arguments.verbose.iter().map(String::as_str))?;
    let threshold = values::threshold(arguments.threshold.as_deref())?;
    let Profiles::One(spec) = Profiles::parse(&arguments.specification)? else {
        return Err(
            ToolError::Specification("opgprof cannot compare two profiles".to_owned()).into(),
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
    // gprof knows one column; who and where is summed over, what is not.
    let merge = Merge {
        cpu: true,
        lib: false,
        tid: true,
        unit_mask: true,
        tgid: true,
    };
    let advise = |error: &ToolError| {
        if let Some(step) = next_step::for_session(error, &[&places]) {
            display.tell(&step);
        }
    };
    let selection = Selection::new(&places, &spec, merge, true).inspect_err(advise)?;
    for warning in places.warnings() {
        display.tell(&warning);
    }
    let Some(collected) = collect::collect(&selection, threshold).inspect_err(advise)? else {
        return Err(ToolError::Specification(
            "error: specify exactly one binary to process and give an event: or count: specification if necessary"
                .to_owned(),
        )
        .into());
    };
    if let Some(warning) = &collected.warning {
        display.tell(warning);
        if let Some(step) = next_step::for_warnings(std::iter::once(&**warning)) {
            display.tell(step);
        }
    }
    let path = &arguments.output_filename;
    let failed = |error: GmonError| match error {
        GmonError::Output(source) => Failure::Tool(ToolError::Output(source)),
        source => Failure::Gmon {
            path: collected.path.clone(),
            source,
        },
    };
    // Before an older file is emptied.
    collected.profile.check(collected.layout).map_err(failed)?;
    let file = File::create(path).map_err(|source| ToolError::CannotCreate {
        path: path.clone(),
        source,
    })?;
    let mut output = BufWriter::new(file);
    let capped = collected
        .profile
        .write(&mut output, collected.layout)
        .map_err(failed)?;
    output.flush().map_err(ToolError::Output)?;
    drop(display);
    warn_capped(&capped);
    Ok(())
}

fn warn_capped(capped: &Capped) {
    let (told, rest) = capped
        .excess
        .split_at(capped.excess.len().min(MAX_WARNINGS));
    for count in told {
        tell(&format!("Warning: capping sample count by {count}"));
    }
    if !rest.is_empty() {
        let sum = rest
            .iter()
            .fold(0u64, |sum, count| sum.saturating_add(*count));
        tell(&format!(
            "Warning: capping {} more sample counts by {sum}",
            rest.len()
        ));
    }
}
