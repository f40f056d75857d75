//! `oparchive`: a session with everything that is needed to read it, in one directory.
//!
//! * [`plan`]: which files, and where they go;
//! * [`copy`]: copies them, and never out of the archive.

pub mod copy;
pub mod plan;

pub use copy::{ArchiveDirectory, CopyError};
pub use plan::{Entry, Plan, Request, plan};

impl Plan {
    /// Copies all files. Those that cannot be copied are returned; the others are in the archive. `progress` is called
    /// before each file with the number of files done.
    pub fn copy(
        &self,
        directory: &ArchiveDirectory,
        mut progress: impl FnMut(usize),
    ) -> Vec<CopyError> {
        let mut failures = Vec::new();
        for (done, entry) in self.entries.iter().enumerate() {
            progress(done);
            failures.extend(directory.copy(&entry.from, &entry.place).err());
        }
        failures
    }
}
