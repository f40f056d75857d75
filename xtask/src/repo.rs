//! Where things are in this checkout.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the repository.
pub fn root() -> PathBuf {
    // `cargo run` sets the variable; a copied binary falls back on the place it was built from.
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// The workspace of the freestanding guest code.
pub fn images() -> PathBuf {
    root().join("images")
}

/// The workspace of the benchmarks.
pub fn bench() -> PathBuf {
    root().join("bench")
}

/// The workspace of the fuzz targets.
pub fn fuzz() -> PathBuf {
    root().join("fuzz")
}

/// Cargo's target directory for the fuzz targets: cargo-fuzz's, whatever is said for the root workspace.
pub fn fuzz_target_dir() -> PathBuf {
    fuzz().join("target")
}

/// Cargo's target directory for the root workspace.
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => env::current_dir().map_or_else(|_| PathBuf::from(&dir), |cwd| cwd.join(&dir)),
        None => root().join("target"),
    }
}

/// Where the lab keeps what it fetched: shared by all target directories, since it is large.
pub fn lab_dir() -> PathBuf {
    root().join("target/lab")
}
