//! The socket in the file system.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use thiserror::Error;

/// Connections that wait to be accepted; the kernel refuses more.
const BACKLOG: i32 = 16;

/// Longest path: `sockaddr_un` has 108 bytes. Linux lets a path fill them, but most clients, Rust's among them, want a NUL
/// behind it and could not connect.
const MAX_PATH_BYTES: usize = 107;

/// Its user's alone.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// The path does not fit a socket's address.
    #[error("Control socket {} cannot be made: its path is longer than {MAX_PATH_BYTES} bytes", path.display())]
    TooLong {
        /// Its path.
        path: PathBuf,
    },
    /// Something else has the path.
    #[error("Control socket {} cannot be made: something that is no socket has that path; remove it or choose another one", path.display())]
    InTheWay {
        /// Its path.
        path: PathBuf,
    },
    /// Somebody listens there.
    #[error("Control socket {} is in use by a VM that runs; choose another path or end that VM", path.display())]
    InUse {
        /// Its path.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("Control socket {} cannot be made", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A socket that listens; removed when dropped.
#[derive(Debug)]
pub struct Listener {
    /// Does not block.
    pub socket: UnixListener,
    path: PathBuf,
    /// Device and inode: whether the path is still ours.
    id: (u64, u64),
}

impl Listener {
    /// Makes a socket at `path` that only this user can connect to. That of a VM that is dead is replaced, and nothing else:
    /// no link is followed, and two VMs that start at once do not take each other's.
    ///
    /// # Errors
    /// When `path` is taken or cannot be had.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let at = |source: io::Error| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        if path.as_os_str().len() > MAX_PATH_BYTES {
            return Err(SocketError::TooLong {
                path: path.to_owned(),
            });
        }
        let address = SocketAddrUnix::new(path).map_err(|error| at(error.into()))?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Held until the end: from the look at what is there to the new socket, no other VM looks.
        let directory = File::open(parent).map_err(at)?;
        match directory.try_lock() {
            Ok(()) => {}
            // Waiting would let whoever holds it keep the VM from starting without a word.
            Err(TryLockError::WouldBlock) => {
                let told =
                    "another program has locked its directory, a VM that starts perhaps; try again";
                return Err(at(io::Error::new(ErrorKind::WouldBlock, told)));
            }
            Err(TryLockError::Error(error)) => return Err(at(error)),
        }
        remove_stale(path, &address)?;
        let socket = socket().map_err(|error| at(error.into()))?;
        // Before it has a path: Linux gives the file the socket's mode (unix_bind), so there is no moment with another one.
        fchmod(&socket, MODE).map_err(|error| at(error.into()))?;
        bind(&socket, &address).map_err(|error| at(error.into()))?;
        let metadata = fs::symlink_metadata(path).map_err(at)?;
        let listener = Self {
            socket: UnixListener::from(socket),
            path: path.to_owned(),
            id: (metadata.dev(), metadata.ino()),
        };
        if Mode::from_raw_mode(metadata.mode()) != MODE {
            return Err(at(io::Error::new(
                ErrorKind::PermissionDenied,
                "its file system gives it another mode than 0600",
            )));
        }
        listen(&listener.socket, BACKLOG).map_err(|error| at(error.into()))?;
        Ok(listener)
    }
}

/// A stream socket that does not block.
fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Connects without waiting: a VM that is stopped accepts nobody, and may have as many waiting as there can be.
fn try_connect(address: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    let socket = socket()?;
    connect(&socket, address)?;
    Ok(socket)
}

/// Removes the socket of a dead VM.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), SocketError> {
    let at = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::InTheWay {
            path: path.to_owned(),
        });
    }
    match try_connect(address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(at),
        // A backlog that is full is one of somebody who lives.
        Ok(_) | Err(Errno::AGAIN) => Err(SocketError::InUse {
            path: path.to_owned(),
        }),
        Err(error) => Err(at(error.into())),
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.id);
        if ours {
            // One that stays is stale, and replaced by the next VM.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::umask;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    fn refused(path: &Path) -> SocketError {
        Listener::bind(path).unwrap_err()
    }

    #[test]
    fn a_socket_is_its_users_alone_and_goes_with_its_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = Listener::bind(&path).unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.mode() & 0o7777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    /// Somebody looks at the path all the time, and the umask takes nothing away (other tests name the modes of their files).
    #[test]
    fn there_is_no_moment_with_another_mode() {
        let before = umask(Mode::empty());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let over = AtomicBool::new(false);
        let seen = thread::scope(|scope| {
            let looker = scope.spawn(|| {
                let mut seen = 0;
                loop {
                    let last = over.load(Ordering::Acquire);
                    if let Ok(metadata) = fs::symlink_metadata(&path) {
                        assert_eq!(metadata.mode() & 0o7777, 0o600);
                        seen += 1;
                    }
                    if last {
                        break seen;
                    }
                }
            });
            for _ in 0..500 {
                drop(Listener::bind(&path).unwrap());
            }
            let _listener = Listener::bind(&path).unwrap();
            over.store(true, Ordering::Release);
            looker.join().unwrap()
        });
        umask(before);
        assert!(seen > 0);
    }

    #[test]
    fn a_vm_that_is_stopped_does_not_keep_another_one_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let stopped = UnixListener::bind(&path).unwrap();
        // Room for one that waits.
        listen(&stopped, 0).unwrap();
        let address = SocketAddrUnix::new(&path).unwrap();
        let mut waiting = Vec::new();
        let full = loop {
            match try_connect(&address) {
                Ok(socket) => waiting.push(socket),
                Err(error) => break error,
            }
            assert!(waiting.len() < 16, "the backlog does not fill");
        };
        assert_eq!(full, Errno::AGAIN);
        let (sender, told) = mpsc::channel();
        let other = path.clone();
        thread::spawn(move || sender.send(refused(&other)));
        let told = told.recv_timeout(Duration::from_secs(60));
        let told = told.expect("an answer without waiting for the VM that is stopped");
        assert!(matches!(told, SocketError::InUse { .. }), "{told}");
        assert!(path.exists());
    }

    #[test]
    fn a_socket_of_another_type_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let datagrams = UnixDatagram::bind(&path).unwrap();
        let told = refused(&path);
        assert!(matches!(told, SocketError::Io { .. }), "{told}");
        drop(datagrams);
        assert!(path.exists());
    }

    #[test]
    fn a_directory_that_is_locked_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let lock = File::open(directory.path()).unwrap();
        lock.try_lock().unwrap();
        let path = directory.path().join("s");
        let told = crate::report::Chain(&refused(&path)).to_string();
        assert!(
            told.contains("locked") && told.contains("try again"),
            "{told}"
        );
        drop(lock);
        let _listener = Listener::bind(&path).unwrap();
    }

    #[test]
    fn clients_can_connect_to_the_longest_path_that_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let room = MAX_PATH_BYTES - directory.path().as_os_str().len() - 1;
        let path = directory.path().join("x".repeat(room));
        let _listener = Listener::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        let longer = directory.path().join("x".repeat(room + 1));
        assert!(matches!(refused(&longer), SocketError::TooLong { .. }));
    }

    #[test]
    fn the_socket_of_a_vm_that_runs_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _listener = Listener::bind(&path).unwrap();
        assert!(matches!(refused(&path), SocketError::InUse { .. }));
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn the_socket_of_a_dead_vm_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let _listener = Listener::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn nothing_but_a_socket_is_replaced_and_no_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert!(matches!(refused(&file), SocketError::InTheWay { .. }));
        let link = directory.path().join("link");
        for target in ["file", "nowhere", "stale"] {
            let _ = fs::remove_file(&link);
            symlink(target, &link).unwrap();
            if target == "stale" {
                drop(UnixListener::bind(directory.path().join(target)).unwrap());
            }
            assert!(matches!(refused(&link), SocketError::InTheWay { .. }));
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        }
        assert_eq!(fs::read(&file).unwrap(), b"precious");
        assert!(!directory.path().join("nowhere").exists());
        assert!(directory.path().join("stale").exists());
    }

    #[test]
    fn a_path_that_has_been_given_to_another_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = Listener::bind(&path).unwrap();
        fs::rename(&path, directory.path().join("moved")).unwrap();
        fs::write(&path, "").unwrap();
        drop(listener);
        assert!(path.exists());
    }

    #[test]
    fn paths_that_cannot_be_had_are_told() {
        let long = Path::new("/tmp").join("x".repeat(120));
        assert!(matches!(refused(&long), SocketError::TooLong { .. }));
        let error = refused(Path::new("/nonexistent/s"));
        assert!(matches!(error, SocketError::Io { .. }), "{error}");
    }
}
