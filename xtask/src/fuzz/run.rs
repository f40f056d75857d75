//! One run of a target, and what libFuzzer says of it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{FuzzError, Target};
use crate::supervise::{Output, supervise};

/// Seconds that one input may take: more is a finding.
const INPUT_SECONDS: u32 = 5;

/// Memory that a target may take in MiB: a guest of 16 MiB, the device's buffers, libFuzzer's corpus, and plenty of room.
const MEMORY_MIB: u32 = 1_024;

/// How slowly the length of inputs grows: fast, for a structured input of a few bytes does nothing.
const LENGTH_CONTROL: u32 = 20;

/// How long a run may take beyond its time: reading the corpus, and an input that takes as long as it may.
const GRACE: Duration = Duration::from_secs(120);

/// How much of libFuzzer's output an error shows.
const SHOWN_LINES: usize = 40;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// The target.
    pub target: String,
    /// Inputs that were run, those of the corpus included.
    pub executions: u64,
    /// Of them a second.
    pub per_second: u64,
    /// Inputs in the corpus at the end.
    pub corpus: u64,
    /// What was found, if anything.
    pub finding: Option<Finding>,
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The input, if libFuzzer got to write it.
    pub input: Option<PathBuf>,
    /// The end of the output.
    pub output: String,
}

impl Ran {
    /// Whether nothing was found, and anything run at all.
    pub const fn passed(&self) -> bool {
        self.finding.is_none() && self.executions != 0
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = match (&self.finding, self.executions) {
            (Some(_), _) => "FAILED",
            (None, 0) => "FAILED: nothing was run",
            (None, _) => "ok",
        };
        write!(
            f,
            "{:<18} {:>12} executions {:>8}/s {:>6} inputs  {result}",
            self.target, self.executions, self.per_second, self.corpus
        )?;
        let Some(finding) = &self.finding else {
            return Ok(());
        };
        write!(f, "\n{}", finding.output)?;
        match &finding.input {
            Some(input) => write!(
                f,
                "\nReproduce it with: cargo xtask fuzz {} --input {}",
                self.target,
                input.display()
            ),
            None => f.write_str("\nlibFuzzer wrote no input"),
        }
    }
}

impl Target {
    fn limits(&self) -> Vec<OsString> {
        [
            format!("-timeout={INPUT_SECONDS}"),
            format!("-rss_limit_mb={MEMORY_MIB}"),
            format!("-max_len={}", self.max_len),
            format!("-len_control={LENGTH_CONTROL}"),
        ]
        .map(OsString::from)
        .to_vec()
    }
}

/// Runs `target` for `seconds`.
pub fn run(target: &Target, seconds: u64) -> Result<Ran, FuzzError> {
    target.make_directories()?;
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(target.findings());
    prefix.push("/");
    let program = target.program();
    let mut child = Command::new(&program)
        .args(target.limits())
        .arg(format!("-max_total_time={seconds}"))
        .arg("-print_final_stats=1")
        .arg(prefix)
        .args([target.corpus(), target.seeds()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(FuzzError::file(&program))?;
    let pipes = child.stdout.take().zip(child.stderr.take());
    let (stdout, stderr) = pipes
        .ok_or_else(|| std::io::Error::other("its output is not piped"))
        .map_err(FuzzError::file(&program))?;
    let limit = Duration::from_secs(seconds) + GRACE;
    let ended =
        supervise(child, stdout, stderr, Output::Kept, limit).map_err(FuzzError::file(&program))?;
    let passed = ended.status.is_some_and(|status| status.success());
    let output = String::from_utf8_lossy(&ended.stderr);
    Ok(ran(&target.name, passed, &output))
}

/// Runs `target` on one input, with its output where ours goes; whether it passed.
pub fn reproduce(target: &Target, input: &Path) -> Result<bool, FuzzError> {
    let program = target.program();
    // libFuzzer takes a file that is not there for an empty directory.
    input.metadata().map_err(FuzzError::file(input))?;
    let status = Command::new(&program)
        .args(target.limits())
        .arg(input)
        .stdin(Stdio::null())
        .status()
        .map_err(FuzzError::file(&program))?;
    Ok(status.success())
}

/// Reads what libFuzzer printed.
fn ran(target: &str, passed: bool, output: &str) -> Ran {
    let stat = |name: &str| {
        let line = output
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok())
    };
    let finding = (!passed).then(|| Finding {
        input: output
            .lines()
            .find_map(|line| line.split_once("Test unit written to "))
            .map(|(_, path)| PathBuf::from(path.trim())),
        output: crate::tail(output, SHOWN_LINES),
    });
    Ran {
        target: target.to_owned(),
        // A run that fails prints its status lines only.
        executions: stat("stat::number_of_executed_units:")
            .or_else(|| last_execution(output))
            .unwrap_or(0),
        per_second: stat("stat::average_exec_per_sec:").unwrap_or(0),
        corpus: last_corpus(output).unwrap_or(0),
        finding,
    }
}

/// `#123 …` of the last status line.
fn last_execution(output: &str) -> Option<u64> {
    output
        .lines()
        .rev()
        .filter_map(|line| line.strip_prefix('#'))
        .find_map(|line| line.split_whitespace().next()?.parse().ok())
}

/// `… corp: 12/34b …` of the last status line.
fn last_corpus(output: &str) -> Option<u64> {
    output
        .lines()
        .rev()
        .find_map(|line| line.split_once(" corp: "))
        .and_then(|(_, rest)| rest.split_once('/'))
        .and_then(|(count, _)| count.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "#2\tINITED cov: 9 ft: 10 corp: 1/1b exec/s: 0 rss: 27Mb\n\
        #89057\tDONE   cov: 1934 ft: 6993 corp: 699/125Kb lim: 1600 exec/s: 1459 rss: 36Mb\n\
        Done 89057 runs in 61 second(s)\n\
        stat::number_of_executed_units: 89057\n\
        stat::average_exec_per_sec:     1459\n";

    const BAD: &str = "#17\tNEW    cov: 19 ft: 69 corp: 6/12b lim: 16 exec/s: 0 rss: 36Mb\n\
        thread panicked\n\
        artifact_prefix='/a/'; Test unit written to /a/crash-12\n";

    #[test]
    fn the_figures_of_a_good_run_are_read() {
        let ran = ran("t", true, GOOD);
        assert_eq!(
            (ran.executions, ran.per_second, ran.corpus),
            (89_057, 1_459, 699)
        );
        assert!(ran.passed());
    }

    #[test]
    fn a_finding_names_its_input_and_how_to_reproduce_it() {
        let ran = ran("t", false, BAD);
        assert_eq!((ran.executions, ran.corpus), (17, 6));
        assert!(!ran.passed());
        let shown = ran.to_string();
        assert!(shown.contains("cargo xtask fuzz t --input /a/crash-12"));
        assert!(shown.contains("thread panicked"));
    }

    #[test]
    fn a_run_of_nothing_fails() {
        assert!(!ran("t", true, "").passed());
    }
}
