//! The copy of the data that cases run on: repositories keep neither file times nor empty directories.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tempfile::TempDir;

use crate::{Error, big};

/// What a repository does not keep.
#[derive(Debug, Deserialize)]
struct Manifest {
    /// Seconds since 1970 for a file below the data.
    mtimes: BTreeMap<String, u64>,
    empty_dirs: Vec<String>,
}

/// A copy of the data, and room for what the cases write. It is removed when dropped.
#[derive(Debug)]
pub struct Stage {
    work: TempDir,
    data: PathBuf,
}

impl Stage {
    /// Copies `data`; makes the big session with the seed `big` as well, if there is one.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn new(data: &Path, big: Option<u64>) -> Result<Self, Error> {
        let work = tempfile::Builder::new()
            .prefix("golden")
            .tempdir()
            .map_err(Error::io(&std::env::temp_dir()))?;
        // A tool may print the path with links resolved.
        let root = work.path().canonicalize().map_err(Error::io(work.path()))?;
        let copy = root.join("data");
        copy_tree(data, &copy)?;
        let path = data.join("MANIFEST.json");
        let text = fs::read(&path).map_err(Error::io(&path))?;
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|source| Error::Manifest { path, source })?;
        for name in &manifest.empty_dirs {
            let path = copy.join(name);
            fs::create_dir_all(&path).map_err(Error::io(&path))?;
        }
        for (name, &seconds) in &manifest.mtimes {
            let path = copy.join(name);
            set_mtime(&path, seconds).map_err(Error::io(&path))?;
        }
        if let Some(seed) = big {
            big::write(&copy, seed)?;
        }
        Ok(Self { work, data: copy })
    }

    /// The copy of the data.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A new empty folder for a case, removed when dropped.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn case_folder(&self) -> Result<TempDir, Error> {
        let root = self.data.parent().unwrap_or(self.work.path());
        let mut builder = tempfile::Builder::new();
        builder
            .prefix("case")
            .tempdir_in(root)
            .map_err(Error::io(root))
    }
}

/// Copies a tree of files and directories, links followed; what is copied can be written.
fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    fs::create_dir_all(to).map_err(Error::io(to))?;
    for entry in fs::read_dir(from).map_err(Error::io(from))? {
        let name = entry.map_err(Error::io(from))?.file_name();
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy_tree(&from, &to)?;
        } else {
            let bytes = fs::read(&from).map_err(Error::io(&from))?;
            fs::write(&to, bytes).map_err(Error::io(&to))?;
        }
    }
    Ok(())
}

/// Sets the modification time of a file, in seconds since 1970.
pub(crate) fn set_mtime(path: &Path, seconds: u64) -> io::Result<()> {
    File::open(path)?.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}
