//! What can go wrong in a report.

use std::path::PathBuf;

use oprofile_session::file_list::FileListError;
use oprofile_session::sample_file::SampleFileError;
use oprofile_session::sample_path::SamplePathError;

use crate::cli::run::with_causes;

/// Why there is no report. The words are OProfile's where it has some. What is printed begins with the name of the tool, or
/// not, as in OProfile: see [`ToolError::told_by`].
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// There is no sample file in the sessions asked for.
    #[error("No sample found: Please specify a session containing \nsample data.")]
    NoSamples,
    /// There are sample files, none of them is wanted.
    #[error("no sample files found: profile specification too strict ?")]
    TooStrict,
    /// A directory of the session cannot be read.
    #[error("Cannot read directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// More sample files than any session has.
    #[error("More than {limit} files below {path}: is this a session directory?")]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// A file in the place of a sample file has no name of one.
    #[error("{path}")]
    Name {
        /// The file.
        path: PathBuf,
        /// What is wrong with its name.
        source: SamplePathError,
    },
    /// The list of a session's files cannot be used.
    #[error("{path}")]
    FileList {
        /// The list.
        path: PathBuf,
        /// What is wrong with it.
        source: FileListError,
    },
    /// A sample file cannot be used.
    #[error("{path}")]
    SampleFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SampleFileError,
    },
    /// A profile of a processor that is not in the list.
    #[error("{path} has processor type {cpu_type}, which is unknown")]
    CpuType {
        /// The file.
        path: PathBuf,
        /// The type number.
        cpu_type: u32,
    },
    /// The samples or names of one image are more than a report can number.
    #[error("an image has more symbols than can be shown")]
    TooLarge,
    /// The samples of one image, one count for each position and column, do not fit.
    #[error("an image has more than {limit} counts.\nSuggestion: --merge cpu,tid,tgid")]
    TooManyCounts {
        /// The limit.
        limit: usize,
    },
    /// The samples differ in more than one way, which a table cannot show.
    #[error(
        "Already displaying results for parameter {shown} with values:\n{values},\nwhich conflicts with parameter {conflicting}.\nSuggestion: specify {shown}: or --merge {shown}"
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
    #[error("{found} columns, {limit} are the limit.\nSuggestion: --merge cpu,tid,tgid")]
    TooManyClasses {
        /// Columns needed.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// One image's samples appear in two of the sessions.
    #[error("sample file parsed twice: {path}")]
    Twice {
        /// The later file.
        path: PathBuf,
    },
    /// A tree to look for images in is not there.
    #[error("{path} isn't a valid directory")]
    ImagePath {
        /// The tree.
        path: PathBuf,
    },
    /// The output file cannot be made.
    #[error("Couldn't open \"{path}\" for writing")]
    CannotCreate {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The report cannot be written.
    #[error("Cannot write the report")]
    Output(#[source] std::io::Error),
    /// A word of the profile specification that is not supported.
    #[error("{0}")]
    Specification(String),
    /// An option that is not to be had, or not together with another.
    #[error("{0}")]
    Usage(String),
    /// An option has a value that it cannot have.
    #[error("{0}")]
    Value(String),
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
        with_causes(self)
    }

    /// What the tool of this name prints.
    pub fn told_by(&self, tool: &str) -> String {
        let text = self.chain();
        match self {
            Self::Specification(_) | Self::Usage(_) => text,
            Self::TooStrict => format!("error: {text}"),
            Self::ImagePath { .. } => {
                format!("{text}\n{tool} error: invalid --image-path= options")
            }
            _ => format!("{tool} error: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tool_is_named_where_oprofile_names_it() {
        let output = std::io::Error::other("full");
        for (error, told) in [
            (
                ToolError::Output(output),
                "optool error: Cannot write the report: full",
            ),
            (
                ToolError::TooStrict,
                "error: no sample files found: profile specification too strict ?",
            ),
            (
                ToolError::Usage("no such thing".to_owned()),
                "no such thing",
            ),
            (
                ToolError::ImagePath { path: "/p".into() },
                "/p isn't a valid directory\noptool error: invalid --image-path= options",
            ),
        ] {
            assert_eq!(error.told_by("optool"), told);
        }
    }
}
