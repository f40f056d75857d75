//! Opening KVM and making a VM with the kernel's interrupt controllers.

use std::path::Path;

use kvm_bindings::{
    KVM_API_VERSION, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use thiserror::Error;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::errno;

use crate::memory::{KVM_IDENTITY_MAP, KVM_TSS};

/// Where the kernel offers KVM.
pub const DEVICE: &str = "/dev/kvm";

/// Why there is no VM.
#[derive(Debug, Error)]
pub enum KvmError {
    /// There is no such device.
    #[error(
        "There is no {0}: load kvm_amd or kvm_intel, or enable virtualisation in the firmware; without either, run it in \
         the lab: cargo xtask lab -- COMMAND"
    )]
    Missing(String),
    /// It may not be used.
    #[error("No permission to use {0}: join the group that owns it (often kvm), or run as root")]
    Permission(String),
    /// It cannot be opened for another reason.
    #[error("Cannot open {0}")]
    Open(String, #[source] errno::Error),
    /// It is not KVM as everyone has it since 2007.
    #[error("{0} speaks KVM API version {1}, not {expected}", expected = KVM_API_VERSION)]
    Version(String, i32),
    /// It lacks something.
    #[error("KVM on this host lacks {0:?}")]
    Capability(Cap),
    /// An ioctl failed.
    #[error("KVM refuses to {0}")]
    Refuses(&'static str, #[source] errno::Error),
}

fn refuses(what: &'static str) -> impl FnOnce(errno::Error) -> KvmError {
    move |error| KvmError::Refuses(what, error)
}

/// Opens KVM at `path` and checks that it can do what this VMM needs.
///
/// # Errors
/// When it is missing, not permitted, or lacks something.
pub fn open(path: &Path) -> Result<Kvm, KvmError> {
    let name = || path.display().to_string();
    let c_path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| KvmError::Missing(name()))?;
    let kvm = Kvm::new_with_path(c_path).map_err(|error| open_error(name(), error))?;
    let version = kvm.get_api_version();
    if u32::try_from(version) != Ok(KVM_API_VERSION) {
        return Err(KvmError::Version(name(), version));
    }
    for capability in [
        Cap::UserMemory,
        Cap::SignalMsi,
        Cap::Irqchip,
        Cap::Irqfd,
        Cap::Ioeventfd,
        Cap::ImmediateExit,
        Cap::ExtCpuid,
        Cap::GetTscKhz,
    ] {
        if !kvm.check_extension(capability) {
            return Err(KvmError::Capability(capability));
        }
    }
    Ok(kvm)
}

fn open_error(name: String, error: errno::Error) -> KvmError {
    match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing(name),
        libc::EACCES | libc::EPERM => KvmError::Permission(name),
        _ => KvmError::Open(name, error),
    }
}

/// Makes a VM with `memory` and in-kernel LAPIC, IOAPIC, PIC and PIT. `memory` must not be unmapped before the VM is closed:
/// the caller keeps it as long as any vCPU.
///
/// # Errors
/// When KVM refuses.
pub fn create_vm(kvm: &Kvm, memory: &GuestMemoryMmap) -> Result<VmFd, KvmError> {
    let vm = kvm.create_vm().map_err(refuses("create a VM"))?;
    for (slot, region) in (0_u32..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the region is mapped at this address with this size, belongs to nobody else, and by this function's
        // contract stays so for the VM's life.
        unsafe { vm.set_user_memory_region(region) }.map_err(refuses("take guest memory"))?;
    }
    vm.set_identity_map_address(KVM_IDENTITY_MAP)
        .map_err(refuses("take the identity map's address"))?;
    vm.set_tss_address(usize::try_from(KVM_TSS).unwrap_or(usize::MAX))
        .map_err(refuses("take the TSS address"))?;
    vm.create_irq_chip()
        .map_err(refuses("create the interrupt controllers"))?;
    let pit = kvm_pit_config {
        // Port 0x61 is KVM's too: guests time the PIT by it.
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit).map_err(refuses("create the PIT"))?;
    Ok(vm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_told_with_what_to_do() {
        let error = open(Path::new("/nonexistent/kvm")).unwrap_err();
        assert!(matches!(error, KvmError::Missing(_)));
        let message = error.to_string();
        assert!(message.contains("/nonexistent/kvm") && message.contains("xtask lab"));
    }

    #[test]
    fn a_forbidden_device_is_told_with_what_to_do() {
        for code in [libc::EACCES, libc::EPERM] {
            let message = open_error("/dev/kvm".into(), errno::Error::new(code)).to_string();
            assert!(message.contains("No permission") && message.contains("group"));
        }
    }

    #[test]
    fn what_is_not_kvm_is_refused() {
        let error = open(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(error, KvmError::Version(..)), "{error}");
    }

    #[test]
    fn a_directory_cannot_be_opened_as_kvm() {
        let error = open(Path::new("/")).unwrap_err();
        assert!(matches!(error, KvmError::Open(..)), "{error}");
    }
}
