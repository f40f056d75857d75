//! A profile of a program with very many large libraries, on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use oprofile_session::sample_file::{Header, encode};
use oprofile_session::sample_path::{ImageName, SamplePath, SampleSpec};
use oprofile_workload::random::Random;

use super::library::Library;
use super::names::Language;
use crate::jobs::Failure;

/// Libraries, and distinct offsets that were sampled in each.
pub const LIBRARIES: usize = 200;
pub const OFFSETS: usize = 10_000;

/// When the libraries were built, in seconds: sample files record it.
const MTIME: u64 = 1_700_000_000;

/// The libraries' time.
pub fn mtime() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(MTIME)
}

/// The libraries in the ways that they are measured in. Their code is the same, so one profile is of all of them.
pub const TREES: [(Language, bool, &str); 3] = [
    (Language::C, false, "plain"),
    (Language::C, true, "debug-info"),
    (Language::Cpp, false, "cpp"),
];

/// The profile.
#[derive(Debug)]
pub struct Session {
    /// Holds `samples` and the trees of [`TREES`].
    pub directory: PathBuf,
    /// By [`TREES`].
    pub libraries: Vec<Library>,
    /// Offset and count of every sample, by library.
    pub samples: Vec<Vec<(u64, u64)>>,
}

/// Path of a library in its tree.
pub fn library_path(number: usize) -> String {
    format!("/usr/lib/{}", library_name(number))
}

/// Name of a library.
pub fn library_name(number: usize) -> String {
    format!("libmodule{number:03}.so")
}

impl Session {
    /// Writes it into `directory`.
    ///
    /// # Errors
    /// When the system refuses, or the crates that encode libraries.
    pub fn write(directory: &Path) -> Result<Self, Failure> {
        let mut libraries = Vec::new();
        for (language, with_debug_info, name) in TREES {
            let mut library = Library::new(language, with_debug_info)?;
            let tree = directory.join(name);
            fs::create_dir_all(tree.join("usr/lib"))?;
            for (copy, number) in (0..LIBRARIES).zip(0..) {
                library.write(&below(&tree, library_path(copy).as_bytes()), number)?;
            }
            libraries.push(library);
        }
        let code = libraries
            .first()
            .map_or(0..1, |library: &Library| library.code());
        let samples: Vec<_> = (0..LIBRARIES)
            .zip(1..)
            .map(|(_, seed)| sample(&mut Random::new(seed), &code))
            .collect();
        let current = directory.join("samples/current");
        for (number, counts) in samples.iter().enumerate() {
            let path = SamplePath {
                app: ImageName::Root(b"/usr/bin/worker".to_vec()),
                image: ImageName::Root(library_path(number).into_bytes()),
                callee: None,
                spec: SampleSpec::parse(b"TIMER.0.0.all.all.all").ok_or("a bad name")?,
            };
            let path = below(&current, &path.to_bytes());
            fs::create_dir_all(path.parent().unwrap_or(&current))?;
            let header = Header::timer(0, 0, MTIME);
            fs::write(&path, encode(&header, counts.iter().copied()))?;
        }
        Ok(Self {
            directory: directory.to_owned(),
            libraries,
            samples,
        })
    }
}

/// A path of the guest's below a directory.
fn below(directory: &Path, path: &[u8]) -> PathBuf {
    let path = String::from_utf8_lossy(path);
    directory.join(path.trim_start_matches('/'))
}

/// Distinct offsets anywhere in the code, in the order in which a profiler met them. Most were met a few times, few very
/// often.
fn sample(random: &mut Random, code: &std::ops::Range<u64>) -> Vec<(u64, u64)> {
    let mut known = std::collections::HashSet::new();
    let mut samples = Vec::new();
    while samples.len() < OFFSETS {
        let offset = code.start + random.below(code.end - code.start);
        if known.insert(offset) {
            let count = 1 + 3_000 / (1 + random.below(3_000));
            samples.push((offset, count));
        }
    }
    samples
}
