//! Where a session lies and which sample files it holds.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use oprofile_session::sample_path::{ImageName, SamplePath};

use crate::error::ToolError;
use crate::image::below;
use crate::names::printable;
use crate::progress::Progress;
use crate::spec::Specification;

/// Most directory entries looked at in one session; the collector makes far fewer. Links may make a small tree endless.
const MAX_ENTRIES: usize = 1 << 20;
/// Deepest directory looked at; a link may lead in circles.
const MAX_DEPTH: usize = 256;
/// Most other sessions that are named when one has no samples.
const MAX_LISTED: usize = 64;
/// Session of a profile that has just been taken.
const CURRENT: &str = "current";
/// Where OProfile keeps its sessions, below `/` or an archive.
const DEFAULT_DIRECTORY: &str = "/var/lib/oprofile/";

/// A sample file and what its path says.
#[derive(Debug, Clone)]
pub struct SampleFileName {
    /// The file.
    pub path: PathBuf,
    /// Its path below the session.
    pub name: SamplePath,
}

/// The sample files of the sessions, sorted by name.
#[derive(Debug, Clone, Default)]
pub struct SessionFiles {
    /// Samples by position.
    pub samples: Vec<SampleFileName>,
    /// Call-graph files: from a position in the caller to one in the callee.
    pub arcs: Vec<SampleFileName>,
}

impl SampleFileName {
    /// The symbol file that a just-in-time compiler left for the anonymous region that this file is about, if it is
    /// there.
    pub fn jit_symbols(&self) -> Option<PathBuf> {
        let ImageName::Anon { range, .. } = &self.name.image else {
            return None;
        };
        // …/{dep}/{anon:NAME}/TGID.START.END/FILE; the symbols are …/{dep}/{anon:NAME}/TGID.jo.
        let region = self.path.parent()?.parent()?;
        let file = region.join(OsStr::from_bytes(&[&range.tgid[..], b".jo"].concat()));
        file.is_file().then_some(file)
    }
}

/// Where samples and images are looked for.
#[derive(Debug, Clone)]
pub struct Places {
    /// Directory that holds `samples`.
    pub session_dir: PathBuf,
    /// Directories that hold `{root}` and `{kern}`.
    pub sessions: Vec<PathBuf>,
    /// Put before the path of each image.
    pub image_prefix: Option<PathBuf>,
    /// Where debug files are looked for beside this machine's own: the guest's root. OProfile's archives are taken without,
    /// so that a report on one is the same everywhere.
    pub debug_prefix: Option<PathBuf>,
    /// Trees in which images are looked for that are not at their place.
    pub image_paths: Vec<PathBuf>,
    /// How much of the samples there has been read.
    pub progress: Progress,
    /// Whether the user ought to be told which session directory was chosen.
    pub announce: bool,
}

impl Places {
    /// Decides where to look: `archive:`, then `--session-dir`, then `oprofile_data` in the working directory, then
    /// `/var/lib/oprofile`.
    ///
    /// The guest tree `root` beside `samples` is the image prefix unless `root` or an archive gives one.
    pub fn find(session_dir: Option<&Path>, root: Option<&Path>, spec: &Specification) -> Self {
        let announce = session_dir.is_none();
        let (session_dir, image_prefix) = match (&spec.archive, session_dir) {
            (Some(archive), _) => (archive.join(&DEFAULT_DIRECTORY[1..]), Some(archive.clone())),
            (None, given) => {
                let dir = given.map_or_else(default_directory, Path::to_owned);
                let guest_tree = || {
                    Some(dir.join("root"))
                        .filter(|tree| tree.is_dir() && dir.join("samples").is_dir())
                };
                let prefix = root.map(Path::to_owned).or_else(guest_tree);
                (dir, prefix)
            }
        };
        let wanted = if spec.sessions.is_empty() {
            vec![CURRENT.to_owned()]
        } else {
            spec.sessions.clone()
        };
        let sessions = wanted
            .iter()
            .filter(|name| !spec.sessions_excluded.contains(name))
            .map(|name| {
                // A name with a slash is a directory that holds the samples itself.
                if name.starts_with('/') || name.starts_with('.') {
                    PathBuf::from(name)
                } else {
                    session_dir.join("samples").join(name)
                }
            })
            .collect();
        let debug_prefix = image_prefix.clone().filter(|_| spec.archive.is_none());
        Self {
            session_dir,
            sessions,
            debug_prefix,
            image_prefix,
            image_paths: Vec::new(),
            progress: Progress::default(),
            announce,
        }
    }

    /// Looks for missing images below `paths`, too. Each is taken below the image prefix if it is there, else as given.
    pub fn with_image_paths(mut self, paths: &[PathBuf]) -> Result<Self, ToolError> {
        for path in paths {
            let below = below(self.image_prefix.as_deref(), path.as_os_str().as_bytes());
            let tree = [&below, path]
                .into_iter()
                .find(|tree| tree.is_dir())
                .ok_or_else(|| ToolError::ImagePath { path: path.clone() })?;
            self.image_paths.push(tree.clone());
        }
        Ok(self)
    }

    /// All sample files of the sessions, call-graph files left out.
    pub fn sample_files(&self) -> Result<Vec<SampleFileName>, ToolError> {
        self.session_files().map(|files| files.samples)
    }

    /// All sample files of the sessions. A session without plain ones is an error, one without call graph is not.
    pub fn session_files(&self) -> Result<SessionFiles, ToolError> {
        let mut found = Vec::new();
        let mut arcs = Vec::new();
        for session in &self.sessions {
            let mut walk = Walk::default();
            for top in ["{root}", "{kern}"] {
                walk.directory(&session.join(top), MAX_DEPTH)?;
            }
            found.reserve_exact(walk.files.len());
            for path in walk.files {
                let below = path
                    .strip_prefix(session)
                    .unwrap_or(&path)
                    .as_os_str()
                    .as_bytes();
                let name = SamplePath::parse(below).map_err(|source| ToolError::Name {
                    path: path.clone(),
                    source,
                })?;
                let list = if name.callee.is_none() {
                    &mut found
                } else {
                    &mut arcs
                };
                list.push(SampleFileName { path, name });
            }
        }
        if found.is_empty() {
            return Err(ToolError::NoSamples);
        }
        for list in [&mut found, &mut arcs] {
            // In place; no two have one path.
            list.sort_unstable_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
            if let Some(pair) = list.windows(2).find(|pair| pair[0].name == pair[1].name) {
                return Err(ToolError::Twice {
                    path: pair[1].path.clone(),
                });
            }
        }
        Ok(SessionFiles {
            samples: found,
            arcs,
        })
    }

    /// Where samples were looked for in vain, and what to do next.
    pub fn next_step(&self) -> String {
        let looked = self
            .sessions
            .iter()
            .map(|session| printable(session.as_os_str().as_bytes()))
            .collect::<Vec<_>>()
            .join(", ");
        let mut step = format!("Looked in: {looked}\n");
        let samples = self.session_dir.join("samples");
        let mut others: Vec<String> = fs::read_dir(&samples)
            .into_iter()
            .flatten()
            .flatten()
            .take(MAX_LISTED)
            .filter(|entry| entry.path().is_dir() && !self.sessions.contains(&entry.path()))
            .map(|entry| printable(entry.file_name().as_bytes()))
            .collect();
        others.sort();
        if !others.is_empty() {
            step.push_str(&format!(
                "Other sessions there: {} (to be chosen with session:NAME)",
                others.join(", ")
            ));
        } else if samples.is_dir() {
            step.push_str(
                "The profile is empty: a virtual machine's is written with 'opcontrol --dump' or when the machine ends, and has samples once the guest's driver has started.",
            );
        } else {
            step.push_str("This is no session directory; name one with --session-dir=DIR.");
        }
        step
    }

    /// What the collector or operf says was lost, as warnings for the user.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for session in &self.sessions {
            let stats = session.join("stats");
            let throttled = stats.join("throttled");
            if throttled.is_dir() {
                warnings.push(format!(
                    "WARNING! Some of the events were throttled. Throttling occurs when\nthe initial sample rate is too high, causing an excessive number of\ninterrupts.  Decrease the sampling frequency. Check the directory\n{}\nfor the throttled event names.\n",
                    throttled.display()
                ));
            }
            let total = read_number(&stats.join("total_samples"));
            let lost = lost_samples(&stats);
            if lost > total / 10_000 {
                warnings.push(format!(
                    "\nWARNING: Lost samples detected! See {}/samples/operf.log for details.",
                    self.session_dir.display()
                ));
            }
        }
        warnings
    }
}

fn default_directory() -> PathBuf {
    match std::env::current_dir().map(|dir| dir.join("oprofile_data")) {
        Ok(dir) if dir.is_dir() => dir,
        _ => PathBuf::from(DEFAULT_DIRECTORY),
    }
}

fn lost_samples(stats: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(stats) else {
        return 0;
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().as_bytes().starts_with(b"lost_"))
        .fold(0, |sum: u64, entry| {
            sum.saturating_add(read_number(&entry.path()))
        })
}

/// The number in a statistics file, 0 when there is none.
fn read_number(path: &Path) -> u64 {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(64).read_to_string(&mut text));
    read.ok()
        .and_then(|_| text.trim().parse().ok())
        .unwrap_or(0)
}

/// A walk through a session.
#[derive(Debug, Default)]
struct Walk {
    files: Vec<PathBuf>,
    entries: usize,
}

impl Walk {
    fn directory(&mut self, dir: &Path, depth: usize) -> Result<(), ToolError> {
        let error = |source| ToolError::Directory {
            path: dir.to_owned(),
            source,
        };
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(absent) if absent.kind() == ErrorKind::NotFound => return Ok(()),
            Err(other) => return Err(error(other)),
        };
        for entry in entries {
            let entry = entry.map_err(error)?;
            let path = entry.path();
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(ToolError::TooManyFiles {
                    path: dir.to_owned(),
                    limit: MAX_ENTRIES,
                });
            }
            let kind = match entry.file_type() {
                Ok(kind) if !kind.is_symlink() => Ok(kind),
                // Links are followed, as OProfile does; a dangling one is no sample file.
                _ => fs::metadata(&path).map(|metadata| metadata.file_type()),
            };
            let kind = match kind {
                Ok(kind) => kind,
                Err(absent) if absent.kind() == ErrorKind::NotFound => continue,
                Err(source) => {
                    return Err(ToolError::SampleFile {
                        path,
                        source: source.into(),
                    });
                }
            };
            if kind.is_dir() {
                if depth > 0 {
                    self.directory(&path, depth - 1)?;
                }
            } else if kind.is_file() && path.extension() != Some(OsStr::new("jo")) {
                self.files.push(path);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_no_samples_is_told_where_to_go() {
        let directory = tempfile::tempdir().unwrap();
        let step = |spec: &[&str]| {
            let words: Vec<String> = spec.iter().map(|word| (*word).to_owned()).collect();
            let spec = Specification::parse(&words).unwrap();
            Places::find(Some(directory.path()), None, &spec).next_step()
        };
        assert!(step(&[]).ends_with("name one with --session-dir=DIR."));
        fs::create_dir_all(directory.path().join("samples/current")).unwrap();
        assert!(step(&[]).contains("The profile is empty"));
        let other = step(&["session:gone"]);
        assert!(
            other.contains("samples/gone\nOther sessions there: current"),
            "{other}"
        );
    }

    #[test]
    fn symbols_of_compiled_code_lie_beside_their_region() {
        let directory = tempfile::tempdir().unwrap();
        let region = "{root}/bin/a/{dep}/{anon:anon}";
        let name = format!("{region}/7.0x1000.0x1fff/TIMER.0.0.all.all.all");
        let file = SampleFileName {
            path: directory.path().join(&name),
            name: SamplePath::parse(name.as_bytes()).unwrap(),
        };
        assert_eq!(file.jit_symbols(), None);
        let symbols = directory.path().join(region).join("7.jo");
        fs::create_dir_all(symbols.parent().unwrap()).unwrap();
        fs::write(&symbols, b"").unwrap();
        assert_eq!(file.jit_symbols(), Some(symbols));
    }
}
