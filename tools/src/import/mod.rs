//! `opimport`: sample files of a machine with another byte order or layout become files of this one.
//!
//! * [`abi`]: the layout, from the `abi` file of the foreign session;
//! * [`foreign`]: reads a file of that layout.

pub mod abi;
pub mod foreign;

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use oprofile_session::sample_file::{self, SampleFile, SampleFileError};

use crate::atomic_file;
use crate::progress::{Counted, Progress};
use abi::{Abi, AbiError};
use foreign::ForeignError;

/// What to convert.
#[derive(Debug, Clone)]
pub struct Import {
    /// The sample file.
    pub input: PathBuf,
    /// The layout it has.
    pub abi: PathBuf,
    /// The file to make; a sample file that is there is added to.
    pub output: PathBuf,
    /// Whether a file of this machine's own layout is copied, too.
    pub force: bool,
    /// Counts the bytes of the input that were read.
    pub progress: Progress,
}

/// Why nothing was converted. The words are OProfile's where it has some; the causes are to be printed behind.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The abi file cannot be opened.
    #[error("error: cannot open abi file {}", path.display())]
    OpenAbi {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The abi file tells no layout.
    #[error("error: {}", path.display())]
    Abi {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: AbiError,
    },
    /// There is nothing to convert.
    #[error("input abi is identical to native. no conversion necessary.")]
    Native,
    /// The input cannot be opened.
    #[error("error: cannot open sample file {}", path.display())]
    OpenInput {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The input cannot be converted.
    #[error("error: {}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ForeignError,
    },
    /// The output exists and is no sample file that can be added to.
    #[error("error: cannot add to {}", path.display())]
    Existing {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: SampleFileError,
    },
    /// The sum with the output that exists has more keys than a sample file may have.
    #[error("error: {} would hold more than {} addresses", path.display(), sample_file::MAX_DISTINCT_KEYS)]
    TooManyKeys {
        /// The file.
        path: PathBuf,
    },
    /// The output cannot be written. What was there is intact.
    #[error("error: cannot write {}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What there is to say about a conversion that succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

impl Import {
    /// Converts the file. Each field that is read is told to `trace`. The output appears as a whole or not at all.
    ///
    /// # Errors
    /// When a file cannot be read or written or is not what it should be.
    pub fn run(&self, mut trace: Option<&mut dyn Write>) -> Result<Imported, ImportError> {
        let abi = File::open(&self.abi).map_err(|source| ImportError::OpenAbi {
            path: self.abi.clone(),
            source,
        })?;
        let abi = Abi::from_file(abi).map_err(|source| ImportError::Abi {
            path: self.abi.clone(),
            source,
        })?;
        if abi.is_native() && !self.force {
            return Err(ImportError::Native);
        }
        let input = File::open(&self.input).map_err(|source| ImportError::OpenInput {
            path: self.input.clone(),
            source,
        })?;
        // A length that is not known is no reason to fail.
        let length = input.metadata().map_or(0, |input| input.len());
        self.progress
            .expect(usize::try_from(length).unwrap_or(usize::MAX));
        let input = Counted {
            reader: input,
            progress: self.progress.clone(),
        };
        let trace = trace.as_mut().map(|trace| &mut **trace as &mut dyn Write);
        let mut file = foreign::read(BufReader::new(input), &abi, trace).map_err(|source| {
            ImportError::Input {
                path: self.input.clone(),
                source,
            }
        })?;
        let mut imported = Imported::default();
        if !foreign::is_readable_version(&file.header) {
            imported.warnings.push(format!(
                "warning: the file has header version {:#x}; report tools read {:#x} only.",
                file.header.version,
                sample_file::VERSION
            ));
        }
        self.add_existing(&mut file)?;
        if file.counts.len() > sample_file::MAX_DISTINCT_KEYS {
            return Err(ImportError::TooManyKeys {
                path: self.output.clone(),
            });
        }
        let cut = file
            .counts
            .values()
            .filter(|count| **count > u64::from(u32::MAX))
            .count();
        if cut > 0 {
            imported.warnings.push(format!(
                "warning: {cut} counts are beyond 32 bits and are written as {}.",
                u32::MAX
            ));
        }
        let counts = file.counts.iter().map(|(key, count)| (*key, *count));
        let bytes = sample_file::encode(&file.header, counts);
        atomic_file::write(&self.output, &bytes).map_err(|source| ImportError::Output {
            path: self.output.clone(),
            source,
        })?;
        Ok(imported)
    }

    /// Adds the counts of an output that is there already.
    fn add_existing(&self, file: &mut SampleFile) -> Result<(), ImportError> {
        let existing = match read_existing(&self.output) {
            Ok(existing) => existing,
            Err(source) => {
                return Err(ImportError::Existing {
                    path: self.output.clone(),
                    source,
                });
            }
        };
        for (key, count) in existing.into_iter().flat_map(|existing| existing.counts) {
            let sum = file.counts.entry(key).or_default();
            *sum = sum.saturating_add(count);
        }
        Ok(())
    }
}

/// The sample file at `path`, if there is one.
fn read_existing(path: &Path) -> Result<Option<SampleFile>, SampleFileError> {
    match SampleFile::read(path) {
        Err(SampleFileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
