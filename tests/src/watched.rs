//! Debian guests whose events are read as they come.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::account::Account;
use crate::child::OwnedChild;
use crate::ground_truth::{self, Verdict};
use crate::vm::{Ended, Running, Vm, bin_dir, run_to_end};

/// Between two tries: each is a program that takes the processor from what it waits for.
const PAUSE: Duration = Duration::from_millis(300);

/// Most samples that may have been lost in the event buffer, with what the guest knew of them: one in so many. `opread` is not so slow.
const LOST: u64 = 20;

/// The same of the guest's buffers: NMIs fill their rings where a machine is too slow for so many.
const LOST_IN_GUEST: u64 = 2;

/// Tries until it is done, or there is no point any more.
fn until(running: &mut Running, mut done: impl FnMut() -> bool) {
    while !done() && !running.is_over() {
        thread::sleep(PAUSE);
    }
}

fn starts_profiling(socket: &Path) -> bool {
    Command::new(bin_dir().join("opcontrol"))
        .arg(format!("--socket={}", socket.display()))
        .arg("--start")
        .status()
        .expect("opcontrol runs")
        .success()
}

/// Runs the guest once, and returns its events as text; the error is that of one that hangs.
fn watch(guest: &Vm) -> Result<(Ended, String), String> {
    let directory = TempDir::new().expect("a temporary directory");
    let socket = directory.path().join("vm.sock");
    let option = format!("socket={}", socket.display());
    let mut running = guest.clone().without_session().device(&option).start();
    until(&mut running, || socket.exists());
    let text = directory.path().join("events");
    let reader = Command::new(bin_dir().join("opread"))
        .arg(format!("--socket={}", socket.display()))
        .stdout(File::create(&text).expect("a file"))
        .spawn()
        .expect("opread runs");
    let mut reader = OwnedChild::from(reader);
    until(&mut running, || starts_profiling(&socket));
    let ended = running.outcome()?;
    // It ends with the stream, so with the VMM.
    reader.wait().expect("opread is our child");
    let events = fs::read_to_string(&text).expect("what opread printed");
    Ok((ended, events))
}

/// Runs `guest` with `agent` behind the module's parameter `truth`, reads its events as they come, and compares each sample with what
/// the guest's kernel knew of it: of `least` samples at least, for fewer say nothing.
///
/// # Panics
/// When the guest does not come to its end, too few samples were taken, or too many lost.
#[must_use]
pub fn compare(guest: Vm, agent: &str, least: u64) -> Verdict {
    let guest = guest.cmdline(&format!("agent=truth=1{agent}"));
    let (ended, events) = run_to_end(|| watch(&guest));
    let ended = ended.expect_code(0);
    let mut verdict = ground_truth::judge(&events, &ended.output());
    let account = Account::of_summary(&ended.stderr);
    verdict.raced = account.of("raced");
    let received = account.of("received");
    println!("{verdict:#?}\n{account:#?}");
    assert!(verdict.compared >= least, "{}", ended.output());
    for (loss, most) in [("lost_overflow", LOST), ("lost_in_guest", LOST_IN_GUEST)] {
        assert!(account.of(loss) * most <= received, "{}", ended.output());
    }
    verdict
}
