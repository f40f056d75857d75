//! Runs cargo: builds, checks, and what it says about the workspace.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::repo;
use crate::step::Step;
use crate::supervise::{Output, supervise};

/// Why cargo's work did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CargoError {
    /// It cannot be run.
    #[error("Cannot run cargo")]
    Start(#[source] io::Error),
    /// It failed, and said why on stderr.
    #[error("`cargo {0}` failed; its output is above")]
    Failed(String),
    /// It did not come to its end in time.
    #[error("`cargo {command}` took more than {} s", limit.as_secs())]
    TimeLimit {
        /// The arguments.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// Its JSON is not what is expected.
    #[error("Cannot understand the output of `cargo {command}`")]
    Json {
        /// The arguments.
        command: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// What `cargo metadata` says of the workspace.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    /// Its packages.
    pub packages: Vec<Package>,
}

/// A package of the workspace.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its targets.
    pub targets: Vec<Target>,
}

/// A target of a package.
#[derive(Debug, Clone, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// What it is: `lib`, `bin`, `test`, …
    pub kind: Vec<String>,
    /// Whether a plain `cargo test` runs it (told by `cargo metadata` only).
    #[serde(default)]
    pub test: bool,
}

impl Target {
    /// Whether it is an integration test.
    pub fn is_integration_test(&self) -> bool {
        self.kind.iter().any(|kind| kind == "test")
    }
}

/// A test program that cargo has built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestProgram {
    /// The target's name.
    pub name: String,
    /// The program.
    pub path: PathBuf,
    /// The directory of its package, where cargo would run it.
    pub directory: PathBuf,
}

/// Runs cargo in `directory` with our own stdout and stderr.
pub fn run(directory: &Path, arguments: &[&str]) -> Result<(), CargoError> {
    run_with(directory, arguments, &[])
}

/// As [`run`], with these environment variables.
pub fn run_with(
    directory: &Path,
    arguments: &[&str],
    variables: &[(&str, &OsStr)],
) -> Result<(), CargoError> {
    let status = command(directory, arguments)
        .envs(variables.iter().copied())
        .status()
        .map_err(CargoError::Start)?;
    match status.success() {
        true => Ok(()),
        false => Err(CargoError::Failed(arguments.join(" "))),
    }
}

/// Runs cargo in the root of the repository, passing its output on; returns whether it succeeded,
/// and its stdout.
pub fn run_and_keep(arguments: &[&str], limit: Duration) -> Result<(bool, String), CargoError> {
    let mut child = command(&repo::root(), arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(CargoError::Start)?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(CargoError::Start(io::Error::other(
            "its output is not piped",
        )));
    };
    let ended =
        supervise(child, stdout, stderr, Output::LiveAndKept, limit).map_err(CargoError::Start)?;
    let status = ended.status.ok_or_else(|| CargoError::TimeLimit {
        command: arguments.join(" "),
        limit,
    })?;
    let stdout = String::from_utf8_lossy(&ended.stdout).into_owned();
    Ok((status.success(), stdout))
}

/// Builds what a person runs, as `target/release/…`, and returns that directory.
pub fn build_release() -> Result<PathBuf, CargoError> {
    let step = Step::begin(
        "building the VMM with its tiny guest, and the tools (release; the first time also the crates \
         they use)",
    );
    run(
        &repo::root(),
        &[
            "build",
            "--release",
            "--workspace",
            "--exclude",
            "xtask",
            "--bins",
        ],
    )?;
    step.done();
    Ok(repo::target_dir().join("release"))
}

/// Builds the report tools only, and returns their directory.
pub fn build_tools() -> Result<PathBuf, CargoError> {
    let step = Step::begin("building the tools (release)");
    let package = "--package=oprofile-tools";
    run(&repo::root(), &["build", "--release", package, "--bins"])?;
    step.done();
    Ok(repo::target_dir().join("release"))
}

/// Builds these integration tests (release: they run on an emulated processor) without running them.
pub fn build_tests(names: &[&str]) -> Result<Vec<TestProgram>, CargoError> {
    let mut arguments = vec![
        "test",
        "--release",
        "--workspace",
        "--exclude",
        "xtask",
        "--no-run",
    ];
    arguments.push("--message-format=json-render-diagnostics");
    for name in names {
        arguments.extend(["--test", name]);
    }
    let json = capture(&repo::root(), &arguments)?;
    test_programs(&json).map_err(json_error(&arguments))
}

/// What cargo says about the root workspace.
pub fn metadata() -> Result<Metadata, CargoError> {
    metadata_of(&repo::root())
}

/// What cargo says about the workspace in `directory`.
pub fn metadata_of<T: DeserializeOwned>(directory: &Path) -> Result<T, CargoError> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1"];
    serde_json::from_str(&capture(directory, &arguments)?).map_err(json_error(&arguments))
}

fn capture(directory: &Path, arguments: &[&str]) -> Result<String, CargoError> {
    let output = command(directory, arguments)
        .stderr(Stdio::inherit())
        .output()
        .map_err(CargoError::Start)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(CargoError::Failed(arguments.join(" "))),
    }
}

fn json_error(arguments: &[&str]) -> impl FnOnce(serde_json::Error) -> CargoError {
    let command = arguments.join(" ");
    move |source| CargoError::Json { command, source }
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null());
    // What `cargo run` tells about xtask itself is not meant for what we start.
    for (name, _) in env::vars_os() {
        if is_about_xtask(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn is_about_xtask(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
}

/// Reads the messages of a build: one JSON object a line.
fn test_programs(messages: &str) -> Result<Vec<TestProgram>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        target: Option<Target>,
        manifest_path: Option<PathBuf>,
        executable: Option<PathBuf>,
    }
    let mut programs = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line)?;
        let (Some(target), Some(manifest), Some(path)) =
            (message.target, message.manifest_path, message.executable)
        else {
            continue;
        };
        if message.reason == "compiler-artifact" && target.is_integration_test() {
            programs.push(TestProgram {
                name: target.name,
                path,
                directory: manifest.parent().map(Path::to_path_buf).unwrap_or_default(),
            });
        }
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_programs_are_taken_from_the_messages() {
        let messages = r#"{"reason":"compiler-artifact","manifest_path":"/r/vmm/Cargo.toml","target":{"name":"oprofile-vmm","kind":["bin"]},"executable":"/t/oprofile-vmm"}
{"reason":"compiler-artifact","manifest_path":"/r/wire/Cargo.toml","target":{"name":"oprofile-wire","kind":["lib"]},"executable":null}
{"reason":"compiler-artifact","manifest_path":"/r/vmm/Cargo.toml","target":{"name":"kvm_boot","kind":["test"]},"executable":"/t/kvm_boot-1"}
{"reason":"build-finished","success":true}"#;
        let expected = TestProgram {
            name: "kvm_boot".to_owned(),
            path: "/t/kvm_boot-1".into(),
            directory: "/r/vmm".into(),
        };
        assert_eq!(test_programs(messages).expect("JSON"), [expected]);
    }
}
