//! Runs cargo on the guest's workspace.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Error, Options};

/// Given to cargo although it is the host's: then flags meant for the host's build scripts stay away from the guest,
/// and the results lie in a directory of a known name.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What the outer cargo, or whoever called it, may have set for the host's code.
const HOST_ONLY: &[&str] = &[
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
];

/// Packages that are built together.
pub struct Packages {
    /// For messages.
    what: &'static str,
    names: &'static [&'static str],
}

/// The kernel.
pub const KERNEL: Packages = Packages {
    what: "the kernel",
    names: &["tiny-kernel"],
};

/// Programs, library, module.
pub const PROGRAMS: Packages = Packages {
    what: "the programs",
    names: &[
        "guest-programs",
        "guest-lib-modwork",
        "guest-lib-trap-a",
        "guest-lib-trap-b",
        "guest-lib-work",
    ],
};

/// The guest's workspace.
pub fn workspace() -> PathBuf {
    let builder = Path::new(env!("CARGO_MANIFEST_DIR"));
    builder.parent().unwrap_or(builder).to_owned()
}

/// Builds `packages` and gives the directory with the results.
///
/// Each set is a run of its own, since cargo unites the features of what it builds together: the kernel and the
/// programs would share one build of what both depend on.
pub fn build(options: &Options, packages: &Packages) -> Result<PathBuf, Error> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(&cargo);
    command
        // Where .cargo/config.toml has the guest's flags.
        .current_dir(workspace())
        .args(["build", "--release", "--target", TARGET, "--target-dir"])
        .arg(absolute(&options.target_dir))
        // Standard output may be a build script's, and that is cargo's to read.
        .stdout(Stdio::null());
    for name in packages.names {
        command.args(["--package", name, "--features"]);
        command.arg(format!("{name}/bare"));
    }
    for variable in HOST_ONLY {
        command.env_remove(variable);
    }
    let status = command.status().map_err(|source| Error::StartCargo {
        cargo: PathBuf::from(&cargo),
        source,
    })?;
    if !status.success() {
        return Err(Error::Cargo {
            what: packages.what,
            status,
        });
    }
    Ok(options.target_dir.join(TARGET).join("release"))
}

/// The nested cargo runs elsewhere, so a relative path must not stay one.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
