//! The tests that need KVM: which there are, and how they are run on a machine that has it.
//!
//! Convention: an integration test that needs KVM is a target named `kvm_…` with `test = false`,
//!
//! ```toml
//! [[test]]
//! name = "kvm_boot"
//! path = "tests/kvm_boot.rs"
//! test = false
//! ```
//!
//! so that a plain `cargo test` leaves it alone. `cargo xtask test` builds all of them and runs each
//! in a boot of the machine of its own. They find `OPROFILE_KVM` (`hardware` or `lab`), `OPROFILE_BIN` (the
//! directory of the release programs) and `OPROFILE_SHARE` (a writable directory) set.

use std::path::Path;
use std::time::Duration;

use crate::cargo::{Metadata, TestProgram};
use crate::lab::LabError;
use crate::machine::{Job, Machine, MachineError};
use crate::shell::join;
use crate::step::note;
use crate::supervise::Output;
use crate::tally::Tally;

/// How the names of the targets begin.
const PREFIX: &str = "kvm_";
/// How long one test program may take: the longest boots a dozen guests.
const PROGRAM_LIMIT: Duration = Duration::from_secs(600);

/// Why the tests that need KVM could not be run.
#[derive(Debug, thiserror::Error)]
pub enum KvmTestError {
    /// A target would be run by `cargo test` where there is no KVM.
    #[error(
        "Test {name} of {package} needs `test = false` in its Cargo.toml, as all {PREFIX}… tests"
    )]
    NotGated {
        /// The target's name.
        name: String,
        /// Its package.
        package: String,
    },
    /// There are none.
    #[error("There is no test named {PREFIX}…, so nothing was tested on KVM")]
    None,
    /// The machine failed.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Some programs ended without a result.
    #[error("{missing} of {programs} test programs ended without a result")]
    NoResult {
        /// How many.
        missing: usize,
        /// Of how many.
        programs: usize,
    },
}

/// The names of the targets, checked to be gated.
pub fn names(metadata: &Metadata) -> Result<Vec<&str>, KvmTestError> {
    let mut names = Vec::new();
    for package in &metadata.packages {
        for target in &package.targets {
            if !target.is_integration_test() || !target.name.starts_with(PREFIX) {
                continue;
            }
            if target.test {
                return Err(KvmTestError::NotGated {
                    name: target.name.clone(),
                    package: package.name.clone(),
                });
            }
            names.push(target.name.as_str());
        }
    }
    match names.is_empty() {
        true => Err(KvmTestError::None),
        false => Ok(names),
    }
}

/// How often a program is run when the lab under it goes down: its emulated processor does so now and then, see docs/lab.md.
const LAB_ATTEMPTS: u32 = 4;

/// Runs each program in a boot of `machine` of its own; returns whether all succeeded, and the results.
pub fn run(
    machine: &Machine,
    programs: &[TestProgram],
    binaries: &Path,
) -> Result<(bool, Tally), KvmTestError> {
    let mut tally = Tally::default();
    let mut passed = true;
    for program in programs {
        let (good, results) = run_program(machine, program, binaries)?;
        passed &= good;
        tally += results;
    }
    if tally.programs < programs.len() {
        return Err(KvmTestError::NoResult {
            missing: programs.len() - tally.programs,
            programs: programs.len(),
        });
    }
    Ok((passed, tally))
}

fn run_program(
    machine: &Machine,
    program: &TestProgram,
    binaries: &Path,
) -> Result<(bool, Tally), KvmTestError> {
    let script = script(std::slice::from_ref(program));
    let mut job = Job::new(["sh".as_ref(), "-c".as_ref(), script.as_os_str()]);
    job.environment
        .push(("OPROFILE_BIN".into(), binaries.into()));
    job.output = Output::LiveAndKept;
    // The rest is for the boot itself.
    job.limit = PROGRAM_LIMIT + Duration::from_secs(60);
    let mut attempt = 1;
    loop {
        match machine.run(&job) {
            Ok(finished) => {
                let tally = Tally::of(&String::from_utf8_lossy(&finished.stdout));
                return Ok((finished.code == 0, tally));
            }
            Err(MachineError::Lab(LabError::Frozen | LabError::NoExitCode(_)))
                if attempt < LAB_ATTEMPTS =>
            {
                attempt += 1;
                note(format_args!(
                    "the lab went down under {}; attempt {attempt} of {LAB_ATTEMPTS}",
                    program.name
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The script that runs every program, each within its limit, and fails if one does.
fn script(programs: &[TestProgram]) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    let limit = PROGRAM_LIMIT.as_secs();
    let mut script = format!(
        "failed=0\n\
         run() {{ # NAME DIRECTORY PROGRAM\n\
         \x20   echo \"     Running $1\" >&2\n\
         \x20   cd \"$2\" && CARGO_MANIFEST_DIR=$2 timeout -k 10 {limit} \"$3\" && return\n\
         \x20   echo \"     $1 ended with exit code $? (124: not within {limit} s)\" >&2\n\
         \x20   failed=1\n\
         }}\n"
    )
    .into_bytes();
    for program in programs {
        script.extend_from_slice(b"run ");
        script.extend(join([
            program.name.as_ref(),
            program.directory.as_os_str(),
            program.path.as_os_str(),
        ]));
        script.push(b'\n');
    }
    script.extend_from_slice(b"exit $failed\n");
    std::ffi::OsString::from_vec(script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::{Package, Target};

    fn metadata(name: &str, test: bool) -> Metadata {
        Metadata {
            packages: vec![Package {
                name: "vmm".to_owned(),
                targets: vec![Target {
                    name: name.to_owned(),
                    kind: vec!["test".to_owned()],
                    test,
                }],
            }],
        }
    }

    #[test]
    fn a_test_that_a_plain_cargo_test_would_run_is_refused() {
        assert!(matches!(
            names(&metadata("kvm_boot", true)),
            Err(KvmTestError::NotGated { .. })
        ));
        assert_eq!(
            names(&metadata("kvm_boot", false)).expect("gated"),
            ["kvm_boot"]
        );
    }

    #[test]
    fn no_kvm_test_at_all_is_an_error() {
        assert!(matches!(
            names(&metadata("other", true)),
            Err(KvmTestError::None)
        ));
    }

    #[test]
    fn one_failing_program_fails_the_script_and_the_rest_still_runs() {
        let program = |name: &str, path: &str| TestProgram {
            name: name.to_owned(),
            path: path.into(),
            directory: "/".into(),
        };
        let programs = [program("kvm_bad", "false"), program("kvm_good", "pwd")];
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(script(&programs))
            .output()
            .expect("sh runs");
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(output.stdout, b"/\n");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.contains("kvm_bad ended with exit code 1"),
            "{stderr}"
        );
    }
}
