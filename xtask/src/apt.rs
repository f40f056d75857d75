//! Gets what the distribution has, through apt.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::step::Step;

/// How much of a failed command's output an error shows.
const SHOWN_LINES: usize = 12;

/// Why apt did not help.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// There is no apt here.
    #[error("{0} is not on this machine; use a Debian or Ubuntu system")]
    NoApt(&'static str),
    /// A program is missing and cannot be installed by this user.
    #[error(
        "{program} is missing and installing it needs root; run: \
         sudo apt-get install --no-install-recommends {package}"
    )]
    NotRoot {
        /// The program.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// A command failed.
    #[error("`{command}` failed; is the network up?\n{output}")]
    Failed {
        /// The command line.
        command: String,
        /// The end of what it printed.
        output: String,
    },
    /// A package does not hold what it should.
    #[error("Package {package} holds no {program}")]
    NotInPackage {
        /// The package's name.
        package: &'static str,
        /// What was looked for.
        program: &'static str,
    },
}

/// The path of `program`; `package` is installed now if need be, and `purpose` said then.
pub fn program(
    program: &'static str,
    package: &'static str,
    purpose: &str,
) -> Result<PathBuf, AptError> {
    if let Some(path) = in_path(program) {
        return Ok(path);
    }
    if !rustix::process::geteuid().is_root() {
        need("apt-get")?;
        return Err(AptError::NotRoot { program, package });
    }
    let step = Step::begin(format_args!(
        "installing {package} with apt-get ({purpose})"
    ));
    with_fresh_lists(|| {
        apt_get(
            Path::new("/"),
            &["install", "-y", "--no-install-recommends", package],
        )
    })?;
    step.done();
    in_path(program).ok_or(AptError::NotInPackage { package, program })
}

/// Tries `action`; if it fails, fetches the package lists anew (they may be old or absent) and tries
/// once more.
pub fn with_fresh_lists(action: impl Fn() -> Result<(), AptError>) -> Result<(), AptError> {
    match action() {
        Err(AptError::Failed { .. }) if rustix::process::geteuid().is_root() => {
            update()?;
            action()
        }
        result => result,
    }
}

/// Fetches the package lists anew.
pub fn update() -> Result<(), AptError> {
    apt_get(Path::new("/"), &["update"])
}

/// Runs apt-get in `directory`.
pub fn apt_get(directory: &Path, arguments: &[&str]) -> Result<(), AptError> {
    need("apt-get")?;
    capture(
        Command::new("apt-get")
            .arg("-q")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .current_dir(directory),
    )
    .map(drop)
}

/// Runs a command and returns its stdout.
pub fn capture(command: &mut Command) -> Result<String, AptError> {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|word| word.to_string_lossy()));
    let shown = words.join(" ");
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| AptError::Failed {
            command: shown.clone(),
            output: error.to_string(),
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Err(AptError::Failed {
        command: shown,
        output: crate::tail(&text, SHOWN_LINES),
    })
}

/// Whether a part of apt is there.
pub fn need(tool: &'static str) -> Result<(), AptError> {
    in_path(tool).map(drop).ok_or(AptError::NoApt(tool))
}

fn in_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}
