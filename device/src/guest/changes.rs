//! Change words: whether what is remembered of an address space can still be believed without a look at it.
//!
//! A word that lies about one guest's mappings misleads about that guest alone.

use oprofile_wire::changes::{self, BYTES};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::memory::Ram;

/// Where the guest keeps its change words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChangeWords {
    gpa: u64,
}

impl ChangeWords {
    /// Those at `gpa`; `None` when they are not aligned or not all in RAM.
    pub fn new<M: GuestMemoryBackend>(memory: &M, gpa: u64) -> Option<Self> {
        let is_ram = memory.check_range(GuestAddress(gpa), BYTES);
        (gpa.is_multiple_of(8) && is_ram).then_some(Self { gpa })
    }

    /// The word of `space` when no change is under way.
    pub fn settled<M: GuestMemoryBackend>(self, ram: &mut Ram<'_, M>, space: u64) -> Option<u64> {
        let offset = changes::index(space) * size_of::<u64>();
        // Inside of what `new` has checked.
        let word = ram.read_u64(self.gpa + offset as u64).ok()?;
        changes::is_settled(word).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryMmap};

    const RAM: u64 = 0x10_0000;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap()
    }

    #[test]
    fn words_must_be_aligned_and_in_ram() {
        let memory = memory();
        let last = RAM - BYTES as u64;
        for gpa in [0, 8, last] {
            assert!(ChangeWords::new(&memory, gpa).is_some(), "{gpa:#x}");
        }
        for gpa in [4, last + 8, RAM, u64::MAX - 7, u64::MAX] {
            assert_eq!(ChangeWords::new(&memory, gpa), None, "{gpa:#x}");
        }
    }

    #[test]
    fn a_word_under_change_says_nothing() {
        let memory = memory();
        let words = ChangeWords::new(&memory, 0x4000).unwrap();
        let space = 0xffff_8880_0012_3400;
        let gpa = GuestAddress(0x4000 + 8 * changes::index(space) as u64);
        let mut ram = Ram::new(&memory, 10);
        memory.write_obj(0x0000_0007_0000_0007_u64, gpa).unwrap();
        assert_eq!(words.settled(&mut ram, space), Some(0x0000_0007_0000_0007));
        memory.write_obj(0x0000_0007_0000_0008_u64, gpa).unwrap();
        assert_eq!(words.settled(&mut ram, space), None);
        ram.set_work(0);
        memory.write_obj(0_u64, gpa).unwrap();
        assert_eq!(words.settled(&mut ram, space), None);
    }
}
