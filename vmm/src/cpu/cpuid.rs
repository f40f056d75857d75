//! CPUID: what KVM supports, with this VM's topology and clock rates.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Leaf of the TSC's and the LAPIC timer's rate in kHz, from VMware; Linux and the tiny kernel read it on KVM.
pub const TIMING_LEAF: u32 = 0x4000_0010;
/// First leaf of the hypervisor's range.
const HYPERVISOR_LEAF: u32 = 0x4000_0000;

/// KVM's in-kernel LAPIC timer counts nanoseconds.
pub const LAPIC_KHZ: u32 = 1_000_000;

/// Leaf 1, ECX: TSC-deadline timer. KVM tells it by a capability instead.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: under a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: EBX holds the number of logical processors.
const HTT: u32 = 1 << 28;

/// Leaf 0xb, ECX: level types.
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// What differs between VMs on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// vCPUs, 1 to 255; each is a core of one package.
    pub cpus: u8,
    /// Rate of the TSC.
    pub tsc_khz: u32,
    /// KVM implements the TSC-deadline timer.
    pub tsc_deadline: bool,
}

/// CPUID of vCPU `id`, whose APIC id is the same number; from `supported`, which is what KVM can do.
///
/// # Errors
/// When there are more leaves than KVM takes.
pub fn build(
    supported: &CpuId,
    machine: Machine,
    id: u8,
) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let mut leaves: Vec<_> = supported
        .as_slice()
        .iter()
        .copied()
        .filter(|leaf| !matches!(leaf.function, 0xb | 0x1f | TIMING_LEAF))
        .collect();
    let (apic_id, cpus) = (u32::from(id), u32::from(machine.cpus));
    let mut max_basic = 0;
    for leaf in &mut leaves {
        match leaf.function {
            0 => max_basic = leaf.eax,
            1 => {
                leaf.ebx = leaf.ebx & 0xffff | cpus << 16 | apic_id << 24;
                leaf.ecx |= HYPERVISOR;
                set(&mut leaf.ecx, TSC_DEADLINE, machine.tsc_deadline);
                set(&mut leaf.edx, HTT, cpus > 1);
            }
            // Intel's cache parameters: cores of the package, less one (bits 31:26); caches are not shared.
            4 => leaf.eax = leaf.eax & 0x3fff | (cpus - 1) << 26,
            HYPERVISOR_LEAF => leaf.eax = leaf.eax.max(TIMING_LEAF),
            // AMD: threads of the package, less one, and width of their part of the APIC id.
            0x8000_0008 => leaf.ecx = leaf.ecx & !0xf0ff | (cpus - 1) | core_bits(cpus) << 12,
            // AMD: extended APIC id, core (one thread each) and node.
            0x8000_001e => (leaf.eax, leaf.ebx, leaf.ecx) = (apic_id, apic_id, 0),
            _ => {}
        }
    }
    if max_basic >= 0xb {
        let level = |index, kind, shift, count| kvm_cpuid_entry2 {
            function: 0xb,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: count,
            ecx: index | kind << 8,
            edx: apic_id,
            ..Default::default()
        };
        leaves.push(level(0, LEVEL_SMT, 0, 1));
        leaves.push(level(1, LEVEL_CORE, core_bits(cpus), cpus));
        leaves.push(level(2, 0, 0, 0));
    }
    leaves.push(kvm_cpuid_entry2 {
        function: TIMING_LEAF,
        eax: machine.tsc_khz,
        ebx: LAPIC_KHZ,
        ..Default::default()
    });
    CpuId::from_entries(&leaves)
}

/// Bits of an APIC id that tell `cpus` cores apart.
const fn core_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

const fn set(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut found = cpuid
            .as_slice()
            .iter()
            .filter(|leaf| leaf.function == function && leaf.index == index);
        let leaf = *found.next().unwrap();
        assert!(found.next().is_none(), "{function:#x} twice");
        leaf
    }

    fn built(cpus: u8, id: u8) -> CpuId {
        let entry = |function, eax, ecx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx: 0x0a0b_0c0d,
            ecx,
            edx: 0,
            ..Default::default()
        };
        let supported = CpuId::from_entries(&[
            entry(0, 0x1f, 0),
            entry(1, 0, TSC_DEADLINE),
            entry(0xb, 9, 9),
            entry(0x4000_0000, 0x4000_0001, 0),
            entry(0x8000_0008, 0, 0xffff),
            entry(0x8000_001e, 9, 9),
        ])
        .unwrap();
        let machine = Machine {
            cpus,
            tsc_khz: 2_500_000,
            tsc_deadline: false,
        };
        build(&supported, machine, id).unwrap()
    }

    #[test]
    fn a_vcpu_finds_its_apic_id_everywhere() {
        let cpuid = built(4, 3);
        assert_eq!(leaf(&cpuid, 1, 0).ebx, 0x0304_0c0d);
        assert_eq!(leaf(&cpuid, 0xb, 0).edx, 3);
        assert_eq!(leaf(&cpuid, 0xb, 1).edx, 3);
        assert_eq!(leaf(&cpuid, 0x8000_001e, 0).eax, 3);
    }

    #[test]
    fn vcpus_are_cores_of_one_package() {
        let cpuid = built(3, 0);
        assert_eq!(leaf(&cpuid, 1, 0).edx & HTT, HTT);
        let core = leaf(&cpuid, 0xb, 1);
        assert_eq!((core.eax, core.ebx, core.ecx), (2, 3, 1 | 2 << 8));
        assert_eq!(leaf(&cpuid, 0x8000_0008, 0).ecx, 0x2f02);
        assert_eq!(leaf(&built(1, 0), 1, 0).edx & HTT, 0);
    }

    #[test]
    fn the_guest_is_told_its_clock_rates() {
        let cpuid = built(1, 0);
        assert_eq!(leaf(&cpuid, 0x4000_0000, 0).eax, TIMING_LEAF);
        let timing = leaf(&cpuid, TIMING_LEAF, 0);
        assert_eq!((timing.eax, timing.ebx), (2_500_000, 1_000_000));
    }

    #[test]
    fn deadline_timer_is_told_as_kvm_has_it() {
        let cpuid = built(1, 0);
        assert_eq!(leaf(&cpuid, 1, 0).ecx & TSC_DEADLINE, 0);
        assert_eq!(leaf(&cpuid, 1, 0).ecx & HYPERVISOR, HYPERVISOR);
    }
}
