//! What control files answer when they refuse.

use thiserror::Error;

/// Why a control file refuses. Each kind stands for one error number of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// The caller is no administrator (`EPERM`).
    #[error("Only an administrator may do this")]
    NotPermitted,
    /// There is no such file (`ENOENT`).
    #[error("There is no such control file")]
    NoSuchFile,
    /// The event buffer went away (`EINTR`).
    #[error("The event buffer is gone")]
    Interrupted,
    /// The event buffer is not open (`EBADF`).
    #[error("The event buffer is not open")]
    NotOpen,
    /// A read would have to wait (`EAGAIN`).
    #[error("Nothing is ready to be read yet")]
    WouldWait,
    /// A buffer does not fit memory (`ENOMEM`).
    #[error("There is no memory for a buffer of that size")]
    OutOfMemory,
    /// Profiling runs, or somebody else has opened the event buffer (`EBUSY`).
    #[error("Profiling is in use")]
    Busy,
    /// The path is that of a directory (`EISDIR`).
    #[error("This is a directory")]
    IsDirectory,
    /// The file does not do that, or not with this value (`EINVAL`).
    #[error("The operation or value is not valid here")]
    Invalid,
    /// The caller's buffer is too short (`ERANGE`).
    #[error("The answer is longer than the caller's buffer")]
    OutOfRange,
    /// A path is longer than a page (`ENAMETOOLONG`).
    #[error("The path is longer than a page")]
    NameTooLong,
    /// What a hook of the sampling driver returned, which is passed on as it is; not 0.
    #[error("The sampling driver answered {0}")]
    Driver(i32),
}

impl ControlError {
    /// What a system call returns: the error number, negated; or what the hook returned.
    #[must_use]
    pub const fn code(self) -> i32 {
        // Numbers of asm-generic/errno-base.h and errno.h, which x86 uses.
        match self {
            Self::NotPermitted => -1,
            Self::NoSuchFile => -2,
            Self::Interrupted => -4,
            Self::NotOpen => -9,
            Self::WouldWait => -11,
            Self::OutOfMemory => -12,
            Self::Busy => -16,
            Self::IsDirectory => -21,
            Self::Invalid => -22,
            Self::OutOfRange => -34,
            Self::NameTooLong => -36,
            Self::Driver(code) => code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_linux_error_numbers() {
        for (error, code) in [
            (ControlError::NotPermitted, -1),
            (ControlError::OutOfMemory, -12),
            (ControlError::Busy, -16),
            (ControlError::Invalid, -22),
            (ControlError::OutOfRange, -34),
            (ControlError::NameTooLong, -36),
            (ControlError::Driver(-19), -19),
        ] {
            assert_eq!(error.code(), code);
        }
    }
}
