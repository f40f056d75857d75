//! Copies files into the archive's directory, and never anywhere else.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use crate::atomic_file::PartialFile;

/// Largest file copied, in bytes. No binary comes near; `/proc/kcore`, which a session might name, is far beyond.
pub const MAX_COPY: u64 = 16 << 30;

/// Why a file is not in the archive.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A device, a pipe, a directory.
    #[error("{} is no regular file", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// The file is larger than [`MAX_COPY`].
    #[error("{} is larger than {MAX_COPY} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The place in the archive would lie outside of it.
    #[error("{} leads out of the archive", path.display())]
    Outside {
        /// The place, relative to the archive.
        path: PathBuf,
    },
    /// There is a link in the archive on the way to the place.
    #[error("{} is a link, and the archive is to lie within its directory", path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// The copy cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The copy.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The directory of an archive.
#[derive(Debug)]
pub struct ArchiveDirectory {
    path: PathBuf,
}

impl ArchiveDirectory {
    /// The directory at `path`, which is made if it does not exist.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> Result<Self, CopyError> {
        fs::create_dir_all(path).map_err(|source| CopyError::Write {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Copies the file `from` to `place` in the archive, with its modification time. A leading `/` of the place stands
    /// for the archive. The copy appears as a whole, and cannot be run: it is there to be read.
    ///
    /// # Errors
    /// When the file cannot be read or written or does not belong into an archive.
    pub fn copy(&self, from: &Path, place: &Path) -> Result<(), CopyError> {
        let read = |source| CopyError::Read {
            path: from.to_owned(),
            source,
        };
        // Before the file is opened: opening a pipe waits for its writer.
        let metadata = fs::metadata(from).map_err(read)?;
        if !metadata.is_file() {
            return Err(CopyError::NotRegular {
                path: from.to_owned(),
            });
        }
        let file = File::open(from).map_err(read)?;
        let to = self.make_way(place)?;
        let write = |source| CopyError::Write {
            path: to.clone(),
            source,
        };
        let mut partial = PartialFile::create(&to).map_err(write)?;
        let copied = io::copy(&mut file.take(MAX_COPY + 1), &mut partial.file).map_err(write)?;
        if copied > MAX_COPY {
            return Err(CopyError::TooLarge {
                path: from.to_owned(),
            });
        }
        let modified = metadata.modified().map_err(read)?;
        partial.file.set_modified(modified).map_err(write)?;
        partial.finish().map_err(write)
    }

    /// The path of `place`, whose directories are there afterwards, none of them a link.
    fn make_way(&self, place: &Path) -> Result<PathBuf, CopyError> {
        let mut components = Vec::new();
        for component in place.components() {
            match component {
                Component::Normal(name) => components.push(name),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(CopyError::Outside {
                        path: place.to_owned(),
                    });
                }
            }
        }
        let Some(last) = components.pop() else {
            return Err(CopyError::Outside {
                path: place.to_owned(),
            });
        };
        let mut path = self.path.clone();
        for directory in components {
            path.push(directory);
            let made = match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_symlink() => return Err(CopyError::Link { path }),
                Ok(_) => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&path),
                Err(error) => Err(error),
            };
            if let Err(source) = made {
                return Err(CopyError::Write { path, source });
            }
        }
        // What is at the place itself is replaced, be it a link.
        path.push(last);
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::{Duration, UNIX_EPOCH};
    use tempfile::TempDir;

    struct World {
        dir: TempDir,
        archive: ArchiveDirectory,
        source: PathBuf,
    }

    fn world() -> World {
        let dir = TempDir::new().unwrap();
        let archive = ArchiveDirectory::create(&dir.path().join("out/archive")).unwrap();
        let source = dir.path().join("source");
        fs::write(&source, "content").unwrap();
        World {
            dir,
            archive,
            source,
        }
    }

    #[test]
    fn copy_keeps_the_time_and_cannot_be_run() {
        let world = world();
        let time = UNIX_EPOCH + Duration::from_secs(1_234_567);
        let file = File::options().append(true).open(&world.source).unwrap();
        file.set_modified(time).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o4755))
            .unwrap();
        let place = Path::new("/usr/bin/program");
        world.archive.copy(&world.source, place).unwrap();
        let copy = world.dir.path().join("out/archive/usr/bin/program");
        assert_eq!(fs::read(&copy).unwrap(), b"content");
        let metadata = fs::metadata(&copy).unwrap();
        assert_eq!(metadata.modified().unwrap(), time);
        assert_eq!(metadata.permissions().mode() & 0o7111, 0);
        world.archive.copy(&world.source, place).unwrap();
        assert_eq!(
            fs::read_dir(copy.parent().unwrap()).unwrap().count(),
            1,
            "no temporary file stays"
        );
    }

    #[test]
    fn no_place_leads_out_of_the_archive() {
        let world = world();
        for place in ["../escaped", "/a/../../escaped", "a/../b", "..", "/", ""] {
            let error = world.archive.copy(&world.source, Path::new(place));
            assert!(matches!(error, Err(CopyError::Outside { .. })), "{place}");
        }
        assert!(!world.dir.path().join("out/escaped").exists());
    }

    #[test]
    fn links_in_the_archive_are_not_followed() {
        let world = world();
        let outside = world.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "precious").unwrap();
        let archive = world.dir.path().join("out/archive");
        symlink(&outside, archive.join("link")).unwrap();
        assert!(matches!(
            world
                .archive
                .copy(&world.source, Path::new("link/precious")),
            Err(CopyError::Link { .. })
        ));
        symlink(outside.join("precious"), archive.join("file")).unwrap();
        world
            .archive
            .copy(&world.source, Path::new("file"))
            .unwrap();
        assert_eq!(fs::read(outside.join("precious")).unwrap(), b"precious");
        assert_eq!(fs::read(archive.join("file")).unwrap(), b"content");
    }

    #[test]
    fn only_regular_files_are_copied() {
        let world = world();
        for path in [Path::new("/dev/null"), world.dir.path()] {
            assert!(matches!(
                world.archive.copy(path, Path::new("x")),
                Err(CopyError::NotRegular { .. })
            ));
        }
        assert!(matches!(
            world.archive.copy(Path::new("/nowhere"), Path::new("x")),
            Err(CopyError::Read { .. })
        ));
    }

    #[test]
    fn file_in_the_place_of_a_directory_is_told() {
        let world = world();
        world.archive.copy(&world.source, Path::new("a")).unwrap();
        let error = world.archive.copy(&world.source, Path::new("a/b"));
        assert!(matches!(error, Err(CopyError::Write { .. })), "{error:?}");
        world.archive.copy(&world.source, Path::new("c/d")).unwrap();
        let error = world.archive.copy(&world.source, Path::new("c"));
        assert!(matches!(error, Err(CopyError::Write { .. })), "{error:?}");
    }
}
