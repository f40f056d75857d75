//! The guest files that the host has at hand: those of the initrd.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Read};

use cpio::newc::Reader;
use oprofile_session::{GuestFile, GuestFiles};

/// File type bits of a cpio entry's mode, and that of a regular file (`inode(7)`).
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

#[derive(Debug)]
struct File {
    contents: Vec<u8>,
    mtime: u64,
}

/// Regular files of a newc cpio archive, by absolute path.
#[derive(Debug, Default)]
pub struct InitrdFiles {
    files: HashMap<Vec<u8>, File>,
}

impl InitrdFiles {
    /// Reads an archive. Entries other than regular files are left out.
    ///
    /// # Errors
    /// When it is no uncompressed newc archive, or is cut off.
    pub fn parse(mut archive: &[u8]) -> io::Result<Self> {
        let mut files = HashMap::new();
        loop {
            let mut reader = Reader::new(archive)?;
            let entry = reader.entry();
            if entry.is_trailer() {
                return Ok(Self { files });
            }
            if entry.mode() & TYPE == REGULAR {
                let path = absolute(entry.name());
                let mtime = u64::from(entry.mtime());
                let size = entry.file_size();
                let mut contents = Vec::new();
                // Grows as bytes arrive: the header's size may lie.
                reader.read_to_end(&mut contents)?;
                if contents.len() as u64 != u64::from(size) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                files.insert(path, File { contents, mtime });
            }
            archive = reader.finish()?;
        }
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// `bin/init` and `./bin/init` are `/bin/init` in the guest.
fn absolute(name: &str) -> Vec<u8> {
    let name = name
        .strip_prefix('.')
        .filter(|rest| rest.starts_with('/'))
        .unwrap_or(name);
    format!("/{}", name.trim_start_matches('/')).into_bytes()
}

impl GuestFiles for InitrdFiles {
    fn open(&self, path: &[u8]) -> Option<GuestFile<'_>> {
        self.files.get(path).map(|file| GuestFile {
            contents: Cow::Borrowed(&file.contents),
            mtime: file.mtime,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc::Builder;
    use std::io::Write;

    fn archive(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, mode, contents) in entries {
            let builder = Builder::new(name).mode(*mode).mtime(77);
            let mut writer = builder.write(&mut bytes, u32::try_from(contents.len()).unwrap());
            writer.write_all(contents).unwrap();
            writer.finish().unwrap();
        }
        cpio::newc::trailer(&mut bytes).unwrap();
        bytes
    }

    fn open(files: &InitrdFiles, path: &str) -> Option<(Vec<u8>, u64)> {
        let file = files.open(path.as_bytes())?;
        Some((file.contents.into_owned(), file.mtime))
    }

    #[test]
    fn files_are_found_by_their_path_in_the_guest() {
        let bytes = archive(&[
            ("bin", 0o040_755, b""),
            ("bin/init", 0o100_755, b"abc"),
            ("./lib/x.so", 0o100_644, b"defgh"),
            ("/data/y", 0o100_644, b""),
            (".hidden", 0o100_644, b"h"),
        ]);
        let files = InitrdFiles::parse(&bytes).unwrap();
        assert_eq!(files.len(), 4);
        assert_eq!(open(&files, "/bin/init"), Some((b"abc".to_vec(), 77)));
        assert_eq!(open(&files, "/lib/x.so"), Some((b"defgh".to_vec(), 77)));
        assert_eq!(open(&files, "/data/y"), Some((Vec::new(), 77)));
        assert_eq!(open(&files, "/.hidden"), Some((b"h".to_vec(), 77)));
        assert_eq!(open(&files, "/bin"), None);
        assert_eq!(open(&files, "bin/init"), None);
    }

    #[test]
    fn an_archive_that_is_cut_off_is_refused() {
        let bytes = archive(&[("a", 0o100_644, &[1; 100])]);
        for length in [0, 6, 60, 120, 200, bytes.len() - 40] {
            assert!(InitrdFiles::parse(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_compressed_archive_is_refused() {
        assert!(InitrdFiles::parse(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0]).is_err());
    }
}
