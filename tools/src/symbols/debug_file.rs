//! Separate debug files of a binary.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::elf::Binary;

/// Largest debug file whose checksum is computed.
const MAX_DEBUG_FILE: u64 = 8 << 30;
/// Where distributions put debug files.
const DEBUG_DIRECTORY: &str = "usr/lib/debug";

/// A place where a debug file may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    told_by: ToldBy,
}

/// What leads from a binary to its debug file.
#[derive(Debug, PartialEq, Eq)]
enum ToldBy {
    /// The build-id, which is in the path.
    BuildId(Vec<u8>),
    /// A link by name, with the file's checksum.
    Checksum(u32),
}

impl Candidate {
    /// Whether the file is there and the one that the binary names.
    pub(super) fn fits(&self) -> bool {
        match &self.told_by {
            ToldBy::Checksum(expected) => checksum(&self.path) == Some(*expected),
            // The path says which it is, but a file may have been put there for another build. One without a build-id is what
            // its place says.
            ToldBy::BuildId(expected) => match Binary::read_build_id(&self.path) {
                Ok(found) => found.is_none_or(|found| found == *expected),
                Err(_) => false,
            },
        }
    }
}

/// Where the debug file of `binary` may be, the best first. The binary lies at `path`; `prefix` is the root of the
/// machine it is from.
pub(super) fn candidates(binary: &Binary, path: &Path, prefix: Option<&Path>) -> Vec<Candidate> {
    let roots = || prefix.into_iter().chain([Path::new("/")]);
    let mut candidates = Vec::new();
    if let Some(build_id @ [first, rest @ ..]) = binary.build_id.as_deref()
        && !rest.is_empty()
    {
        let hex = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let name = format!(".build-id/{}/{}.debug", hex(&[*first]), hex(rest));
        candidates.extend(roots().map(|root| Candidate {
            path: root.join(DEBUG_DIRECTORY).join(&name),
            told_by: ToldBy::BuildId(build_id.to_vec()),
        }));
    }
    if let (Some((name, crc)), Some(directory)) = (&binary.debug_link, path.parent()) {
        let name = String::from_utf8_lossy(name);
        // A name only; a path would lead to files that the binary has no say in.
        if !name.contains('/') && !name.is_empty() {
            let mut directories = vec![directory.to_owned(), directory.join(".debug")];
            for root in roots() {
                if let Ok(below) = directory.strip_prefix(root) {
                    directories.push(root.join(DEBUG_DIRECTORY).join(below));
                }
            }
            candidates.extend(directories.into_iter().map(|directory| Candidate {
                path: directory.join(&*name),
                told_by: ToldBy::Checksum(*crc),
            }));
        }
    }
    candidates
}

/// The checksum that `.gnu_debuglink` holds.
fn checksum(path: &Path) -> Option<u32> {
    let mut file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MAX_DEBUG_FILE {
        return None;
    }
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.finalize()),
            length => hasher.update(&buffer[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(binary: &Binary, path: &str, prefix: Option<&str>) -> Vec<String> {
        candidates(binary, Path::new(path), prefix.map(Path::new))
            .into_iter()
            .map(|candidate| candidate.path.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn names_of_debug_files_stay_beside_the_binary() {
        let binary = Binary {
            debug_link: Some((b"../../etc/passwd".to_vec(), 1)),
            build_id: Some(vec![0xab, 0xcd, 0xef]),
            ..Binary::default()
        };
        assert_eq!(
            paths(&binary, "/bin/a", None),
            ["/usr/lib/debug/.build-id/ab/cdef.debug"]
        );
    }

    #[test]
    fn debug_files_are_looked_for_in_the_guests_tree_first() {
        let binary = Binary {
            debug_link: Some((b"a.debug".to_vec(), 1)),
            build_id: Some(vec![1, 2]),
            ..Binary::default()
        };
        assert_eq!(
            paths(&binary, "/vm/bin/a", Some("/vm")),
            [
                "/vm/usr/lib/debug/.build-id/01/02.debug",
                "/usr/lib/debug/.build-id/01/02.debug",
                "/vm/bin/a.debug",
                "/vm/bin/.debug/a.debug",
                "/vm/usr/lib/debug/bin/a.debug",
                "/usr/lib/debug/vm/bin/a.debug",
            ]
        );
    }
}
