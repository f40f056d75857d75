//! Guest RAM and the guest-physical address map.
//!
//! ```text
//! 0 ─────────── RAM ─────────── 0xd000_0000 ─── devices, IOAPIC, LAPIC, KVM's own pages ─── 4 GiB ─── RAM ───
//! ```

use std::ops::Range;

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// End of low RAM. The hole above it holds the virtio-mmio windows, the IOAPIC at 0xfec00000, the LAPIC at 0xfee00000 and
/// the pages that KVM needs for itself on Intel.
pub const HOLE_START: u64 = 0xd000_0000;

/// Start of high RAM.
pub const HIGH_START: u64 = 1 << 32;

/// Real mode, BIOS data and video memory end here. Boot structures go below, kernels load above.
pub const LOW_END: u64 = 0x10_0000;

/// Least RAM: the first MiB and one for a kernel.
pub const MIN_MEMORY: u64 = 2 << 20;

/// Most RAM: the smallest physical address width of a 64-bit host processor is 36 bits, less what the hole displaces.
pub const MAX_MEMORY: u64 = (1 << 36) - (HIGH_START - HOLE_START);

/// Guest RAM is given in whole pages.
const PAGE: u64 = 4096;

/// Three pages that KVM wants for the TSS of real-mode emulation (`KVM_SET_TSS_ADDR`), and one before them for its
/// identity map; inside the hole, where no RAM or device is.
pub const KVM_TSS: u64 = 0xfffb_d000;
/// See [`KVM_TSS`].
pub const KVM_IDENTITY_MAP: u64 = KVM_TSS - PAGE;

/// Why there is no guest RAM.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// Size out of range.
    #[error(
        "Guest memory of {0} bytes is not possible: --memory takes {min}M to {max}G",
        min = MIN_MEMORY >> 20,
        max = MAX_MEMORY >> 30
    )]
    Size(u64),
    /// The host does not give it.
    #[error("Cannot reserve {0} bytes of guest memory; try a smaller --memory")]
    Reserve(u64, #[source] vm_memory::mmap::FromRangesError),
}

/// Which guest-physical addresses are RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    size: u64,
}

impl Layout {
    /// RAM of `size` bytes, rounded down to whole pages.
    ///
    /// # Errors
    /// When it is not [`MIN_MEMORY`] to [`MAX_MEMORY`].
    pub fn new(size: u64) -> Result<Self, MemoryError> {
        if (MIN_MEMORY..=MAX_MEMORY).contains(&size) {
            let size = size - size % PAGE;
            Ok(Self { size })
        } else {
            Err(MemoryError::Size(size))
        }
    }

    /// All of it, in bytes.
    pub const fn size(self) -> u64 {
        self.size
    }

    /// End of the RAM below the hole.
    pub fn low_end(self) -> u64 {
        self.size.min(HOLE_START)
    }

    /// The ranges of RAM, ascending.
    pub fn ranges(self) -> Vec<Range<u64>> {
        let low = self.low_end();
        let high = HIGH_START..HIGH_START + (self.size - low);
        [0..low, high]
            .into_iter()
            .filter(|range| !range.is_empty())
            .collect()
    }

    /// Reserves the RAM.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn reserve(self) -> Result<GuestMemoryMmap, MemoryError> {
        let ranges: Result<Vec<_>, _> = self
            .ranges()
            .into_iter()
            .map(|range| {
                usize::try_from(range.end - range.start)
                    .map(|length| (GuestAddress(range.start), length))
                    .map_err(|_| MemoryError::Size(self.size))
            })
            .collect();
        GuestMemoryMmap::from_ranges(&ranges?)
            .map_err(|source| MemoryError::Reserve(self.size, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryBackend;

    fn ranges(layout: Layout) -> Vec<(u64, u64)> {
        let ranges = layout.ranges().into_iter();
        ranges.map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn small_memory_is_one_range() {
        let layout = Layout::new(256 << 20).unwrap();
        assert_eq!(ranges(layout), [(0, 256 << 20)]);
        assert_eq!(layout.low_end(), 256 << 20);
    }

    #[test]
    fn memory_that_reaches_the_hole_goes_on_at_4_gib() {
        let layout = Layout::new(HOLE_START).unwrap();
        assert_eq!(ranges(layout), [(0, HOLE_START)]);
        let layout = Layout::new(HOLE_START + 0x5000).unwrap();
        let end = HIGH_START + 0x5000;
        assert_eq!(ranges(layout), [(0, HOLE_START), (HIGH_START, end)]);
        assert_eq!(layout.low_end(), HOLE_START);
    }

    #[test]
    fn reserved_memory_leaves_the_hole_free() {
        let memory = Layout::new(HOLE_START + 0x5000).unwrap().reserve().unwrap();
        assert!(memory.address_in_range(GuestAddress(HOLE_START - 1)));
        assert!(!memory.address_in_range(GuestAddress(HOLE_START)));
        assert!(!memory.address_in_range(GuestAddress(HIGH_START - 1)));
        assert!(memory.address_in_range(GuestAddress(HIGH_START + 0x4fff)));
        assert!(!memory.address_in_range(GuestAddress(HIGH_START + 0x5000)));
    }

    #[test]
    fn sizes_are_whole_pages() {
        assert_eq!(Layout::new((4 << 20) + 1).unwrap().size(), 4 << 20);
    }

    #[test]
    fn too_small_and_too_large_are_refused_with_the_bounds() {
        for size in [0, MIN_MEMORY - 1, MAX_MEMORY + 1, u64::MAX] {
            let message = Layout::new(size).unwrap_err().to_string();
            assert!(message.contains("2M to 63G"), "{message}");
        }
    }
}
