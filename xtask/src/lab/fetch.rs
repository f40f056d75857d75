//! Gets what the lab is made of from the distribution, through apt, once.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::{self, AptError, apt_get, capture, need, with_fresh_lists};
use crate::step::Step;

/// The emulator the lab runs on.
const QEMU: &str = "qemu-system-x86_64";

/// Why the lab's parts could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// apt did not help.
    #[error("Cannot fetch the lab's parts (a machine with hardware KVM needs none, see --host)")]
    Apt(#[from] AptError),
    /// apt knows no kernel package.
    #[error(
        "apt knows no linux-image-VERSION-amd64 package; add a Debian source to apt and run apt-get \
         update"
    )]
    NoKernelPackage,
    /// A file of the cache cannot be read or written.
    #[error("Cannot use {}", path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A package does not hold what it should.
    #[error("Package {package} holds no {wanted}")]
    Content {
        /// The package's name.
        package: String,
        /// What was looked for in it.
        wanted: &'static str,
    },
}

impl FetchError {
    fn cache(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Cache { path, source }
    }
}

/// An unpacked kernel package.
#[derive(Debug)]
pub struct Kernel {
    /// Its version, as in `uname -r`.
    pub version: String,
    /// The bootable image.
    pub image: PathBuf,
    /// Its `lib/modules/VERSION` directory.
    pub modules: PathBuf,
}

/// The path of QEMU, installed now if need be.
pub fn qemu() -> Result<PathBuf, FetchError> {
    let purpose = "it emulates a CPU with SVM";
    Ok(apt::program(QEMU, "qemu-system-x86", purpose)?)
}

/// A statically linked busybox, unpacked below `cache` now if need be.
pub fn busybox(cache: &Path) -> Result<PathBuf, FetchError> {
    let home = cache.join("busybox");
    if !home.exists() {
        let step = Step::begin("fetching busybox-static with apt-get (the lab's first process)");
        download(&["busybox-static"], &home)?;
        step.done();
    }
    ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|path| home.join(path))
        .find(|path| path.exists())
        .ok_or_else(|| FetchError::Content {
            package: "busybox-static".to_owned(),
            wanted: "busybox",
        })
}

/// The lab's kernel, unpacked below `cache` now if need be: Debian's own, in its newest build when it is fetched.
///
/// Not a newer series that apt may offer as well: 6.12 froze or oopsed in the emulated machine about once in ten guests.
pub fn kernel(cache: &Path) -> Result<Kernel, FetchError> {
    kernel_of(KERNEL_META_PACKAGE, &cache.join("kernel"))
}

/// The kernel that `meta_package` depends on, unpacked to `home` now if need be.
pub fn kernel_of(meta_package: &str, home: &Path) -> Result<Kernel, FetchError> {
    if !home.exists() {
        let package = match newest_kernel_package(meta_package)? {
            Some(package) => package,
            None => {
                apt::update()?;
                newest_kernel_package(meta_package)?.ok_or(FetchError::NoKernelPackage)?
            }
        };
        let step = Step::begin(format_args!(
            "fetching {package} with apt-get (unpacked, not installed)"
        ));
        download(&[&package], home)?;
        step.done();
    }
    let missing = |wanted| FetchError::Content {
        package: "linux-image".to_owned(),
        wanted,
    };
    let boot = home.join("boot");
    let image = entries(&boot)?
        .into_iter()
        .find(|path| path.to_string_lossy().contains("/vmlinuz-"))
        .ok_or_else(|| missing("boot/vmlinuz-VERSION"))?;
    let version = image
        .file_name()
        .and_then(OsStr::to_str)
        .and_then(|name| name.strip_prefix("vmlinuz-"))
        .ok_or_else(|| missing("boot/vmlinuz-VERSION"))?
        .to_owned();
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .map(|path| home.join(path).join(&version))
        .find(|path| path.exists())
        .ok_or_else(|| missing("lib/modules/VERSION"))?;
    Ok(Kernel {
        version,
        image,
        modules,
    })
}

/// Depends on the newest kernel of the distribution's own series.
const KERNEL_META_PACKAGE: &str = "linux-image-amd64";

fn newest_kernel_package(meta_package: &str) -> Result<Option<String>, FetchError> {
    need("apt-cache")?;
    let list = capture(Command::new("apt-cache").args(["depends", "--important", meta_package]));
    match list {
        Ok(list) => Ok(dependency(&list).map(str::to_owned)),
        // apt-cache fails when it has no list that names the package.
        Err(AptError::Failed { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The kernel image that `apt-cache depends` names.
fn dependency(list: &str) -> Option<&str> {
    list.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
}

/// The version of `package` that apt would install.
pub fn candidate(package: &str) -> Result<String, FetchError> {
    need("apt-cache")?;
    let policy = capture(Command::new("apt-cache").args(["policy", package]))?;
    match candidate_of(&policy) {
        Some(version) => Ok(version.to_owned()),
        None => Err(FetchError::Content {
            package: package.to_owned(),
            wanted: "version that apt knows",
        }),
    }
}

/// The version that `apt-cache policy` names.
fn candidate_of(policy: &str) -> Option<&str> {
    policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
}

/// Downloads packages, `name` or `name=version`, and unpacks them to `home`, which appears only when it is complete.
pub fn download(packages: &[&str], home: &Path) -> Result<(), FetchError> {
    need("dpkg-deb")?;
    let parent = home.parent().unwrap_or(Path::new("."));
    let scratch = tempfile::Builder::new()
        .prefix("fetch-")
        .tempdir_in(parent)
        .map_err(FetchError::cache(parent))?;
    with_fresh_lists(|| {
        // apt would drop to a user that may not write here.
        let words = ["-o", "APT::Sandbox::User=root", "download"];
        apt_get(scratch.path(), &[&words, packages].concat())
    })?;
    let archives: Vec<PathBuf> = entries(scratch.path())?
        .into_iter()
        .filter(|path| path.extension() == Some(OsStr::new("deb")))
        .collect();
    if archives.len() != packages.len() {
        return Err(FetchError::Content {
            package: packages.join(", "),
            wanted: ".deb file",
        });
    }
    let unpacked = scratch.path().join("unpacked");
    for archive in &archives {
        capture(
            Command::new("dpkg-deb")
                .arg("-x")
                .arg(archive)
                .arg(&unpacked),
        )?;
    }
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))
        .and_then(|()| fs::rename(&unpacked, home))
        .map_err(FetchError::cache(home))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, FetchError> {
    fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(FetchError::cache(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_meta_package_depends_on() {
        let list = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(dependency(list), Some("linux-image-6.1.0-56-amd64"));
    }

    #[test]
    fn the_version_to_fetch_is_apts_candidate() {
        let policy =
            "p:\n  Installed: (none)\n  Candidate: 1:2.3-4\n  Version table:\n     1:2.3-4 500\n";
        assert_eq!(candidate_of(policy), Some("1:2.3-4"));
        assert_eq!(candidate_of("p:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_of(""), None);
    }

    #[test]
    fn without_a_kernel_package_there_is_none() {
        assert_eq!(dependency("linux-image-amd64\n"), None);
    }
}
