//! Decides whether this machine's KVM is good enough: hardware, not an interpreter.
//!
//! A `/dev/kvm` may exist and still interpret ring 0 or deliver no interrupts. So a tiny guest must
//! take timer interrupts and run a loop in ring 0, within a time limit that an interpreter misses.

mod guest;

use std::fs::{self, OpenOptions};
use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::supervise::{Output, supervise};

pub use guest::run as run_guest;

/// The name of the hidden command that runs the test guest.
pub const GUEST_COMMAND: &str = "probe-guest";
/// How long the test guest may take. Hardware needs a few milliseconds, an emulated SVM under load
/// some hundreds; an interpreter of ring 0 needs many seconds.
const GUEST_LIMIT: Duration = Duration::from_secs(4);
/// KVM's device node.
const KVM: &str = "/dev/kvm";

/// Why this machine's KVM does not serve.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// There is none, or this user may not use it.
    #[error("{KVM} cannot be opened: {0}")]
    Closed(io::Error),
    /// The processor has no virtualisation, so whatever `/dev/kvm` is, it is no hardware KVM.
    #[error("{KVM} is there, but /proc/cpuinfo has neither svm nor vmx")]
    NoExtension,
    /// The test guest did not come to its end in time.
    #[error("a test guest took more than {} s, so ring 0 is not run natively", GUEST_LIMIT.as_secs())]
    Slow,
    /// The test guest failed.
    #[error("a test guest failed: {0}")]
    Guest(String),
}

/// Checks this machine's KVM.
pub fn probe() -> Result<(), Unfit> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(KVM)
        .map_err(Unfit::Closed)?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !has_extension(&cpuinfo) {
        return Err(Unfit::NoExtension);
    }
    guest_in_child()
}

/// Runs the test guest in a process of its own, so that a hang can be ended from outside.
fn guest_in_child() -> Result<(), Unfit> {
    let failed = |error: io::Error| Unfit::Guest(error.to_string());
    let mut child = Command::new(std::env::current_exe().map_err(failed)?)
        .arg(GUEST_COMMAND)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Unfit::Guest("its output is not piped".to_owned()));
    };
    let ended = supervise(child, stdout, stderr, Output::Kept, GUEST_LIMIT).map_err(failed)?;
    match ended.status {
        Some(status) if status.success() => Ok(()),
        Some(_) => Err(Unfit::Guest(
            String::from_utf8_lossy(&ended.stderr).trim().to_owned(),
        )),
        None => Err(Unfit::Slow),
    }
}

/// Whether a `flags` line of `/proc/cpuinfo` names AMD's or Intel's virtualisation.
fn has_extension(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .filter_map(|line| line.split_once(':'))
        .flat_map(|(_, flags)| flags.split_whitespace())
        .any(|flag| flag == "svm" || flag == "vmx")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_is_a_whole_word_in_the_flags() {
        assert!(has_extension("flags\t\t: fpu svm lm\n"));
        assert!(has_extension("flags\t\t: fpu vmx\n"));
        assert!(!has_extension("flags\t\t: fpu svm_lock\nmodel name: svm\n"));
        assert!(!has_extension("vmx flags\t: vnmi\n"));
    }
}
