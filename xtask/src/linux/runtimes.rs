//! A disk with runtimes that compile just in time, and what they run: a root of its own, for it is larger than all else in the guest.

use std::fs;
use std::path::{Path, PathBuf};

use super::{LinuxError, image, programs};
use crate::apt;
use crate::lab::fetch::{self, FetchError};
use crate::repo;
use crate::step::Step;

/// Node.js and PHP with what they are linked with, and what Node.js reads when it starts.
const PACKAGES: &[&str] = &[
    "libargon2-1",
    "libbrotli1",
    "libbsd0",
    "libc-ares2",
    "libc6",
    "libedit2",
    "libgcc-s1",
    "libicu72",
    "liblzma5",
    "libmagic1",
    "libmd0",
    "libnghttp2-14",
    NODE_LIBRARY,
    "libpcre2-8-0",
    "libsodium23",
    "libssl3",
    "libstdc++6",
    "libtinfo6",
    "libuv1",
    "libxml2",
    "node-acorn",
    "node-cjs-module-lexer",
    "node-undici",
    "php8.2-cli",
    "php8.2-common",
    "php8.2-opcache",
    "zlib1g",
];

/// What Node.js's program is linked with, of its own version. The program is asked for by that: where another Node.js is installed than
/// Debian's, apt would take its version for the one to fetch.
const NODE_LIBRARY: &str = "libnode108";
const NODE: &str = "nodejs";

/// What the runtimes run, and where it is in the image.
const SOURCES: &str = "images/linux/runtimes";

/// Parts of packages that nothing needs.
const LEFT_OUT: [&str; 2] = ["usr/share/doc", "usr/share/man"];

/// Size of the disk: its files have 110 MiB.
const SIZE: &str = "192M";

/// Makes the disk image, fetches what is missing. Returns its path.
pub fn disk(cache: &Path) -> Result<PathBuf, LinuxError> {
    let tree = programs::tree_of(cache, "runtimes", PACKAGES);
    if !tree.exists() {
        let step = Step::begin("fetching runtimes with just-in-time compilers with apt-get");
        if download(&tree).is_err() {
            // Versions of an old list are gone from the mirrors.
            apt::update()?;
            download(&tree)?;
        }
        step.done();
    }
    for left_out in LEFT_OUT {
        let path = tree.join(left_out);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(LinuxError::file(&path))?;
        }
    }
    let step = Step::begin("packing the disk with the runtimes");
    let scratch = tree.join("tmp");
    fs::create_dir_all(&scratch).map_err(LinuxError::file(&scratch))?;
    let sources = repo::root().join(SOURCES);
    for source in fs::read_dir(&sources).map_err(LinuxError::file(&sources))? {
        let source = source.map_err(LinuxError::file(&sources))?.path();
        let copy = tree.join(source.file_name().unwrap_or_default());
        fs::copy(&source, &copy).map_err(LinuxError::file(&copy))?;
    }
    let disk = image::file_system(&tree, &cache.join("runtimes.img"), SIZE)?;
    step.done();
    Ok(disk)
}

fn download(tree: &Path) -> Result<(), FetchError> {
    let node = format!("{NODE}={}", fetch::candidate(NODE_LIBRARY)?);
    let mut packages = PACKAGES.to_vec();
    packages.push(&node);
    fetch::download(&packages, tree)
}
