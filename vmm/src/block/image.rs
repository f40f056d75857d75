//! The file behind a disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;

/// Bytes of a sector, the unit of the device.
pub const SECTOR: u64 = 512;

/// Why a disk image cannot be used.
#[derive(Debug, Error)]
pub enum ImageError {
    /// It cannot be opened.
    #[error("Cannot open disk image {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It may not be written.
    #[error(
        "Cannot open disk image {} for writing; change its permissions, or append ,ro for a disk that the guest may only read",
        path.display()
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is a directory or the like.
    #[error("Disk image {} is neither a file nor a block device", .0.display())]
    Kind(PathBuf),
    /// It has no whole number of sectors.
    #[error(
        "Disk image {} has {bytes} bytes, which is no whole number of {SECTOR}-byte sectors; is it a raw image?",
        path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
}

/// A raw disk image. Its size is fixed when it is opened.
#[derive(Debug)]
pub struct Image {
    file: File,
    bytes: u64,
    read_only: bool,
    path: PathBuf,
    has_failed: AtomicBool,
}

impl Image {
    /// Opens the image at `path`.
    ///
    /// # Errors
    /// When it cannot be opened like that, or is no raw image.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, ImageError> {
        let open = |source| ImageError::Open {
            path: path.to_owned(),
            source,
        };
        // Before it is opened: that would wait for ever at a pipe.
        let kind = fs::metadata(path).map_err(open)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(ImageError::Kind(path.to_owned()));
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                    if !read_only =>
                {
                    ImageError::Write {
                        path: path.to_owned(),
                        source,
                    }
                }
                _ => open(source),
            })?;
        // Also of a block device, whose metadata do not tell its size.
        let bytes = io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(open)?;
        if bytes == 0 || !bytes.is_multiple_of(SECTOR) {
            return Err(ImageError::Size {
                path: path.to_owned(),
                bytes,
            });
        }
        Ok(Self {
            file,
            bytes,
            read_only,
            path: path.to_owned(),
            has_failed: AtomicBool::new(false),
        })
    }

    /// Tells of the first failure of the host's file; the guest can make it fail as often as it likes.
    pub fn tell_failure(&self, what: &str, error: &io::Error) {
        if self.has_failed.swap(true, Ordering::Relaxed) {
            return;
        }
        let path = self.path.display();
        let reason = match error.kind() {
            io::ErrorKind::UnexpectedEof => "it has become shorter since it was opened".to_owned(),
            _ => error.to_string(),
        };
        tracing::warn!(
            "Cannot {what} disk image {path}: {reason}; the guest gets I/O errors, and no more of them are told"
        );
    }

    /// Number of sectors.
    pub const fn sectors(&self) -> u64 {
        self.bytes / SECTOR
    }

    /// Writes are refused.
    pub const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether `length` bytes from `sector` on lie on the disk.
    pub fn holds(&self, sector: u64, length: u64) -> bool {
        sector
            .checked_mul(SECTOR)
            .and_then(|start| start.checked_add(length))
            .is_some_and(|end| end <= self.bytes)
    }

    /// Reads from a byte on.
    ///
    /// # Errors
    /// As the file system; also when the file has become shorter.
    pub fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    /// Writes from a byte on.
    ///
    /// # Errors
    /// As the file system.
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    /// What was written is on the host's disk when this returns.
    ///
    /// # Errors
    /// As the file system.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(bytes: usize) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![7; bytes]).unwrap();
        file
    }

    #[test]
    fn size_is_counted_in_sectors() {
        let file = image(3 * 512);
        let disk = Image::open(file.path(), true).unwrap();
        assert_eq!(disk.sectors(), 3);
        assert!(disk.holds(2, 512) && disk.holds(3, 0));
        assert!(!disk.holds(2, 513) && !disk.holds(3, 1) && !disk.holds(u64::MAX, 1));
        assert!(!disk.holds(1 << 55, u64::MAX));
    }

    #[test]
    fn what_is_no_raw_image_is_refused_by_name() {
        let missing = Image::open(Path::new("/nonexistent/disk"), true).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/disk"));
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(
            Image::open(directory.path(), true),
            Err(ImageError::Kind(_))
        ));
        for bytes in [0, 511, 513] {
            let file = image(bytes);
            assert!(matches!(
                Image::open(file.path(), true),
                Err(ImageError::Size { .. })
            ));
        }
    }

    #[test]
    fn file_that_may_not_be_written_is_told_with_what_to_do() {
        // Nobody may write there, not even root.
        let path = Path::new("/sys/kernel/notes");
        let error = Image::open(path, false).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, ImageError::Write { .. }), "{error:?}");
        assert!(message.contains("/sys/kernel/notes") && message.contains(",ro"));
    }

    #[test]
    fn file_that_shrinks_is_an_error_and_no_more() {
        let file = image(1024);
        let disk = Image::open(file.path(), false).unwrap();
        file.as_file().set_len(512).unwrap();
        assert!(disk.read(512, &mut [0; 512]).is_err());
        assert!(disk.read(0, &mut [0; 512]).is_ok());
    }
}
