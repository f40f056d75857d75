//! What can go wrong in a report.

use std::path::PathBuf;

use oprofile_session::sample_file::SampleFileError;
use oprofile_session::sample_path::SamplePathError;

/// Why there is no report. The words are OProfile's where it has some. Causes are to be printed behind, see
/// [`ToolError::chain`].
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// There is no sample file in the sessions asked for.
    #[error("opreport error: No sample found: Please specify a session containing \nsample data.")]
    NoSamples,
    /// There are sample files, none of them is wanted.
    #[error("error: no sample files found: profile specification too strict ?")]
    TooStrict,
    /// A directory of the session cannot be read.
    #[error("opreport error: Cannot read directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// More sample files than any session has.
    #[error("opreport error: More than {limit} files below {path}: is this a session directory?")]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// A file in the place of a sample file has no name of one.
    #[error("opreport error: {path}")]
    Name {
        /// The file.
        path: PathBuf,
        /// What is wrong with its name.
        source: SamplePathError,
    },
    /// A sample file cannot be used.
    #[error("opreport error: {path}")]
    SampleFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SampleFileError,
    },
    /// A profile of a processor that is not in the list.
    #[error("opreport error: {path} has processor type {cpu_type}, which is unknown")]
    CpuType {
        /// The file.
        path: PathBuf,
        /// The type number.
        cpu_type: u32,
    },
    /// The event files of a processor cannot be read.
    #[error("oprofile: could not open event description file {path}")]
    EventFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The samples or names of one image are more than a report can number.
    #[error("opreport error: an image has more symbols than can be shown")]
    TooLarge,
    /// The samples of one image, one count for each position and column, do not fit.
    #[error(
        "opreport error: an image has more than {limit} counts.\nSuggestion: --merge cpu,tid,tgid"
    )]
    TooManyCounts {
        /// The limit.
        limit: usize,
    },
    /// The samples differ in more than one way, which a table cannot show.
    #[error(
        "opreport error: Already displaying results for parameter {shown} with values:\n{values},\nwhich conflicts with parameter {conflicting}.\nSuggestion: specify {shown}: or --merge {shown}"
    )]
    Axes {
        /// What the columns stand for.
        shown: &'static str,
        /// Its values.
        values: String,
        /// What would need columns too.
        conflicting: &'static str,
    },
    /// More columns than a table can have.
    #[error(
        "opreport error: {found} columns, {limit} are the limit.\nSuggestion: --merge cpu,tid,tgid"
    )]
    TooManyClasses {
        /// Columns needed.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// One image's samples appear in two of the sessions.
    #[error("opreport error: sample file parsed twice: {path}")]
    Twice {
        /// The later file.
        path: PathBuf,
    },
    /// A tree to look for images in is not there.
    #[error("{path} isn't a valid directory\nopreport error: invalid --image-path= options")]
    ImagePath {
        /// The tree.
        path: PathBuf,
    },
    /// The output file cannot be made.
    #[error("opreport error: Couldn't open \"{path}\" for writing")]
    CannotCreate {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The report cannot be written.
    #[error("opreport error: Cannot write the report")]
    Output(#[source] std::io::Error),
    /// A word of the profile specification that is not supported.
    #[error("{0}")]
    Specification(String),
    /// An option that is not to be had, or not together with another.
    #[error("{0}")]
    Usage(String),
}

impl ToolError {
    /// Says which sample file cannot be used.
    pub fn sample_file(path: &std::path::Path, source: SampleFileError) -> Self {
        Self::SampleFile {
            path: path.to_owned(),
            source,
        }
    }

    /// The message with all its causes.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
