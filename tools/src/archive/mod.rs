//! `oparchive`: a session with everything that is needed to read it, in one directory.
//!
//! * [`plan`]: which files, and where they go;
//! * [`copy`]: copies them, and never out of the archive.

pub mod copy;
pub mod plan;

pub use copy::{ArchiveDirectory, CopyError};
pub use plan::{Entry, Plan, Request, plan};

use crate::progress::Progress;

impl Plan {
    /// Copies all files. Those that cannot be copied are returned; the others are in the archive. `progress` counts files.
    pub fn copy(&self, directory: &ArchiveDirectory, progress: &Progress) -> Vec<CopyError> {
        progress.expect(self.entries.len());
        let mut failures = Vec::new();
        for entry in &self.entries {
            failures.extend(directory.copy(&entry.from, &entry.place).err());
            progress.advance(1);
        }
        failures
    }
}
