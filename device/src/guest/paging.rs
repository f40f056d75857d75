//! x86-64 page tables, walked from outside (Intel SDM volume 3, §4.5).

use thiserror::Error;
use vm_memory::GuestMemoryBackend;

use super::memory::{MemoryError, Ram};

/// Bits of an address below a 4 KiB page.
const PAGE_SHIFT: u32 = 12;
/// Bytes of the smallest page, and of a table.
pub(super) const PAGE_BYTES: u64 = 1 << PAGE_SHIFT;
/// Bytes of an entry of a table.
pub(super) const ENTRY_BYTES: u64 = 8;
/// Bytes that a table of the last level maps.
pub(super) const LAST_LEVEL_BYTES: u64 = PAGE_BYTES << INDEX_BITS;
/// Bits of an address that select an entry of a table.
const INDEX_BITS: u32 = 9;
/// Bits 51:12 of an entry or of CR3: the address of a table or page.
const ADDRESS_MASK: u64 = 0x000f_ffff_ffff_f000;
/// The entry refers to something.
const PRESENT: u64 = 1 << 0;
/// At the second and third level: the entry maps a page of 2 MiB or 1 GiB.
const PAGE_SIZE: u64 = 1 << 7;
/// Highest level at which an entry may map a page (1 GiB).
const MAX_PAGE_LEVEL: u32 = 3;
/// Most levels of tables.
const MAX_LEVELS: usize = 5;

/// Number of levels of page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// 48-bit addresses.
    Four,
    /// 57-bit addresses (CR4.LA57).
    Five,
}

impl Levels {
    /// The mode with `levels` levels.
    #[must_use]
    pub const fn from_count(levels: u16) -> Option<Self> {
        match levels {
            4 => Some(Self::Four),
            5 => Some(Self::Five),
            _ => None,
        }
    }

    const fn count(self) -> u32 {
        match self {
            Self::Four => 4,
            Self::Five => 5,
        }
    }

    /// Whether all bits above those that are translated equal the highest of them.
    #[must_use]
    pub const fn is_canonical(self, gva: u64) -> bool {
        let unused = match self {
            Self::Four => 16,
            Self::Five => 7,
        };
        let extended = ((gva << unused).cast_signed() >> unused).cast_unsigned();
        extended == gva
    }
}

/// Why an address has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WalkError {
    /// The address is not canonical.
    #[error("GVA {0:#x} is not canonical")]
    NotCanonical(u64),
    /// An entry on the way is not present: not mapped, or not now.
    #[error("GVA {0:#x} is not mapped")]
    NotPresent(u64),
    /// A table refers to itself or to one above it.
    #[error("Page table at GPA {0:#x} refers back to itself")]
    Cycle(u64),
    /// A page-size bit where no page can be.
    #[error("Reserved bit in an entry of the page table at GPA {0:#x}")]
    Reserved(u64),
    /// A table or page cannot be read.
    #[error("Page table or page cannot be read")]
    Memory(#[from] MemoryError),
}

impl WalkError {
    /// Whether the tables themselves are wrong, not just without an entry for the address.
    #[must_use]
    pub const fn is_bad_table(self) -> bool {
        matches!(
            self,
            Self::Cycle(_) | Self::Reserved(_) | Self::Memory(MemoryError::OutOfRam { .. })
        )
    }
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Guest physical address.
    pub gpa: u64,
    /// Size of the page it lies in, in bytes.
    pub page_bytes: u64,
}

impl Translation {
    /// Bytes from the address to the end of its page.
    #[must_use]
    pub const fn bytes_left(self) -> u64 {
        self.page_bytes - (self.gpa & (self.page_bytes - 1))
    }
}

/// The table that ended a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// One of the last level, at this GPA: it maps [`LAST_LEVEL_BYTES`].
    Last(u64),
    /// One higher up, with an entry that maps a large page.
    Higher,
}

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walked {
    pub translation: Translation,
    pub table: Table,
}

/// The table that a root or an entry refers to.
#[inline]
pub(super) const fn table_of(entry: u64) -> u64 {
    entry & ADDRESS_MASK
}

/// Where an entry of the last level leads for `gva`.
#[inline]
pub(super) const fn small_page(entry: u64, gva: u64) -> Result<Translation, WalkError> {
    if entry & PRESENT == 0 {
        return Err(WalkError::NotPresent(gva));
    }
    Ok(Translation {
        gpa: table_of(entry) | (gva % PAGE_BYTES),
        page_bytes: PAGE_BYTES,
    })
}

/// Translates `gva` by the tables at `root` (a GPA, or a CR3 with its flags).
///
/// # Errors
/// When there is no translation.
pub fn translate<M: GuestMemoryBackend>(
    ram: &mut Ram<'_, M>,
    levels: Levels,
    root: u64,
    gva: u64,
) -> Result<Translation, WalkError> {
    Ok(walk(ram, levels, root, gva)?.translation)
}

/// Walks the tables at `root`, whose flags are ignored.
///
/// Reads one entry a level. A table that is among its own ancestors ends the walk: nothing that is looked up here lies
/// behind a recursive entry.
pub(super) fn walk<M: GuestMemoryBackend>(
    ram: &mut Ram<'_, M>,
    levels: Levels,
    root: u64,
    gva: u64,
) -> Result<Walked, WalkError> {
    if !levels.is_canonical(gva) {
        return Err(WalkError::NotCanonical(gva));
    }
    let mut table = table_of(root);
    let mut visited = [u64::MAX; MAX_LEVELS];
    for level in (1..=levels.count()).rev() {
        if visited.contains(&table) {
            return Err(WalkError::Cycle(table));
        }
        visited[level as usize - 1] = table;
        let shift = PAGE_SHIFT + INDEX_BITS * (level - 1);
        let index = (gva >> shift) & ((1 << INDEX_BITS) - 1);
        let entry = ram.read_u64(table + index * ENTRY_BYTES)?;
        if level == 1 {
            return Ok(Walked {
                translation: small_page(entry, gva)?,
                table: Table::Last(table),
            });
        }
        if entry & PRESENT == 0 {
            return Err(WalkError::NotPresent(gva));
        }
        if entry & PAGE_SIZE != 0 {
            if level > MAX_PAGE_LEVEL {
                return Err(WalkError::Reserved(table));
            }
            let page_bytes = 1u64 << shift;
            // In an entry of a large page, address bits below the page size are flags.
            let page = table_of(entry) & !(page_bytes - 1);
            let gpa = page | (gva & (page_bytes - 1));
            return Ok(Walked {
                translation: Translation { gpa, page_bytes },
                table: Table::Higher,
            });
        }
        table = table_of(entry);
    }
    // Level 1 returns; a walk without levels does not exist.
    Err(WalkError::NotPresent(gva))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_utils::{COMPACT_LAYOUT, PageSize, SyntheticGuest};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    const WORK: u32 = 1_000_000;

    fn guest(levels: Levels) -> SyntheticGuest {
        SyntheticGuest::new(levels, COMPACT_LAYOUT)
    }

    fn walk(guest: &SyntheticGuest, gva: u64) -> Result<Translation, WalkError> {
        let memory = guest.memory();
        let mut ram = Ram::new(&*memory, WORK);
        translate(&mut ram, guest.levels(), guest.root(), gva)
    }

    #[test]
    fn flags_in_the_root_and_in_large_entries_are_no_address() {
        let mut guest = guest(Levels::Four);
        // Bit 12 of a large page's entry is PAT, bit 63 forbids execution.
        guest.set_entry(0x8000_0000, 2, 0x20_0000 | 0x81 | 1 << 12 | 1 << 63);
        let memory = guest.memory();
        let mut ram = Ram::new(&*memory, WORK);
        let cr3 = guest.root() | 1 << 63 | 0xfff;
        let found = translate(&mut ram, Levels::Four, cr3, 0x8000_1234);
        let expected = Translation {
            gpa: 0x20_1234,
            page_bytes: 0x20_0000,
        };
        assert_eq!(found, Ok(expected));
        assert_eq!(expected.bytes_left(), 0x20_0000 - 0x1234);
    }

    #[test]
    fn addresses_that_are_not_canonical_are_refused() {
        let four = guest(Levels::Four);
        for gva in [1 << 47, 1 << 63, 0xffff_7fff_ffff_ffff] {
            assert_eq!(walk(&four, gva), Err(WalkError::NotCanonical(gva)));
        }
        let five = guest(Levels::Five);
        assert_eq!(walk(&five, 1 << 47), Err(WalkError::NotPresent(1 << 47)));
        assert_eq!(walk(&five, 1 << 56), Err(WalkError::NotCanonical(1 << 56)));
    }

    #[test]
    fn a_table_among_its_own_ancestors_ends_the_walk() {
        let mut guest = guest(Levels::Four);
        let root = guest.root();
        guest.set_entry(0x1000, 4, root | 1);
        assert_eq!(walk(&guest, 0x1000), Err(WalkError::Cycle(root)));
        guest.set_entry(1 << 40, 2, root | 1);
        assert_eq!(walk(&guest, 1 << 40), Err(WalkError::Cycle(root)));
    }

    #[test]
    fn a_page_at_the_fourth_level_does_not_exist() {
        let mut guest = guest(Levels::Four);
        guest.set_entry(0, 4, 0x81);
        let root = guest.root();
        assert_eq!(walk(&guest, 0), Err(WalkError::Reserved(root)));
    }

    #[test]
    fn a_table_outside_ram_is_told_from_a_page_that_is_not_present() {
        let mut guest = guest(Levels::Four);
        guest.set_entry(0, 3, 1 << 40 | 1);
        assert!(walk(&guest, 0).unwrap_err().is_bad_table());
        assert!(!walk(&guest, 1 << 40).unwrap_err().is_bad_table());
    }

    fn page_size() -> impl Strategy<Value = PageSize> {
        prop_oneof![
            Just(PageSize::Small),
            Just(PageSize::Large),
            Just(PageSize::Huge)
        ]
    }

    proptest! {
        #[test]
        fn random_mappings_translate_as_built(
            five: bool,
            pages in prop::collection::vec((0u64..200, any::<u64>(), any::<u64>(), page_size()), 1..12),
            offset: u64)
        {
            let mut guest = guest(if five { Levels::Five } else { Levels::Four });
            // One size a GiB: mappings never share a table that another of them replaces.
            let mut built = BTreeMap::new();
            for (gib, page, gpa, size) in pages {
                let gva = (gib << 30) | (page & 0x3fff_ffff & !(size.bytes() - 1));
                let gpa = gpa & ADDRESS_MASK & !(size.bytes() - 1);
                built.entry(gib).or_insert((gva, gpa, size));
            }
            for &(gva, gpa, size) in built.values() {
                guest.map(gva, gpa, size);
            }
            for &(gva, gpa, size) in built.values() {
                let offset = offset & (size.bytes() - 1);
                let expected = Translation { gpa: gpa + offset, page_bytes: size.bytes() };
                prop_assert_eq!(walk(&guest, gva + offset), Ok(expected));
            }
            prop_assert_eq!(walk(&guest, 201 << 30), Err(WalkError::NotPresent(201 << 30)));
        }

        #[test]
        fn random_tables_end_every_walk(
            words in prop::collection::vec((0u64..0x8000, any::<u64>(), any::<bool>()), 0..400),
            root: u64, gvas in prop::collection::vec(any::<u64>(), 1..20), five: bool)
        {
            let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x8000)]).unwrap();
            for (at, word, near) in words {
                // Half of the entries refer to another table of this RAM.
                let entry = if near { (word & 0x7000) | (word >> 60 << 4) | 1 } else { word };
                memory.write_obj(entry.to_le(), GuestAddress(at & !7)).unwrap();
            }
            let levels = if five { Levels::Five } else { Levels::Four };
            for gva in gvas {
                let mut ram = Ram::new(&memory, 64);
                let _ = translate(&mut ram, levels, root & 0x7fff, gva);
                // Fewer reads than levels allow; none is over budget.
                prop_assert!(ram.work_left() >= 64 - 5);
                let canonical = (gva.cast_signed() >> 16).cast_unsigned();
                let _ = translate(&mut ram, levels, root & 0x7fff, canonical);
                prop_assert!(ram.work_left() >= 64 - 10);
            }
        }
    }
}
