//! Programs as they are measured: wall clock, processor time and memory of a process.
//!
//! A process begins with the memory of the one that starts it, and the system counts that as its own. So this program
//! starts itself once more, as one that holds nothing, and that one starts what is measured.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};
use wait4::Wait4 as _;

/// First argument of the process that starts what is measured.
const ARGUMENT: &str = "--measure-program";

/// What a process took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// Milliseconds from its start to its end.
    pub wall_ms: f64,
    /// Milliseconds of processor time, in all its threads and the system for them.
    pub cpu_ms: f64,
    /// Most memory that it had at a time, in 10^6 bytes.
    pub peak_mb: f64,
}

/// Runs programs on all processors that this one may use.
#[derive(Clone, Debug)]
pub struct Runner {
    cpus: CpuSet,
}

impl Runner {
    /// Remembers which processors may be used now.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> io::Result<Self> {
        let cpus = sched_getaffinity(None)?;
        Ok(Self { cpus })
    }

    /// How many processors there are.
    pub fn processors(&self) -> u32 {
        self.cpus.count()
    }

    /// Runs a program to its end and takes its output away, into `output` if it is wanted.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub fn run(
        &self,
        program: &Path,
        arguments: &[OsString],
        output: Option<&Path>,
    ) -> Result<Cost, Box<dyn Error>> {
        let stdout = output.unwrap_or(Path::new("/dev/null"));
        let own = sched_getaffinity(None)?;
        // A new process may use what the thread may use that starts it.
        sched_setaffinity(None, &self.cpus)?;
        let measured = Command::new(env::current_exe()?)
            .arg(ARGUMENT)
            .arg(stdout)
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output();
        sched_setaffinity(None, &own)?;
        let measured = measured?;
        if !measured.status.success() {
            return Err(format!("{} failed", program.display()).into());
        }
        Ok(serde_json::from_slice(&measured.stdout)?)
    }
}

/// When this process was started to measure a program: does it and prints the cost.
///
/// # Errors
/// When the program cannot be run or fails.
pub fn measure_if_asked() -> Option<Result<(), Box<dyn Error>>> {
    let mut arguments = env::args_os().skip(1);
    (arguments.next()? == ARGUMENT).then(|| {
        let cost = measure(&arguments.collect::<Vec<_>>())?;
        println!("{}", serde_json::to_string(&cost)?);
        Ok(())
    })
}

fn measure(words: &[OsString]) -> Result<Cost, Box<dyn Error>> {
    let [stdout, program, arguments @ ..] = words else {
        return Err("no program to measure".into());
    };
    let stdout = File::create(stdout)?;
    let start = Instant::now();
    let child = Command::new(program)
        .args(arguments)
        .stdout(stdout)
        .spawn()?;
    let ended = child.wait4()?;
    let wall = start.elapsed();
    if !ended.status.success() {
        return Err(format!("{} ended with {}", program.display(), ended.status).into());
    }
    let cpu = ended.rusage.utime + ended.rusage.stime;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let peak = ended.rusage.maxrss as f64;
    Ok(Cost {
        wall_ms: wall.as_secs_f64() * 1e3,
        cpu_ms: cpu.as_secs_f64() * 1e3,
        peak_mb: peak / 1e6,
    })
}
