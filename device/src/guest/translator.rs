//! Address translation with a memory: a software TLB and a cache of page tables, for any number of address spaces.
//!
//! As on a processor, what is remembered may be older than the tables: flush before what must be new.

use vm_memory::GuestMemoryBackend;

use super::memory::Ram;
use super::paging::{
    self, ENTRY_BYTES, LAST_LEVEL_BYTES, Levels, PAGE_BYTES, Table, Translation, WalkError,
};

/// Pages that the TLB remembers, a power of two: 32 KiB. What is hot of it stays in a processor's first cache.
const PAGES: usize = 2_048;

/// Last-level page tables that are remembered, a power of two: those of 1 GiB of small pages, twice.
const TABLES: usize = 1_024;

/// Address spaces whose numbers are remembered, a power of two.
const SPACES: usize = 64;

/// Spaces are numbered in the bits of an address below its page: when all are used up, everything is forgotten indeed.
const NUMBERS: u64 = PAGE_BYTES;

/// Addresses that are looked up in lockstep: more than the loads that a processor has under way at once.
const LANES: usize = 32;

/// An address space since a flush, as a processor's PCID: after a flush it gets another number.
#[derive(Clone, Copy, Debug)]
struct Space {
    /// GPA of its top-level table.
    root: u64,
    /// From 1 to [`NUMBERS`].
    number: u64,
}

/// No space has this root: it is not aligned.
const NO_SPACE: Space = Space {
    root: u64::MAX,
    number: 0,
};

/// A thing that is remembered by address. One comparison tells whether it is the one that is looked for.
#[derive(Clone, Copy, Debug)]
#[repr(align(16))]
struct Slot {
    /// GVA of what is remembered; in the bits below a page, the number of its space. 0 when empty.
    tag: u64,
    /// GPA; in the bits below a page, what else is to be known.
    gpa: u64,
}

const EMPTY: Slot = Slot { tag: 0, gpa: 0 };

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
    /// The space that was asked for last.
    space: Space,
    /// Number of the next space that is not known.
    next_number: u64,
    /// Spaces with lower numbers were flushed.
    oldest_number: u64,
    spaces: Box<[Space; SPACES]>,
    pages: Box<[Slot; PAGES]>,
    tables: Box<[Slot; TABLES]>,
}

/// A slot that things which lie next to each other do not share.
#[inline]
const fn place<const SLOTS: usize>(number: u64) -> usize {
    // Less than SLOTS, which fits.
    #[expect(clippy::cast_possible_truncation)]
    {
        (number % SLOTS as u64) as usize
    }
}

impl Slot {
    /// The page of `gva`.
    #[inline]
    const fn of_page(found: Translation, tag: u64, gva: u64) -> Self {
        let size = found.page_bytes.trailing_zeros() as u64;
        let gpa = (found.gpa - gva % PAGE_BYTES) | size;
        Self { tag, gpa }
    }

    /// Where `gva`, which lies in the page that is remembered, leads.
    #[inline]
    const fn translation(self, gva: u64) -> Translation {
        Translation {
            gpa: (self.gpa & !(PAGE_BYTES - 1)) | (gva % PAGE_BYTES),
            page_bytes: 1 << (self.gpa % PAGE_BYTES % 64),
        }
    }

    /// GPA of the entry for `gva` in the table that is remembered.
    #[inline]
    const fn entry(self, gva: u64) -> u64 {
        self.gpa + gva % LAST_LEVEL_BYTES / PAGE_BYTES * ENTRY_BYTES
    }
}

/// Tag of the page of `gva` in the space with this number.
#[inline]
const fn page_tag(gva: u64, number: u64) -> u64 {
    (gva & !(PAGE_BYTES - 1)) | number
}

/// Tag of the last-level table that maps `gva` in the space with this number.
#[inline]
const fn table_tag(gva: u64, number: u64) -> u64 {
    (gva & !(LAST_LEVEL_BYTES - 1)) | number
}

impl Translator {
    /// A translator that remembers nothing yet.
    #[must_use]
    pub fn new(levels: Levels) -> Self {
        Self {
            levels,
            space: NO_SPACE,
            next_number: 1,
            oldest_number: 1,
            spaces: Box::new([NO_SPACE; SPACES]),
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
    pub const fn flush(&mut self) {
        self.oldest_number = self.next_number;
        self.space = NO_SPACE;
    }

    /// Number of the space whose tables are at `root`.
    #[inline]
    fn enter(&mut self, root: u64) -> u64 {
        let root = paging::table_of(root);
        if root != self.space.root {
            self.switch(root);
        }
        self.space.number
    }

    /// Finds the number of another space than the last, or gives it one.
    #[inline(never)]
    fn switch(&mut self, root: u64) {
        let place = place::<SPACES>(root / PAGE_BYTES);
        let known = self.spaces[place];
        if known.root == root && known.number >= self.oldest_number {
            self.space = known;
            return;
        }
        if self.next_number == NUMBERS {
            self.next_number = 1;
            self.oldest_number = 1;
            self.spaces.fill(NO_SPACE);
            self.pages.fill(EMPTY);
            self.tables.fill(EMPTY);
        }
        self.space = Space {
            root,
            number: self.next_number,
        };
        self.next_number += 1;
        self.spaces[place] = self.space;
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
        let number = self.enter(root);
        let slot = self.pages[place::<PAGES>(gva / PAGE_BYTES)];
        if slot.tag == page_tag(gva, number) {
            return Ok(slot.translation(gva));
        }
        self.look_up(ram, gva)
    }

    /// Looks in the table that maps `gva` in the present space: the one that is remembered, else where the walk leads.
    fn look_up<M: GuestMemoryBackend>(
        &mut self,
        ram: &mut Ram<'_, M>,
        gva: u64,
    ) -> Result<Translation, WalkError> {
        let Space { root, number } = self.space;
        let tag = table_tag(gva, number);
        let table = &mut self.tables[place::<TABLES>(gva / LAST_LEVEL_BYTES)];
        let found = if table.tag == tag {
            paging::small_page(ram.read_u64(table.entry(gva))?, gva)?
        } else {
            let walked = paging::walk(ram, self.levels, root, gva)?;
            if let Table::Last(gpa) = walked.table {
                *table = Slot { tag, gpa };
            }
            walked.translation
        };
        self.remember(found, gva);
        Ok(found)
    }

    #[inline]
    fn remember(&mut self, found: Translation, gva: u64) {
        let tag = page_tag(gva, self.space.number);
        self.pages[place::<PAGES>(gva / PAGE_BYTES)] = Slot::of_page(found, tag, gva);
    }

    /// Translates each of `gvas`, as many as `found` has room for, into the element of `found` at the same place.
    ///
    /// The same as one by one, but pages in tables that are remembered are looked up together, so that a processor waits for
    /// many of their entries at once. A page that comes twice may cost two reads.
    pub fn translate_all<M: GuestMemoryBackend>(
        &mut self,
        ram: &mut Ram<'_, M>,
        root: u64,
        gvas: &[u64],
        found: &mut [Result<Translation, WalkError>],
    ) {
        for (gvas, found) in gvas.chunks(LANES).zip(found.chunks_mut(LANES)) {
            self.translate_few(ram, root, gvas, found);
        }
    }

    /// [`Translator::translate_all`] for at most [`LANES`] addresses.
    fn translate_few<M: GuestMemoryBackend>(
        &mut self,
        ram: &mut Ram<'_, M>,
        root: u64,
        gvas: &[u64],
        found: &mut [Result<Translation, WalkError>],
    ) {
        let number = self.enter(root);
        // Lanes that wait for an entry of a last-level table, and GPA of that.
        let mut lanes = [0_u8; LANES];
        let mut entries = [0; LANES];
        let mut waiting = 0;
        for (lane, (&gva, found)) in (0..).zip(gvas.iter().zip(&mut *found)) {
            let page = self.pages[place::<PAGES>(gva / PAGE_BYTES)];
            if page.tag == page_tag(gva, number) {
                *found = Ok(page.translation(gva));
                continue;
            }
            let table = self.tables[place::<TABLES>(gva / LAST_LEVEL_BYTES)];
            if table.tag == table_tag(gva, number) {
                lanes[waiting % LANES] = lane;
                entries[waiting % LANES] = table.entry(gva);
                waiting += 1;
            } else {
                *found = self.look_up(ram, gva);
            }
        }
        let waiting = waiting.min(LANES);
        let mut words = [0; LANES];
        let read = ram.read_words(&entries[..waiting], &mut words);
        for (&lane, &word) in lanes[..waiting].iter().zip(&words) {
            let lane = usize::from(lane);
            let (Some(&gva), Some(found)) = (gvas.get(lane), found.get_mut(lane)) else {
                continue;
            };
            *found = match read {
                Ok(()) => paging::small_page(word, gva),
                // One of them cannot be read: which?
                Err(_) => self.look_up(ram, gva),
            };
            if let Ok(translation) = *found {
                self.remember(translation, gva);
            }
        }
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

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryError;
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
        let mut gpa = |translator: &mut Translator, gva: u64| {
            let found = translator.translate(&mut ram, root, gva);
            found.map(|found| found.gpa)
        };
        assert_eq!(gpa(&mut translator, SMALL), Ok(pages));
        guest.map(SMALL, pages + 0x1000, PageSize::Small);
        assert_eq!(gpa(&mut translator, SMALL), Ok(pages));
        translator.flush();
        assert_eq!(gpa(&mut translator, SMALL), Ok(pages + 0x1000));
        guest.map(SMALL, pages, PageSize::Small);
        // Until the space has the number again that it had then: what was remembered does not come back.
        let absent = SMALL + 0x1000;
        for _ in 0..NUMBERS - 1 {
            translator.flush();
            let found = gpa(&mut translator, absent);
            assert_eq!(found, Err(WalkError::NotPresent(absent)));
        }
        assert_eq!(gpa(&mut translator, SMALL), Ok(pages));
    }

    #[test]
    fn more_spaces_than_there_are_numbers_are_kept_apart() {
        let mut guest = guest();
        let page = guest.allocate(0x1000);
        guest.map(SMALL, page, PageSize::Small);
        // Roots that share what lies below one entry, and roots without it.
        let empty = guest.allocate(0x1000);
        let memory = guest.memory();
        let mut ram = Ram::new(&*memory, WORK);
        let mut translator = Translator::new(Levels::Four);
        let root = guest.root();
        for other in 0..2 * NUMBERS {
            // Beyond RAM but for one.
            let absent = match other {
                7 => empty,
                _ => 1 << 40 | other << 12,
            };
            assert!(translator.translate(&mut ram, absent, SMALL).is_err());
            let found = translator.translate(&mut ram, root, SMALL);
            assert_eq!(found.map(|found| found.gpa), Ok(page));
        }
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
        fn many_at_once_lead_where_each_leads(
            maps in prop::collection::vec((0u64..3, 0u64..520), 0..60),
            probes in prop::collection::vec((0u64..3, 0u64..520, 0u64..0x1000), 0..100),
            room in 0usize..120,
            work in 0u32..400,
        ) {
            let mut guest = guest();
            // Small pages in three tables and the next ones.
            let at = |table: u64, page: u64| SMALL + (table << 30) + (page << 12);
            for (table, page) in maps {
                guest.map(at(table, page), page << 12, PageSize::Small);
            }
            guest.map(SMALL + (9 << 30), 0, PageSize::Large);
            let mut gvas: Vec<u64> = probes.iter().map(|&(table, page, offset)| at(table, page) + offset).collect();
            gvas.extend([SMALL + (9 << 30) + 0x1_2345, 1 << 63]);
            let memory = guest.memory();
            let mut ram = Ram::new(&*memory, WORK);
            let mut translator = Translator::new(Levels::Four);
            let untouched = Err(WalkError::Reserved(1));
            // Nothing is known the first time, all tables the second time.
            for _ in 0..2 {
                let mut found = vec![untouched; room];
                translator.translate_all(&mut ram, guest.root(), &gvas, &mut found);
                for (&gva, &found) in gvas.iter().zip(&found) {
                    prop_assert_eq!(found, paging::translate(&mut ram, Levels::Four, guest.root(), gva));
                }
                prop_assert!(found.iter().skip(gvas.len()).all(|found| *found == untouched));
            }
            // What does not fit the budget is said, and nothing else goes wrong.
            translator.flush();
            ram.set_work(work);
            let mut found = vec![untouched; gvas.len()];
            translator.translate_all(&mut ram, guest.root(), &gvas, &mut found);
            ram.set_work(WORK);
            for (&gva, &found) in gvas.iter().zip(&found) {
                let alone = paging::translate(&mut ram, Levels::Four, guest.root(), gva);
                let over = Err(WalkError::Memory(MemoryError::OverBudget));
                prop_assert!(found == alone || found == over, "{found:?}");
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
