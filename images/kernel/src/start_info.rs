//! What a PVH loader tells the kernel: `hvm_start_info` version 1 (Xen, `arch-x86/hvm/start_info.h`).

/// First word of the structure.
pub const MAGIC: u32 = 0x336e_c578;

/// Kind of a memory-map entry that is ordinary RAM.
pub const RAM: u32 = 1;

/// The structure itself. Addresses are GPAs.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: u32,
    /// 1 or later: the memory map is there.
    pub version: u32,
    /// Flags of the domain.
    pub flags: u32,
    /// Number of modules.
    pub module_count: u32,
    /// Array of [`Module`].
    pub modules: u64,
    /// NUL-terminated command line, or 0.
    pub command_line: u64,
    /// ACPI RSDP, or 0.
    pub rsdp: u64,
    /// Array of [`MemoryRange`].
    pub memory_map: u64,
    /// Number of memory ranges.
    pub memory_ranges: u32,
    /// Zero.
    pub reserved: u32,
}

/// A module: module 0 is the initrd.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Module {
    /// First byte.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Its own command line, or 0.
    pub command_line: u64,
    /// Zero.
    pub reserved: u64,
}

/// An entry of the memory map, numbered as in an E820 map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct MemoryRange {
    /// First byte.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// [`RAM`] or another kind.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
}

/// Cuts the ranges in `holes` out of `start..end` and hands each piece on; all of them are frame numbers, and
/// `holes` is sorted by start.
pub fn without(start: u64, end: u64, holes: &[(u64, u64)], mut piece: impl FnMut(u64, u64)) {
    let mut from = start;
    for &(hole_start, hole_end) in holes {
        if hole_start > from {
            let to = hole_start.min(end);
            if from < to {
                piece(from, to);
            }
        }
        from = from.max(hole_end);
    }
    if from < end {
        piece(from, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_xens() {
        assert_eq!(size_of::<StartInfo>(), 56);
        assert_eq!(core::mem::offset_of!(StartInfo, memory_map), 40);
        assert_eq!(size_of::<Module>(), 32);
        assert_eq!(size_of::<MemoryRange>(), 24);
    }

    fn pieces(start: u64, end: u64, holes: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut list = Vec::new();
        without(start, end, holes, |from, to| list.push((from, to)));
        list
    }

    #[test]
    fn holes_are_cut_out() {
        assert_eq!(pieces(10, 20, &[]), [(10, 20)]);
        assert_eq!(
            pieces(10, 20, &[(0, 5), (12, 14), (13, 15), (30, 40)]),
            [(10, 12), (15, 20)]
        );
        assert_eq!(pieces(10, 20, &[(0, 11), (19, 25)]), [(11, 19)]);
        assert_eq!(pieces(10, 20, &[(5, 25)]), []);
    }
}
