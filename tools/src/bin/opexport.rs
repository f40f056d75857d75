//! `opexport`: a profile in the format of another viewer.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;

use oprofile_tools::atomic_file::PartialFile;
use oprofile_tools::classes::Merge;
use oprofile_tools::cli::next_step;
use oprofile_tools::cli::opexport::Arguments;
use oprofile_tools::cli::run::{self, with_causes};
use oprofile_tools::cli::values;
use oprofile_tools::error::ToolError;
use oprofile_tools::export::model::Profile;
use oprofile_tools::export::read::{Options, ReadError, read};
use oprofile_tools::export::{Format, write};
use oprofile_tools::names::printable;
use oprofile_tools::progress::{After, Display, READING};
use oprofile_tools::session::Places;
use oprofile_tools::spec::Specification;

/// Why nothing was exported.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The session.
    #[error("{}", .0.told_by("opexport"))]
    Session(ToolError),
    /// Anything else: the message.
    #[error("opexport error: {0}")]
    Other(String),
}

impl From<ToolError> for Error {
    fn from(error: ToolError) -> Self {
        Self::Session(error)
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Session(error) => Self::Session(error),
            full => Self::Other(full.to_string()),
        }
    }
}

fn main() -> ExitCode {
    let arguments = match run::arguments() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    match export(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => run::failed(&error.to_string()),
    }
}

fn export(arguments: &Arguments) -> Result<(), Error> {
    if arguments.format.is_binary() && arguments.output_file.is_none() && io::stdout().is_terminal()
    {
        return Err(Error::Other(
            "this format is binary; name a file by --output-file or redirect the output".to_owned(),
        ));
    }
    let options = Options {
        merge: Merge::parse(&arguments.merge)?,
        exclude_dependent: arguments.exclude_dependent,
        demangle: values::demangle(arguments.demangle.as_deref())?,
        flat: arguments.flat,
        lines: arguments.debug_info,
    };
    if options.merge.lib && options.exclude_dependent {
        return Err(Error::Other(
            "--merge=lib is meaningless with --exclude-dependent".to_owned(),
        ));
    }
    let spec = Specification::parse(&arguments.specification)?;
    let places = Places::find(
        arguments.session_dir.as_deref(),
        arguments.root.as_deref(),
        &spec,
    )
    .with_image_paths(&arguments.image_path)?;
    values::announce(&places);
    let display = Display::start(READING, &places.progress);
    let found = read(&places, &spec, &options).inspect_err(|error| {
        if let ReadError::Session(error) = error
            && let Some(step) = next_step::for_session(error, &[&places])
        {
            display.tell(&step);
        }
    })?;
    for warning in &found.warnings {
        display.tell(warning);
    }
    if let Some(step) = next_step::for_warnings(found.warnings.iter().map(String::as_str)) {
        display.tell(step);
    }
    let title = format!(
        "Profile of {}",
        printable(places.session_dir.as_os_str().as_encoded_bytes())
    );
    match &arguments.output_file {
        Some(path) => to_file(path, &found.profile, arguments.format, &title),
        None => {
            let mut out = BufWriter::new(After {
                writer: io::stdout().lock(),
                display: &display,
            });
            let written = write_out(&found.profile, arguments.format, &title, &mut out);
            match written {
                // A reader that has seen enough closes the pipe; that is no error.
                Err(source) if is_broken_pipe(&source) => Ok(()),
                other => other.map_err(|error| Error::Other(with_causes(&error))),
            }
        }
    }
}

fn write_out(
    profile: &Profile,
    format: Format,
    title: &str,
    out: &mut dyn Write,
) -> Result<(), oprofile_tools::export::ExportError> {
    write(profile, format, title, out)?;
    Ok(out.flush()?)
}

/// Writes a file that appears whole or not at all. A pipe or device is written to as it is.
fn to_file(path: &Path, profile: &Profile, format: Format, title: &str) -> Result<(), Error> {
    let shown = printable(path.as_os_str().as_encoded_bytes());
    let failed = |what: String| Error::Other(format!("{shown}: {what}"));
    let cannot = |error: io::Error| failed(error.to_string());
    if path.exists() && !path.is_file() {
        let mut out = BufWriter::new(File::create(path).map_err(cannot)?);
        return write_out(profile, format, title, &mut out)
            .map_err(|error| failed(with_causes(&error)));
    }
    let partial = PartialFile::create(path).map_err(cannot)?;
    let mut out = BufWriter::new(&partial.file);
    write_out(profile, format, title, &mut out).map_err(|error| failed(with_causes(&error)))?;
    drop(out);
    partial.finish().map_err(cannot)
}

fn is_broken_pipe(error: &oprofile_tools::export::ExportError) -> bool {
    matches!(error, oprofile_tools::export::ExportError::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
}
