//! A Debian guest: its kernel, our module built for it, and an initramfs with programs from packages.
//!
//! Everything is fetched through apt and unpacked below `target/linux`; nothing is installed but a compiler and make.

mod image;
mod module;
pub mod overhead;
mod programs;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::apt::{self, AptError};
use crate::lab::fetch::{self, FetchError, Kernel};
use crate::lab::modules::ModuleError;
use crate::repo;
use crate::step::Step;

/// Depends on the newest kernel of the distribution's cloud flavour.
const KERNEL_META_PACKAGE: &str = "linux-image-cloud-amd64";

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
    /// Debug files of its libraries, as below `/usr/lib/debug`.
    pub debug: PathBuf,
}

/// Fetches and builds what is missing.
pub fn prepare() -> Result<Guest, LinuxError> {
    let cache = repo::target_dir().join("linux");
    fs::create_dir_all(&cache).map_err(LinuxError::file(&cache))?;
    let (kernel, headers) = kernel_and_headers(&cache)?;
    let module = module::build(&cache, &kernel.version, &headers)?;
    let programs = programs::gather(&cache)?;
    let step = Step::begin("packing the guest's initramfs and disk");
    let initrd = image::pack(&cache, &kernel, &module, &programs)?;
    let disk = image::disk(&cache, &programs.on_disk)?;
    step.done();
    Ok(Guest {
        kernel: kernel.image,
        initrd,
        disk,
        on_disk: programs.on_disk,
        debug: programs.debug,
    })
}

/// The kernel and its headers. A mirror has those of its newest kernel only, so a kernel that was fetched earlier, or by an old
/// package list, is fetched anew when they are gone.
fn kernel_and_headers(cache: &Path) -> Result<(Kernel, PathBuf), LinuxError> {
    let home = cache.join("kernel");
    let kernel = fetch::kernel_of(KERNEL_META_PACKAGE, &home)?;
    match module::headers(cache, &kernel.version) {
        Ok(headers) => Ok((kernel, headers)),
        Err(_) => {
            apt::update()?;
            fs::remove_dir_all(&home).map_err(LinuxError::file(&home))?;
            let kernel = fetch::kernel_of(KERNEL_META_PACKAGE, &home)?;
            let headers = module::headers(cache, &kernel.version)?;
            Ok((kernel, headers))
        }
    }
}
