//! How a guest comes to its end.

use std::fmt;

/// Why no vCPU can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestEnd {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// A fault while handling a double fault, which resets a real machine.
    TripleFault,
    /// KVM cannot run the vCPU any further; says what KVM said.
    InternalError(String),
    /// The VMM itself failed.
    VmmError(String),
}

impl fmt::Display for GuestEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => write!(f, "Guest powered off"),
            Self::Reset => write!(f, "Guest asked for a reset; there is no restart"),
            Self::TripleFault => write!(f, "Guest triple-faulted"),
            Self::InternalError(what) => write!(f, "KVM cannot go on with the guest: {what}"),
            Self::VmmError(what) => write!(f, "The VMM failed: {what}"),
        }
    }
}

/// A guest's end with where it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndReport {
    /// The end.
    pub end: GuestEnd,
    /// The vCPU that met it.
    pub vcpu: u16,
    /// Its instruction pointer, if KVM still tells.
    pub rip: Option<u64>,
}

impl fmt::Display for EndReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.end)?;
        match (&self.end, self.rip) {
            (GuestEnd::PowerOff | GuestEnd::Reset, _) => Ok(()),
            (_, Some(rip)) => write!(f, " (vCPU {}, rip {rip:#x})", self.vcpu),
            (_, None) => write!(f, " (vCPU {})", self.vcpu),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_reported_with_its_place() {
        let report = |end, rip| EndReport { end, vcpu: 3, rip }.to_string();
        assert_eq!(
            report(GuestEnd::TripleFault, Some(0x1000)),
            "Guest triple-faulted (vCPU 3, rip 0x1000)"
        );
        assert_eq!(
            report(GuestEnd::TripleFault, None),
            "Guest triple-faulted (vCPU 3)"
        );
        assert_eq!(
            report(GuestEnd::PowerOff, Some(0x1000)),
            "Guest powered off"
        );
    }
}
