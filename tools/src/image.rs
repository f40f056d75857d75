//! The binary behind an image's name.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use oprofile_session::sample_path::ImageName;

use crate::names::{long_name, printable};

/// Most directory entries looked at below all image paths; a whole distribution has half as many.
const MAX_ENTRIES: usize = 1 << 21;
/// Deepest directory looked at below an image path.
const MAX_DEPTH: usize = 64;

/// Where images are looked for.
#[derive(Debug, Default)]
pub struct ImageSearch {
    prefix: Option<PathBuf>,
    debug_prefix: Option<PathBuf>,
    trees: Vec<PathBuf>,
    /// Files below the trees by their last component; made when the first image is not at its place.
    index: OnceLock<HashMap<Vec<u8>, BTreeSet<PathBuf>>>,
}

/// What became of the search for one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The file.
    File(PathBuf),
    /// There is no file where it was looked for.
    Missing,
    /// Several files have the name.
    Ambiguous,
    /// It is no file: an anonymous region or an address outside all images.
    NoFile,
}

impl Found {
    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            _ => None,
        }
    }
}

impl ImageSearch {
    /// Images have `prefix` before their path. Those that are not there are looked for in `trees` by their name. Debug files
    /// are looked for below `debug_prefix`, too.
    pub fn new(prefix: Option<PathBuf>, debug_prefix: Option<PathBuf>, trees: &[PathBuf]) -> Self {
        Self {
            prefix,
            debug_prefix,
            trees: trees.to_vec(),
            index: OnceLock::new(),
        }
    }

    /// The root of the machine that debug files are from.
    pub fn debug_prefix(&self) -> Option<&Path> {
        self.debug_prefix.as_deref()
    }

    /// The root of the machine that the images are from.
    pub fn prefix(&self) -> Option<&Path> {
        self.prefix.as_deref()
    }

    /// Looks for an image: at its path, else by its name, else as a kernel module by its name.
    pub fn find(&self, image: &ImageName) -> Found {
        let path = match image {
            ImageName::Anon { .. } => return Found::NoFile,
            ImageName::Root(_) | ImageName::Kern(_) => below(self.prefix(), &long_name(image)),
        };
        if path.is_file() {
            return Found::File(path);
        }
        if self.trees.is_empty() {
            return Found::Missing;
        }
        let index = self.index.get_or_init(|| index(&self.trees));
        let name = path.file_name().unwrap_or_default().as_bytes();
        if let Some(files) = index.get(name) {
            return unique(files.iter());
        }
        let module = [&module_key(name)[..], b".ko"].concat();
        unique(
            index
                .iter()
                .filter(|(file, _)| file.ends_with(b".ko") && module_key(file) == module)
                .flat_map(|(_, files)| files),
        )
    }
}

/// The kernel takes `-` and `,` of a module's file for `_`.
fn module_key(name: &[u8]) -> Vec<u8> {
    name.iter()
        .map(|byte| if b"-,".contains(byte) { b'_' } else { *byte })
        .collect()
}

fn unique<'a>(mut files: impl Iterator<Item = &'a PathBuf>) -> Found {
    match (files.next(), files.next()) {
        (Some(file), None) => Found::File(file.clone()),
        (Some(_), Some(_)) => Found::Ambiguous,
        (None, _) => Found::Missing,
    }
}

fn index(trees: &[PathBuf]) -> HashMap<Vec<u8>, BTreeSet<PathBuf>> {
    let mut index: HashMap<Vec<u8>, BTreeSet<PathBuf>> = HashMap::new();
    let mut left = MAX_ENTRIES;
    let mut open: Vec<(PathBuf, usize)> =
        trees.iter().map(|tree| (tree.clone(), MAX_DEPTH)).collect();
    while let Some((directory, depth)) = open.pop() {
        // A directory that cannot be read has no images to offer.
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            if left == 0 {
                return index;
            }
            left -= 1;
            let path = entry.path();
            // Links to directories are not followed: they may lead in circles, and their targets have names too.
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                if depth > 0 {
                    open.push((path, depth - 1));
                }
            } else if kind.is_file() || path.is_file() {
                let name = entry.file_name().as_bytes().to_vec();
                index.entry(name).or_default().insert(path);
            }
        }
    }
    index
}

/// The absolute `path` put below `prefix`.
pub fn below(prefix: Option<&Path>, path: &[u8]) -> PathBuf {
    match prefix {
        Some(prefix) => {
            let relative = path.strip_prefix(b"/").unwrap_or(path);
            prefix.join(OsStr::from_bytes(relative))
        }
        None => PathBuf::from(OsStr::from_bytes(path)),
    }
}

/// End of the warning about a binary that is not there.
const NOT_FOUND: &str = " could not be found.";

/// The warning for an image without a file, unless nobody expects it to be one.
pub fn missing_warning(image: &ImageName, found: &Found) -> Option<String> {
    let name = long_name(image);
    let shown = printable(&name);
    match found {
        Found::File(_) => None,
        Found::Ambiguous => Some(format!(
            "warning: {shown} matches more than one file: detailed profile will not be provided."
        )),
        Found::Missing | Found::NoFile => {
            let never_a_file = [
                &b"anon "[..],
                b"[vdso]",
                b"[hypervisor_bucket]",
                b"/no-vmlinux",
            ];
            (!never_a_file.iter().any(|start| name.starts_with(start)))
                .then(|| format!("warning: {shown}{NOT_FOUND}"))
        }
    }
}

/// Whether a warning is one of [`missing_warning`]'s about a binary that is not there.
pub fn is_missing(warning: &str) -> bool {
    warning.ends_with(NOT_FOUND)
}

/// The warning for a binary that may not be the one that was profiled.
pub fn mtime_warning(path: &Path, recorded: u64) -> Option<String> {
    let shown = printable(path.as_os_str().as_bytes());
    if recorded == 0 {
        return Some(format!(
            "warning: could not check that the binary file {shown} has not been modified since the profile was taken. Results may be inaccurate."
        ));
    }
    let modified = fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()?;
    let seconds = modified
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    (seconds != recorded).then(|| {
        format!(
            "warning: the last modified time of the binary file does not match that of the sample file for {shown}\nEither this is the wrong binary or the binary has been modified since the sample file was created."
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(path: &str) -> ImageName {
        ImageName::Root(path.into())
    }

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        directory
    }

    #[test]
    fn image_is_found_at_its_path_then_by_its_name() {
        let guest = tree(&["bin/a", "moved/deep/b", "one/c", "two/c"]);
        let trees = ["moved", "one", "two"].map(|tree| guest.path().join(tree));
        let search = ImageSearch::new(Some(guest.path().to_owned()), None, &trees);
        let file = |path: &str| Found::File(guest.path().join(path));
        assert_eq!(search.find(&root("/bin/a")), file("bin/a"));
        assert_eq!(search.find(&root("/opt/b")), file("moved/deep/b"));
        assert_eq!(search.find(&root("/opt/c")), Found::Ambiguous);
        assert_eq!(search.find(&root("/opt/d")), Found::Missing);
        assert_eq!(
            search.find(&ImageName::anon(b"anon", 1, 0, 1)),
            Found::NoFile
        );
    }

    #[test]
    fn module_is_found_whatever_its_file_has_for_an_underscore() {
        let modules = tree(&["net/my-mod,x.ko", "other.ko.xz"]);
        let search = ImageSearch::new(None, None, &[modules.path().to_owned()]);
        assert_eq!(
            search.find(&ImageName::Kern(b"my_mod_x".to_vec())),
            Found::File(modules.path().join("net/my-mod,x.ko"))
        );
        assert_eq!(
            search.find(&ImageName::Kern(b"other".to_vec())),
            Found::Missing
        );
    }
}
