//! What the program's exit code says.

use crate::cpu::GuestEnd;
use crate::vm::VmError;

/// Exit codes of `oprofile-vmm run`. A signal that comes while another one is being obeyed ends the program by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The guest powered off, or a signal stopped it; the session is complete.
    Success = 0,
    /// The VMM failed.
    VmmError = 1,
    /// The command line cannot be used (also clap's code).
    Usage = 2,
    /// KVM is missing, not permitted, or refuses; or the host lacks memory.
    Host = 3,
    /// Kernel or initrd cannot be read or booted, or do not fit.
    GuestImage = 4,
    /// The session directory cannot be written, or the control socket not be made; the guest was not started.
    Session = 5,
    /// The guest ran, but its session is not complete.
    SessionIncomplete = 6,
    /// The guest asked for a reset.
    GuestReset = 10,
    /// The guest triple-faulted.
    TripleFault = 11,
    /// KVM cannot go on with the guest.
    KvmInternalError = 12,
}

impl ExitCode {
    /// The code of a run that came to `end` (`None`: a signal stopped it). An end that is a failure counts more than a
    /// session that is incomplete.
    pub fn of_run(end: Option<&GuestEnd>, session_complete: bool) -> Self {
        match end {
            Some(GuestEnd::Reset) => Self::GuestReset,
            Some(GuestEnd::TripleFault) => Self::TripleFault,
            Some(GuestEnd::InternalError(_)) => Self::KvmInternalError,
            Some(GuestEnd::VmmError(_)) => Self::VmmError,
            Some(GuestEnd::PowerOff) | None if session_complete => Self::Success,
            Some(GuestEnd::PowerOff) | None => Self::SessionIncomplete,
        }
    }
}

impl From<&VmError> for ExitCode {
    fn from(error: &VmError) -> Self {
        match error {
            VmError::Option(_) | VmError::Cmdline(_) | VmError::Cpus(_) | VmError::Disks(_) => {
                Self::Usage
            }
            VmError::Memory(crate::memory::MemoryError::Size(_)) => Self::Usage,
            VmError::Boot(_) | VmError::Image(_) => Self::GuestImage,
            VmError::Session { .. } | VmError::Socket(_) => Self::Session,
            VmError::Kvm(_) | VmError::Vcpu(_) | VmError::Memory(_) => Self::Host,
            VmError::Io { .. } | VmError::Kick(_) | VmError::Overlap(_) => Self::VmmError,
            VmError::Events(_) => Self::VmmError,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::BootError;
    use crate::memory::Layout;

    #[test]
    fn each_end_of_a_guest_has_its_code() {
        let text = String::new;
        for (end, code) in [
            (None, 0),
            (Some(GuestEnd::PowerOff), 0),
            (Some(GuestEnd::Reset), 10),
            (Some(GuestEnd::TripleFault), 11),
            (Some(GuestEnd::InternalError(text())), 12),
            (Some(GuestEnd::VmmError(text())), 1),
        ] {
            assert_eq!(ExitCode::of_run(end.as_ref(), true) as u8, code, "{end:?}");
        }
    }

    #[test]
    fn an_incomplete_session_shows_unless_the_guest_failed() {
        for (end, code) in [
            (None, 6),
            (Some(GuestEnd::PowerOff), 6),
            (Some(GuestEnd::TripleFault), 11),
        ] {
            assert_eq!(ExitCode::of_run(end.as_ref(), false) as u8, code, "{end:?}");
        }
    }

    #[test]
    fn errors_before_the_start_are_told_apart() {
        let size = VmError::Memory(Layout::new(0).unwrap_err());
        assert_eq!(ExitCode::from(&size), ExitCode::Usage);
        let image = VmError::Boot(BootError::KernelTooBig {
            needed: 2,
            available: 1,
        });
        assert_eq!(ExitCode::from(&image), ExitCode::GuestImage);
    }
}
