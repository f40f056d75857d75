//! A Debian guest: its kernel, our module built for it, and an initramfs with programs from packages.
//!
//! Everything is fetched through apt and unpacked below `target/linux`, what belongs to one kernel below `target/linux/FLAVOUR`;
//! nothing is installed but a compiler and make.

mod flavour;
mod image;
mod module;
pub mod overhead;
mod programs;
pub mod runtimes;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::apt::{self, AptError};
use crate::lab::fetch::{self, FetchError, Kernel};
use crate::lab::modules::ModuleError;
use crate::repo;
use crate::step::Step;

pub use flavour::Flavour;

/// The names under which a kernel and its initramfs are found below [`home`]; whole-system tests know them, too.
const KERNEL: &str = "vmlinuz";

/// Why there is no Debian guest.
#[derive(Debug, thiserror::Error)]
pub enum LinuxError {
    /// A package could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A program could not be installed.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// The kernel's modules are not as expected.
    #[error("Cannot gather the guest kernel's modules")]
    Modules(#[from] ModuleError),
    /// A build failed.
    #[error("`{command}` failed:\n{output}")]
    Build {
        /// The command line.
        command: String,
        /// The end of what it printed.
        output: String,
    },
    /// The measuring guest did not come to its end.
    #[error("The guest that measures the agent {what}; it said:\n{said}")]
    Measurement {
        /// What went wrong.
        what: &'static str,
        /// The end of its console.
        said: String,
    },
    /// A file cannot be read or written.
    #[error("Cannot use {}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl LinuxError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

/// What the VMM is given.
#[derive(Debug)]
pub struct Guest {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The initramfs, whose init runs the programs.
    pub initrd: PathBuf,
    /// A disk image with a program.
    pub disk: PathBuf,
    /// That program.
    pub on_disk: PathBuf,
    /// A disk image to have as the root.
    pub root: PathBuf,
    /// Debug files of its libraries, as below `/usr/lib/debug`.
    pub debug: PathBuf,
}

/// What all flavours' guests live in.
pub fn home() -> PathBuf {
    repo::target_dir().join("linux")
}

/// Fetches and builds what is missing.
pub fn prepare(flavour: Flavour) -> Result<Guest, LinuxError> {
    let shared = home();
    let cache = shared.join(flavour.name());
    fs::create_dir_all(&cache).map_err(LinuxError::file(&cache))?;
    let (kernel, headers) = kernel_and_headers(flavour, &cache)?;
    let own = module::build(&cache, &kernel.version, &headers)?;
    let programs = programs::gather(&shared)?;
    let step = Step::begin(format_args!(
        "packing initramfs and disk of the guest with {}",
        kernel.version
    ));
    let initrd = image::pack(&cache, &kernel, &own, &programs)?;
    let disk = image::disk(&shared, &programs.on_disk)?;
    let root = image::root(&shared, &programs)?;
    step.done();
    Ok(Guest {
        kernel: lasting_name(&cache, &kernel.image)?,
        initrd,
        disk,
        root,
        on_disk: programs.on_disk,
        debug: programs.debug,
    })
}

/// A name for the kernel's image without its version.
fn lasting_name(cache: &Path, image: &Path) -> Result<PathBuf, LinuxError> {
    let link = cache.join(KERNEL);
    if fs::read_link(&link).ok().as_deref() != Some(image) {
        let unfinished = link.with_extension("unfinished");
        std::os::unix::fs::symlink(image, &unfinished)
            .and_then(|()| fs::rename(&unfinished, &link))
            .map_err(LinuxError::file(&link))?;
    }
    Ok(link)
}

/// What is needed to boot the kernel and no more.
#[derive(Debug)]
pub struct BootGuest {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The initramfs, whose init says that it runs and powers off.
    pub initrd: PathBuf,
}

/// Fetches and builds what is missing of a guest that is only booted.
pub fn prepare_boot() -> Result<BootGuest, LinuxError> {
    let cache = home().join(Flavour::Cloud61.name());
    fs::create_dir_all(&cache).map_err(LinuxError::file(&cache))?;
    let kernel = fetch::kernel_of(Flavour::Cloud61.meta_package(), &cache.join("kernel"))?;
    let initrd = image::pack_boot(&cache, &fetch::busybox(&repo::lab_dir())?)?;
    Ok(BootGuest {
        kernel: kernel.image,
        initrd,
    })
}

/// The kernel and its headers. A mirror has those of its newest kernel only, so a kernel that was fetched earlier, or by an old
/// package list, is fetched anew when they are gone.
fn kernel_and_headers(flavour: Flavour, cache: &Path) -> Result<(Kernel, PathBuf), LinuxError> {
    let home = cache.join("kernel");
    let kernel = fetch::kernel_of(flavour.meta_package(), &home)?;
    match module::headers(cache, &kernel.version) {
        Ok(headers) => Ok((kernel, headers)),
        Err(_) => {
            apt::update()?;
            fs::remove_dir_all(&home).map_err(LinuxError::file(&home))?;
            let kernel = fetch::kernel_of(flavour.meta_package(), &home)?;
            let headers = module::headers(cache, &kernel.version)?;
            Ok((kernel, headers))
        }
    }
}
