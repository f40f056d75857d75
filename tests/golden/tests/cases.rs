//! All cases, with the tools as this build makes them.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use oprofile_golden::run_folder;

/// Builds the tools, which are another package's programs and not there otherwise; their directory.
fn build_tools() -> PathBuf {
    // This program is target/PROFILE/deps/cases-…
    let program = env::current_exe().unwrap();
    let binaries = program.parent().and_then(Path::parent).unwrap();
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command
        .args(["build", "--quiet", "--package=oprofile-tools", "--bins"])
        .arg("--target-dir")
        .arg(binaries.parent().unwrap())
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    assert!(command.status().unwrap().success(), "{command:?} failed");
    binaries.to_owned()
}

#[test]
fn exactly_the_known_failures_fail() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let report = run_folder(folder, &build_tools(), None).unwrap();
    let mut details = String::new();
    report.write_details(&mut details, false).unwrap();
    println!("{details}{report}");
    assert!(report.is_as_expected(), "{details}{report}");
}
