//! What the agent's module costs in the guest, counted in instructions.
//!
//! QEMU's `-icount` makes the guest's time a count of instructions: the same work takes the same time to some thousandths of a
//! percent, however busy this machine is. There is no VMM of ours around that guest, so a small module plays the device in it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use super::{Flavour, LinuxError, home, kernel_and_headers, module};
use crate::apt;
use crate::archive::Archive;
use crate::lab::fetch;
use crate::lab::modules::{self, Module};
use crate::repo;
use crate::step::Step;
use crate::supervise::{Output, supervise};
use crate::tail;

/// The measuring guest's first process, and the work it does.
const INIT: &str = "images/linux/bench/init.sh";
const WORK: &str = "images/linux/bench/fixed.c";

/// The kernel that is measured.
const FLAVOUR: Flavour = Flavour::Cloud61;

/// Modules of the kernel that ours need.
const WANTED: [&str; 2] = ["virtio", "virtio_ring"];

/// QEMU's `-icount shift`: an instruction is 2 ns of the guest.
const SHIFT: u32 = 1;
/// Nanoseconds of an instruction.
const INSTRUCTION_NS: f64 = (1_u32 << SHIFT) as f64;

/// Units of work of a measurement, six million instructions each, and seconds of idling.
const ROUNDS: u32 = 300;
const IDLE_SECONDS: u32 = 10;
/// Turns of all measurements; a quick run does one.
const TURNS: u32 = 5;

/// How long the guest may take: about a minute on a machine with nothing else to do.
const LIMIT: Duration = Duration::from_secs(1200);

/// Lines of its console that are shown when it failed.
const SHOWN_LINES: usize = 20;

/// The measurement without the agent.
const NONE: &str = "none";

/// The others, as `init.sh` names them.
const CLOCKS: [Clock; 3] = [
    Clock {
        name: "1kHz",
        hz: 1_000,
        text: "1 kHz",
        overhead: 0.3,
    },
    Clock {
        name: "10kHz",
        hz: 10_000,
        text: "10 kHz",
        overhead: 3.0,
    },
    Clock {
        name: "10kHz-16",
        hz: 10_000,
        text: "10 kHz, 16 callers each",
        overhead: 5.0,
    },
];

/// Most timer interrupts a second that an idle vCPU may get more than without the agent, apart from samples of what ran.
const IDLE_WAKEUPS: f64 = 10.0;
/// Most percent between the rate that is asked for and that of the samples.
const RATE: f64 = 3.0;

/// A rate to measure with, and what it may cost in percent.
struct Clock {
    name: &'static str,
    hz: u32,
    text: &'static str,
    overhead: f64,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Run {
    /// What the work took, in nanoseconds.
    took: f64,
    samples: f64,
    idle_seconds: f64,
    idle_interrupts: f64,
    idle_samples: f64,
}

/// What a clock costs.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// Which one.
    pub clock: &'static str,
    /// Instructions more than without the agent, in percent: median, least, most.
    pub overhead_percent: [f64; 3],
    /// The most that is aimed at.
    pub target_percent: f64,
    /// Instructions a sample, median.
    pub instructions_per_sample: f64,
    /// Samples a second of work, median.
    pub rate: f64,
    /// What was asked for.
    pub asked: u32,
    /// Timer interrupts of an idle vCPU a second more than without the agent, apart from samples of what ran; median.
    pub idle_wakeups: f64,
}

/// What all of them cost.
#[derive(Debug, Serialize)]
pub struct Costs {
    /// The kernel.
    pub kernel: String,
    /// Measurements of each clock.
    pub turns: u32,
    /// Clock by clock.
    pub costs: Vec<Cost>,
}

/// Builds the guest, runs it, tells what its agent cost.
pub fn measure(quick: bool) -> Result<Costs, LinuxError> {
    let cache = home().join(FLAVOUR.name());
    fs::create_dir_all(&cache).map_err(LinuxError::file(&cache))?;
    let (kernel, headers) = kernel_and_headers(FLAVOUR, &cache)?;
    let [agent, _] = module::build(&cache, &kernel.version, &headers)?;
    let loopback = module::build_loopback(&cache, &kernel.version, &headers)?;
    let work = compile(&cache)?;
    let lab = repo::lab_dir();
    fs::create_dir_all(&lab).map_err(LinuxError::file(&lab))?;
    let busybox = fetch::busybox(&lab)?;
    let modules = modules::gather(&kernel.modules, &WANTED)?;

    let initrd = cache.join("overhead.cpio");
    let files = [
        ("init", repo::root().join(INIT)),
        ("bin/busybox", busybox),
        ("bin/fixed", work),
        ("modules/virtio_oprofile.ko", agent),
        ("modules/oprofile_loopback.ko", loopback),
    ];
    File::create(&initrd)
        .and_then(|file| pack(BufWriter::new(file), &files, &modules))
        .map_err(LinuxError::file(&initrd))?;

    let turns = if quick { 1 } else { TURNS };
    let step = Step::begin("counting instructions of a guest with and without the agent");
    let console = run(&kernel.image, &initrd, turns)?;
    step.done();
    let runs = parse(&console);
    costs(kernel.version, turns, &runs).ok_or_else(|| LinuxError::Measurement {
        what: "did not measure everything",
        said: tail(&console, SHOWN_LINES),
    })
}

fn pack(to: impl io::Write, files: &[(&str, PathBuf)], modules: &[Module]) -> io::Result<()> {
    let mut archive = Archive::new(to, 0);
    for directory in ["dev", "proc", "sys"] {
        archive.directory(Path::new(directory))?;
    }
    for (name, source) in files {
        archive.file(Path::new(name), 0o755, &fs::read(source)?)?;
    }
    let mut order = String::new();
    for Module { name, image } in modules {
        archive.file(Path::new(&format!("modules/{name}.ko")), 0o644, image)?;
        order.push_str(name);
        order.push('\n');
    }
    archive.file(Path::new("modules/order"), 0o644, order.as_bytes())?;
    archive.finish()
}

fn compile(cache: &Path) -> Result<PathBuf, LinuxError> {
    let gcc = apt::program("gcc", "gcc", "it compiles the guest's programs")?;
    let target = cache.join("fixed");
    let source = repo::root().join(WORK);
    // Frames for the agent to walk.
    apt::capture(
        Command::new(gcc)
            .args(["-O1", "-static", "-fno-omit-frame-pointer"])
            .args(["-fno-optimize-sibling-calls", "-Wall", "-Werror", "-o"])
            .arg(&target)
            .arg(source),
    )?;
    Ok(target)
}

/// Boots the guest and returns what its console said.
fn run(kernel: &Path, initrd: &Path, turns: u32) -> Result<String, LinuxError> {
    let qemu = fetch::qemu()?;
    let mut child = Command::new(&qemu)
        .args("-nodefaults -no-user-config -no-reboot -display none -machine q35".split(' '))
        .args("-cpu EPYC -smp 1 -m 512M -accel tcg,thread=single".split(' '))
        .args(["-icount", &format!("shift={SHIFT},sleep=off")])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .arg("-append")
        .arg(format!(
            "console=ttyS0 quiet panic=-1 tsc=reliable nowatchdog random.trust_cpu=on \
             rounds={ROUNDS} idle={IDLE_SECONDS} repeat={turns}"
        ))
        .args(["-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(LinuxError::file(&qemu))?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        unreachable!("both were asked for");
    };
    let ended =
        supervise(child, stdout, stderr, Output::Kept, LIMIT).map_err(LinuxError::file(&qemu))?;
    let console = String::from_utf8_lossy(&ended.stdout).into_owned();
    let what = match ended.status {
        Some(status) if status.success() => return Ok(console),
        Some(_) => "failed",
        None => "took too long",
    };
    let all = console + &String::from_utf8_lossy(&ended.stderr);
    Err(LinuxError::Measurement {
        what,
        said: tail(&all, SHOWN_LINES),
    })
}

/// Measurements by name, in the order in which they were made.
fn parse(console: &str) -> BTreeMap<String, Vec<Run>> {
    let mut runs: BTreeMap<String, Vec<Run>> = BTreeMap::new();
    for line in console.lines() {
        let Some(line) = line.trim().strip_prefix("bench: ") else {
            continue;
        };
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let numbers: Vec<f64> = words.map_while(|word| word.parse().ok()).collect();
        if let [took, samples, idle_seconds, idle_interrupts, idle_samples] = numbers[..] {
            runs.entry(name.to_owned()).or_default().push(Run {
                took,
                samples,
                idle_seconds,
                idle_interrupts,
                idle_samples,
            });
        }
    }
    runs
}

/// `None` when a measurement is missing, or has no samples.
fn costs(kernel: String, turns: u32, runs: &BTreeMap<String, Vec<Run>>) -> Option<Costs> {
    let of = |name: &str| {
        let runs = runs.get(name)?;
        (runs.len() == turns as usize).then_some(runs)
    };
    let none = of(NONE)?;
    let costs = CLOCKS
        .iter()
        .map(|clock| {
            let with = of(clock.name)?;
            let each = |figure: &dyn Fn(&Run, &Run) -> f64| {
                let mut all: Vec<f64> = with.iter().zip(none).map(|(a, b)| figure(a, b)).collect();
                all.sort_by(f64::total_cmp);
                all
            };
            if with.iter().any(|run| run.samples == 0.0) {
                return None;
            }
            let overhead = each(&|with, none| (with.took / none.took - 1.0) * 100.0);
            let rate = each(&|with, _| with.samples / with.took * 1e9);
            let instructions =
                each(&|with, none| (with.took - none.took) / INSTRUCTION_NS / with.samples);
            let wakeups = each(&|with, none| {
                let own = (with.idle_interrupts - with.idle_samples) / with.idle_seconds;
                own - none.idle_interrupts / none.idle_seconds
            });
            Some(Cost {
                clock: clock.text,
                overhead_percent: [median(&overhead), *overhead.first()?, *overhead.last()?],
                target_percent: clock.overhead,
                instructions_per_sample: median(&instructions),
                rate: median(&rate),
                asked: clock.hz,
                idle_wakeups: median(&wakeups),
            })
        })
        .collect::<Option<_>>()?;
    Some(Costs {
        kernel,
        turns,
        costs,
    })
}

/// Of an ordered list that is not empty.
fn median(ordered: &[f64]) -> f64 {
    ordered[ordered.len() / 2]
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Linux {}, one vCPU, time counted in instructions; medians of {} turns",
            self.kernel, self.turns
        )?;
        writeln!(
            f,
            "| clock | instructions more (least–most) | aim | a sample | samples/s of work | idle: wake-ups/s more |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for cost in &self.costs {
            let [median, least, most] = cost.overhead_percent;
            let off = (cost.rate / f64::from(cost.asked) - 1.0) * 100.0;
            writeln!(
                f,
                "| {} | {median:.2} % ({least:.2}–{most:.2}) | ≤ {} %: {} | {:.0} instructions | {:.0} ({off:+.2} %, ± {RATE} %: {}) | {:.1} (≤ {IDLE_WAKEUPS}: {}) |",
                cost.clock,
                cost.target_percent,
                verdict(median <= cost.target_percent),
                cost.instructions_per_sample,
                cost.rate,
                verdict(off.abs() <= RATE),
                cost.idle_wakeups,
                verdict(cost.idle_wakeups <= IDLE_WAKEUPS),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "[    2.1] something else\n\
        bench: none 1000000000 0 10 80 0\r\n\
        bench: 1kHz 1002000000 1002 10 110 20\r\n\
        bench: 10kHz 1020000000 10200 10 400 300\r\n\
        bench: 10kHz-16 1040000000 10400 10 400 310\r\n";

    #[test]
    fn costs_follow_from_what_the_guest_measured() {
        let costs = costs("6.1".to_owned(), 1, &parse(CONSOLE)).expect("complete");
        let [slow, fast, chains] = &costs.costs[..] else {
            panic!("{costs:?}");
        };
        assert!((slow.overhead_percent[0] - 0.2).abs() < 1e-9, "{slow:?}");
        assert!((slow.rate - 1_000.0).abs() < 1e-9, "{slow:?}");
        assert!((slow.idle_wakeups - 1.0).abs() < 1e-9, "{slow:?}");
        // 20 ms more are ten million instructions.
        let instructions = fast.instructions_per_sample;
        assert!((instructions - 1e7 / 10_200.0).abs() < 1e-9, "{fast:?}");
        assert!((chains.idle_wakeups - 1.0).abs() < 1e-9, "{chains:?}");
        let table = costs.to_string();
        assert!(table.contains("≤ 0.3 %: reached"), "{table}");
    }

    #[test]
    fn measurement_that_is_missing_or_without_samples_gives_no_table() {
        let cut = CONSOLE.rsplit_once("bench:").expect("several").0;
        assert!(costs(String::new(), 1, &parse(cut)).is_none());
        assert!(costs(String::new(), 2, &parse(CONSOLE)).is_none());
        let blind = CONSOLE.replace("1002 10 110", "0 10 110");
        assert!(costs(String::new(), 1, &parse(&blind)).is_none());
    }
}
