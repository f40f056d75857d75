//! Fuzzing: builds the targets of `fuzz/` with a stable toolchain, runs them, and keeps what they find.
//!
//! | directory | what is there |
//! |---|---|
//! | `fuzz/corpus/TARGET` | committed inputs: the smallest that reach what is reached; replayed by an ordinary test |
//! | `target/fuzz/TARGET/corpus` | inputs that runs on this machine found |
//! | `target/fuzz/TARGET/findings` | inputs that made the target fail |

mod corpus;
mod run;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::apt::{self, AptError};
use crate::cargo::{self, CargoError};
use crate::repo;
use crate::step::Step;

pub use corpus::merge;
pub use run::{reproduce, run};

/// Named, so that build scripts and macros get no flags of it.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// Coverage as libFuzzer wants it; both kinds of flags are stable. What cargo-fuzz gives besides, a sanitizer, needs
/// nightly, and the code under test has next to no `unsafe`.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];

/// Longest input in bytes of a target that names none: libFuzzer's own default.
const DEFAULT_MAX_LEN: u32 = 4_096;

/// Why targets could not be fuzzed.
#[derive(Debug, thiserror::Error)]
pub enum FuzzError {
    /// There is no C++ compiler.
    #[error("libFuzzer is built with a C++ compiler")]
    Compiler(#[from] AptError),
    /// Targets cannot be listed or built.
    #[error("Cannot build the fuzz targets")]
    Cargo(#[from] CargoError),
    /// No target has this name.
    #[error("There is no fuzz target {0:?}; `cargo xtask fuzz --list` names them")]
    NoTarget(String),
    /// A file or directory cannot be used.
    #[error("Cannot use {}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// libFuzzer did not merge.
    #[error("Cannot merge the corpus of {target}:\n{output}")]
    Merge {
        /// The target.
        target: String,
        /// The end of what libFuzzer said.
        output: String,
    },
}

impl FuzzError {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

/// A target of `fuzz/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Longest input in bytes.
    pub max_len: u32,
}

impl Target {
    fn program(&self) -> PathBuf {
        let built = repo::fuzz_target_dir().join(HOST).join("release");
        built.join(&self.name)
    }

    /// The committed corpus.
    fn seeds(&self) -> PathBuf {
        repo::fuzz().join("corpus").join(&self.name)
    }

    fn found(&self) -> PathBuf {
        repo::target_dir().join("fuzz").join(&self.name)
    }

    fn corpus(&self) -> PathBuf {
        self.found().join("corpus")
    }

    fn findings(&self) -> PathBuf {
        self.found().join("findings")
    }

    /// Makes the directories that a run uses.
    fn make_directories(&self) -> Result<(), FuzzError> {
        for path in [self.seeds(), self.corpus(), self.findings()] {
            fs::create_dir_all(&path).map_err(FuzzError::file(&path))?;
        }
        Ok(())
    }
}

/// All targets, or those of these names.
pub fn targets(names: &[String]) -> Result<Vec<Target>, FuzzError> {
    let all = list(&cargo::metadata_of::<Metadata>(&repo::fuzz())?);
    if names.is_empty() {
        return Ok(all);
    }
    let find = |name: &String| {
        let found = all.iter().find(|target| target.name == *name);
        found
            .cloned()
            .ok_or_else(|| FuzzError::NoTarget(name.clone()))
    };
    names.iter().map(find).collect()
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    targets: Vec<cargo::Target>,
    #[serde(default)]
    metadata: Option<PackageMetadata>,
}

/// `[package.metadata]` of `fuzz/Cargo.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct PackageMetadata {
    max_len: std::collections::BTreeMap<String, u32>,
}

/// The binaries are the targets.
fn list(metadata: &Metadata) -> Vec<Target> {
    let mut list = Vec::new();
    for package in &metadata.packages {
        for target in &package.targets {
            if !target.kind.iter().any(|kind| kind == "bin") {
                continue;
            }
            let told = package.metadata.as_ref();
            let max_len = told.and_then(|told| told.max_len.get(&target.name));
            list.push(Target {
                name: target.name.clone(),
                max_len: max_len.copied().unwrap_or(DEFAULT_MAX_LEN),
            });
        }
    }
    list
}

/// Builds all targets.
pub fn build() -> Result<(), FuzzError> {
    if env::var_os("CXX").is_none() {
        apt::program("c++", "g++", "libFuzzer is written in C++")?;
    }
    let step = Step::begin("building the fuzz targets (release, debug assertions, coverage)");
    let mut flags = env::var_os("RUSTFLAGS").unwrap_or_default();
    for flag in COVERAGE {
        flags.push(" ");
        flags.push(flag);
    }
    let directory: OsString = repo::fuzz_target_dir().into();
    let directory = directory.to_string_lossy();
    let arguments = ["build", "--release", "--bins", "--target", HOST];
    let arguments = [&arguments[..], &["--target-dir", &*directory]].concat();
    cargo::run_with(&repo::fuzz(), &arguments, &[("RUSTFLAGS", &*flags)])?;
    step.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_targets_with_the_length_that_their_package_names() {
        let json = r#"{"packages": [
            {"targets": [{"name": "lib", "kind": ["lib"]}]},
            {"targets": [{"name": "a", "kind": ["bin"]}, {"name": "b", "kind": ["bin"]}],
             "metadata": {"cargo-fuzz": true, "max-len": {"b": 7}}}]}"#;
        let target = |name: &str, max_len| Target {
            name: name.to_owned(),
            max_len,
        };
        let metadata = serde_json::from_str(json).expect("JSON");
        assert_eq!(
            list(&metadata),
            [target("a", DEFAULT_MAX_LEN), target("b", 7)]
        );
    }
}
