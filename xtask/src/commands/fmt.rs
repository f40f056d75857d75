//! `cargo xtask fmt`: formats all workspaces.

use crate::cargo::{CargoError, run};
use crate::repo;

/// Formats the root workspace and those of the guest images, the benchmarks and the fuzz targets.
pub fn run_fmt() -> Result<(), CargoError> {
    run(&repo::root(), &["fmt", "--all"])?;
    run(&repo::images(), &["fmt", "--all"])?;
    run(&repo::bench(), &["fmt"])?;
    run(&repo::fuzz(), &["fmt", "--all"])
}
