//! Which files belong into an archive, and where in it.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use oprofile_session::sample_path::ImageName;

use crate::error::ToolError;
use crate::image::{Found, ImageSearch, missing_warning};
use crate::names::long_name;
use crate::session::{Places, SampleFileName};
use crate::spec::{ImagePaths, Specification};
use crate::symbols;

/// Where a session lies in an archive.
const SESSION: &str = "var/lib/oprofile";
/// Logs of a session, below `samples`.
const LOGS: [&str; 2] = ["operf.log", "oprofiled.log"];
/// Most files of a `stats` directory that are copied; OProfile's have a dozen and one for each processor.
const MAX_STATISTICS: usize = 10_000;
/// Deepest directory of statistics: `stats/cpu0/FILE`.
const STATISTICS_DEPTH: usize = 2;

/// A file and its place in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file on this machine.
    pub from: PathBuf,
    /// The place, relative to the archive; a leading `/` stands for it.
    pub place: PathBuf,
}

/// What an archive is to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Binaries with their debug files, sample files, statistics, abi, logs; no file twice.
    pub entries: Vec<Entry>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// Where the files of a session are and which are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Where the session and its images are.
    pub places: &'a Places,
    /// Which samples are wanted.
    pub spec: &'a Specification,
    /// Only the programs' own samples.
    pub exclude_dependent: bool,
    /// Whether images that are not where they should be may be taken from this machine's own root.
    pub may_take_from_host: bool,
}

/// Decides what belongs into the archive.
///
/// # Errors
/// When there is no session, or no sample file in it that is wanted.
pub fn plan(request: &Request<'_>) -> Result<Plan, ToolError> {
    let places = request.places;
    let search = ImageSearch::new(
        places.image_prefix.clone(),
        places.debug_prefix.clone(),
        &places.image_paths,
    );
    let files = places.session_files()?;
    let mut known = HashMap::new();
    let mut wanted: Vec<SampleFileName> = files
        .samples
        .into_iter()
        .chain(files.arcs)
        .filter(|file| request.wants(file, &search, &mut known))
        .collect();
    if wanted.is_empty() {
        return Err(ToolError::TooStrict);
    }
    // As text, not by component.
    wanted.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
    let mut plan = Plan {
        entries: Vec::new(),
        warnings: places.warnings(),
    };
    plan.add_images(request, &search, &wanted);
    for file in &wanted {
        let place = session_place(places, &file.path);
        plan.add(file.path.clone(), place);
    }
    for session in &places.sessions {
        // The list shows two slashes, as OProfile's does and scripts may expect.
        plan.add_statistics(places, &session.join("stats/"), STATISTICS_DEPTH);
    }
    let abi = places.session_dir.join("abi");
    let logs = LOGS.map(|log| places.session_dir.join("samples").join(log));
    for path in [abi].into_iter().chain(logs).filter(|path| path.is_file()) {
        let relative = path.strip_prefix(&places.session_dir);
        let place = Path::new(SESSION).join(relative.unwrap_or(&path));
        plan.add(path, place);
    }
    let mut seen = BTreeSet::new();
    plan.entries
        .retain(|entry| seen.insert(entry.place.clone()));
    Ok(plan)
}

impl Request<'_> {
    /// Whether a sample file is wanted. `known` keeps the paths of images from file to file.
    fn wants(
        &self,
        file: &SampleFileName,
        search: &ImageSearch,
        known: &mut HashMap<ImageName, ImagePaths>,
    ) -> bool {
        let name = &file.name;
        if (self.exclude_dependent && name.app != name.image) || !self.spec.selects(&name.spec) {
            return false;
        }
        if !self.spec.names_images() {
            return true;
        }
        let mut paths = |image: &ImageName| {
            let look = || {
                let recorded = long_name(image);
                let found = match search.find(image) {
                    Found::File(path) => path.into_os_string().into_encoded_bytes(),
                    _ => recorded.clone(),
                };
                ImagePaths { recorded, found }
            };
            known.entry(image.clone()).or_insert_with(look).clone()
        };
        let (app, image) = (paths(&name.app), paths(&name.image));
        self.spec.selects_images(&app, &image)
    }
}

impl Plan {
    fn add(&mut self, from: PathBuf, place: PathBuf) {
        self.entries.push(Entry { from, place });
    }

    /// Adds the images by the names recorded, each with its debug file.
    fn add_images(
        &mut self,
        request: &Request<'_>,
        search: &ImageSearch,
        wanted: &[SampleFileName],
    ) {
        let mut images: Vec<(Vec<u8>, &ImageName, Option<PathBuf>)> = wanted
            .iter()
            .flat_map(|file| {
                let image = (&file.name.image, file.jit_symbols());
                let callee = file.name.callee.as_ref().map(|callee| (callee, None));
                [image].into_iter().chain(callee)
            })
            .map(|(image, jit)| (long_name(image), image, jit))
            .collect();
        images.sort();
        images.dedup_by(|later, kept| later.1 == kept.1 && later.2 == kept.2);
        for (name, image, jit) in images {
            if let Some(symbols) = jit {
                let place = session_place(request.places, &symbols);
                self.add(symbols, place);
                continue;
            }
            let found = search.find(image);
            self.warnings.extend(missing_warning(image, &found));
            let path = match (found, image) {
                (Found::File(path), _) => path,
                // The name recorded, as it stands.
                (Found::Missing, ImageName::Root(_)) if request.may_take_from_host => {
                    let path = PathBuf::from(os_str(&name));
                    if !is_elf(&path) {
                        continue;
                    }
                    path
                }
                _ => continue,
            };
            let debug_file = symbols::debug_file_of(&path, search.debug_prefix());
            for path in [Some(path), debug_file].into_iter().flatten() {
                let place = without_prefix(&path, search.prefix());
                self.add(path, place);
            }
        }
    }

    fn add_statistics(&mut self, places: &Places, dir: &Path, depth: usize) {
        // No directory, no statistics; and one that cannot be read is told when its session is.
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        let mut paths: Vec<_> = entries
            .flatten()
            .map(|entry| match depth {
                STATISTICS_DEPTH => with_slash(dir, &entry.file_name()),
                _ => entry.path(),
            })
            .take(MAX_STATISTICS)
            .collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                if depth > 0 {
                    self.add_statistics(places, &path, depth - 1);
                }
            } else {
                let place = session_place(places, &path);
                self.add(path, place);
            }
        }
    }
}

/// The place of a file of a session.
fn session_place(places: &Places, path: &Path) -> PathBuf {
    let samples = Path::new(SESSION).join("samples");
    for session in &places.sessions {
        if let Ok(below) = path.strip_prefix(session) {
            // A session that was given as a directory lies anywhere; its last component is its name.
            let name = session.file_name().unwrap_or(OsStr::new("current"));
            return samples.join(name).join(below);
        }
    }
    samples.join(path.strip_prefix("/").unwrap_or(path))
}

fn with_slash(dir: &Path, name: &OsStr) -> PathBuf {
    let mut path = dir.as_os_str().to_owned();
    path.push("/");
    path.push(name);
    PathBuf::from(path)
}

fn without_prefix(path: &Path, prefix: Option<&Path>) -> PathBuf {
    prefix
        .and_then(|prefix| path.strip_prefix(prefix).ok())
        .unwrap_or(path)
        .to_owned()
}

fn os_str(bytes: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

/// Whether the file is a binary: a session may name any file of this machine, and what it names may leave it.
fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    path.is_file()
        && File::open(path)
            .and_then(|mut file| file.read_exact(&mut magic))
            .is_ok()
        && magic == *b"\x7fELF"
}
