//! `cargo xtask test`: lint, the tests that need no KVM, and the ones that do.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::lab::ChoiceArguments;
use super::lint;
use crate::Failure;
use crate::apt;
use crate::cargo;
use crate::kvm_tests::{self, KvmTestError, Selection};
use crate::linux;
use crate::machine;
use crate::step::{Step, note};
use crate::tally::Tally;

/// How long the tests that need no KVM may take, building included.
const HOST_LIMIT: Duration = Duration::from_secs(1800);

/// The guest's workspace, and the packages in it that are tested on the host: the rest is freestanding.
const GUEST_CRATES: &[&str] = &[
    "images/Cargo.toml",
    "--package=guest-truth",
    "--package=guest-spin",
    "--package=guest-rt",
    "--package=guest-programs",
    "--package=tiny-kernel",
];

/// The benchmarks' workspace: their own tests; what they measure is for `cargo xtask bench`.
const BENCHMARKS: &str = "bench/Cargo.toml";

/// The fuzz targets' workspace: every input of the corpus once, without libFuzzer; new ones are for `cargo xtask fuzz`.
const FUZZ_TARGETS: &[&str] = &["fuzz/Cargo.toml", "--package=oprofile-fuzz-targets"];

/// Checks everything: format, clippy, all tests; or some of the tests on KVM. Tests that need KVM run on this machine if a probe
/// finds its KVM real, else in the lab; that they cannot be run is a failure.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    choice: ChoiceArguments,
    /// Only the tests of Debian guests, on KVM.
    #[arg(long, conflicts_with = "kvm")]
    linux: bool,
    /// Only tests on KVM; with PART those that have it in their name, `kvm_program::test`.
    #[arg(long, value_name = "PART", num_args = 0..=1, default_missing_value = "")]
    kvm: Option<String>,
}

/// What the tests that boot a Debian guest have in their names, or their programs'.
const LINUX: &str = "linux";

impl Arguments {
    /// The tests on KVM to run, if nothing else is to be.
    fn only_kvm(&self) -> Option<Selection<'_>> {
        match &self.kvm {
            _ if self.linux => Some(Selection::Named(LINUX)),
            Some(part) => Some(Selection::Named(part)),
            None => None,
        }
    }
}

/// How one phase ended.
#[derive(Debug)]
struct Phase {
    name: &'static str,
    took: Duration,
    passed: bool,
}

/// Runs all phases, also after one failed, and tells what became of each.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut tally = Tally::default();
    let mut phases = Vec::new();
    let mut phase = |name, work: &mut dyn FnMut() -> Result<bool, Box<dyn Error>>| {
        let start = Instant::now();
        let passed = work().unwrap_or_else(|error| {
            crate::report(&*error);
            false
        });
        phases.push(Phase {
            name,
            took: start.elapsed(),
            passed,
        });
    };

    let only_kvm = arguments.only_kvm();
    if only_kvm.is_none() {
        phase("lint", &mut || Ok(lint::run_lint().map(|()| true)?));
        phase("tests without KVM", &mut || {
            let (passed, results) = without_kvm()?;
            tally += results;
            Ok(passed)
        });
    }
    phase("tests on KVM", &mut || {
        let (passed, results) = on_kvm(arguments, only_kvm.unwrap_or(Selection::All))?;
        tally += results;
        Ok(passed)
    });

    let good = phases.iter().all(|phase| phase.passed) && tally.failed == 0;
    for Phase { name, took, passed } in &phases {
        let result = if *passed { "ok" } else { "FAILED" };
        note(format_args!(
            "{name}: {result} ({:.1} s)",
            took.as_secs_f64()
        ));
    }
    println!("{tally}");
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn without_kvm() -> Result<(bool, Tally), Box<dyn Error>> {
    apt::program(
        "python3",
        "python3",
        "docs/control-protocol.md has a program",
    )?;
    let step = Step::begin("tests without KVM");
    let (mut all_passed, mut tally) = (true, Tally::default());
    for arguments in [
        ["test", "--no-fail-fast", "--workspace"].as_slice(),
        &[&["test", "--no-fail-fast", "--manifest-path"], GUEST_CRATES].concat(),
        &["test", "--no-fail-fast", "--manifest-path", BENCHMARKS],
        &[&["test", "--no-fail-fast", "--manifest-path"], FUZZ_TARGETS].concat(),
    ] {
        let (passed, stdout) = cargo::run_and_keep(arguments, HOST_LIMIT)?;
        tally += Tally::of(&stdout);
        all_passed &= passed;
    }
    step.done();
    Ok((all_passed, tally))
}

fn on_kvm(
    arguments: &Arguments,
    selection: Selection<'_>,
) -> Result<(bool, Tally), Box<dyn Error>> {
    let metadata = cargo::metadata()?;
    let names = kvm_tests::names(&metadata)?;
    let machine = machine::choose(arguments.choice.into()).map_err(KvmTestError::from)?;
    let binaries = cargo::build_release()?;
    let step = Step::begin("building the tests that need KVM");
    let programs = cargo::build_tests(&names)?;
    step.done();
    let guest = linux::prepare(linux::Flavour::Cloud61)?;
    for flavour in linux::Flavour::ALL {
        if flavour != linux::Flavour::Cloud61 {
            linux::prepare(flavour)?;
        }
    }
    let runtimes = linux::runtimes::disk(&linux::home())?;
    let environment = [
        ("OPROFILE_BIN".into(), binaries.into()),
        ("OPROFILE_LINUX".into(), linux::home().into()),
        ("OPROFILE_LINUX_KERNEL".into(), guest.kernel.into()),
        ("OPROFILE_LINUX_INITRD".into(), guest.initrd.into()),
        ("OPROFILE_LINUX_DISK".into(), guest.disk.into()),
        ("OPROFILE_LINUX_ROOT".into(), guest.root.into()),
        ("OPROFILE_LINUX_RUNTIMES".into(), runtimes.into()),
        ("OPROFILE_LINUX_SHARES".into(), guest.on_disk.into()),
    ];
    let step = Step::begin("tests on KVM");
    let result = kvm_tests::run(&machine, &programs, selection, &environment)?;
    step.done();
    Ok(result)
}
