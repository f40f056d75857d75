//! The guest's files: packed as a cpio archive, or unpacked on the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cpio::newc::{self, ModeFileType};

use crate::{Error, output};

/// Time of modification of every file, in seconds since 1970 (2025-01-01): the same input gives the same bytes.
pub const MTIME: u32 = 1_735_689_600;

const DIRECTORY_MODE: u32 = 0o755;
const PROGRAM_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// Files by path, relative to the guest's root.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    files: BTreeMap<String, Vec<u8>>,
}

impl Tree {
    /// Adds a file. A leading `/` means nothing.
    pub fn insert(&mut self, path: &str, bytes: Vec<u8>) {
        self.files
            .insert(path.trim_start_matches('/').to_owned(), bytes);
    }

    /// The bytes of a file.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&[u8]> {
        self.files
            .get(path.trim_start_matches('/'))
            .map(Vec::as_slice)
    }

    /// Paths and bytes, in the order of paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files
            .iter()
            .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
    }

    /// Directories that the files lie in, each after the one that holds it.
    fn directories(&self) -> BTreeSet<&str> {
        let parents = |path| Path::new(path).ancestors().skip(1);
        self.files
            .keys()
            .flat_map(|path| parents(path.as_str()))
            .filter_map(Path::to_str)
            .filter(|path| !path.is_empty())
            .collect()
    }

    /// Packs the tree: directories first, then files.
    ///
    /// # Errors
    /// When a file is larger than the format can say.
    pub fn to_cpio(&self) -> Result<Vec<u8>, Error> {
        let directories = self
            .directories()
            .into_iter()
            .map(|path| (path, &[][..], ModeFileType::Directory, DIRECTORY_MODE, 2));
        let files = self.iter().map(|(path, bytes)| {
            let mode = if path.starts_with("bin/") {
                PROGRAM_MODE
            } else {
                FILE_MODE
            };
            (path, bytes, ModeFileType::Regular, mode, 1)
        });
        let mut archive = Vec::new();
        for ((path, bytes, kind, mode, links), inode) in directories.chain(files).zip(1..) {
            let too_large = |_| Error::TooLarge {
                path: path.to_owned(),
            };
            let length = u32::try_from(bytes.len()).map_err(too_large)?;
            let mut entry = newc::Builder::new(path)
                .ino(inode)
                .mode(mode)
                .nlink(links)
                .mtime(MTIME)
                .set_mode_file_type(kind)
                .write(&mut archive, length);
            entry
                .write_all(bytes)
                .and_then(|()| entry.finish().map(drop))
                .map_err(|source| Error::Write {
                    path: path.into(),
                    source,
                })?;
        }
        newc::trailer(&mut archive).map_err(|source| Error::Write {
            path: "initrd".into(),
            source,
        })?;
        Ok(archive)
    }

    /// Makes the directory `root` hold this tree and nothing else, all files with [`MTIME`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn unpack(&self, root: &Path) -> Result<(), Error> {
        self.remove_strangers(root, "")?;
        for (path, bytes) in self.iter() {
            let path = root.join(path);
            output::write_if_changed(&path, bytes)?;
            set_mtime(&path).map_err(|source| Error::Write { path, source })?;
        }
        Ok(())
    }

    /// Removes what an earlier tree had and this one has not, below the directory `inside` of the tree.
    fn remove_strangers(&self, root: &Path, inside: &str) -> Result<(), Error> {
        let directory = root.join(inside);
        // What is not there has no strangers; what cannot be listed will say so when it is written.
        let Ok(entries) = fs::read_dir(&directory) else {
            return Ok(());
        };
        let directories = self.directories();
        for entry in entries.flatten() {
            let path = entry.path();
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let relative = path.strip_prefix(root).ok().and_then(Path::to_str);
            match relative {
                Some(relative) if is_directory && directories.contains(relative) => {
                    self.remove_strangers(root, relative)?;
                    continue;
                }
                Some(relative) if !is_directory && self.files.contains_key(relative) => continue,
                _ => {}
            }
            let removed = if is_directory {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|source| Error::Write { path, source })?;
        }
        Ok(())
    }
}

fn set_mtime(path: &Path) -> std::io::Result<()> {
    let wanted: SystemTime = UNIX_EPOCH + Duration::from_secs(MTIME.into());
    if fs::metadata(path)?.modified()? == wanted {
        return Ok(());
    }
    fs::File::options()
        .write(true)
        .open(path)?
        .set_modified(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    fn unpack_cpio(mut archive: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            let mut reader = newc::Reader::new(archive).unwrap();
            if reader.entry().is_trailer() {
                return entries;
            }
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            let entry = reader.entry();
            let (name, mode, mtime) = (entry.name().to_owned(), entry.mode(), entry.mtime());
            entries.push((name, mode, mtime, bytes));
            archive = reader.finish().unwrap();
        }
    }

    fn sample() -> Tree {
        let mut tree = Tree::default();
        tree.insert("/lib/modules/m.ko", vec![1, 2, 3]);
        tree.insert("bin/init", vec![4; 5]);
        tree
    }

    #[test]
    fn directories_come_before_what_they_hold() {
        let entries = unpack_cpio(&sample().to_cpio().unwrap());
        let names: Vec<_> = entries.iter().map(|entry| entry.0.as_str()).collect();
        let expected = ["bin", "lib", "lib/modules", "bin/init", "lib/modules/m.ko"];
        assert_eq!(names, expected);
    }

    #[test]
    fn modes_and_times_are_fixed() {
        for (name, mode, mtime, _) in unpack_cpio(&sample().to_cpio().unwrap()) {
            let expected = match name.as_str() {
                "bin/init" => 0o100_755,
                "lib/modules/m.ko" => 0o100_644,
                _ => 0o040_755,
            };
            assert_eq!(mode, expected, "{name}");
            assert_eq!(mtime, MTIME, "{name}");
        }
    }

    #[test]
    fn unpacked_tree_is_the_packed_one_with_its_times() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        sample().unpack(&root).unwrap();
        for (path, bytes) in sample().iter() {
            assert_eq!(fs::read(root.join(path)).unwrap(), bytes);
            let modified = fs::metadata(root.join(path)).unwrap().modified().unwrap();
            let seconds = modified.duration_since(UNIX_EPOCH).unwrap();
            assert_eq!(seconds, Duration::from_secs(MTIME.into()));
        }
    }

    #[test]
    fn files_of_an_earlier_tree_go() {
        let directory = tempfile::tempdir().unwrap();
        let mut earlier = sample();
        earlier.insert("old/thing", vec![1]);
        earlier.insert("bin/gone", vec![1]);
        earlier.unpack(directory.path()).unwrap();
        sample().unpack(directory.path()).unwrap();
        assert!(!directory.path().join("old").exists());
        assert!(!directory.path().join("bin/gone").exists());
        assert!(directory.path().join("bin/init").exists());
    }

    proptest! {
        #[test]
        fn files_round_trip(
            files in prop::collection::btree_map("[a-z]{1,9}(/[a-z]{1,9}x){0,3}y", prop::collection::vec(any::<u8>(), 0..50), 0..10)
        ) {
            let mut tree = Tree::default();
            for (path, bytes) in &files {
                tree.insert(path, bytes.clone());
            }
            let unpacked = unpack_cpio(&tree.to_cpio().unwrap());
            let regular = unpacked.into_iter().filter(|entry| entry.1 & 0o100_000 != 0);
            let found: BTreeMap<_, _> = regular.map(|entry| (entry.0, entry.3)).collect();
            prop_assert_eq!(found, files);
        }
    }
}
