//! Runs a job on this machine, with its share at `/mnt` where the system lets us.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use super::{Finished, Job, MachineError};
use crate::step::note;
use crate::supervise::{Output, supervise};

/// Runs `job` and waits for its end.
pub fn run(job: &Job) -> Result<Finished, MachineError> {
    let mount = format!(
        "mount --bind {} /mnt",
        String::from_utf8_lossy(&crate::shell::quote(job.share.as_os_str()))
    );
    // A mount namespace of its own makes the share appear at /mnt for this job alone.
    let mut command = if private_mnt(&mount) {
        let mut command = unshare();
        command.args(["sh", "-c", &format!("{mount} && exec \"$@\""), "sh"]);
        command.args(&job.command);
        command.env("OPROFILE_SHARE", "/mnt");
        command
    } else {
        note("this user may not mount: /mnt is the machine's own, use $OPROFILE_SHARE");
        let mut words = job.command.iter();
        let mut command = Command::new(words.next().map_or(OsStr::new("true"), |word| word));
        command.args(words).env("OPROFILE_SHARE", &job.share);
        command
    };
    let start = |source| MachineError::Start {
        program: job.command.first().map(Into::into).unwrap_or_default(),
        source,
    };
    let mut child = command
        .envs(job.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&job.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(start(std::io::Error::other("its output is not piped")));
    };
    let ended = supervise(child, stdout, stderr, Output::Live, job.limit).map_err(start)?;
    match ended.status {
        Some(status) => Ok(Finished { code: code(status) }),
        None => Err(MachineError::TimeLimit(job.limit)),
    }
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.arg("--");
    command
}

fn private_mnt(mount: &str) -> bool {
    unshare()
        .args(["sh", "-c", mount])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The exit code as a shell gives it.
fn code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn death_by_signal_is_told_as_a_shell_does() {
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
        assert_eq!(code(ExitStatus::from_raw(7 << 8)), 7);
    }
}
