//! `cargo xtask fmt`: formats both workspaces.

use crate::cargo::{CargoError, run};
use crate::repo;

/// Formats the root workspace and the one of the guest images.
pub fn run_fmt() -> Result<(), CargoError> {
    run(&repo::root(), &["fmt", "--all"])?;
    run(&repo::images(), &["fmt", "--all"])
}
