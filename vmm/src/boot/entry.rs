//! Where the first vCPU begins, and in which state.

use kvm_bindings::{kvm_regs, kvm_sregs};

use super::{linux, pvh};

/// A kernel's entry; all else is at fixed places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// By the PVH protocol, in 32-bit protected mode.
    Pvh(u32),
    /// By Linux's 64-bit protocol, in long mode.
    Linux(u64),
}

impl Entry {
    /// Whether the kernel learns of processors and devices from ACPI tables; else its command line says what there is.
    pub const fn by_acpi(self) -> bool {
        matches!(self, Self::Linux(_))
    }

    /// General registers.
    pub fn registers(self) -> kvm_regs {
        match self {
            Self::Pvh(entry) => pvh::registers(entry),
            Self::Linux(entry) => linux::registers(entry),
        }
    }

    /// Changes the system registers to the entry's mode.
    pub fn enter(self, special: &mut kvm_sregs) {
        match self {
            Self::Pvh(_) => pvh::enter_protected_mode(special),
            Self::Linux(_) => linux::enter_long_mode(special),
        }
    }
}
