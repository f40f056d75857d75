//! The option `--disk PATH[,ro]`.

use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// The option's syntax.
pub const SYNTAX: &str = "PATH[,ro]";

/// Most disks: each needs an interrupt line of the IOAPIC's 24, and the profiling device, the serial port and what a PC has below
/// need some.
pub const MAX_DISKS: usize = 8;

/// Why the option cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DiskError {
    /// Nothing is named.
    #[error("No image is named; the syntax is {SYNTAX}")]
    NoPath,
    /// What follows the path is not known.
    #[error("Unknown word {0:?} behind the image's path; the syntax is {SYNTAX}")]
    Unknown(String),
}

/// A disk as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// A raw image.
    pub path: PathBuf,
    /// The guest may not write.
    pub read_only: bool,
}

impl FromStr for DiskConfig {
    type Err = DiskError;

    /// The path ends at the first comma.
    fn from_str(text: &str) -> Result<Self, DiskError> {
        let (path, words) = match text.split_once(',') {
            Some((path, words)) => (path, Some(words)),
            None => (text, None),
        };
        if path.is_empty() {
            return Err(DiskError::NoPath);
        }
        let read_only = match words {
            None => false,
            Some("ro") => true,
            Some(other) => return Err(DiskError::Unknown(other.to_owned())),
        };
        Ok(Self {
            path: path.into(),
            read_only,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_may_be_followed_by_ro() {
        let disk = |text: &str| text.parse::<DiskConfig>();
        let plain = disk("/d.img").unwrap();
        assert_eq!(
            (plain.path.to_str(), plain.read_only),
            (Some("/d.img"), false)
        );
        assert!(disk("/d.img,ro").unwrap().read_only);
        assert_eq!(disk(""), Err(DiskError::NoPath));
        assert_eq!(disk(",ro"), Err(DiskError::NoPath));
        assert_eq!(disk("d,rw"), Err(DiskError::Unknown("rw".into())));
    }
}
