//! Copies out of guest RAM, bounded in number and size.
//!
//! The guest runs meanwhile, so no reference into its RAM is ever kept: each read is a copy, and what belongs together is read
//! again and compared by those who need it whole.

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// Bytes that one unit of work stands for: a read costs one, and one more for each so many bytes.
const WORK_BYTES: usize = 256;

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

/// Guest RAM with a budget of work.
#[derive(Debug)]
pub struct Ram<'m, M> {
    memory: &'m M,
    work_left: u32,
}

impl<'m, M: GuestMemoryBackend> Ram<'m, M> {
    /// RAM from which about `work` small reads can be made.
    pub const fn new(memory: &'m M, work: u32) -> Self {
        Self {
            memory,
            work_left: work,
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

    /// GPA behind the last byte of RAM; below it are holes.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.memory.last_addr().0.saturating_add(1)
    }

    /// Copies from `gpa` on.
    ///
    /// # Errors
    /// When not all of it is RAM, or the budget is used up; `into` has any content then.
    #[inline]
    pub fn read(&mut self, gpa: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let work = u32::try_from(1 + into.len() / WORK_BYTES).unwrap_or(u32::MAX);
        self.work_left = self
            .work_left
            .checked_sub(work)
            .ok_or(MemoryError::OverBudget)?;
        self.memory
            .read_slice(into, GuestAddress(gpa))
            .map_err(|_| MemoryError::OutOfRam {
                gpa,
                bytes: into.len(),
            })
    }

    /// Copies a little-endian word.
    ///
    /// # Errors
    /// As [`Ram::read`].
    #[inline]
    pub fn read_u64(&mut self, gpa: u64) -> Result<u64, MemoryError> {
        let mut bytes = [0; 8];
        self.read(gpa, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
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
