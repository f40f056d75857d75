//! Builds the tiny guest: kernel, programs and initrd.
//!
//! [`build`] runs a nested cargo on the workspace in `images/` and packs what comes out. A second run with nothing
//! changed writes nothing. From a build script:
//!
//! ```no_run
//! let images = oprofile_images::build(&oprofile_images::Options::new(std::env::var_os("OUT_DIR").unwrap()))?;
//! println!("cargo::rustc-env=GUEST_KERNEL={}", images.kernel.display());
//! println!("cargo::rustc-env=GUEST_INITRD={}", images.initrd.display());
//! for input in oprofile_images::inputs() {
//!     println!("cargo::rerun-if-changed={}", input.display());
//! }
//! # Ok::<(), oprofile_images::Error>(())
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | `nested` | runs cargo and knows where its results lie |
//! | [`tree`] | the guest's files: packed as cpio, unpacked beside it |
//! | `symbols` | the kernel's functions, as the guest's driver sends them |
//! | `corpus` | the file that the guest's real code works on |
//! | [`truth`] | what a profile of each scenario must show |

use std::io;
use std::path::{Path, PathBuf};

pub use guest_truth as truth;

mod corpus;
mod nested;
mod output;
mod symbols;
pub mod tree;

use tree::Tree;

/// Where the kernel looks for its own symbols.
const KERNEL_SYMBOLS: &str = "boot/kernel.syms";

/// Programs of the package `guest-programs`.
const PROGRAMS: &[&str] = &[
    "exec1", "exec2", "exec3", "exec4", "exec5", "init", "jit", "kmasked", "kwork", "modload",
    "realcode", "shared_a", "shared_b", "shares", "short", "storm", "trap",
];

/// Shared objects by the name cargo gives them and the guest's path.
const OBJECTS: &[(&str, &str)] = &[
    ("libmodwork.so", truth::MODULE_FILE),
    ("libtrap_a.so", truth::TRAP_A),
    ("libtrap_b.so", truth::TRAP_B),
    ("libwork.so", truth::LIBWORK),
];

/// What to build and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory for the results; made when it is not there. Its `root/` belongs to the builder.
    pub out_dir: PathBuf,
    /// Target directory of the nested cargo. Not the outer cargo's: that one holds its lock.
    pub target_dir: PathBuf,
}

impl Options {
    /// Everything below `out_dir`.
    #[must_use]
    pub fn new(out_dir: impl Into<PathBuf>) -> Self {
        let out_dir = out_dir.into();
        let target_dir = out_dir.join("target");
        Self {
            out_dir,
            target_dir,
        }
    }
}

/// What was built.
#[derive(Clone, Debug)]
pub struct Images {
    /// The kernel: an ELF with a PVH note.
    pub kernel: PathBuf,
    /// The initrd: cpio, newc.
    pub initrd: PathBuf,
    /// The initrd's tree, unpacked, with the same times of modification: the guest's files for reports.
    pub root: PathBuf,
}

/// Why there are no images.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Cargo is not there or not executable.
    #[error("Cannot run {}", cargo.display())]
    StartCargo {
        /// The command.
        cargo: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The guest's code does not build; cargo has said why on stderr.
    #[error("Cargo could not build {what} of the guest ({status}): see its messages above")]
    Cargo {
        /// What it was to build.
        what: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// A file cannot be read.
    #[error("Cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or directory cannot be written.
    #[error("Cannot write {}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel that was built has no readable symbols.
    #[error("Cannot read the symbols of {}", path.display())]
    Symbols {
        /// The kernel.
        path: PathBuf,
        /// Why.
        source: object::Error,
    },
    /// A file of the guest does not fit a cpio archive.
    #[error("{path} is too large for an initrd")]
    TooLarge {
        /// Its path in the guest.
        path: String,
    },
}

/// Builds kernel and programs and packs the initrd.
///
/// # Errors
/// See [`Error`].
pub fn build(options: &Options) -> Result<Images, Error> {
    let kernel_elf = nested::build(options, &nested::KERNEL)?.join("tiny-kernel");
    let kernel_bytes = read(&kernel_elf)?;
    let mut files = guest_files(options)?;
    let symbols = symbols::of_kernel(&kernel_bytes).map_err(|source| Error::Symbols {
        path: kernel_elf,
        source,
    })?;
    files.insert(KERNEL_SYMBOLS, symbols);

    let images = Images {
        kernel: options.out_dir.join("kernel"),
        initrd: options.out_dir.join("initrd.cpio"),
        root: options.out_dir.join("root"),
    };
    output::write_if_changed(&images.kernel, &kernel_bytes)?;
    output::write_if_changed(&images.initrd, &files.to_cpio()?)?;
    files.unpack(&images.root)?;
    Ok(images)
}

/// Builds the programs and gives the guest's files, all but the kernel's symbols.
///
/// # Errors
/// See [`Error`].
pub fn guest_files(options: &Options) -> Result<Tree, Error> {
    let built = nested::build(options, &nested::PROGRAMS)?;
    let mut files = Tree::default();
    for name in PROGRAMS {
        files.insert(&format!("bin/{name}"), read(&built.join(name))?);
    }
    for (name, path) in OBJECTS {
        files.insert(path, read(&built.join(name))?);
    }
    files.insert(truth::CORPUS, corpus::text());
    Ok(files)
}

/// Files and directories that the images are made from, for `rerun-if-changed`.
#[must_use]
pub fn inputs() -> Vec<PathBuf> {
    let images = nested::workspace();
    [
        ".cargo",
        "Cargo.toml",
        "Cargo.lock",
        "kernel",
        "programs",
        "builder/src",
        "../wire",
        "../guest-agent/Cargo.toml",
        "../guest-agent/src",
        "../Cargo.toml",
    ]
    .iter()
    .map(|input| images.join(input))
    // A path that is not there would count as changed each time.
    .filter(|path| path.exists())
    .collect()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}
