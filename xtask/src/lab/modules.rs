//! Which kernel modules the lab loads, in which order.
//!
//! A kernel package carries no `modules.dep` (depmod writes that when a package is installed), so
//! the dependencies come from the modules themselves: the `depends=` entry of `.modinfo`.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSection};

/// What the lab needs; all else follows from dependencies.
pub const WANTED: [&str; 6] = [
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
    "kvm-amd",
];

/// Why the modules of a kernel could not be gathered.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A file or directory of the kernel tree cannot be read.
    #[error("Cannot read {}", path.display())]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A module is neither built in nor a file.
    #[error("This kernel has no module {0}; delete target/lab/kernel to fetch another")]
    Missing(String),
    /// A compressed module could not be unpacked.
    #[error("Cannot unpack {} with {tool}; is {tool} installed?", path.display())]
    Unpack {
        /// The module's file.
        path: PathBuf,
        /// The program that was run.
        tool: &'static str,
    },
    /// A module file is no ELF file.
    #[error("{} is not a kernel module", path.display())]
    NotElf {
        /// The module's file.
        path: PathBuf,
        /// What the ELF reader says.
        #[source]
        source: object::read::Error,
    },
}

/// A module, ready to be loaded.
#[derive(Debug)]
pub struct Module {
    /// Its name, `_` for `-`.
    pub name: String,
    /// The ELF file, not compressed.
    pub image: Vec<u8>,
}

/// The modules below `tree` (a `lib/modules/VERSION` directory) that are `wanted` and those they need, in load order.
pub fn gather(tree: &Path, wanted: &[&str]) -> Result<Vec<Module>, ModuleError> {
    let builtin_list = tree.join("modules.builtin");
    let builtin = parse_builtin(&read_text(&builtin_list)?);
    let mut files = HashMap::new();
    index(&tree.join("kernel"), &mut files)?;

    let mut images = HashMap::new();
    let order = load_order(wanted, |name| {
        if builtin.contains(name) {
            return Ok(None);
        }
        let path = files
            .get(name)
            .ok_or_else(|| ModuleError::Missing(name.to_owned()))?;
        let image = unpack(path)?;
        let depends = depends(&image).map_err(|source| ModuleError::NotElf {
            path: path.clone(),
            source,
        })?;
        images.insert(name.to_owned(), image);
        Ok(Some(depends))
    })?;
    Ok(order
        .into_iter()
        .filter_map(|name| images.remove(&name).map(|image| Module { name, image }))
        .collect())
}

/// Orders `wanted` and all they depend on so that each comes after its dependencies. `depends_of`
/// answers `None` for what needs no loading; it is asked once for each name.
fn load_order<E>(
    wanted: &[&str],
    mut depends_of: impl FnMut(&str) -> Result<Option<Vec<String>>, E>,
) -> Result<Vec<String>, E> {
    fn visit<E>(
        name: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<String>,
        depends_of: &mut impl FnMut(&str) -> Result<Option<Vec<String>>, E>,
    ) -> Result<(), E> {
        let name = canonical(name);
        if !seen.insert(name.clone()) {
            return Ok(());
        }
        if let Some(depends) = depends_of(&name)? {
            for dependency in depends {
                visit(&dependency, seen, order, depends_of)?;
            }
            order.push(name);
        }
        Ok(())
    }
    let mut seen = BTreeSet::new();
    let mut order = Vec::new();
    for name in wanted {
        visit(name, &mut seen, &mut order, &mut depends_of)?;
    }
    Ok(order)
}

/// The kernel takes `-` and `_` in a module's name for the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The module name of a path such as `kernel/fs/9p/9p.ko.xz`, if it is a module's.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (stem, suffix) = file.split_once(".ko")?;
    matches!(suffix, "" | ".xz" | ".zst" | ".gz").then(|| canonical(stem))
}

fn parse_builtin(list: &str) -> BTreeSet<String> {
    list.lines()
        .filter_map(|line| name_of(Path::new(line)))
        .collect()
}

fn index(directory: &Path, files: &mut HashMap<String, PathBuf>) -> Result<(), ModuleError> {
    let read = |source| ModuleError::Read {
        path: directory.to_owned(),
        source,
    };
    for entry in fs::read_dir(directory).map_err(read)? {
        let entry = entry.map_err(read)?;
        let path = entry.path();
        if entry.file_type().map_err(read)?.is_dir() {
            index(&path, files)?;
        } else if let Some(name) = name_of(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String, ModuleError> {
    fs::read_to_string(path).map_err(|source| ModuleError::Read {
        path: path.to_owned(),
        source,
    })
}

fn unpack(path: &Path) -> Result<Vec<u8>, ModuleError> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => {
            return fs::read(path).map_err(|source| ModuleError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    match Command::new(tool).arg("-dc").arg(path).output() {
        Ok(output) if output.status.success() => Ok(output.stdout),
        _ => Err(ModuleError::Unpack {
            path: path.to_owned(),
            tool,
        }),
    }
}

/// The names in the module's `depends=` entry.
fn depends(image: &[u8]) -> Result<Vec<String>, object::read::Error> {
    let file = object::File::parse(image)?;
    let Some(section) = file.section_by_name(".modinfo") else {
        return Ok(Vec::new());
    };
    Ok(parse_depends(section.data()?))
}

/// `.modinfo` is a row of `key=value` strings, each ended by a NUL.
fn parse_depends(modinfo: &[u8]) -> Vec<String> {
    modinfo
        .split(|&byte| byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok())
        .filter_map(|entry| entry.strip_prefix("depends="))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn order(wanted: &[&str], edges: &[(&str, Option<&[&str]>)]) -> Vec<String> {
        load_order(wanted, |name| {
            let (_, depends) = edges
                .iter()
                .find(|(from, _)| *from == name)
                .expect("only known names are asked for");
            let depends = depends.map(|names| names.iter().map(ToString::to_string).collect());
            Ok::<_, Infallible>(depends)
        })
        .expect("infallible")
    }

    #[test]
    fn dependencies_load_first_and_once() {
        let edges = [
            ("9p", Some(&["9pnet", "netfs"][..])),
            ("9pnet_virtio", Some(&["9pnet"][..])),
            ("9pnet", Some(&["netfs"][..])),
            ("netfs", Some(&[][..])),
        ];
        assert_eq!(
            order(&["9pnet-virtio", "9p"], &edges),
            ["netfs", "9pnet", "9pnet_virtio", "9p"]
        );
    }

    #[test]
    fn what_is_built_in_is_not_loaded() {
        let edges = [
            ("kvm_amd", Some(&["kvm", "virtio"][..])),
            ("kvm", Some(&[][..])),
            ("virtio", None),
        ];
        assert_eq!(order(&["kvm-amd"], &edges), ["kvm", "kvm_amd"]);
    }

    #[test]
    fn a_cycle_ends() {
        let edges = [("a", Some(&["b"][..])), ("b", Some(&["a"][..]))];
        assert_eq!(order(&["a"], &edges), ["b", "a"]);
    }

    #[test]
    fn depends_are_read_from_modinfo() {
        let modinfo = b"license=GPL\0depends=kvm,ccp\0intree=Y\0";
        assert_eq!(parse_depends(modinfo), ["kvm", "ccp"]);
        assert!(parse_depends(b"depends=\0").is_empty());
    }

    #[test]
    fn module_files_are_told_from_others() {
        assert_eq!(
            name_of(Path::new("a/kvm-amd.ko.xz")).as_deref(),
            Some("kvm_amd")
        );
        assert_eq!(name_of(Path::new("a/9p.ko")).as_deref(), Some("9p"));
        assert_eq!(name_of(Path::new("a/modules.order")), None);
    }
}
