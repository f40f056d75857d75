//! The memory map that the guest is told, and what lies in its low part at the entry.
//!
//! ```text
//! 0x500 descriptors │ 0x6000 PVH start info │ 0x8000 zero page │ 0x9000 page tables │ 0x20000 command line │ 0xe0000 ACPI
//! ```

use crate::acpi;
use crate::memory::{LOW_END, Layout};

/// The command line.
pub const CMDLINE: u64 = 0x2_0000;

/// End of conventional memory; video memory and ROMs are above it on a PC, so guests leave that alone.
const CONVENTIONAL_END: u64 = 0xa_0000;

/// Kinds of ranges, as the BIOS's E820 call and PVH number them.
const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// A stretch of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRange {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// 1: RAM; 2: leave it alone.
    pub kind: u32,
}

/// The map, ascending.
pub fn ranges(layout: Layout) -> Vec<MapRange> {
    let mut ram = layout.ranges();
    ram[0].start = LOW_END;
    let range = |range: std::ops::Range<u64>, kind| MapRange {
        start: range.start,
        end: range.end,
        kind,
    };
    let mut map = vec![
        range(0..CONVENTIONAL_END, RAM),
        range(acpi::TABLES, RESERVED),
    ];
    map.extend(ram.into_iter().map(|part| range(part, RAM)));
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_is_ascending_without_overlaps() {
        for size in [4 << 20, 5 << 30] {
            let map = ranges(Layout::new(size).unwrap());
            assert!(
                map.windows(2).all(|pair| pair[0].end <= pair[1].start),
                "{map:x?}"
            );
            let ram: u64 = map
                .iter()
                .filter(|range| range.kind == RAM)
                .map(|range| range.end - range.start)
                .sum();
            assert_eq!(ram, size - (LOW_END - CONVENTIONAL_END));
        }
    }
}
