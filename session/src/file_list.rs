//! The list of a session's files: which file of the guest, and which build of it, each name stands for.
//!
//! OProfile tells files by their path and modification time. From outside of a machine that is not enough: the host reads the
//! build-id of each sampled file in guest memory, and writes it down here, one line for each file:
//!
//! ```text
//! # build-id device inode name
//! 1e6be1a5ebb8d9d3c0ad1e5a3d1c6d3a6c3c9f38 254:0 12 /mnt/shares
//! none 0:2 4711 /init
//! - 0:22 7 /tmp/moved
//! ```
//!
//! `-` stands for a build-id that could not be read, `none` for a file without one. Device (major and minor number, decimal) and
//! inode are the guest's, 0 where it does not tell. The name is that of the sample files, escaped as they are (see
//! [`guest_path`](crate::guest_path)); it comes more than once when several files had it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::build_id::{Build, BuildId};

/// Where the list is, below the directory of a session's samples.
pub const PLACE: &str = "stats/files";

/// Longest list that is read in bytes: one of all the images that a collector takes in has 20 MiB at most.
const MAX_LIST: u64 = 64 << 20;
/// Bits of the minor number in a device number of the guest, as Linux keeps it in memory.
const MINOR_BITS: u32 = 20;

/// A file of the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileIdentity {
    /// Device number of its file system as Linux keeps it in memory, 0 when unknown.
    pub device: u32,
    /// Inode number, 0 when unknown.
    pub inode: u64,
    /// Which build it is.
    pub build: Build,
}

impl FileIdentity {
    /// Major and minor number of the device.
    pub const fn major_minor(&self) -> (u32, u32) {
        (
            self.device >> MINOR_BITS,
            self.device & ((1 << MINOR_BITS) - 1),
        )
    }
}

/// One line: a file, and the name under which its samples are filed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// Path as escaped in the names of sample files.
    pub name: Vec<u8>,
    /// The file.
    pub identity: FileIdentity,
}

/// Why a list cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileListError {
    /// It cannot be read.
    #[error("Cannot read the list of files")]
    Io(#[from] io::Error),
    /// A line that is none of a list.
    #[error("Line {0} of the list of files is not \"BUILD-ID MAJOR:MINOR INODE NAME\"")]
    Line(usize),
    /// It is too long.
    #[error("The list of files is longer than {MAX_LIST} bytes")]
    TooLong,
}

/// The list of these files, in their order.
pub fn encode(records: &[FileRecord]) -> Vec<u8> {
    let mut list = b"# build-id device inode name\n".to_vec();
    for FileRecord { name, identity } in records {
        let (major, minor) = identity.major_minor();
        let build = match &identity.build {
            Build::Unknown => "-".to_owned(),
            Build::WithoutId => "none".to_owned(),
            Build::Id(id) => id.to_string(),
        };
        list.extend_from_slice(format!("{build} {major}:{minor} {} ", identity.inode).as_bytes());
        list.extend_from_slice(name);
        list.push(b'\n');
    }
    list
}

/// The files of a list.
///
/// # Errors
/// At the first line that is none of a list.
pub fn parse(list: &[u8]) -> Result<Vec<FileRecord>, FileListError> {
    let lines = list.split(|byte| *byte == b'\n').zip(1..);
    lines
        .filter(|(line, _)| !line.is_empty() && line[0] != b'#')
        .map(|(line, number)| record(line).ok_or(FileListError::Line(number)))
        .collect()
}

fn record(line: &[u8]) -> Option<FileRecord> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let build = match text()? {
        "-" => Build::Unknown,
        "none" => Build::WithoutId,
        id => Build::Id(id.parse::<BuildId>().ok()?),
    };
    let (major, minor) = text()?.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    let inode = text()?.parse().ok()?;
    let name = fields
        .next()
        .filter(|name| name.starts_with(b"/"))?
        .to_vec();
    if major >> (u32::BITS - MINOR_BITS) != 0 || minor >> MINOR_BITS != 0 {
        return None;
    }
    Some(FileRecord {
        name,
        identity: FileIdentity {
            device: major << MINOR_BITS | minor,
            inode,
            build,
        },
    })
}

/// The list of the session whose samples are in `samples`. A session without one has no files in it.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn read(samples: &Path) -> Result<Vec<FileRecord>, FileListError> {
    let file = match File::open(samples.join(PLACE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut list = Vec::new();
    file.take(MAX_LIST + 1).read_to_end(&mut list)?;
    if list.len() as u64 > MAX_LIST {
        return Err(FileListError::TooLong);
    }
    parse(&list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn build() -> impl Strategy<Value = Build> {
        prop_oneof![
            Just(Build::Unknown),
            Just(Build::WithoutId),
            prop::collection::vec(any::<u8>(), 1..=64)
                .prop_map(|bytes| Build::Id(BuildId::new(&bytes).unwrap())),
        ]
    }

    #[test]
    fn a_list_reads_as_it_is_described() {
        let list = b"# build-id device inode name\nabcd 254:16 12 /mnt/a b\nnone 0:2 7 /init\n- 8:1 0 /x\n";
        let records = parse(list).unwrap();
        assert_eq!(records.len(), 3);
        assert_eq!(records[0].name, b"/mnt/a b");
        assert_eq!(records[0].identity.major_minor(), (254, 16));
        assert_eq!(
            records[0].identity.build,
            Build::Id("abcd".parse().unwrap())
        );
        assert_eq!(encode(&records), list);
    }

    #[test]
    fn lines_of_another_form_are_refused() {
        for line in [
            "abc 1:2 3 /a",
            "abcd 1 3 /a",
            "abcd 1:2 x /a",
            "abcd 1:2 3 a",
            "abcd 1:2 3",
            "abcd 4096:2 3 /a",
            "abcd 1:1048576 3 /a",
        ] {
            let list = format!("# first\n{line}\n");
            assert!(
                matches!(parse(list.as_bytes()), Err(FileListError::Line(2))),
                "{line}"
            );
        }
    }

    #[test]
    fn a_session_without_a_list_has_no_files_in_it() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read(directory.path()).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn lists_round_trip(files in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), any::<u32>(), any::<u64>(), build()), 0..8)) {
            let records: Vec<FileRecord> = files
                .into_iter()
                .map(|(path, device, inode, build)| FileRecord {
                    name: crate::guest_path::escape_path(&path),
                    identity: FileIdentity { device, inode, build },
                })
                .collect();
            prop_assert_eq!(parse(&encode(&records)).unwrap(), records);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
