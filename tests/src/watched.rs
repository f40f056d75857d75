//! Debian guests whose events are read as they come.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::ground_truth::{self, Verdict};
use crate::vm::{Vm, bin_dir};

/// How long the VMM may take to serve its control socket: at once, save where a slow processor is shared.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two tries: each is a program that takes the processor from what it waits for.
const PAUSE: Duration = Duration::from_millis(300);

/// Fewer samples say nothing. Short processes cost the lab more than they are sampled.
const LEAST_COMPARED: u64 = 300;

fn start_profiling(socket: &Path) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = Command::new(bin_dir().join("opcontrol"))
            .arg(format!("--socket={}", socket.display()))
            .arg("--start")
            .output()
            .expect("opcontrol runs");
        if answer.status.success() {
            return;
        }
        let told = String::from_utf8_lossy(&answer.stderr);
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {told}");
        thread::sleep(PAUSE);
    }
}

/// Runs `guest` on `cpus` vCPUs with `agent` behind the module's parameter `truth`, reads its events as they come, and compares each
/// sample with what the guest's kernel knew of it.
///
/// # Panics
/// When the guest does not come to its end, or too few samples were taken.
#[must_use]
pub fn compare(guest: Vm, cpus: u32, agent: &str) -> Verdict {
    let directory = TempDir::new().expect("a temporary directory");
    let socket = directory.path().join("vm.sock");
    let running = guest
        .cmdline(&format!("agent=truth=1{agent}"))
        .cpus(cpus)
        .without_session()
        .device(&format!("socket={}", socket.display()))
        .device("hz=2000")
        .start();
    let deadline = Instant::now() + PATIENCE;
    while !socket.exists() {
        assert!(Instant::now() < deadline, "no socket within {PATIENCE:?}");
        thread::sleep(PAUSE);
    }
    let text = directory.path().join("events");
    let mut reader = Command::new(bin_dir().join("opread"))
        .arg(format!("--socket={}", socket.display()))
        .stdout(File::create(&text).expect("a file"))
        .spawn()
        .expect("opread runs");
    start_profiling(&socket);
    let ended = running.wait();
    assert!(reader.wait().is_ok());
    let ended = ended.expect_code(0);
    let events = fs::read_to_string(&text).expect("what opread printed");
    let verdict = ground_truth::judge(&events, &ended.output());
    println!("{cpus} vCPUs: {verdict:#?}");
    assert!(
        verdict.compared > LEAST_COMPARED,
        "{verdict:#?}\n{}",
        ended.output()
    );
    verdict
}
