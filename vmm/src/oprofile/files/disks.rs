//! File systems on disk images, and files of them by their path in the guest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oprofile_session::GuestFile;

use super::Place;
use super::ext4::{Ext4Files, Part};

/// Bytes of a sector, the unit of partition tables.
const SECTOR_BYTES: usize = 512;
const SECTOR: u64 = SECTOR_BYTES as u64;
/// Most entries of a GUID partition table that are looked at: all that common tools make.
const MAX_ENTRIES: u32 = 128;
/// Bytes of an entry of a GUID partition table.
const ENTRY_BYTES: u32 = 128;
/// Most components of a path from which on it is looked for.
const MAX_STARTS: usize = 64;

/// A file system.
struct FileSystem {
    place: Place,
    files: Ext4Files,
}

/// The file systems of all disks.
#[derive(Default)]
pub struct Disks {
    file_systems: Vec<FileSystem>,
}

impl Disks {
    /// Opens what can be read of these images. What cannot is told in the log: its files are not found then.
    pub fn open(images: &[PathBuf]) -> Self {
        let mut file_systems = Vec::new();
        for (disk, path) in images.iter().enumerate() {
            match open_disk(path) {
                Ok(parts) => file_systems.extend(parts.into_iter().map(|(partition, files)| {
                    let place = Place { disk, partition };
                    FileSystem { place, files }
                })),
                Err(error) => tracing::warn!(
                    "No files are taken from disk image {}: {error}",
                    path.display()
                ),
            }
        }
        Self { file_systems }
    }

    /// Offers the file at `path` on the file system at `place`, wherever that is mounted: of those that its path may lead to the one
    /// with the longest path.
    pub fn offer_first(
        &self,
        place: Place,
        path: &[u8],
        take: &mut dyn FnMut(GuestFile<'_>) -> bool,
    ) {
        let mut here = self
            .file_systems
            .iter()
            .filter(|known| known.place == place);
        if let Some(file) = here.find_map(|known| known.candidates(path).next()) {
            take(file);
        }
    }

    /// Offers every file that `path` may lead to on any file system, those of the one at `place` first.
    pub fn offer_all(
        &self,
        place: Option<Place>,
        path: &[u8],
        take: &mut dyn FnMut(GuestFile<'_>) -> bool,
    ) {
        let is_here = |known: &&FileSystem| Some(known.place) == place;
        let here = self.file_systems.iter().filter(is_here);
        let others = self.file_systems.iter().filter(|known| !is_here(known));
        here.chain(others)
            .flat_map(|known| known.candidates(path))
            .any(take);
    }
}

impl FileSystem {
    /// What lies at the end of `path`, longest first: what comes before is where the file system is mounted.
    fn candidates<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = GuestFile<'static>> + 'a {
        let starts = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let read = move |(start, _)| {
            let end = path.get(start..).unwrap_or_default();
            // The reader does not trust the image, but it is another's code: should it panic, this file is lost and no more.
            panic::catch_unwind(AssertUnwindSafe(|| self.files.read(end)))
        };
        starts
            .take(MAX_STARTS)
            .map(read)
            .map_while(Result::ok)
            .flatten()
    }
}

/// The file systems of a disk, by the number of their partition, 0 when there are none.
fn open_disk(path: &Path) -> Result<Vec<(u32, Ext4Files)>, DiskError> {
    let mut image = File::open(path)?;
    // Also of a block device, whose metadata do not tell its size.
    let bytes = io::Seek::seek(&mut image, io::SeekFrom::End(0))?;
    let image = Arc::new(image);
    let whole = Part {
        image: Arc::clone(&image),
        start: 0,
        bytes,
    };
    let open = |part: Part| {
        let opened = panic::catch_unwind(AssertUnwindSafe(|| Ext4Files::open(part)));
        opened.unwrap_or(Err(super::ext4::OpenError::Panic))
    };
    let why = match open(whole) {
        Ok(files) => return Ok(vec![(0, files)]),
        Err(why) => why,
    };
    let mut found = Vec::new();
    for (number, start, bytes) in partitions(&image, bytes)? {
        let image = Arc::clone(&image);
        match open(Part {
            image,
            start,
            bytes,
        }) {
            Ok(files) => found.push((number, files)),
            Err(why) => tracing::debug!("Partition {number} of {}: {why}", path.display()),
        }
    }
    if found.is_empty() {
        return Err(DiskError::NoFileSystem(why));
    }
    Ok(found)
}

/// Why a disk's files cannot be read.
#[derive(Debug, thiserror::Error)]
enum DiskError {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it holds no ext4 file system, and none of its partitions does ({0})")]
    NoFileSystem(super::ext4::OpenError),
}

/// Number, first byte and bytes of the partitions of an image of so many bytes: those of its GUID partition table, else the primary
/// ones of its master boot record. None that reaches beyond the image. The table's own checksums are not looked at: what is no file
/// system is found out.
fn partitions(image: &File, bytes: u64) -> io::Result<Vec<(u32, u64, u64)>> {
    let mut first = [0; 2 * SECTOR_BYTES];
    if bytes < first.len() as u64 {
        return Ok(Vec::new());
    }
    image.read_exact_at(&mut first, 0)?;
    let (record, header) = first.split_at(SECTOR_BYTES);
    let mut found = Vec::new();
    let mut add = |number: u32, start: u64, sectors: u64| {
        let range = start
            .checked_mul(SECTOR)
            .zip(sectors.checked_mul(SECTOR))
            .filter(|(start, length)| {
                *start > 0
                    && *length > 0
                    && start.checked_add(*length).is_some_and(|end| end <= bytes)
            });
        found.extend(range.map(|(start, length)| (number, start, length)));
    };
    if header.starts_with(b"EFI PART") {
        let table = long(header, 72).checked_mul(SECTOR);
        let (count, size) = (word(header, 80).min(MAX_ENTRIES), word(header, 84));
        let mut entries = vec![0; (count * ENTRY_BYTES) as usize];
        let table = table.filter(|_| size == ENTRY_BYTES).filter(|table| {
            let end = table.checked_add(entries.len() as u64);
            end.is_some_and(|end| end <= bytes)
        });
        let Some(table) = table else {
            return Ok(Vec::new());
        };
        image.read_exact_at(&mut entries, table)?;
        for (number, entry) in (1..).zip(entries.chunks_exact(ENTRY_BYTES as usize)) {
            let (start, last) = (long(entry, 32), long(entry, 40));
            // An entry without a type is none.
            if entry[..16] != [0; 16]
                && let Some(sectors) = last.checked_sub(start)
            {
                add(number, start, sectors.saturating_add(1));
            }
        }
    } else if record[510..] == [0x55, 0xaa] {
        for (number, entry) in (1..).zip(record[446..510].chunks_exact(16)) {
            add(number, word(entry, 8).into(), word(entry, 12).into());
        }
    }
    Ok(found)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    field.map_or(0, |field| u32::from_le_bytes(*field))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    field.map_or(0, |field| u64::from_le_bytes(*field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::process::Command;
    use tempfile::TempDir;

    const FILE: &[u8] = b"what the guest runs";

    /// An ext4 file system of 4 MiB with `/work` and `/opt/bin/work`, made without mounting.
    fn file_system(directory: &TempDir) -> Vec<u8> {
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("opt/bin")).unwrap();
        fs::write(tree.join("work"), b"another one").unwrap();
        fs::write(tree.join("opt/bin/work"), FILE).unwrap();
        let image = directory.path().join("ext4");
        let made = Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-d"])
            .arg(&tree)
            .arg(&image)
            .arg("4M")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .status()
            .expect("mke2fs is there (package e2fsprogs)");
        assert!(made.success());
        fs::read(image).unwrap()
    }

    fn disks(directory: &TempDir, image: &[u8]) -> Disks {
        let path = directory.path().join("disk");
        fs::write(&path, image).unwrap();
        Disks::open(&[path])
    }

    fn offered(disks: &Disks, place: Option<Place>, path: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        disks.offer_all(place, path, &mut |file| {
            all.push(file.contents.into_owned());
            false
        });
        all
    }

    const WHOLE: Place = Place {
        disk: 0,
        partition: 0,
    };

    #[test]
    fn a_file_is_found_by_its_path_wherever_the_disk_is_mounted() {
        let directory = tempfile::tempdir().unwrap();
        let image = file_system(&directory);
        let disks = disks(&directory, &image);
        let longest_first = [FILE.to_vec(), b"another one".to_vec()];
        for path in [&b"/mnt/a/opt/bin/work"[..], b"/opt/bin/work"] {
            assert_eq!(offered(&disks, None, path), longest_first);
        }
        assert_eq!(offered(&disks, Some(WHOLE), b"/work").len(), 1);
        for path in [
            &b"/opt/bin"[..],
            b"/mnt/none",
            b"work",
            b"",
            b"/",
            b"/\0/work\0",
        ] {
            assert!(offered(&disks, None, path).is_empty(), "{path:?}");
        }
        let mut first = Vec::new();
        disks.offer_first(WHOLE, b"/mnt/opt/bin/work", &mut |file| {
            first.push(file.contents.into_owned());
            false
        });
        assert_eq!(first, [FILE.to_vec()]);
        let elsewhere = Place {
            partition: 1,
            ..WHOLE
        };
        disks.offer_first(elsewhere, b"/work", &mut |_| panic!("another partition"));
    }

    #[test]
    fn partitions_of_both_kinds_of_tables_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let content = file_system(&directory);
        let sectors = content.len() as u64 / SECTOR;
        let mut disk = vec![0; 2048 * SECTOR_BYTES];
        disk.extend_from_slice(&content);
        // The second of four primary partitions.
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk[446 + 16 + 8..][..4].copy_from_slice(&2048u32.to_le_bytes());
        disk[446 + 16 + 12..][..4].copy_from_slice(&u32::try_from(sectors).unwrap().to_le_bytes());
        let second = Place {
            partition: 2,
            ..WHOLE
        };
        let found = disks(&directory, &disk);
        assert_eq!(found.file_systems.len(), 1);
        assert_eq!(found.file_systems[0].place, second);
        assert_eq!(offered(&found, None, b"/mnt/work").len(), 1);
        // The third entry of a GUID partition table.
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[512 + 72..][..8].copy_from_slice(&2u64.to_le_bytes());
        disk[512 + 80..][..8].copy_from_slice(&[128, 0, 0, 0, 128, 0, 0, 0]);
        let entry = 1024 + 2 * 128;
        disk[entry] = 1;
        disk[entry + 32..][..8].copy_from_slice(&2048u64.to_le_bytes());
        disk[entry + 40..][..8].copy_from_slice(&(2048 + sectors - 1).to_le_bytes());
        let found = disks(&directory, &disk);
        assert_eq!(found.file_systems[0].place.partition, 3);
        assert_eq!(offered(&found, None, b"/mnt/work").len(), 1);
        // One that reaches beyond the disk is none.
        disk[entry + 40..][..8].copy_from_slice(&(2048 + sectors).to_le_bytes());
        assert!(disks(&directory, &disk).file_systems.is_empty());
    }

    #[test]
    fn what_is_no_disk_has_no_files() {
        let directory = tempfile::tempdir().unwrap();
        for image in [&b""[..], &[0; 512], &[0xff; 4096], &[0; 1 << 20]] {
            assert!(disks(&directory, image).file_systems.is_empty());
        }
        let missing = directory.path().join("missing");
        assert!(Disks::open(&[missing]).file_systems.is_empty());
    }

    #[test]
    fn a_file_system_that_claims_more_than_its_image_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let image = file_system(&directory);
        // Blocks, blocks of a group, size of a block: each makes more groups than there can be.
        for (at, value) in [(4, u32::MAX), (32, 1), (32, 0), (24, 30)] {
            let mut damaged = image.clone();
            damaged[1024 + at..][..4].copy_from_slice(&value.to_le_bytes());
            let found = disks(&directory, &damaged);
            assert!(found.file_systems.is_empty(), "{value} at {at}");
        }
        let cut = &image[..image.len() / 2];
        assert!(disks(&directory, cut).file_systems.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_damaged_image_is_read_or_refused(
            damage in prop::collection::vec((0usize..4 << 20, any::<u8>()), 1..400),
            // Most of an image is empty.
            front in prop::collection::vec((1024usize..65_536, any::<u8>()), 0..40),
        ) {
            use std::sync::OnceLock;
            static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
            let image = IMAGE.get_or_init(|| file_system(&tempfile::tempdir().unwrap()));
            let directory = tempfile::tempdir().unwrap();
            let mut damaged = image.clone();
            for (at, byte) in damage.into_iter().chain(front) {
                damaged[at] = byte;
            }
            let disks = disks(&directory, &damaged);
            for path in [&b"/opt/bin/work"[..], b"/work", b"/lost+found/x"] {
                let _ = offered(&disks, None, path);
            }
        }

        #[test]
        fn any_partition_table_is_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 1024..4096),
            is_gpt in any::<bool>(),
        ) {
            let mut bytes = bytes;
            match is_gpt {
                true => bytes[512..520].copy_from_slice(b"EFI PART"),
                false => bytes[510..512].copy_from_slice(&[0x55, 0xaa]),
            }
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("disk");
            fs::write(&path, &bytes).unwrap();
            let length = bytes.len() as u64;
            for (_, start, bytes) in partitions(&File::open(path).unwrap(), length).unwrap() {
                prop_assert!(start + bytes <= length);
            }
        }
    }
}
