//! What the user asked for, checked.

pub mod disk;
pub mod oprofile_dev;

use std::path::PathBuf;

pub use disk::{DiskConfig, MAX_DISKS};
pub use oprofile_dev::{OprofileDevConfig, OptionError};

/// Most vCPUs: what was tried. Each costs a thread, a sample queue and a notification event; APIC ids are 8 bits wide.
pub const MAX_VCPUS: u16 = 32;

/// Where the guest kernel or initrd comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// The tiny guest that this program carries.
    Embedded,
}

/// A virtual machine to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmConfig {
    /// The kernel.
    pub kernel: Source,
    /// The initrd, if any.
    pub initrd: Option<Source>,
    /// Kernel command line as the user wrote it.
    pub cmdline: String,
    /// vCPUs, 1 to [`MAX_VCPUS`].
    pub cpus: u16,
    /// Guest RAM in bytes.
    pub memory: u64,
    /// Disks, at most [`MAX_DISKS`], in the guest's order.
    pub disks: Vec<DiskConfig>,
    /// The profiling device, if wanted.
    pub oprofile: Option<OprofileDevConfig>,
}
