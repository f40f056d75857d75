//! Source and assembly with the samples beside them.
//!
//! [`collect`] makes the [`model`] of a session; [`source`] and [`assembly`] are the two ways to show it.

pub mod assembly;
pub mod collect;
mod columns;
pub mod model;
pub mod paths;
pub mod source;

use std::io::{self, Write};
use std::path::PathBuf;

/// Why nothing, or not everything, is annotated.
#[derive(Debug, thiserror::Error)]
pub enum AnnotateError {
    /// The report cannot be written.
    #[error("Cannot write the annotation")]
    Output(#[from] io::Error),
    /// A file cannot be read or written.
    #[error("Cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The output directory is that of the sources.
    #[error("{path} is the source itself: choose another --output-dir")]
    OverSource {
        /// The file.
        path: PathBuf,
    },
    /// Some files were not written; why was told.
    #[error("{files} of the annotated files could not be written")]
    Incomplete {
        /// How many.
        files: usize,
    },
    /// The disassembler is not there.
    #[error("objdump was not found: install the package binutils")]
    NoObjdump,
    /// The disassembler cannot be run.
    #[error("Cannot run objdump")]
    Objdump(#[source] io::Error),
}

impl AnnotateError {
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

/// Where an annotation goes.
#[derive(Debug)]
pub struct Sink<W> {
    output: W,
    terminal: bool,
}

impl<W: Write> Sink<W> {
    /// A file or pipe: text of others goes there as it is.
    pub fn file(output: W) -> Self {
        Self {
            output,
            terminal: false,
        }
    }

    /// A terminal: text of others must not control it.
    pub fn terminal(output: W) -> Self {
        Self {
            output,
            terminal: true,
        }
    }

    /// Writes text of our own.
    pub fn write(&mut self, text: &[u8]) -> io::Result<()> {
        self.output.write_all(text)
    }

    /// Writes a line that someone else made.
    fn write_foreign(&mut self, line: &[u8]) -> io::Result<()> {
        if !self.terminal {
            return self.output.write_all(line);
        }
        for (number, part) in line.split(|byte| *byte == b'\t').enumerate() {
            if number > 0 {
                self.output.write_all(b"\t")?;
            }
            self.output
                .write_all(crate::names::printable(part).as_bytes())?;
        }
        Ok(())
    }

    /// Writes what is still held back.
    pub fn finish(mut self) -> io::Result<()> {
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_cannot_control_a_terminal() {
        let line = b"\tputs(\"\x1b[2J\");\r\xff";
        let mut bytes = Vec::new();
        Sink::file(&mut bytes).write_foreign(line).unwrap();
        assert_eq!(bytes, line);
        let mut bytes = Vec::new();
        Sink::terminal(&mut bytes).write_foreign(line).unwrap();
        assert_eq!(bytes, b"\tputs(\"\\x1b[2J\");\\x0d\\xff");
    }
}
