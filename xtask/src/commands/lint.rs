//! `cargo xtask lint`: formatting and clippy, warnings being errors, for all workspaces.

use crate::cargo::{CargoError, metadata, run};
use crate::kvm_tests;
use crate::repo;
use crate::step::Step;

/// Freestanding code is built for the host's target, named so that build scripts get no flags of it.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// Checks the root workspace and those of the guest images, the benchmarks and the fuzz targets.
pub fn run_lint() -> Result<(), CargoError> {
    let step = Step::begin("checking the format (cargo xtask fmt puts it right)");
    run(&repo::root(), &["fmt", "--all", "--check"])?;
    run(&repo::images(), &["fmt", "--all", "--check"])?;
    run(&repo::bench(), &["fmt", "--check"])?;
    run(&repo::fuzz(), &["fmt", "--all", "--check"])?;
    step.done();

    let step = Step::begin("clippy: the workspace");
    let deny = ["--", "-D", "warnings"];
    clippy(&repo::root(), &["--workspace", "--all-targets"], &deny)?;
    // `--all-targets` leaves out what has `test = false`: the tests that need KVM.
    let metadata = metadata()?;
    if let Ok(names) = kvm_tests::names(&metadata) {
        let mut arguments = vec!["--workspace"];
        for name in names {
            arguments.extend(["--test", name]);
        }
        clippy(&repo::root(), &arguments, &deny)?;
    }
    step.done();

    let step = Step::begin("clippy: the guest images");
    // Freestanding programs have no tests, and the test harness would want std.
    clippy(&repo::images(), &["--workspace"], &deny)?;
    let bare = ["--workspace", "--release", "--all-features"];
    clippy(
        &repo::images(),
        &[&bare[..], &["--target", HOST]].concat(),
        &deny,
    )?;
    step.done();

    let step = Step::begin("clippy: the benchmarks and the fuzz targets");
    clippy(&repo::bench(), &["--all-targets"], &deny)?;
    clippy(
        &repo::fuzz(),
        &["--package=oprofile-fuzz-targets", "--all-targets"],
        &deny,
    )?;
    step.done();
    Ok(())
}

fn clippy(directory: &std::path::Path, what: &[&str], deny: &[&str]) -> Result<(), CargoError> {
    run(directory, &[&["clippy", "--quiet"], what, deny].concat())
}
