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
//! so that a plain `cargo test` leaves it alone. `cargo xtask test` builds all of them and runs each test function in a process
//! of its own, all in one boot of the machine. They find `OPROFILE_KVM` (`hardware` or `lab`), `OPROFILE_BIN` (the directory of
//! the release programs), `OPROFILE_LINUX_…` (the parts of a Debian guest) and `OPROFILE_SHARE` (a writable
//! directory) set.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cargo::{Metadata, TestProgram};
use crate::lab::LabError;
use crate::machine::{Job, Machine, MachineError};
use crate::shell::join;
use crate::step::note;
use crate::tally::Tally;

/// How the names of the targets begin.
const PREFIX: &str = "kvm_";
/// How long one test may take: the longest boots three guests, each up to three times for enough samples.
const TEST_LIMIT: Duration = Duration::from_secs(300);
/// How long all of them may take in one boot.
const BOOT_LIMIT: Duration = Duration::from_secs(3600);
/// How often a test is begun when the lab goes down under it, see docs/lab.md. A test that fails is not run again.
const LAB_ATTEMPTS: u32 = 3;
/// The file in the share that tells what became of each test, a line each: exit code and name.
const RESULTS: &str = "kvm-test-results";

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
    /// The names that were asked for are no tests'.
    #[error("No test on KVM has {0:?} in its name; `cargo xtask test` prints the names")]
    NoneNamed(String),
    /// A program does not tell its tests.
    #[error("{0} does not list its tests")]
    List(String, #[source] io::Error),
    /// The machine failed.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The results cannot be read or removed.
    #[error("Cannot use {RESULTS} in the share")]
    Results(#[source] io::Error),
    /// Some tests ended without a result.
    #[error("{missing} of {tests} tests ended without a result")]
    NoResult {
        /// How many.
        missing: usize,
        /// Of how many.
        tests: usize,
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

/// One test function.
#[derive(Debug, Clone)]
struct Case<'a> {
    program: &'a TestProgram,
    test: String,
    /// How often it has been begun.
    attempts: u32,
}

impl Case<'_> {
    /// Unique among all programs.
    fn name(&self) -> String {
        format!("{}::{}", self.program.name, self.test)
    }
}

/// Which tests to run.
#[derive(Debug, Clone, Copy)]
pub enum Selection<'a> {
    /// Each of them.
    All,
    /// Those that have this in their name, `kvm_program::test`.
    Named(&'a str),
}

impl Selection<'_> {
    fn takes(self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(part) => name.contains(part),
        }
    }
}

/// Runs the selected tests on `machine`, in one boot of it; when the lab goes down, the rest in another one. `environment` is what they
/// find set besides.
pub fn run(
    machine: &Machine,
    programs: &[TestProgram],
    selection: Selection<'_>,
    environment: &[(OsString, OsString)],
) -> Result<(bool, Tally), KvmTestError> {
    let mut waiting = Vec::new();
    for program in programs {
        let tests =
            list(program).map_err(|error| KvmTestError::List(program.name.clone(), error))?;
        waiting.extend(tests.into_iter().map(|test| Case {
            program,
            test,
            attempts: 0,
        }));
    }
    waiting.retain(|case| selection.takes(&case.name()));
    let tests = waiting.len();
    if let (0, Selection::Named(part)) = (tests, selection) {
        return Err(KvmTestError::NoneNamed(part.to_owned()));
    }
    let mut tally = Tally::default();
    while !waiting.is_empty() {
        let down = boot(machine, &waiting, environment)?;
        take_results(&mut waiting, &read_results()?, &mut tally);
        let Some(error) = down else {
            break;
        };
        // The first without a result is the one that ran.
        let Some(case) = waiting.first_mut() else {
            break;
        };
        case.attempts += 1;
        if case.attempts == LAB_ATTEMPTS {
            return Err(MachineError::from(error).into());
        }
        note(format_args!(
            "{error}; it ran {}: again from there, attempt {} of {LAB_ATTEMPTS} (docs/lab.md)",
            case.name(),
            case.attempts + 1
        ));
    }
    if !waiting.is_empty() || tally.passed + tally.failed == 0 {
        return Err(KvmTestError::NoResult {
            missing: waiting.len(),
            tests,
        });
    }
    Ok((tally.failed == 0, tally))
}

/// The tests of `program`, as its harness lists them.
fn list(program: &TestProgram) -> io::Result<Vec<String>> {
    let output = Command::new(&program.path)
        .args(["--list", "--format=terse"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(output.status.to_string()));
    }
    Ok(listed(&String::from_utf8_lossy(&output.stdout)))
}

fn listed(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect()
}

/// Runs `cases` in one boot; the error is that of a lab that went down meanwhile.
fn boot(
    machine: &Machine,
    cases: &[Case<'_>],
    environment: &[(OsString, OsString)],
) -> Result<Option<LabError>, KvmTestError> {
    let script = script(cases);
    let mut job = Job::new(["sh".as_ref(), "-c".as_ref(), script.as_os_str()]);
    job.environment.extend_from_slice(environment);
    job.limit = BOOT_LIMIT;
    match fs::remove_file(job.share.join(RESULTS)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(KvmTestError::Results(error));
        }
        _ => {}
    }
    match machine.run(&job) {
        Ok(_) => Ok(None),
        Err(MachineError::Lab(error @ (LabError::Frozen | LabError::NoExitCode(_)))) => {
            Ok(Some(error))
        }
        Err(error) => Err(error.into()),
    }
}

fn read_results() -> Result<String, KvmTestError> {
    let path = Job::new([OsStr::new("")]).share.join(RESULTS);
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        // The lab went down before the first test had ended.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(KvmTestError::Results(error)),
    }
}

/// Takes those that have a result out of `waiting`, and counts them. A line that was not written to its end is no result.
fn take_results(waiting: &mut Vec<Case<'_>>, results: &str, tally: &mut Tally) {
    for line in results.split_inclusive('\n') {
        let Some((code, name)) = line
            .strip_suffix('\n')
            .and_then(|line| line.split_once(' '))
        else {
            continue;
        };
        let before = waiting.len();
        waiting.retain(|case| case.name() != name);
        if waiting.len() == before {
            continue;
        }
        match code {
            "0" => tally.passed += 1,
            _ => tally.failed += 1,
        }
    }
}

/// The script that runs each test, shows what a failed one printed, and writes down the results. A program that says it ran no
/// test has failed.
fn script(cases: &[Case<'_>]) -> OsString {
    let limit = TEST_LIMIT.as_secs();
    let mut script = format!(
        "output=$(mktemp)\n\
         run() {{ # NAME DIRECTORY PROGRAM TEST\n\
         \x20   start=$(date +%s)\n\
         \x20   cd \"$2\" && CARGO_MANIFEST_DIR=$2 timeout -k 10 {limit} \"$3\" --exact \"$4\" --nocapture >\"$output\" 2>&1\n\
         \x20   code=$?\n\
         \x20   if [ $code = 0 ] && grep -q '^test result: ok. 1 passed' \"$output\"; then\n\
         \x20       grep '^attempt ' \"$output\"\n\
         \x20       echo \"test $1 ... ok ($(($(date +%s) - start)) s)\"\n\
         \x20   else\n\
         \x20       cat \"$output\"\n\
         \x20       echo \"test $1 ... FAILED (exit code $code; 124: not within {limit} s)\"\n\
         \x20       code=1\n\
         \x20   fi\n\
         \x20   echo \"$code $1\" >>\"$OPROFILE_SHARE/{RESULTS}\"\n\
         }}\n"
    )
    .into_bytes();
    for case in cases {
        script.extend_from_slice(b"run ");
        script.extend(join([
            OsStr::new(&case.name()),
            case.program.directory.as_os_str(),
            case.program.path.as_os_str(),
            OsStr::new(&case.test),
        ]));
        script.push(b'\n');
    }
    script.extend_from_slice(b"rm -f \"$output\"\n");
    OsString::from_vec(script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::{Package, Target};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

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

    fn program(path: &Path) -> TestProgram {
        TestProgram {
            name: "kvm_some".to_owned(),
            path: path.to_owned(),
            directory: "/".into(),
        }
    }

    fn cases<'a>(program: &'a TestProgram, tests: &[&str]) -> Vec<Case<'a>> {
        let case = |test: &&str| Case {
            program,
            test: (*test).to_owned(),
            attempts: 0,
        };
        tests.iter().map(case).collect()
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
    fn only_tests_are_taken_from_the_list() {
        assert_eq!(listed("a::b: test\nc: benchmark\nd: test\n"), ["a::b", "d"]);
    }

    #[test]
    fn results_are_counted_once_and_the_rest_waits() {
        let program = program(Path::new("/p"));
        let mut waiting = cases(&program, &["a", "b", "c"]);
        let mut tally = Tally::default();
        // The last line was cut off when the lab went down.
        let results = "0 kvm_some::a\n0 kvm_some::a\n1 kvm_some::b\n0 kvm_some::c";
        take_results(&mut waiting, results, &mut tally);
        assert_eq!((tally.passed, tally.failed), (1, 1));
        let left: Vec<_> = waiting.iter().map(Case::name).collect();
        assert_eq!(left, ["kvm_some::c"]);
    }

    #[test]
    fn failing_tests_and_programs_that_run_none_fail_and_the_rest_still_runs() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("harness");
        let harness = "#!/bin/sh\n\
            case $2 in\n\
            good) echo 'test result: ok. 1 passed; 0 failed' ;;\n\
            bad) echo 'why it failed'; exit 101 ;;\n\
            none) echo 'test result: ok. 0 passed; 0 failed' ;;\n\
            esac\n";
        fs::write(&path, harness).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        let program = program(&path);
        let cases = cases(&program, &["bad", "none", "good"]);
        let output = Command::new("sh")
            .arg("-c")
            .arg(script(&cases))
            .env("OPROFILE_SHARE", directory.path())
            .output()
            .expect("sh runs");
        let results = fs::read_to_string(directory.path().join(RESULTS)).expect("results");
        assert_eq!(
            results,
            "1 kvm_some::bad\n1 kvm_some::none\n0 kvm_some::good\n"
        );
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(stdout.contains("why it failed"), "{stdout}");
    }
}
