//! The processors that a sample file's header can name.

/// A processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuType {
    /// Family, as in the XML attribute `cputype`.
    pub family: &'static str,
    /// Model, as in the XML attribute `processor`; empty for the timer.
    pub model: &'static str,
    /// What the banner calls it.
    pub name: &'static str,
}

/// The processor with this number in the header; `None` when there is none.
pub fn cpu_type(number: u32) -> Option<CpuType> {
    let (family, model, name) = *CPU_TYPES.get(usize::try_from(number).ok()?)?;
    Some(CpuType {
        family,
        model,
        name,
    })
}

/// By number: OProfile 1.5's list.
const CPU_TYPES: &[(&str, &str, &str)] = &[
    ("i386", "ppro", "Pentium Pro"),
    ("i386", "pii", "PII"),
    ("i386", "piii", "PIII"),
    ("i386", "athlon", "Athlon"),
    ("timer", "", "CPU with timer interrupt"),
    ("i386", "p4", "P4 / Xeon"),
    ("x86-64", "hammer", "AMD64 processors"),
    ("i386", "p4-ht", "P4 / Xeon with 2 hyper-threads"),
    ("alpha", "ev67", "Alpha EV67"),
    ("i386", "p6_mobile", "Pentium M (P6 core)"),
    ("arm", "xscale1", "ARM/XScale PMU1"),
    ("arm", "xscale2", "ARM/XScale PMU2"),
    ("ppc64", "power4", "ppc64 POWER4"),
    ("ppc64", "power5", "ppc64 POWER5"),
    ("ppc64", "power5+", "ppc64 POWER5+"),
    ("ppc64", "970", "ppc64 970"),
    ("mips", "20K", "MIPS 20K"),
    ("mips", "24K", "MIPS 24K"),
    ("mips", "25K", "MIPS 25K"),
    ("mips", "34K", "MIPS 34K"),
    ("mips", "5K", "MIPS 5K"),
    ("mips", "r10000", "MIPS R10000"),
    ("mips", "r12000", "MIPS R12000"),
    ("mips", "rm7000", "QED RM7000"),
    ("mips", "rm9000", "PMC-Sierra RM9000"),
    ("mips", "sb1", "Sibyte SB1"),
    ("mips", "vr5432", "NEC VR5432"),
    ("mips", "vr5500", "NEC VR5500"),
    ("ppc", "e500", "e500"),
    ("ppc", "e500v2", "e500v2"),
    ("i386", "core", "Core Solo / Duo"),
    ("ppc", "7450", "PowerPC G4"),
    ("i386", "core_2", "Core 2"),
    ("ppc64", "power6", "ppc64 POWER6"),
    ("ppc64", "970MP", "ppc64 970MP"),
    ("x86-64", "family10", "AMD64 family10"),
    ("arm", "mpcore", "ARM 11MPCore"),
    ("arm", "armv6", "ARM V6 PMU"),
    ("ppc64", "power5++", "ppc64 POWER5++"),
    ("ppc", "e300", "e300"),
    ("arm", "armv7", "ARM Cortex-A8"),
    ("i386", "arch_perfmon", "Intel Architectural Perfmon"),
    ("x86-64", "family11h", "AMD64 family11h"),
    ("ppc64", "power7", "ppc64 POWER7"),
    ("i386", "core_i7", "Intel Core/i7"),
    ("i386", "atom", "Intel Atom"),
    ("mips", "loongson2", "Loongson2"),
    ("i386", "nehalem", "Intel Nehalem microarchitecture"),
    ("arm", "armv7-ca9", "ARM Cortex-A9"),
    ("mips", "74K", "MIPS 74K"),
    ("mips", "1004K", "MIPS 1004K"),
    ("x86-64", "family12h", "AMD64 family12h"),
    ("x86-64", "family14h", "AMD64 family14h"),
    ("x86-64", "family15h", "AMD64 family15h"),
    ("i386", "westmere", "Intel Westmere microarchitecture"),
    ("arm", "armv7-scorpion", "ARMv7 Scorpion"),
    ("arm", "armv7-scorpionmp", "ARMv7 ScorpionMP"),
    (
        "i386",
        "sandybridge",
        "Intel Sandy Bridge microarchitecture",
    ),
    ("tile", "tile64", "TILE64"),
    ("tile", "tilepro", "TILEPro"),
    ("tile", "tilegx", "TILE-GX"),
    ("s390", "z10", "IBM System z10"),
    ("s390", "z196", "IBM zEnterprise z196"),
    ("i386", "ivybridge", "Intel Ivy Bridge microarchitecture"),
    ("arm", "armv7-ca5", "ARM Cortex-A5"),
    ("arm", "armv7-ca7", "ARM Cortex-A7"),
    ("arm", "armv7-ca15", "ARM Cortex-A15"),
    ("i386", "haswell", "Intel Haswell microarchitecture"),
    ("s390", "zEC12", "IBM zEnterprise EC12"),
    ("x86-64", "generic", "AMD64 generic"),
    (
        "ppc64",
        "architected_events_v1",
        "IBM Power Architected Events V1",
    ),
    ("ppc64", "power8", "ppc64 POWER8"),
    ("ppc", "e500mc", "e500mc"),
    ("ppc", "e6500", "e6500"),
    ("i386", "silvermont", "Intel Silvermont microarchitecture"),
    ("arm", "armv7-krait", "ARMv7 Krait"),
    ("arm", "armv8-xgene", "APM X-Gene"),
    ("i386", "broadwell", "Intel Broadwell microarchitecture"),
    ("arm", "armv8-ca57", "ARM Cortex-A57"),
    ("arm", "armv8-ca53", "ARM Cortex-A53"),
    ("i386", "skylake", "Intel Skylake microarchitecture"),
    ("i386", "goldmont", "Intel Goldmont microarchitecture"),
    (
        "i386",
        "goldmontplus",
        "Intel Goldmont Plus microarchitecture",
    ),
    ("s390", "z13", "IBM z13"),
    ("arm", "armv7-ca17", "ARM Cortex-A17"),
    ("ppc64", "power9", "ppc64 POWER9"),
    ("i386", "knightslanding", "Intel Knights Landing"),
    ("arm", "armv8-thunderx2", "Cavium ThunderX2"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_processors() {
        assert_eq!(CPU_TYPES.len(), 88);
        for (number, name) in [(4, "CPU with timer interrupt"), (69, "AMD64 generic")] {
            assert_eq!(cpu_type(number).map(|cpu| cpu.name), Some(name));
        }
        assert_eq!(cpu_type(88), None);
    }
}
