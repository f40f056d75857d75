//! Where source files are looked for, and where their annotated copies go.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// How names from debug information become paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourcePaths {
    /// Prefixes to take away from a name.
    pub base_dirs: Vec<PathBuf>,
    /// Directories below which the rest is looked for, first match wins.
    pub search_dirs: Vec<PathBuf>,
}

impl SourcePaths {
    /// The file with the name `recorded`: below a search directory, else where the name says. It need not exist.
    pub fn locate(&self, recorded: &[u8]) -> PathBuf {
        let name = Path::new(OsStr::from_bytes(recorded));
        let stripped = self
            .base_dirs
            .iter()
            .find_map(|base| name.strip_prefix(base).ok())
            .unwrap_or(name);
        // The name is not trusted: it must not lead out of a search directory.
        let below = contained(stripped);
        self.search_dirs
            .iter()
            .map(|directory| directory.join(&below))
            .find(|path| path.is_file())
            .and_then(|path| fs::canonicalize(path).ok())
            .unwrap_or_else(|| {
                fs::canonicalize(name)
                    .or_else(|_| std::path::absolute(name))
                    .unwrap_or_else(|_| name.to_owned())
            })
    }
}

/// `path` as a path below some directory. `..` takes back a component, and nothing when there is none.
pub fn contained(path: &Path) -> PathBuf {
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::ParentDir => {
                inside.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parent_components_do_not_lead_out() {
        for (path, inside) in [
            ("/srv/demo/a.c", "srv/demo/a.c"),
            ("../../etc/passwd", "etc/passwd"),
            ("/a/../../../b/./c", "b/c"),
            ("/..", ""),
        ] {
            assert_eq!(contained(Path::new(path)), Path::new(inside));
        }
    }

    #[test]
    fn source_is_found_below_the_first_search_directory_that_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().canonicalize().unwrap();
        for name in ["one/src/a.c", "two/src/a.c", "two/srv/src/b.c"] {
            let path = top.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let paths = SourcePaths {
            base_dirs: vec!["/opt".into(), "/srv".into()],
            search_dirs: vec![top.join("one"), top.join("two")],
        };
        assert_eq!(paths.locate(b"/srv/src/a.c"), top.join("one/src/a.c"));
        // Only whole components are taken away, and once.
        assert_eq!(
            paths.locate(b"/opt/srv/src/b.c"),
            top.join("two/srv/src/b.c")
        );
        assert_eq!(paths.locate(b"/srvx/src/a.c"), Path::new("/srvx/src/a.c"));
        assert_eq!(
            paths.locate(b"/srv/../../../src/a.c"),
            top.join("one/src/a.c")
        );
    }

    proptest! {
        #[test]
        fn every_path_is_contained(path in "(/|\\.\\./|\\./|a/|b){0,12}") {
            let inside = contained(Path::new(&path));
            prop_assert!(inside.is_relative());
            prop_assert!(inside.components().all(|part| matches!(part, Component::Normal(_))));
        }
    }
}
