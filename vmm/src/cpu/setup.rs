//! Making vCPUs and putting the first one at the kernel's entry.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_msr_entry};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use thiserror::Error;
use vmm_sys_util::errno;

use super::cpuid::{self, Machine};
use crate::boot::Entry;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
/// Fast string operations, as firmware leaves it.
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, everything write-back: firmware leaves RAM so, and a guest that trusts MTRRs would run uncached otherwise.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// Why there is no vCPU.
#[derive(Debug, Error)]
pub enum SetupError {
    /// An ioctl failed.
    #[error("KVM refuses to {0}")]
    Kvm(&'static str, #[source] errno::Error),
    /// CPUID has too many leaves.
    #[error("CPUID has more leaves than KVM takes")]
    Cpuid(#[source] vmm_sys_util::fam::Error),
    /// Fewer MSRs were set than asked for.
    #[error("KVM does not take MSR {0:#x}")]
    Msr(u32),
}

fn kvm(what: &'static str) -> impl FnOnce(errno::Error) -> SetupError {
    move |error| SetupError::Kvm(what, error)
}

/// Makes `cpus` vCPUs. The first stands at `entry`; the others wait for INIT and SIPI in the kernel's LAPIC.
///
/// # Errors
/// When KVM refuses.
pub fn create(kvm_fd: &Kvm, vm: &VmFd, cpus: u8, entry: Entry) -> Result<Vec<VcpuFd>, SetupError> {
    let supported = kvm_fd
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(kvm("tell what CPUID it supports"))?;
    let mut vcpus = Vec::with_capacity(usize::from(cpus));
    for id in 0..cpus {
        let vcpu = vm
            .create_vcpu(u64::from(id))
            .map_err(kvm("create a vCPU"))?;
        let machine = Machine {
            cpus,
            tsc_khz: vcpu
                .get_tsc_khz()
                .map_err(kvm("tell the rate of the TSC"))?,
            tsc_deadline: kvm_fd.check_extension(Cap::TscDeadlineTimer),
        };
        let cpuid = cpuid::build(&supported, machine, id).map_err(SetupError::Cpuid)?;
        configure(&vcpu, &cpuid)?;
        vcpus.push(vcpu);
    }
    enter(&vcpus[0], entry)?;
    Ok(vcpus)
}

fn configure(vcpu: &VcpuFd, cpuid: &CpuId) -> Result<(), SetupError> {
    vcpu.set_cpuid2(cpuid).map_err(kvm("set CPUID"))?;
    for (index, data) in [
        (MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        (MSR_MTRR_DEF_TYPE, MTRR_WRITE_BACK),
    ] {
        let entry = kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let msrs = Msrs::from_entries(&[entry]).map_err(SetupError::Cpuid)?;
        if vcpu.set_msrs(&msrs).map_err(kvm("set MSRs"))? != 1 {
            return Err(SetupError::Msr(index));
        }
    }
    Ok(())
}

fn enter(vcpu: &VcpuFd, entry: Entry) -> Result<(), SetupError> {
    let mut special = vcpu.get_sregs().map_err(kvm("read the system registers"))?;
    entry.enter(&mut special);
    vcpu.set_sregs(&special)
        .map_err(kvm("set the system registers"))?;
    vcpu.set_regs(&entry.registers())
        .map_err(kvm("set the registers"))
}
