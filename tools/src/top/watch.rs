//! When a session has changed.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, Metadata};
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::error::ToolError;
use crate::session::Places;

/// What a session's files looked like. Files are replaced, not written to, so inode, length and time tell the old from the new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Looks at all sample files and at the account; reads none.
    pub fn of(places: &Places) -> Result<Self, ToolError> {
        let mut hasher = DefaultHasher::new();
        look(&places.session_dir.join("account.txt"), &mut hasher);
        for file in places.sample_files()? {
            look(&file.path, &mut hasher);
        }
        Ok(Self(hasher.finish()))
    }
}

fn look(path: &Path, hasher: &mut DefaultHasher) {
    path.hash(hasher);
    // A file that has just gone looks different from any that is there.
    let seen = fs::metadata(path).ok();
    seen.as_ref().map(identity).hash(hasher);
}

fn identity(file: &Metadata) -> (u64, u64, u64, i64, i64) {
    (
        file.dev(),
        file.ino(),
        file.len(),
        file.mtime(),
        file.mtime_nsec(),
    )
}

#[cfg(test)]
mod tests {
    use oprofile_session::sample_file::{Header, encode};

    use super::*;
    use crate::spec::Specification;

    #[test]
    fn new_counts_and_new_accounts_are_changes_and_looking_is_none() {
        let session = tempfile::tempdir().unwrap();
        let directory = session
            .path()
            .join("samples/current/{root}/srv/a/{dep}/{root}/srv/a");
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("TIMER.0.0.all.all.0");
        let replace = |count| {
            let bytes = encode(&Header::timer(0, 0, 0), std::iter::once((1, count)));
            fs::write(session.path().join("new"), bytes).unwrap();
            fs::rename(session.path().join("new"), &file).unwrap();
        };
        let places = Places::find(Some(session.path()), None, &Specification::default());
        assert!(Fingerprint::of(&places).is_err());
        replace(1);
        let first = Fingerprint::of(&places).unwrap();
        assert_eq!(Fingerprint::of(&places).unwrap(), first);
        replace(2);
        let second = Fingerprint::of(&places).unwrap();
        assert_ne!(second, first);
        fs::write(session.path().join("account.txt"), "received 1\n").unwrap();
        assert_ne!(Fingerprint::of(&places).unwrap(), second);
    }
}
