//! The session directory: set up once, then files are put in their places whole.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::CollectorError;

/// Longest path of a session directory in bytes; see [`crate::guest_path::MAX_PATH`].
const MAX_DIRECTORY: usize = 800;
/// Longest name of a session that is kept, in bytes: with `-root` behind it, it is a name for any file system.
const MAX_NAME: usize = 64;
/// The place of the session in the guest tree, and the way back from there.
const OPROFILE_LINK: (&str, &str) = ("var/lib/oprofile", "../../..");

/// Data layout of this machine, as the 1.x tools write it.
pub(crate) const ABI: &str = "\
sizeof_double 8
sizeof_u64 8
sizeof_u8 1
sizeof_u32 4
sizeof_int 4
sizeof_unsigned_int 4
sizeof_odb_key_t 8
sizeof_odb_index_t 4
sizeof_odb_value_t 4
sizeof_odb_node_nr_t 4
sizeof_odb_descr_t 32
sizeof_odb_node_t 16
sizeof_struct_opd_header 72
offsetof_node_key 0
offsetof_node_value 8
offsetof_node_next 12
offsetof_descr_size 0
offsetof_descr_current_size 4
offsetof_header_magic 0
offsetof_header_version 4
offsetof_header_cpu_type 8
offsetof_header_ctr_event 12
offsetof_header_ctr_um 16
offsetof_header_ctr_count 20
offsetof_header_is_kernel 24
offsetof_header_cpu_speed 32
offsetof_header_mtime 40
offsetof_header_cg_to_is_kernel 48
offsetof_header_anon_start 56
offsetof_header_cg_to_anon_start 64
little_endian 1
";

/// Whether a file of the guest tree got its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    Yes,
    /// The guest names a file and a directory alike. No reason to stop.
    NameTaken,
}

/// The directory of one session, locked.
#[derive(Debug)]
pub(super) struct SessionDirectory {
    path: PathBuf,
    lock: File,
    started: SystemTime,
    next_partial: u64,
}

impl SessionDirectory {
    /// Sets up `path`; a session that is there becomes the previous one.
    pub(super) fn create(path: &Path) -> Result<Self, CollectorError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| CollectorError::Directory { path, source }
        };
        fs::create_dir_all(path).map_err(at(path))?;
        // Absolute, so that a later change of the working directory does no harm.
        let path = fs::canonicalize(path).map_err(at(path))?;
        if path.as_os_str().len() > MAX_DIRECTORY {
            return Err(CollectorError::PathTooLong {
                path,
                limit: MAX_DIRECTORY,
            });
        }
        let lock_path = path.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CollectorError::InUse { path }),
            Err(TryLockError::Error(source)) => {
                return Err(CollectorError::Directory {
                    path: lock_path,
                    source,
                });
            }
        }
        let mut directory = Self {
            path,
            lock,
            started: SystemTime::now(),
            next_partial: 0,
        };
        directory.rotate()?;
        directory.set_up().map_err(at(&directory.path))?;
        directory.place("abi", ABI.as_bytes())?;
        Ok(directory)
    }

    /// Seconds since 1970 at which the session began.
    pub(super) fn started(&self) -> u64 {
        self.started
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }

    fn rotate(&self) -> Result<(), CollectorError> {
        let root = self.path.join("root");
        let foreign = root.symlink_metadata().is_ok()
            && fs::read_link(root.join(OPROFILE_LINK.0)).ok().as_deref()
                != Some(Path::new(OPROFILE_LINK.1));
        if foreign {
            return Err(CollectorError::ForeignRoot { path: root });
        }
        let samples = self.path.join("samples");
        for (current, previous) in [
            (samples.join("current"), samples.join("previous")),
            (root, self.path.join("previous-root")),
        ] {
            let moved = match current.symlink_metadata() {
                Ok(_) => remove_tree(&previous).and_then(|()| fs::rename(&current, &previous)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            };
            moved.map_err(|source| CollectorError::Directory {
                path: current,
                source,
            })?;
        }
        Ok(())
    }

    fn set_up(&self) -> io::Result<()> {
        remove_tree(&self.path.join("partial"))?;
        fs::create_dir(self.path.join("partial"))?;
        fs::create_dir_all(self.path.join("samples/current"))?;
        let link = self.path.join("root").join(OPROFILE_LINK.0);
        if let Some(parent) = link.parent() {
            fs::create_dir_all(parent)?;
        }
        symlink(OPROFILE_LINK.1, link)
    }

    /// Puts a file at `name` below the session directory.
    pub(super) fn place(&mut self, name: &str, bytes: &[u8]) -> Result<(), CollectorError> {
        self.put(&self.path.join(name), bytes, None)
    }

    /// Puts a file at `name` below the current session's samples.
    pub(super) fn place_in_session(
        &mut self,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), CollectorError> {
        self.put(&self.path.join("samples/current").join(name), bytes, None)
    }

    /// Puts a sample file in its place.
    pub(super) fn place_sample_file(
        &mut self,
        name: &Path,
        bytes: &[u8],
    ) -> Result<(), CollectorError> {
        debug_assert!(name.is_relative());
        self.put(&self.path.join("samples/current").join(name), bytes, None)
    }

    /// Puts a file into the guest tree. `mtime` is in seconds since 1970.
    pub(super) fn place_in_tree(
        &mut self,
        name: &Path,
        bytes: &[u8],
        mtime: u64,
    ) -> Result<Placed, CollectorError> {
        debug_assert!(name.is_relative());
        match self.put(&self.path.join("root").join(name), bytes, Some(mtime)) {
            Ok(()) => Ok(Placed::Yes),
            Err(CollectorError::Write { source, .. }) if is_name_conflict(&source) => {
                Ok(Placed::NameTaken)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a file out of the guest tree; that it is not there is fine.
    pub(super) fn remove_from_tree(&mut self, name: &Path) -> Result<(), CollectorError> {
        debug_assert!(name.is_relative());
        let path = self.path.join("root").join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(CollectorError::Write { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Writes a file aside and moves it to `path`, so that there is always the old or the new one, never a part.
    fn put(&mut self, path: &Path, bytes: &[u8], mtime: Option<u64>) -> Result<(), CollectorError> {
        // Aside means outside `samples/current`: report tools take each file in there for a sample file.
        let partial = self
            .path
            .join("partial")
            .join(self.next_partial.to_string());
        self.next_partial += 1;
        let written = write_file(&partial, bytes, mtime).and_then(|()| {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::rename(&partial, path)
        });
        written.map_err(|source| {
            // Gives the room back; when that fails too, the next session clears the folder.
            let _ = fs::remove_file(&partial);
            CollectorError::Write {
                path: path.to_owned(),
                source,
            }
        })
    }

    /// Whether a session can be kept as `name`. Names are those of a plain file; `partial` and the like are below `samples/`,
    /// where they mean nothing.
    pub(super) fn check_name(&self, name: &str) -> Result<(), CollectorError> {
        let usable = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if !(1..=MAX_NAME).contains(&name.len())
            || name.starts_with(['.', '-'])
            || !name.bytes().all(usable)
            || ["current", "previous"].contains(&name)
        {
            return Err(CollectorError::Name(name.to_owned()));
        }
        let (samples, root) = self.kept(name);
        if samples.symlink_metadata().is_ok() || root.symlink_metadata().is_ok() {
            return Err(CollectorError::NameTaken(name.to_owned()));
        }
        Ok(())
    }

    /// Where the samples and the guest tree of a session are that is kept as `name`.
    fn kept(&self, name: &str) -> (PathBuf, PathBuf) {
        let root = self.path.join(format!("{name}-root"));
        (self.path.join("samples").join(name), root)
    }

    /// Keeps the current session as `name`, with its guest tree, and makes an empty one.
    pub(super) fn keep_current(&self, name: &str) -> Result<(), CollectorError> {
        let (samples, root) = self.kept(name);
        let current = self.path.join("samples/current");
        // Files of the guest tree are put in their places whole and never changed, so a link is as good as a copy.
        let kept = link_tree(&self.path.join("root"), &root)
            .and_then(|()| fs::rename(&current, &samples))
            .and_then(|()| fs::create_dir(&current));
        kept.map_err(|source| {
            // The samples are still in place unless only the last step failed; then the next file makes the directory.
            if samples.symlink_metadata().is_err() {
                let _ = fs::remove_dir_all(&root);
            }
            CollectorError::Write {
                path: samples,
                source,
            }
        })
    }

    /// Removes what is in the current session.
    pub(super) fn empty_current(&self) -> Result<(), CollectorError> {
        let current = self.path.join("samples/current");
        remove_tree(&current)
            .and_then(|()| fs::create_dir(&current))
            .map_err(|source| CollectorError::Directory {
                path: current,
                source,
            })
    }

    /// Tidies up at the end of the session.
    pub(super) fn close(self) {
        // What cannot be removed does no harm and is removed by the next session.
        let _ = fs::remove_dir_all(self.path.join("partial"));
        let _ = self.lock.unlock();
    }
}

fn write_file(path: &Path, bytes: &[u8], mtime: Option<u64>) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    if let Some(time) = mtime.and_then(|mtime| UNIX_EPOCH.checked_add(Duration::from_secs(mtime))) {
        file.set_modified(time)?;
    }
    Ok(())
}

/// Makes the directories of `from` again below `to`, which must not exist, with links to its files.
fn link_tree(from: &Path, to: &Path) -> io::Result<()> {
    // Depth is that of a path, which `guest_path` bounds; a stack of our own all the same.
    let mut waiting = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = waiting.pop() {
        fs::create_dir(&to)?;
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let copy = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                waiting.push((entry.path(), copy));
            } else {
                // Links are linked as such: link(2) follows none.
                fs::hard_link(entry.path(), copy)?;
            }
        }
    }
    Ok(())
}

fn is_name_conflict(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::DirectoryNotEmpty
            | ErrorKind::InvalidFilename
    )
}

/// Removes a directory with all in it; that it does not exist is fine.
fn remove_tree(path: &Path) -> io::Result<()> {
    debug_assert!(path.as_os_str().as_bytes().len() > 1);
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
