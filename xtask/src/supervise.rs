//! Runs a child process to its end or to a time limit, passing its output on as it comes.

use std::io::{self, Read, Write};
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long the output of a process that is gone may still trickle in: a process it left behind may
/// hold the pipe open for ever.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// How often a child is asked for a sign of life.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// What becomes of a child's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Passed on to our own stdout and stderr at once.
    Live,
    /// Passed on and also kept.
    LiveAndKept,
    /// Kept only.
    Kept,
}

/// What a child left.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; `None` when the time limit ended it.
    pub status: Option<ExitStatus>,
    /// What it wrote to stdout, if that was to be kept.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, if that was to be kept.
    pub stderr: Vec<u8>,
}

/// Waits for `child`, passing on what comes from `stdout` and `stderr`; kills it at `limit`.
pub fn supervise<O, E>(
    child: Child,
    stdout: O,
    stderr: E,
    output: Output,
    limit: Duration,
) -> io::Result<Ended>
where
    O: Read + Send + 'static,
    E: Read + Send + 'static,
{
    supervise_while(child, stdout, stderr, output, limit, || true)
}

/// As [`supervise`], and kills the child when `alive` says that it has stopped working; asked every [`LOOK_PERIOD`].
pub fn supervise_while<O, E>(
    mut child: Child,
    stdout: O,
    stderr: E,
    output: Output,
    limit: Duration,
    alive: impl Fn() -> bool,
) -> io::Result<Ended>
where
    O: Read + Send + 'static,
    E: Read + Send + 'static,
{
    let deadline = Instant::now() + limit;
    let out = pump(stdout, io::stdout(), output);
    let err = pump(stderr, io::stderr(), output);
    let status = if exits_before(&child, deadline, alive)? {
        Some(child.wait()?)
    } else {
        child.kill()?;
        child.wait()?;
        None
    };
    let drained = Instant::now() + DRAIN_LIMIT;
    Ok(Ended {
        status,
        stdout: drain(&out, drained),
        stderr: drain(&err, drained),
    })
}

/// Whether `child` ends before `deadline` and while it is `alive`.
fn exits_before(child: &Child, deadline: Instant, alive: impl Fn() -> bool) -> io::Result<bool> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("the process id is out of range"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = Timespec::try_from(left.min(LOOK_PERIOD)).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&wait)) {
            Ok(0) if !left.is_zero() && alive() => {}
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Copies `from` to `to` in a thread of its own; the channel yields what is to be kept, and closes
/// at the end of `from`.
fn pump(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    output: Output,
) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let bytes = &buffer[..count];
            if output != Output::Kept {
                // Our own reader may be gone (`| head`): the child still runs to its end.
                let _ = to.write_all(bytes).and_then(|()| to.flush());
            }
            if output != Output::Live && sender.send(bytes.to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Everything the channel yields until it closes or `deadline` passes.
fn drain(from: &mpsc::Receiver<Vec<u8>>, deadline: Instant) -> Vec<u8> {
    let mut kept = Vec::new();
    loop {
        match from.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(bytes) => kept.extend(bytes),
            Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => return kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn run(script: &str, limit: Duration) -> Ended {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let stdout = child.stdout.take().expect("piped");
        let stderr = child.stderr.take().expect("piped");
        supervise(child, stdout, stderr, Output::Kept, limit).expect("supervised")
    }

    #[test]
    fn output_and_exit_code_come_back() {
        let ended = run("echo out; echo err >&2; exit 7", Duration::from_secs(60));
        assert_eq!(ended.status.and_then(|status| status.code()), Some(7));
        assert_eq!(ended.stdout, b"out\n");
        assert_eq!(ended.stderr, b"err\n");
    }

    #[test]
    fn a_child_that_shows_no_life_is_killed_before_its_limit() {
        let mut child = Command::new("sleep")
            .arg("600")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sleep runs");
        let stdout = child.stdout.take().expect("piped");
        let stderr = child.stderr.take().expect("piped");
        let limit = Duration::from_secs(500);
        let start = Instant::now();
        let ended = supervise_while(child, stdout, stderr, Output::Kept, limit, || false);
        assert!(ended.expect("supervised").status.is_none());
        assert!(start.elapsed() < limit);
    }

    #[test]
    fn the_time_limit_kills_and_keeps_the_output_so_far() {
        // A busy machine may take long to start the shell.
        let ended = run("echo out; exec sleep 600", Duration::from_secs(3));
        assert!(ended.status.is_none());
        assert_eq!(ended.stdout, b"out\n");
    }
}
