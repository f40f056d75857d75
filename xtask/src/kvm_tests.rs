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
//! of its own, in few boots of the machine. They find `OPROFILE_KVM` (`hardware` or `lab`), `OPROFILE_BIN` (the directory of
//! the release programs), `OPROFILE_LINUX_…` (the parts of a Debian guest) and `OPROFILE_SHARE` (a writable
//! directory) set.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::cargo::{Metadata, TestProgram};
use crate::lab::LabError;
use crate::machine::{Job, Machine, MachineError};
use crate::shell::join;
use crate::step::note;
use crate::tally::Tally;

/// How the names of the targets begin.
const PREFIX: &str = "kvm_";
/// How long one test may take. The longest take two minutes in a calm lab; and a guest may hang twice, each time until its own limit
/// of at most 300 s (tests/src/vm.rs).
const TEST_LIMIT: Duration = Duration::from_secs(900);
/// How long all of them may take in one boot: half an hour in a calm lab.
const BOOT_LIMIT: Duration = Duration::from_secs(7200);
/// How often a test is begun when the lab goes down under it, see docs/lab.md. A test that fails is not run again.
const LAB_ATTEMPTS: usize = 3;
/// The files in the share, one for each worker, that tell what becomes of each test, two lines each: [`BEGUN`] and name, exit code and name.
const RESULTS: &str = "kvm-test-results";
/// What is written before a test.
const BEGUN: &str = "begun";
/// The directory in the share in which a worker that takes a test makes one with the test's number.
const CLAIMS: &str = "kvm-test-claims";

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
    #[error("Cannot use {RESULTS} or {CLAIMS} in the share")]
    Results(#[source] io::Error),
    /// Some tests ended without a result.
    #[error("{missing} of {tests} tests ended without a result")]
    NoResult {
        /// How many.
        missing: u64,
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

/// Runs the selected tests on `machine`, in as many boots of it at once as it is good for; each takes the next test that none has
/// begun. When a lab goes down, its tests go on in another one. `environment` is what they find set besides.
pub fn run(
    machine: &Machine,
    programs: &[TestProgram],
    selection: Selection<'_>,
    environment: &[(OsString, OsString)],
) -> Result<(bool, Tally), KvmTestError> {
    let mut cases = Vec::new();
    for program in programs {
        let tests =
            list(program).map_err(|error| KvmTestError::List(program.name.clone(), error))?;
        cases.extend(tests.into_iter().map(|test| Case { program, test }));
    }
    cases.retain(|case| selection.takes(&case.name()));
    if let (true, Selection::Named(part)) = (cases.is_empty(), selection) {
        return Err(KvmTestError::NoneNamed(part.to_owned()));
    }
    let share = Job::new([OsStr::new("")]).share;
    let workers: Vec<Worker<'_>> = (1..)
        .take(machine.at_once().min(cases.len()))
        .map(|number| Worker {
            number,
            machine,
            cases: &cases,
            environment,
            share: &share,
        })
        .collect();
    clear(&share, &workers).map_err(KvmTestError::Results)?;
    thread::scope(|scope| {
        let running: Vec<_> = workers
            .iter()
            .map(|worker| scope.spawn(|| worker.run()))
            .collect();
        running
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    let mut results = String::new();
    for worker in &workers {
        results += &worker.results().map_err(KvmTestError::Results)?;
    }
    let tally = tally(&cases, &results);
    let ended = tally.passed + tally.failed;
    let missing = (cases.len() as u64).saturating_sub(ended);
    if missing > 0 || ended == 0 {
        return Err(KvmTestError::NoResult {
            missing,
            tests: cases.len(),
        });
    }
    Ok((tally.failed == 0, tally))
}

/// Removes what an earlier run left in the share.
fn clear(share: &Path, workers: &[Worker<'_>]) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    gone(fs::remove_dir_all(share.join(CLAIMS)))?;
    fs::create_dir_all(share.join(CLAIMS))?;
    workers
        .iter()
        .try_for_each(|worker| gone(fs::remove_file(worker.results_path())))
}

/// One machine that runs tests, one after the other.
struct Worker<'a> {
    /// From 1.
    number: u32,
    machine: &'a Machine,
    /// All tests; the others run them, too.
    cases: &'a [Case<'a>],
    environment: &'a [(OsString, OsString)],
    share: &'a Path,
}

impl Worker<'_> {
    fn results_path(&self) -> PathBuf {
        self.share.join(format!("{RESULTS}-{}", self.number))
    }

    fn results(&self) -> io::Result<String> {
        match fs::read_to_string(self.results_path()) {
            // The lab went down before it had begun the first test, or the others were quicker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read,
        }
    }

    /// Runs tests until none is left.
    fn run(&self) -> Result<(), KvmTestError> {
        let mut interrupted: Vec<String> = Vec::new();
        while let Some(error) = self.boot()? {
            let results = self.results().map_err(KvmTestError::Results)?;
            let test = begun(&results).unwrap_or("none yet").to_owned();
            if let Some(index) = self.cases.iter().position(|case| case.name() == test) {
                let claim = self.share.join(CLAIMS).join(index.to_string());
                fs::remove_dir(claim).map_err(KvmTestError::Results)?;
            }
            interrupted.push(test.clone());
            let attempts = interrupted.iter().filter(|name| **name == test).count();
            if attempts == LAB_ATTEMPTS {
                return Err(MachineError::from(error).into());
            }
            note(format_args!(
                "{error}; it ran {test}: again from there, attempt {} of {LAB_ATTEMPTS} (docs/lab.md)",
                attempts + 1
            ));
        }
        Ok(())
    }

    /// Runs tests in one boot; the error is that of a lab that went down meanwhile.
    fn boot(&self) -> Result<Option<LabError>, KvmTestError> {
        let script = script(self.number, self.cases);
        let mut job = Job::new(["sh".as_ref(), "-c".as_ref(), script.as_os_str()]);
        job.environment.extend_from_slice(self.environment);
        job.limit = BOOT_LIMIT;
        job.slot = self.number;
        match self.machine.run(&job) {
            Ok(_) => Ok(None),
            Err(MachineError::Lab(error @ (LabError::Frozen | LabError::NoExitCode(_)))) => {
                Ok(Some(error))
            }
            Err(error) => Err(error.into()),
        }
    }
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

/// The words of a result that was written to its end: exit code or [`BEGUN`], and the test's name.
fn result_lines(results: &str) -> impl DoubleEndedIterator<Item = (&str, &str)> {
    results
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n')?.split_once(' '))
}

/// The test that ran when the results end.
fn begun(results: &str) -> Option<&str> {
    let last = result_lines(results).next_back();
    last.and_then(|(word, name)| (word == BEGUN).then_some(name))
}

/// Counts the results of `cases`, each once.
fn tally(cases: &[Case<'_>], results: &str) -> Tally {
    let mut waiting: HashSet<String> = cases.iter().map(Case::name).collect();
    let mut tally = Tally::default();
    for (code, name) in result_lines(results).filter(|(word, _)| *word != BEGUN) {
        if !waiting.remove(name) {
            continue;
        }
        match code {
            "0" => tally.passed += 1,
            _ => tally.failed += 1,
        }
    }
    tally
}

/// The script of one worker: it runs each test that no other has begun, shows what a failed one printed, and writes down the results. A
/// program that says it ran no test has failed.
fn script(worker: u32, cases: &[Case<'_>]) -> OsString {
    let limit = TEST_LIMIT.as_secs();
    let mut script = format!(
        "output=$(mktemp)\n\
         results=$OPROFILE_SHARE/{RESULTS}-{worker}\n\
         run() {{ # NUMBER NAME DIRECTORY PROGRAM TEST\n\
         \x20   mkdir \"$OPROFILE_SHARE/{CLAIMS}/$1\" 2>/dev/null || return\n\
         \x20   echo \"{BEGUN} $2\" >>\"$results\"\n\
         \x20   start=$(date +%s)\n\
         \x20   cd \"$3\" && CARGO_MANIFEST_DIR=$3 timeout -k 10 {limit} \"$4\" --exact \"$5\" --nocapture >\"$output\" 2>&1\n\
         \x20   code=$?\n\
         \x20   if [ $code = 0 ] && grep -q '^test result: ok. 1 passed' \"$output\"; then\n\
         \x20       grep '^attempt ' \"$output\"\n\
         \x20       echo \"test $2 ... ok ($(($(date +%s) - start)) s)\"\n\
         \x20   else\n\
         \x20       cat \"$output\"\n\
         \x20       echo \"test $2 ... FAILED (exit code $code; 124: not within {limit} s)\"\n\
         \x20       code=1\n\
         \x20   fi\n\
         \x20   echo \"$code $2\" >>\"$results\"\n\
         }}\n"
    )
    .into_bytes();
    for (number, case) in cases.iter().enumerate() {
        script.extend_from_slice(b"run ");
        script.extend(join([
            OsStr::new(&number.to_string()),
            OsStr::new(&case.name()),
            case.program.directory.as_os_str(),
            case.program.path.as_os_str(),
            OsStr::new(&case.test),
        ]));
        script.push(b'\n');
    }
    // Whether tests failed is in the results; the last one may have been another worker's.
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
    fn results_are_counted_once_and_what_was_cut_off_is_none() {
        let program = program(Path::new("/p"));
        let cases = cases(&program, &["a", "b", "c"]);
        // The last line was cut off when the lab went down.
        let results = "begun kvm_some::a\n0 kvm_some::a\n0 kvm_some::a\nbegun kvm_some::b\n1 kvm_some::b\n\
            0 kvm_other::a\nbegun kvm_some::c\n0 kvm_some::c";
        let tally = tally(&cases, results);
        assert_eq!((tally.passed, tally.failed), (1, 1));
        assert_eq!(begun(results), Some("kvm_some::c"));
        assert_eq!(begun("begun kvm_some::a\n0 kvm_some::a\n"), None);
        assert_eq!(begun(""), None);
    }

    /// Runs a worker's script with tests `bad`, `none`, `good`; what it wrote and printed.
    fn run_script(directory: &Path, worker: u32) -> (String, String) {
        let path = directory.join("harness");
        let harness = "#!/bin/sh\n\
            case $2 in\n\
            good) echo 'test result: ok. 1 passed; 0 failed' ;;\n\
            bad) echo 'why it failed'; exit 101 ;;\n\
            none) echo 'test result: ok. 0 passed; 0 failed' ;;\n\
            esac\n";
        fs::write(&path, harness).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        fs::create_dir_all(directory.join(CLAIMS)).expect("created");
        let program = program(&path);
        let output = Command::new("sh")
            .arg("-c")
            .arg(script(worker, &cases(&program, &["bad", "none", "good"])))
            .env("OPROFILE_SHARE", directory)
            .output()
            .expect("sh runs");
        assert_eq!(output.status.code(), Some(0));
        let results = directory.join(format!("{RESULTS}-{worker}"));
        (
            fs::read_to_string(results).unwrap_or_default(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }

    #[test]
    fn failing_tests_and_programs_that_run_none_fail_and_the_rest_still_runs() {
        let directory = tempfile::tempdir().expect("a directory");
        let (results, output) = run_script(directory.path(), 1);
        assert_eq!(
            results,
            "begun kvm_some::bad\n1 kvm_some::bad\nbegun kvm_some::none\n1 kvm_some::none\n\
             begun kvm_some::good\n0 kvm_some::good\n"
        );
        assert!(output.contains("why it failed"), "{output}");
    }

    #[test]
    fn a_test_that_another_worker_has_begun_is_left_to_it() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(directory.path().join(CLAIMS).join("0")).expect("created");
        let (first, _) = run_script(directory.path(), 1);
        assert!(!first.contains("bad") && first.contains("0 kvm_some::good"));
        assert_eq!(run_script(directory.path(), 2), Default::default());
    }
}
