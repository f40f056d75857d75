//! Files that appear whole or not at all: written beside their place under another name, then moved.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// Attempts at a free temporary name. Only files that an interrupted run left are in the way.
const MAX_ATTEMPTS: u32 = 1000;

/// A file that is being written. Unless it is [finished](PartialFile::finish), nothing stays.
#[derive(Debug)]
pub struct PartialFile {
    /// Where the bytes go.
    pub file: File,
    partial: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl PartialFile {
    /// Begins a file that will be at `path`.
    ///
    /// # Errors
    /// When its directory cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::from(ErrorKind::InvalidFilename))?;
        for attempt in 0..MAX_ATTEMPTS {
            // A name of its own, not the file's with something behind: that might be too long.
            let partial = path.with_file_name(OsString::from(format!(
                ".oprofile-partial-{}-{attempt}",
                std::process::id()
            )));
            if partial.file_name() == Some(name) {
                continue;
            }
            // `create_new` follows no link that lies in wait at this name.
            match File::create_new(&partial) {
                Ok(file) => {
                    return Ok(Self {
                        file,
                        partial,
                        path: path.to_owned(),
                        finished: false,
                    });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::from(ErrorKind::AlreadyExists))
    }

    /// Moves the file to its place.
    ///
    /// # Errors
    /// When that is not possible; the file is gone then and what was at its place is intact.
    pub fn finish(mut self) -> io::Result<()> {
        fs::rename(&self.partial, &self.path)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.finished {
            // Only the room is lost when this fails.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Writes `bytes` to the file at `path`.
///
/// # Errors
/// When that is not possible; what was there is intact then.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut partial = PartialFile::create(path)?;
    partial.file.write_all(bytes)?;
    partial.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn names(dir: &TempDir) -> Vec<OsString> {
        fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect()
    }

    #[test]
    fn file_is_replaced_as_a_whole() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("file");
        write(&path, b"old").unwrap();
        let mut partial = PartialFile::create(&path).unwrap();
        partial.file.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        partial.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(&dir), ["file"]);
    }

    #[test]
    fn file_that_is_given_up_leaves_nothing() {
        let dir = TempDir::new().unwrap();
        drop(PartialFile::create(&dir.path().join("file")).unwrap());
        fs::create_dir(dir.path().join("taken")).unwrap();
        write(&dir.path().join("taken"), b"x").unwrap_err();
        assert_eq!(names(&dir), ["taken"]);
    }

    #[test]
    fn link_that_lies_in_wait_is_not_followed() {
        let dir = TempDir::new().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let planted = format!(".oprofile-partial-{}-0", std::process::id());
        std::os::unix::fs::symlink(&victim, dir.path().join(planted)).unwrap();
        let path = dir.path().join("file");
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
