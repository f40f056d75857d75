//! Writing results so that what did not change keeps its time and nobody ever sees half a file.

use std::ffi::OsString;
use std::path::Path;

use crate::Error;

/// Makes `path` hold `bytes`. Says whether it did not before.
pub fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool, Error> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut partial = OsString::from(path);
    partial.push(".partial");
    std::fs::write(&partial, bytes).map_err(failed)?;
    std::fs::rename(&partial, path).map_err(failed)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/file");
        assert!(write_if_changed(&path, b"one").unwrap());
        assert!(!write_if_changed(&path, b"one").unwrap());
        assert!(write_if_changed(&path, b"two").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
    }

    #[test]
    fn error_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let error = write_if_changed(directory.path(), b"x").unwrap_err();
        let name = directory.path().display().to_string();
        assert_eq!(error.to_string(), format!("Cannot write {name}"));
    }
}
