//! `cargo xtask demo`: a guest profiled from its host, and the profile measured against the truth.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Args;
use oprofile_images::truth::{self, Image, Share};
use oprofile_tests::measure::{Measured, Profile};

use super::lab::ChoiceArguments;
use crate::Failure;
use crate::cargo;
use crate::lab::LabError;
use crate::linux;
use crate::machine::{self, Job, Machine, MachineError, shown};
use crate::repo;
use crate::step::{Step, note};

/// How much longer than its programs the virtual machine may take, booting and the lab included.
const EXTRA_TIME: Duration = Duration::from_secs(90);

/// The same for the Debian guest: in the lab it boots for 15 s, and its programs, which share one emulated processor, end late.
const LINUX_EXTRA_TIME: Duration = Duration::from_secs(300);

/// Memory of the Debian guest, whose files are all in memory.
const LINUX_MEMORY: &str = "768M";

/// How often the guest is run in the lab.
const LAB_ATTEMPTS: u32 = 4;

/// Exit codes of `oprofile-vmm` for a guest that reset, triple-faulted, or that KVM could not go on with.
const GUEST_CRASHES: [u8; 3] = [10, 11, 12];

/// Boots a virtual machine with the profiling device, runs programs of known truth in it, and prints which function
/// of which guest file the time went to.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    choice: ChoiceArguments,
    /// vCPUs of the guest.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=32))]
    cpus: u32,
    /// How long the guest's programs run.
    #[arg(long, value_name = "SECS", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Samples a second on each vCPU.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    hz: u32,
    /// What the guest's init runs.
    #[arg(long, value_name = "NAME", default_value = "mix", value_parser = scenario_name)]
    scenario: String,
    /// A Debian guest with programs from packages instead of the tiny one.
    #[arg(long, conflicts_with = "scenario")]
    linux: bool,
    /// The Debian guest's kernel.
    #[arg(
        long,
        value_name = "FLAVOUR",
        requires = "linux",
        default_value = "6.1-cloud"
    )]
    kernel: linux::Flavour,
}

fn scenario_name(name: &str) -> Result<String, String> {
    match truth::scenario(name) {
        Some(scenario) => Ok(scenario.name.to_owned()),
        None => {
            let known: Vec<_> = truth::SCENARIOS.iter().map(|known| known.name).collect();
            Err(format!("choose one of {}", known.join(", ")))
        }
    }
}

/// Why the demo came to nothing.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("The virtual machine ended with exit code {0}; its messages are above")]
    Vm(u8),
    #[error("`{0}` failed; its message is above")]
    Report(String),
    #[error("Cannot use {}", path.display())]
    Share {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Builds, boots, reports, measures.
pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let binaries = cargo::build_release().map_err(Failure::new)?;
    let machine = machine::choose(arguments.choice.into()).map_err(Failure::new)?;

    let share = repo::target_dir().join("demo");
    fs::create_dir_all(&share).map_err(|source| {
        Failure::new(DemoError::Share {
            path: share.clone(),
            source,
        })
    })?;
    let session = share.join("session");
    let vmm = binaries.join("oprofile-vmm");
    let linux = match arguments.linux {
        true => Some(linux::prepare(arguments.kernel).map_err(Failure::new)?),
        false => None,
    };
    let words = match &linux {
        Some(guest) => linux_words(guest, arguments),
        None => tiny_words(arguments),
    };
    note(format_args!(
        "running {} {} (/mnt is {} here)",
        shown(&vmm),
        words.join(" "),
        shown(&share)
    ));
    let mut job =
        Job::new(std::iter::once(vmm.clone().into_os_string()).chain(words.iter().map(Into::into)));
    job.share = share;
    let extra = match linux {
        Some(_) => LINUX_EXTRA_TIME,
        None => EXTRA_TIME,
    };
    job.limit = Duration::from_secs(arguments.seconds) + extra;
    let step = Step::begin("the guest");
    run_guest(&machine, &job)?;
    step.done();
    if let Some(guest) = &linux {
        link_debug_files(&session, &guest.debug)?;
    }

    let opreport = binaries.join("opreport");
    report(&opreport, &session, &["--merge=cpu"])?;
    report(
        &opreport,
        &session,
        &["--symbols", "--merge=cpu", "--threshold=0.5"],
    )?;
    if linux.is_none() {
        measure(&arguments.scenario, &session).map_err(Failure::new)?;
    }
    how_to_go_on(&binaries, &session);
    Ok(ExitCode::SUCCESS)
}

/// What the VMM is told for the tiny guest.
fn tiny_words(arguments: &Arguments) -> Vec<String> {
    vec![
        "run".to_owned(),
        format!("--cpus={}", arguments.cpus),
        format!(
            "--cmdline=init={}:{}",
            arguments.scenario,
            arguments.seconds * 1_000
        ),
        format!("--oprofile-dev=session=/mnt/session,hz={}", arguments.hz),
    ]
}

/// What the VMM is told for the Debian guest.
fn linux_words(guest: &linux::Guest, arguments: &Arguments) -> Vec<String> {
    vec![
        "run".to_owned(),
        format!("--kernel={}", guest.kernel.display()),
        format!("--initrd={}", guest.initrd.display()),
        format!("--memory={LINUX_MEMORY}"),
        format!("--cpus={}", arguments.cpus),
        format!(
            "--cmdline=console=ttyS0 quiet panic=-1 tsc=reliable mix={}",
            arguments.seconds
        ),
        format!(
            "--oprofile-dev=session=/mnt/session,hz={},callgraph=8",
            arguments.hz
        ),
    ]
}

/// Puts the debug files of the guest's libraries where the tools look for them: in the guest's tree.
fn link_debug_files(session: &Path, debug: &Path) -> Result<(), Failure> {
    let place = session.join("root/usr/lib/debug");
    fs::create_dir_all(session.join("root/usr/lib"))
        .and_then(|()| match fs::symlink_metadata(&place) {
            Ok(_) => Ok(()),
            Err(_) => std::os::unix::fs::symlink(debug, &place),
        })
        .map_err(|source| {
            Failure::new(DemoError::Share {
                path: place,
                source,
            })
        })
}

/// Runs the guest; again, a few times, when the lab's emulation fails it (docs/lab.md).
fn run_guest(machine: &Machine, job: &Job) -> Result<(), Failure> {
    let attempts = match machine {
        Machine::Lab(_) => LAB_ATTEMPTS,
        Machine::Host => 1,
    };
    let mut attempt = 1;
    loop {
        let crashed = match machine.run(job) {
            Ok(finished) if finished.code == 0 => return Ok(()),
            Ok(finished) if !GUEST_CRASHES.contains(&finished.code) || attempt == attempts => {
                return Err(Failure::new(DemoError::Vm(finished.code)));
            }
            Ok(finished) => format!("the guest crashed (exit code {})", finished.code),
            Err(MachineError::Lab(error @ (LabError::Frozen | LabError::NoExitCode(_))))
                if attempt < attempts =>
            {
                error.to_string()
            }
            Err(error) => return Err(Failure::new(error)),
        };
        attempt += 1;
        note(format_args!(
            "{crashed}: an emulated processor does that now and then, see docs/lab.md; attempt {attempt} of {attempts}"
        ));
    }
}

fn report(opreport: &Path, session: &Path, options: &[&str]) -> Result<(), Failure> {
    let session_option = format!("--session-dir={}", shown(session));
    let shown_command = format!("{} {session_option} {}", shown(opreport), options.join(" "));
    println!("\n$ {shown_command}");
    let status = Command::new(opreport)
        .arg(&session_option)
        .args(options)
        .current_dir(repo::root())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Failure::new(DemoError::Report(shown_command))),
    }
}

/// Prints each group's true shares beside the measured ones.
fn measure(scenario: &str, session: &Path) -> Result<(), oprofile_tools::error::ToolError> {
    let Some(scenario) = truth::scenario(scenario) else {
        return Ok(());
    };
    if scenario.groups.is_empty() {
        return Ok(());
    }
    let profile = Profile::read(session)?;
    println!("\nMeasured against the truth: what each program does is fixed by its construction.");
    println!(
        "{:<10}{:>7}{:>10}{:>9}  {:<28}image",
        "group", "true %", "measured", "samples", "function"
    );
    for group in scenario.groups {
        print_group(&profile.measure(group));
    }
    Ok(())
}

fn print_group(measured: &Measured) {
    for (index, line) in measured.lines().enumerate() {
        let Share {
            image,
            symbol,
            percent,
            ..
        } = line.share;
        let name = if index == 0 { measured.group.name } else { "" };
        let image = match image {
            Image::File(path) => path,
            Image::Anonymous => "anonymous memory",
            Image::Module(name) => name,
            Image::Kernel => "kernel",
        };
        println!(
            "{name:<10}{percent:>7}{:>10.2}{:>9}  {symbol:<28}{image}",
            line.percent, line.samples
        );
    }
}

fn how_to_go_on(binaries: &Path, session: &Path) {
    let tools = shown(binaries);
    let session = shown(session);
    println!(
        "\nThe session is {session}. Go on with\n\
         \x20 {tools}/opreport --session-dir={session} -l                      # a column for each vCPU\n\
         \x20 {tools}/opreport --session-dir={session} -l -m cpu image:'*realcode'  # one program\n\
         \x20 {tools}/optop --once --session-dir={session}                     # a table, live while a VM runs\n\
         \x20 {tools}/opexport -F flamegraph -o flame.svg --session-dir={session}  # for a browser; -F pprof, firefox, …\n\
         \x20 cargo xtask demo --cpus 4 --scenario storm                 # short-lived processes\n\
         \x20 cargo xtask test                                           # everything, measured"
    );
}
