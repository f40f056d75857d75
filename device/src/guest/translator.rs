//! Address translation with a memory: a software TLB and a cache of page tables, for any number of address spaces.
//!
//! As on a processor, what is remembered may be older than the tables: flush before what must be new.

use vm_memory::GuestMemoryBackend;

use super::memory::Ram;
use super::paging::{
    self, ENTRY_BYTES, LAST_LEVEL_BYTES, Levels, PAGE_BYTES, Table, Translation, WalkError,
};

/// Pages that the TLB remembers, a power of two: 24 KiB, so that it stays in a processor's first cache.
const PAGES: usize = 1_024;

/// Last-level page tables that are remembered, a power of two: those of 1 GiB of small pages, twice.
const TABLES: usize = 1_024;

/// Flushes are numbered in the bits of a root below its page: after so many of them memory is cleared indeed.
const GENERATIONS: u64 = PAGE_BYTES;

/// A thing that is remembered by address.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Root and generation; 0 when empty, as generations begin at 1.
    space: u64,
    /// GVA of what is remembered.
    start: u64,
    /// GPA; in the bits below a page, what else is to be known.
    gpa: u64,
}

const EMPTY: Slot = Slot {
    space: 0,
    start: 0,
    gpa: 0,
};

/// Translates guest virtual addresses.
///
/// ```
/// use oprofile_device::guest::memory::Ram;
/// use oprofile_device::guest::paging::Levels;
/// use oprofile_device::guest::translator::Translator;
/// use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
///
/// // Tables at 0x1000 to 0x4000 that map the page of 0x7000 to 0x5000.
/// let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x8000)])?;
/// for (entry, value) in [(0x1000, 0x2001u64), (0x2000, 0x3001), (0x3000, 0x4001), (0x4038, 0x5001)] {
///     memory.write_obj(value, GuestAddress(entry))?;
/// }
/// memory.write_slice(b"hello", GuestAddress(0x5123))?;
///
/// let mut ram = Ram::new(&memory, 100);
/// let mut translator = Translator::new(Levels::Four);
/// assert_eq!(translator.translate(&mut ram, 0x1000, 0x7123)?.gpa, 0x5123);
/// let mut text = [0; 5];
/// translator.read(&mut ram, 0x1000, 0x7123, &mut text)?;
/// assert_eq!(&text, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Translator {
    levels: Levels,
    generation: u64,
    pages: Box<[Slot; PAGES]>,
    tables: Box<[Slot; TABLES]>,
}

/// A slot that things which lie next to each other do not share.
const fn place<const SLOTS: usize>(number: u64) -> usize {
    // Less than SLOTS, which fits.
    #[expect(clippy::cast_possible_truncation)]
    {
        (number % SLOTS as u64) as usize
    }
}

impl Translator {
    /// A translator that remembers nothing yet.
    #[must_use]
    pub fn new(levels: Levels) -> Self {
        Self {
            levels,
            generation: 1,
            pages: Box::new([EMPTY; PAGES]),
            tables: Box::new([EMPTY; TABLES]),
        }
    }

    /// Levels of the tables.
    #[must_use]
    pub const fn levels(&self) -> Levels {
        self.levels
    }

    /// Forgets everything.
    pub fn flush(&mut self) {
        self.generation += 1;
        if self.generation == GENERATIONS {
            self.generation = 1;
            self.pages.fill(EMPTY);
            self.tables.fill(EMPTY);
        }
    }

    /// Translates `gva` by the tables at `root` (a GPA, or a CR3 with its flags).
    ///
    /// # Errors
    /// When there is no translation. That is not remembered.
    #[inline]
    pub fn translate<M: GuestMemoryBackend>(
        &mut self,
        ram: &mut Ram<'_, M>,
        root: u64,
        gva: u64,
    ) -> Result<Translation, WalkError> {
        let offset = gva % PAGE_BYTES;
        let start = gva - offset;
        let space = paging::table_of(root) | self.generation;
        let slot = &mut self.pages[place::<PAGES>(gva / PAGE_BYTES)];
        if slot.start == start && slot.space == space {
            return Ok(Translation {
                gpa: (slot.gpa & !(PAGE_BYTES - 1)) | offset,
                page_bytes: 1 << (slot.gpa % PAGE_BYTES),
            });
        }
        let found = look_up(&mut self.tables, self.levels, ram, space, gva)?;
        let size = u64::from(found.page_bytes.trailing_zeros());
        let gpa = (found.gpa - offset) | size;
        *slot = Slot { space, start, gpa };
        Ok(found)
    }

    /// Copies from `gva` on, page by page.
    ///
    /// # Errors
    /// When a page has no translation or is not RAM; `into` has any content then.
    pub fn read<M: GuestMemoryBackend>(
        &mut self,
        ram: &mut Ram<'_, M>,
        root: u64,
        gva: u64,
        into: &mut [u8],
    ) -> Result<(), WalkError> {
        let (mut gva, mut into) = (gva, into);
        while !into.is_empty() {
            let found = self.translate(ram, root, gva)?;
            let left = usize::try_from(found.bytes_left()).unwrap_or(usize::MAX);
            let count = left.min(into.len());
            let (part, rest) = into.split_at_mut(count);
            ram.read(found.gpa, part)?;
            into = rest;
            gva = gva.wrapping_add(count as u64);
        }
        Ok(())
    }
}

/// Looks in the table that maps `gva`: the one that is remembered, else where the walk leads.
fn look_up<M: GuestMemoryBackend>(
    tables: &mut [Slot; TABLES],
    levels: Levels,
    ram: &mut Ram<'_, M>,
    space: u64,
    gva: u64,
) -> Result<Translation, WalkError> {
    let number = gva / LAST_LEVEL_BYTES;
    let start = number * LAST_LEVEL_BYTES;
    let slot = &mut tables[place::<TABLES>(number)];
    if slot.start == start && slot.space == space {
        let index = gva % LAST_LEVEL_BYTES / PAGE_BYTES;
        let entry = ram.read_u64(slot.gpa + index * ENTRY_BYTES)?;
        return paging::small_page(entry, gva);
    }
    let walked = paging::walk(ram, levels, space, gva)?;
    if let Table::Last(gpa) = walked.table {
        *slot = Slot { space, start, gpa };
    }
    Ok(walked.translation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_utils::{COMPACT_LAYOUT, PageSize, SyntheticGuest};
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    const WORK: u32 = 1_000_000;
    const SMALL: u64 = 0x4000_0000;

    fn guest() -> SyntheticGuest {
        SyntheticGuest::new(Levels::Four, COMPACT_LAYOUT)
    }

    #[test]
    fn a_page_that_is_known_costs_no_read_and_its_neighbour_one() {
        let mut guest = guest();
        let pages = guest.allocate(0x2000);
        guest.map(SMALL, pages, PageSize::Small);
        guest.map(SMALL + 0x1000, pages + 0x1000, PageSize::Small);
        let memory = guest.memory();
        let mut ram = Ram::new(&*memory, WORK);
        let mut translator = Translator::new(Levels::Four);
        let mut cost = |gva: u64, gpa: u64| {
            let before = ram.work_left();
            let found = translator.translate(&mut ram, guest.root(), gva);
            assert_eq!(found.map(|found| found.gpa), Ok(gpa));
            before - ram.work_left()
        };
        assert_eq!(cost(SMALL + 5, pages + 5), 4);
        assert_eq!(cost(SMALL + 0xfff, pages + 0xfff), 0);
        assert_eq!(cost(SMALL + 0x1007, pages + 0x1007), 1);
    }

    #[test]
    fn a_change_shows_after_a_flush() {
        let mut guest = guest();
        let pages = guest.allocate(0x2000);
        guest.map(SMALL, pages, PageSize::Small);
        let memory = guest.memory();
        let mut ram = Ram::new(&*memory, WORK);
        let mut translator = Translator::new(Levels::Four);
        let root = guest.root();
        let mut gpa = |translator: &mut Translator| {
            let found = translator.translate(&mut ram, root, SMALL);
            found.map(|found| found.gpa)
        };
        assert_eq!(gpa(&mut translator), Ok(pages));
        guest.map(SMALL, pages + 0x1000, PageSize::Small);
        assert_eq!(gpa(&mut translator), Ok(pages));
        translator.flush();
        assert_eq!(gpa(&mut translator), Ok(pages + 0x1000));
        guest.map(SMALL, pages, PageSize::Small);
        // Through the wrap of the generation: what was remembered before it does not come back.
        for _ in 0..GENERATIONS - 1 {
            translator.flush();
        }
        assert_eq!(gpa(&mut translator), Ok(pages));
    }

    #[test]
    fn spaces_are_kept_apart_and_what_is_missing_is_not_remembered() {
        let mut guest = guest();
        let page = guest.allocate(0x1000);
        let other_root = guest.allocate(0x1000);
        let memory = guest.memory();
        let mut ram = Ram::new(&*memory, WORK);
        let mut translator = Translator::new(Levels::Four);
        let absent = Err(WalkError::NotPresent(SMALL));
        let root = guest.root();
        assert_eq!(translator.translate(&mut ram, root, SMALL), absent);
        guest.map(SMALL, page, PageSize::Small);
        let found = translator.translate(&mut ram, root, SMALL).unwrap();
        assert_eq!((found.gpa, found.page_bytes), (page, 0x1000));
        assert_eq!(translator.translate(&mut ram, other_root, SMALL), absent);
        // A CR3 with flags is the same space.
        let flagged = root | 1 << 63 | 0x18;
        assert_eq!(translator.translate(&mut ram, flagged, SMALL), Ok(found));
    }

    proptest! {
        #[test]
        fn agrees_with_the_walk(
            five in any::<bool>(),
            maps in prop::collection::vec((0u64..6, 0u64..8), 1..12),
            probes in prop::collection::vec((0u64..6, 0u64..8, 0u64..0x4000_0000), 1..60),
        ) {
            let levels = if five { Levels::Five } else { Levels::Four };
            let mut guest = SyntheticGuest::new(levels, COMPACT_LAYOUT);
            let at = |giga: u64, part: u64| (giga << 30) + part * 0x20_0000;
            for (giga, part) in maps {
                // One size a gigabyte, so that no page hides tables.
                let size = match giga % 3 {
                    0 => PageSize::Small,
                    1 => PageSize::Large,
                    _ => PageSize::Huge,
                };
                let gva = at(giga, part) & !(size.bytes() - 1);
                guest.map(gva, gva & (size.bytes() * 3), size);
            }
            let memory = guest.memory();
            let mut ram = Ram::new(&*memory, WORK);
            let mut translator = Translator::new(levels);
            for (giga, part, offset) in probes {
                for gva in [at(giga, part), at(giga, part) + (offset & 0xfff), at(giga, 0) + offset] {
                    let walked = paging::translate(&mut ram, levels, guest.root(), gva);
                    prop_assert_eq!(translator.translate(&mut ram, guest.root(), gva), walked);
                }
            }
        }

        #[test]
        fn a_read_over_pages_is_whole_or_an_error(start in 0usize..0x3000, length in 0usize..0x3000) {
            let mut guest = guest();
            let pages = guest.allocate(0x3000);
            // In RAM the other way round.
            for page in 0..3 {
                guest.map(SMALL + page * 0x1000, pages + (2 - page) * 0x1000, PageSize::Small);
            }
            let memory = guest.memory();
            let bytes: Vec<u8> = (0..=250).cycle().take(0x3000).collect();
            for (page, part) in (0..3).zip(bytes.chunks(0x1000)) {
                let gpa = pages + (2 - page) * 0x1000;
                memory.write_slice(part, GuestAddress(gpa)).unwrap();
            }
            let mut ram = Ram::new(&*memory, WORK);
            let mut translator = Translator::new(Levels::Four);
            let mut into = vec![0; length];
            let result = translator.read(&mut ram, guest.root(), SMALL + start as u64, &mut into);
            if let Some(expected) = bytes.get(start..start + length) {
                prop_assert_eq!(result, Ok(()));
                prop_assert_eq!(&into[..], expected);
            } else {
                prop_assert_eq!(result, Err(WalkError::NotPresent(SMALL + 0x3000)));
            }
        }
    }
}
