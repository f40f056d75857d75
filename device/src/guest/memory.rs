//! Copies out of guest RAM, bounded in number and size.
//!
//! The guest runs meanwhile, so no reference into its RAM is ever kept: each read is a copy, and what belongs together is read
//! again and compared by those who need it whole.

use std::fmt;
use std::sync::atomic::Ordering;

use thiserror::Error;
use vm_memory::bitmap::MS;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress, VolatileSlice,
};

/// Bytes that one unit of work stands for: a read costs one, and one more for each so many bytes.
const WORK_BYTES: usize = 256;

/// Regions that are remembered: RAM below the hole under 4 GiB, and RAM above it.
const REGIONS: usize = 2;

/// Guest RAM does not hold what is asked for, or too much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MemoryError {
    /// Outside RAM, wholly or in part.
    #[error("No RAM at {bytes} bytes from GPA {gpa:#x}")]
    OutOfRam {
        /// Guest physical address.
        gpa: u64,
        /// Bytes from there on.
        bytes: usize,
    },
    /// The budget is used up.
    #[error("Work budget used up")]
    OverBudget,
}

/// A region of RAM as the host has it mapped.
struct Region<'m, M: GuestMemoryBackend> {
    start: u64,
    bytes: VolatileSlice<'m, MS<'m, M>>,
}

/// Guest RAM with a budget of work.
pub struct Ram<'m, M: GuestMemoryBackend> {
    memory: &'m M,
    work_left: u32,
    /// Where the last reads went, the latest first.
    regions: [Option<Region<'m, M>>; REGIONS],
}

impl<M: GuestMemoryBackend> fmt::Debug for Ram<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ram")
            .field("work_left", &self.work_left)
            .finish_non_exhaustive()
    }
}

impl<'m, M: GuestMemoryBackend> Ram<'m, M> {
    /// RAM from which about `work` small reads can be made.
    pub const fn new(memory: &'m M, work: u32) -> Self {
        Self {
            memory,
            work_left: work,
            regions: [const { None }; REGIONS],
        }
    }

    /// Work that is left.
    #[must_use]
    pub const fn work_left(&self) -> u32 {
        self.work_left
    }

    /// Sets another budget.
    pub const fn set_work(&mut self, work: u32) {
        self.work_left = work;
    }

    /// Pays for `bytes` of the host's own memory to be moved; false when there is not enough work left, and then nothing is paid.
    pub fn pay(&mut self, bytes: usize) -> bool {
        self.spend(bytes).is_ok()
    }

    /// GPA behind the last byte of RAM; below it are holes.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.memory.last_addr().0.saturating_add(1)
    }

    #[inline]
    fn spend(&mut self, bytes: usize) -> Result<(), MemoryError> {
        let work = u32::try_from(1 + bytes / WORK_BYTES).unwrap_or(u32::MAX);
        match self.work_left.checked_sub(work) {
            Some(left) => {
                self.work_left = left;
                Ok(())
            }
            None => Err(MemoryError::OverBudget),
        }
    }

    /// The `count` bytes at `gpa` where the host has them, if they lie together there.
    #[inline]
    fn slice(&mut self, gpa: u64, count: usize) -> Option<VolatileSlice<'m, MS<'m, M>>> {
        let within = |region: &Region<'m, M>| {
            let offset = usize::try_from(gpa.checked_sub(region.start)?).ok()?;
            region.bytes.subslice(offset, count).ok()
        };
        if let Some(slice) = self.regions[0].as_ref().and_then(within) {
            return Some(slice);
        }
        self.remember(gpa)?;
        self.regions[0].as_ref().and_then(within)
    }

    /// Puts the region that holds `gpa` first.
    #[cold]
    fn remember(&mut self, gpa: u64) -> Option<()> {
        let holds = |region: &Region<'m, M>| {
            gpa.checked_sub(region.start)
                .is_some_and(|offset| offset < region.bytes.len() as u64)
        };
        let known = self
            .regions
            .iter()
            .position(|region| region.as_ref().is_some_and(holds));
        if let Some(index) = known {
            self.regions.swap(0, index);
            return Some(());
        }
        let region = self.memory.find_region(GuestAddress(gpa))?;
        let count = usize::try_from(region.len()).ok()?;
        let bytes = region.get_slice(MemoryRegionAddress(0), count).ok()?;
        self.regions.rotate_right(1);
        self.regions[0] = Some(Region {
            start: region.start_addr().0,
            bytes,
        });
        Some(())
    }

    /// Copies from `gpa` on.
    ///
    /// # Errors
    /// When not all of it is RAM, or the budget is used up; `into` has any content then.
    #[inline]
    pub fn read(&mut self, gpa: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        self.spend(into.len())?;
        if let Some(slice) = self.slice(gpa, into.len()) {
            slice.copy_to(into);
            return Ok(());
        }
        // Over the border of two regions that touch, or memory that the host has not mapped.
        self.memory
            .read_slice(into, GuestAddress(gpa))
            .map_err(|_| MemoryError::OutOfRam {
                gpa,
                bytes: into.len(),
            })
    }

    /// Reads a little-endian word; one that is aligned is never torn.
    ///
    /// # Errors
    /// As [`Ram::read`].
    #[inline]
    pub fn read_u64(&mut self, gpa: u64) -> Result<u64, MemoryError> {
        if gpa.is_multiple_of(8)
            && let Some(slice) = self.slice(gpa, 8)
            && let Ok(word) = slice.load::<u64>(0, Ordering::Relaxed)
        {
            self.spend(8)?;
            return Ok(u64::from_le(word));
        }
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads a word from each of `gpas`, as [`Ram::read_u64`], as many as `into` has room for. None depends on another, so a
    /// processor waits for many of them at once.
    ///
    /// # Errors
    /// As [`Ram::read`], when one of them cannot be read; `into` has any content then.
    #[inline]
    pub fn read_words(&mut self, gpas: &[u64], into: &mut [u64]) -> Result<(), MemoryError> {
        for (&gpa, word) in gpas.iter().zip(into) {
            *word = self.read_u64(gpa)?;
        }
        Ok(())
    }

    /// Reads a little-endian half word; one that is aligned is never torn.
    ///
    /// # Errors
    /// As [`Ram::read`].
    #[inline]
    pub fn read_u32(&mut self, gpa: u64) -> Result<u32, MemoryError> {
        if gpa.is_multiple_of(4)
            && let Some(slice) = self.slice(gpa, 4)
            && let Ok(half) = slice.load::<u32>(0, Ordering::Relaxed)
        {
            self.spend(4)?;
            return Ok(u32::from_le(half));
        }
        let mut bytes = [0; 4];
        self.read(gpa, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryMmap;

    /// RAM with a hole from 0x2000 to 0x4000.
    fn memory() -> GuestMemoryMmap {
        let ranges = [(GuestAddress(0), 0x2000), (GuestAddress(0x4000), 0x1000)];
        GuestMemoryMmap::from_ranges(&ranges).unwrap()
    }

    #[test]
    fn words_are_little_endian() {
        let memory = memory();
        memory
            .write_slice(&[1, 2, 0, 0, 0, 0, 0, 0x80], GuestAddress(0x10))
            .unwrap();
        let word = Ram::new(&memory, 10).read_u64(0x10);
        assert_eq!(word, Ok(0x8000_0000_0000_0201));
        let mut ram = Ram::new(&memory, 10);
        assert_eq!(ram.read_u32(0x10), Ok(0x201));
        assert_eq!(ram.read_u32(0x14), Ok(0x8000_0000));
        // Not aligned.
        assert_eq!(ram.read_u64(0x11), Ok(0x80_0000_0000_0002));
        assert_eq!(ram.read_u32(0x11), Ok(2));
    }

    #[test]
    fn regions_that_touch_are_read_across_and_each_is_found_again() {
        let ranges = [0u64, 0x1000, 0x2000].map(|start| (GuestAddress(start), 0x1000));
        let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap();
        let bytes: Vec<u8> = (0..=250).cycle().take(0x3000).collect();
        memory.write_slice(&bytes, GuestAddress(0)).unwrap();
        let mut ram = Ram::new(&memory, 1_000);
        for gpa in [0x2ff8, 0xffc, 0, 0x1ffc, 0x1000, 0x2000, 8] {
            let expected = bytes[gpa..].first_chunk().copied().unwrap();
            assert_eq!(ram.read_u64(gpa as u64), Ok(u64::from_le_bytes(expected)));
        }
        let mut whole = vec![0; bytes.len()];
        ram.read(0, &mut whole).unwrap();
        assert_eq!(whole, bytes);
    }

    #[test]
    fn reads_that_leave_ram_fail() {
        let memory = memory();
        let mut ram = Ram::new(&memory, 100);
        for gpa in [
            0x1ffc,
            0x2000,
            0x3ffc,
            0x4ffc,
            0x5000,
            u64::MAX - 3,
            u64::MAX,
        ] {
            assert_eq!(
                ram.read_u64(gpa),
                Err(MemoryError::OutOfRam { gpa, bytes: 8 })
            );
        }
        assert_eq!(ram.end(), 0x5000);
    }

    #[test]
    fn the_budget_ends_small_reads_and_large_ones_sooner() {
        let memory = memory();
        let mut ram = Ram::new(&memory, 2);
        assert!(ram.read_u64(0).is_ok());
        assert!(ram.read_u64(0).is_ok());
        assert_eq!(ram.read_u64(0), Err(MemoryError::OverBudget));
        ram.set_work(2);
        assert_eq!(ram.read(0, &mut [0; 1024]), Err(MemoryError::OverBudget));
    }
}
