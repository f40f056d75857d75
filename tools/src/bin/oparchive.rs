//! `oparchive`: a session and its binaries, to be read elsewhere.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

use oprofile_tools::archive::{ArchiveDirectory, CopyError, Plan, Request, plan};
use oprofile_tools::cli::next_step;
use oprofile_tools::cli::oparchive::Arguments;
use oprofile_tools::cli::run::{self, tell};
use oprofile_tools::cli::values;
use oprofile_tools::error::ToolError;
use oprofile_tools::names::printable;
use oprofile_tools::progress::{Display, Progress};
use oprofile_tools::session::Places;
use oprofile_tools::spec::Specification;

/// Where a session lies that needs no move.
const STANDARD_PLACE: &str = "/var/lib/oprofile";

/// Why there is no archive, or not a whole one.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Nowhere to write to.
    #[error("Requires --output-directory option.")]
    OutputDirectory,
    /// There is nothing to archive.
    #[error("{}", .0.told_by("oparchive"))]
    Session(ToolError),
    /// The directory of the archive cannot be made.
    #[error("oparchive error: {0}")]
    Directory(CopyError),
    /// Some files are missing in the archive.
    #[error("oparchive error: {failed} of {all} files are not in the archive")]
    Incomplete {
        /// Files that could not be copied.
        failed: usize,
        /// Files that belong into the archive.
        all: usize,
    },
    /// The list cannot be written.
    #[error("oparchive error: Cannot write the list")]
    Output(#[source] io::Error),
}

fn main() -> ExitCode {
    match run::arguments() {
        Ok(arguments) => run::status(archive(&arguments)),
        Err(status) => status,
    }
}

fn archive(arguments: &Arguments) -> Result<(), Failure> {
    let output = match &arguments.output_directory {
        None if !arguments.list_files => return Err(Failure::OutputDirectory),
        output => output.as_deref(),
    };
    let spec = Specification::parse(&arguments.specification).map_err(Failure::Session)?;
    let places = Places::find(
        arguments.session_dir.as_deref(),
        arguments.root.as_deref(),
        &spec,
    )
    .with_image_paths(&arguments.image_path)
    .map_err(Failure::Session)?;
    values::announce(&places);
    let plan = plan(&Request {
        places: &places,
        spec: &spec,
        exclude_dependent: arguments.exclude_dependent,
        // The guest's files in a virtual machine's session are its own; what is not among them is not taken from here.
        may_take_from_host: arguments.root.is_some(),
    })
    .inspect_err(|error| {
        if let Some(step) = next_step::for_session(error, &[&places]) {
            tell(&step);
        }
    })
    .map_err(Failure::Session)?;
    for warning in &plan.warnings {
        tell(warning);
    }
    if places.session_dir != Path::new(STANDARD_PLACE) {
        tell(&format!(
            "NOTE: The sample data in this archive is located at {}\nand is being moved to the standard location of {STANDARD_PLACE}/.",
            places.session_dir.display()
        ));
    }
    match output {
        Some(output) if !arguments.list_files => copy(&plan, output),
        _ => list(&plan),
    }
}

/// Prints the files, one a line: for programs as they are, for a terminal so that no name controls it.
fn list(plan: &Plan) -> Result<(), Failure> {
    let on_terminal = io::stdout().is_terminal();
    let mut bytes = Vec::new();
    for entry in &plan.entries {
        let path = entry.from.as_os_str().as_bytes();
        if on_terminal {
            bytes.extend_from_slice(printable(path).as_bytes());
        } else {
            bytes.extend_from_slice(path);
        }
        bytes.push(b'\n');
    }
    match io::stdout().lock().write_all(&bytes) {
        // A reader that has seen enough closes the pipe; that is no error.
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(source)),
        _ => Ok(()),
    }
}

fn copy(plan: &Plan, output: &Path) -> Result<(), Failure> {
    let directory = ArchiveDirectory::create(output).map_err(Failure::Directory)?;
    let progress = Progress::default();
    let display = Display::start("Copying files", &progress);
    let failures = plan.copy(&directory, &progress);
    drop(display);
    for failure in &failures {
        let mut text = format!("oparchive error: {failure}");
        if let Some(cause) = std::error::Error::source(failure) {
            // Infallible for a String.
            let _ = write!(text, ": {cause}");
        }
        tell(&text);
    }
    match failures.len() {
        0 => Ok(()),
        failed => Err(Failure::Incomplete {
            failed,
            all: plan.entries.len(),
        }),
    }
}
