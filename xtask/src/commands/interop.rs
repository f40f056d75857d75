//! `cargo xtask interop`: what opexport writes, read by programs that nobody here wrote.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use clap::Args;

use crate::Failure;
use crate::apt::{self, AptError};
use crate::cargo;
use crate::repo;
use crate::step::note;

/// Exit code of run.py when npm's Chromium does not start here.
const NO_BROWSER: i32 = 3;

/// Sessions of tests/golden to fall back to: one with anonymous memory, one with call chains.
const GOLDEN: [&str; 2] = ["anon", "cg"];

/// Exports sessions in each format and reads the files with programs that nobody here wrote (tests/interop/README.md).
///
/// Prints a line for each format and reader; the exit code is 1 when one of them does not read what it should. The first run
/// needs the network (npm, PyPI).
#[derive(Debug, Args)]
pub struct Arguments {
    /// Session directories; that of `cargo xtask demo` when none are given, else two of tests/golden.
    #[arg(value_name = "SESSION_DIR")]
    sessions: Vec<PathBuf>,
    /// Root of the guest's files, for sessions that have none.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// opexport's directory; it is built when none is given.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Browser to draw with; npm's when none is given, else the distribution's.
    #[arg(long, value_name = "FILE")]
    chromium: Option<PathBuf>,
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
enum InteropError {
    #[error("Cannot run {}", program.display())]
    Start {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("The readers are not all there; the reason is above")]
    NotInstalled,
}

/// What is exported.
#[derive(Debug, PartialEq, Eq)]
struct Sessions {
    directories: Vec<PathBuf>,
    root: Option<PathBuf>,
}

/// Gets what is needed, and reads.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let sessions = choose(arguments, &repo::root(), &repo::target_dir());
    let binaries = match &arguments.bin_dir {
        Some(binaries) => binaries.clone(),
        None => cargo::build_tools().map_err(Failure::new)?,
    };
    let python = requirements().map_err(Failure::new)?;
    let mut chromium = arguments.chromium.clone();
    loop {
        let status = read(&python, &sessions, &binaries, chromium.as_deref());
        let status = status.map_err(Failure::new)?;
        match status.code() {
            Some(0) => return Ok(ExitCode::SUCCESS),
            Some(1) => return Ok(ExitCode::FAILURE),
            Some(NO_BROWSER) if chromium.is_none() => {
                let purpose = "npm's does not start here";
                let found = apt::program("chromium", "chromium", purpose);
                chromium = Some(found.map_err(Failure::new)?);
            }
            _ => return Err(Failure::new(InteropError::NotInstalled)),
        }
    }
}

/// The sessions that are named, or those that are there.
fn choose(arguments: &Arguments, root: &Path, target: &Path) -> Sessions {
    if !arguments.sessions.is_empty() {
        return Sessions {
            directories: arguments.sessions.clone(),
            root: arguments.root.clone(),
        };
    }
    let demo = target.join("demo/session");
    if demo.join("samples").is_dir() {
        return Sessions {
            directories: vec![demo],
            root: arguments.root.clone(),
        };
    }
    note("there is no session of `cargo xtask demo`; taking two of tests/golden");
    let data = root.join("tests/golden/data");
    Sessions {
        directories: GOLDEN.map(|name| data.join("sessions").join(name)).into(),
        root: Some(data.join("root")),
    }
}

/// Sees to npm and pip; the path of Python.
fn requirements() -> Result<PathBuf, AptError> {
    const PURPOSE: &str = "for the readers of exported profiles";
    apt::program("npm", "npm", PURPOSE)?;
    let python = apt::program("python3", "python3", PURPOSE)?;
    let has_pip = Command::new(&python)
        .args(["-m", "pip", "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !has_pip.is_ok_and(|status| status.success()) {
        apt::program("pip3", "python3-pip", PURPOSE)?;
    }
    Ok(python)
}

fn read(
    python: &Path,
    sessions: &Sessions,
    binaries: &Path,
    chromium: Option<&Path>,
) -> Result<ExitStatus, InteropError> {
    let mut command = Command::new(python);
    command.arg(repo::root().join("tests/interop/run.py"));
    command.arg("--bin-dir").arg(binaries);
    command
        .arg("--readers")
        .arg(repo::target_dir().join("interop-readers"));
    for (option, value) in [
        ("--root", sessions.root.as_deref()),
        ("--chromium", chromium),
    ] {
        if let Some(value) = value {
            command.arg(option).arg(value);
        }
    }
    command.arg("--").args(&sessions.directories);
    command.status().map_err(|source| InteropError::Start {
        program: python.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_the_named_ones_the_demos_or_goldens() {
        let target = tempfile::tempdir().unwrap();
        let mut arguments = Arguments {
            sessions: Vec::new(),
            root: None,
            bin_dir: None,
            chromium: None,
        };
        let golden = choose(&arguments, &repo::root(), target.path());
        assert_eq!(golden.directories.len(), 2);
        for directory in golden.directories.iter().chain(&golden.root) {
            assert!(directory.is_dir(), "{}", directory.display());
        }
        let demo = target.path().join("demo/session");
        std::fs::create_dir_all(demo.join("samples")).unwrap();
        let chosen = choose(&arguments, &repo::root(), target.path());
        assert_eq!((chosen.directories, chosen.root), (vec![demo], None));
        arguments.sessions = vec!["s".into()];
        let chosen = choose(&arguments, &repo::root(), target.path());
        assert_eq!(chosen.directories, arguments.sessions);
    }
}
