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
