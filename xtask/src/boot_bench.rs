//! How long a Debian kernel takes from the start of the VMM's process to its first process, beside QEMU.
//!
//! Both run on the same KVM by turns, in the lab where there is no other, with the same kernel, initramfs and command line.

use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::cargo::{self, CargoError};
use crate::lab::fetch::{self, FetchError};
use crate::linux::{self, LinuxError};
use crate::machine::{self, Choice, Job, MachineError};

/// The name of the hidden command that measures, on the machine with KVM.
pub const INSIDE_COMMAND: &str = "bench-boot-inside";

/// What `images/linux/boot.sh` says.
const INIT_RUNS: &str = "guest: init runs";

/// `panic=-1` resets at once, which ends both VMMs.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 tsc=reliable";
const MEMORY: &str = "256M";

/// How often each is booted.
const ROUNDS: u32 = 7;
const QUICK_ROUNDS: u32 = 3;

/// How long one boot may take: some seconds in the lab.
const LIMIT: Duration = Duration::from_secs(90);

/// How many times as long as QEMU's fastest machine ours may take.
const TARGET: f64 = 3.0;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BootBenchError {
    /// The VMM was not built.
    #[error(transparent)]
    Cargo(#[from] CargoError),
    /// There is no QEMU.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// There is no guest.
    #[error(transparent)]
    Linux(#[from] LinuxError),
    /// There is no machine with KVM.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The measurement ended with an error.
    #[error("The measurement ended with exit code {0}; its message is above")]
    Inside(u8),
    /// A VMM cannot be started or read.
    #[error("Cannot run {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The guest did not get to its first process.
    #[error("{vmm} did not get to init in {} s; its console was:\n{console}", LIMIT.as_secs())]
    NoInit {
        /// Which VMM.
        vmm: &'static str,
        /// What the guest and the VMM said.
        console: String,
    },
}

/// What is measured.
#[derive(Debug, Args)]
pub struct Inside {
    #[arg(long)]
    rounds: u32,
    #[arg(long)]
    vmm: PathBuf,
    #[arg(long)]
    qemu: PathBuf,
    #[arg(long)]
    kernel: PathBuf,
    #[arg(long)]
    initrd: PathBuf,
}

/// Builds and fetches what is needed, and measures on a machine with KVM.
pub fn run(quick: bool) -> Result<(), BootBenchError> {
    let vmm = cargo::build_release()?.join("oprofile-vmm");
    let qemu = fetch::qemu()?;
    let guest = linux::prepare_boot()?;
    let machine = machine::choose(Choice::Probe)?;
    let program = std::env::current_exe().map_err(|source| BootBenchError::Run {
        program: "xtask".into(),
        source,
    })?;
    let rounds = match quick {
        true => QUICK_ROUNDS,
        false => ROUNDS,
    };
    let mut command = vec![
        program.into_os_string(),
        INSIDE_COMMAND.into(),
        format!("--rounds={rounds}").into(),
    ];
    for (name, path) in [
        ("--vmm", vmm),
        ("--qemu", qemu),
        ("--kernel", guest.kernel),
        ("--initrd", guest.initrd),
    ] {
        command.extend([name.into(), path.into_os_string()]);
    }
    let mut job = Job::new(command);
    job.limit = LIMIT * rounds * u32::try_from(Vmm::ALL.len()).unwrap_or(u32::MAX);
    match machine.run(&job)?.code {
        0 => Ok(()),
        code => Err(BootBenchError::Inside(code)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vmm {
    Ours,
    Q35,
    Microvm,
}

impl Vmm {
    const ALL: [Self; 3] = [Self::Ours, Self::Q35, Self::Microvm];

    const fn name(self) -> &'static str {
        match self {
            Self::Ours => "oprofile-vmm",
            Self::Q35 => "QEMU, q35",
            Self::Microvm => "QEMU, microvm",
        }
    }

    fn command(self, inside: &Inside) -> Command {
        let mut command;
        match self {
            Self::Ours => {
                command = Command::new(&inside.vmm);
                command.args(["run", "--cpus=1", "--memory", MEMORY, "--cmdline", CMDLINE]);
                command.arg("--kernel").arg(&inside.kernel);
                command.arg("--initrd").arg(&inside.initrd);
            }
            Self::Q35 | Self::Microvm => {
                command = Command::new(&inside.qemu);
                command.args("-accel kvm -cpu host -smp 1 -no-reboot -nographic".split(' '));
                command.args("-nodefaults -no-user-config -serial stdio".split(' '));
                command.args(["-m", MEMORY, "-append", CMDLINE]);
                command.arg("-kernel").arg(&inside.kernel);
                command.arg("-initrd").arg(&inside.initrd);
                command.arg("-M").arg(match self {
                    Self::Microvm => "microvm",
                    _ => "q35",
                });
            }
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// Boots each VMM's guest by turns, then tells medians.
pub fn run_inside(inside: &Inside) -> Result<(), BootBenchError> {
    let mut times = Vmm::ALL.map(|vmm| (vmm, Vec::new()));
    // Once without counting: the files then are in this machine's memory.
    for round in 0..=inside.rounds {
        for (vmm, times) in &mut times {
            let time = boot(*vmm, inside)?;
            println!("{:<14}{:>8.0} ms", vmm.name(), milliseconds(time));
            if round > 0 {
                times.push(time);
            }
        }
    }
    println!(
        "\n{:<14}{:>9}{:>9}{:>9}   ms to init, {} boots each",
        "", "median", "least", "most", inside.rounds
    );
    let medians = times.map(|(vmm, mut times)| {
        times.sort();
        let median = times[times.len() / 2];
        println!(
            "{:<14}{:>9.0}{:>9.0}{:>9.0}",
            vmm.name(),
            milliseconds(median),
            milliseconds(times[0]),
            milliseconds(times[times.len() - 1]),
        );
        median
    });
    let [ours, q35, microvm] = medians.map(milliseconds);
    let ratio = ours / q35.min(microvm);
    let verdict = match ratio <= TARGET {
        true => "reached",
        false => "missed",
    };
    println!(
        "{:.2} of q35's, {:.2} of microvm's; at most {TARGET:.0} of the faster: {verdict}",
        ours / q35,
        ours / microvm
    );
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The time from the start of the process to the guest's first process.
fn boot(vmm: Vmm, inside: &Inside) -> Result<Duration, BootBenchError> {
    let mut command = vmm.command(inside);
    let started = Instant::now();
    let mut child = command.spawn().map_err(|source| BootBenchError::Run {
        program: command.get_program().into(),
        source,
    })?;
    let (sender, lines) = mpsc::channel();
    let mut readers = Vec::new();
    let stdout = child.stdout.take().map(|end| Box::new(end) as Box<_>);
    let stderr = child.stderr.take().map(|end| Box::new(end) as Box<_>);
    for end in [stdout, stderr].into_iter().flatten() {
        readers.push(read_lines(end, sender.clone()));
    }
    drop(sender);
    let mut console = String::new();
    let mut time = None;
    while let Ok((at, line)) = lines.recv_timeout(LIMIT.saturating_sub(started.elapsed())) {
        if line.contains(INIT_RUNS) {
            time = Some(at.duration_since(started));
            break;
        }
        console.push_str(&line);
        console.push('\n');
    }
    // What comes behind init is not measured, and a microvm cannot power off.
    let _ = child.kill();
    let _ = child.wait();
    drop(lines);
    for reader in readers {
        let _ = reader.join();
    }
    time.ok_or(BootBenchError::NoInit {
        vmm: vmm.name(),
        console,
    })
}

/// Sends each line with the time at which it came.
fn read_lines(
    from: Box<dyn io::Read + Send>,
    to: mpsc::Sender<(Instant, String)>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if to.send((Instant::now(), line)).is_err() {
                break;
            }
        }
    })
}
