//! Files of an initrd: one or more cpio archives.

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

/// Regular files of newc cpio archives, by absolute path.
#[derive(Debug, Default)]
pub struct InitrdFiles {
    files: HashMap<Vec<u8>, File>,
}

/// Bytes of the newc cpio archive that `bytes` begin with.
///
/// # Errors
/// When they begin with none, or it is cut off.
pub fn archive_bytes(bytes: &[u8]) -> io::Result<usize> {
    let mut rest = bytes;
    loop {
        let reader = Reader::new(rest)?;
        let is_last = reader.entry().is_trailer();
        rest = reader.finish()?;
        if is_last {
            return Ok(bytes.len() - rest.len());
        }
    }
}

impl InitrdFiles {
    /// Reads archives, one behind the other with zeros in between, as the kernel does: a later file takes the place of an earlier
    /// one. Entries other than regular files are left out, and so are all names of a file with several but the one that comes with
    /// its content.
    ///
    /// # Errors
    /// When a part is no uncompressed newc archive, or is cut off.
    pub fn parse(initrd: &[u8]) -> io::Result<Self> {
        let mut files = HashMap::new();
        let mut rest = initrd;
        loop {
            rest = Self::parse_archive(rest, &mut files)?;
            let padding = rest.iter().take_while(|byte| **byte == 0).count();
            rest = rest.get(padding..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(Self { files });
            }
        }
    }

    /// Reads the archive that `archive` begins with; returns what is behind it.
    fn parse_archive<'a>(
        mut archive: &'a [u8],
        files: &mut HashMap<Vec<u8>, File>,
    ) -> io::Result<&'a [u8]> {
        loop {
            let mut reader = Reader::new(archive)?;
            let entry = reader.entry();
            if entry.is_trailer() {
                return reader.finish();
            }
            // Content comes with the last of several names.
            let is_only_a_name = entry.nlink() > 1 && entry.file_size() == 0;
            if entry.mode() & TYPE == REGULAR && !is_only_a_name {
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
    use super::super::unpack;
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
    fn archives_one_behind_the_other_are_all_read() {
        let first = archive(&[("a", 0o100_644, b"first"), ("b", 0o100_644, b"b")]);
        let second = archive(&[("a", 0o100_644, b"second")]);
        assert_eq!(archive_bytes(&first).unwrap(), first.len());
        let bytes = [&first[..], &[0; 516], &second[..], &[0; 7]].concat();
        assert_eq!(archive_bytes(&bytes).unwrap(), first.len());
        let files = InitrdFiles::parse(&bytes).unwrap();
        assert_eq!(files.len(), 2);
        assert_eq!(open(&files, "/a"), Some((b"second".to_vec(), 77)));
    }

    #[test]
    fn a_compressed_archive_is_refused_here_and_unpacked_there() {
        let plain = archive(&[("early", 0o100_644, b"microcode")]);
        let main = archive(&[("bin/init", 0o100_755, &[7; 100_000])]);
        for (command, arguments) in [
            ("gzip", &["-c"][..]),
            ("xz", &["-c", "--check=crc32"]),
            ("zstd", &["-c", "-q"]),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("main");
            std::fs::write(&path, &main).unwrap();
            let packed = std::process::Command::new(command)
                .args(arguments)
                .arg(&path)
                .output()
                .unwrap_or_else(|error| panic!("{command} is not there: {error}"));
            assert!(packed.status.success() && packed.stdout.len() < main.len() / 10);
            let initrd = [&plain[..], &[0; 8], &packed.stdout, &[0; 3]].concat();
            assert!(InitrdFiles::parse(&initrd).is_err(), "{command}");
            let unpacked = unpack(&initrd, archive_bytes).unwrap();
            let files = InitrdFiles::parse(&unpacked).unwrap();
            assert_eq!(files.len(), 2, "{command}");
            assert_eq!(open(&files, "/bin/init").unwrap().0.len(), 100_000);
            // Cut off, or damaged in the middle.
            let cut = &initrd[..plain.len() + 8 + packed.stdout.len() / 2];
            assert!(unpack(cut, archive_bytes).is_err(), "{command}");
        }
    }

    #[test]
    fn what_cannot_be_unpacked_is_named() {
        let lz4 = [0x02, 0x21, 0x4c, 0x18, 0, 0, 0, 0];
        let told = unpack(&lz4, archive_bytes).unwrap_err().to_string();
        assert!(told.contains("lz4"), "{told}");
        assert!(unpack(b"what is this", archive_bytes).is_err());
        assert!(unpack(&[], archive_bytes).unwrap().is_empty());
    }
}
