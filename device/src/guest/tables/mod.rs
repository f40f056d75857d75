//! What the host remembers of the guest's address spaces, so that most samples need no look into guest RAM.
//!
//! A table is made at the first sample of an address space. What it says is compared with the guest before it is used: once in each
//! sync, or, where the driver counts changes, once after each and now and then. It goes when the guest says that mappings change, when it has not been used for long and room is
//! needed, and two full syncs after its process is gone: so long may samples of it come late.

mod table;

use std::collections::HashMap;

pub(super) use table::{Content, Index, Region, Table};

/// Most address spaces that are remembered; a busy host of containers runs about a thousand processes.
pub const MAX_TABLES: usize = 4_096;

/// Most mappings that are remembered, of all address spaces together: some 30 MiB. A process has 10 to 40 that are
/// executable.
pub const MAX_REGIONS: usize = 262_144;

/// Full syncs that the table of a process outlives it.
const LATE_SYNCS: u64 = 2;

/// Syncs after which everything is compared with the guest again, whatever the driver counts: a minute or so. It shows what is not counted,
/// such as a file's new name.
const RECHECK: u32 = 512;

/// Slots of the memory that spares most task switches the search of a map, a power of two.
const RECENT: usize = 64;

/// Names an address space. Its address alone does not: the guest reuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// GVA of the address space.
    pub space: u64,
    /// Process id.
    pub tgid: u32,
}

/// Where a table is. It stays there until the next table is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    /// Where no table is.
    pub const NOWHERE: Self = Self(u32::MAX);
}

/// How far a table has been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Tries that failed.
    Tried(u8),
    /// Every mapping has been taken over that was there at the time.
    Done,
}

/// The program of an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub cookie: u64,
    /// Number of the sync in which that was last so.
    pub checked: u32,
}

/// An address space.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: Key,
    pub table: Table,
    pub progress: Progress,
    pub program: Option<Program>,
    /// Number of the sync that looked at its change word last.
    entered: u32,
    /// Number of the sync from which on what was seen in the guest still holds.
    floor: u32,
    /// Its change word at that time; `None` when a change was under way, or none are counted.
    word: Option<u64>,
    /// Number of the sync that used it last.
    used: u32,
    /// Full syncs that there had been when the process was found to be gone.
    gone: Option<u64>,
}

/// All that is remembered.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    entries: Vec<Entry>,
    by_key: HashMap<Key, u32>,
    /// The latest address space of each process.
    by_process: HashMap<u32, u32>,
    recent: [u32; RECENT],
    regions: usize,
    /// Number of this sync, from 1.
    sync: u32,
    /// Full syncs so far.
    full_syncs: u64,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            by_key: HashMap::new(),
            by_process: HashMap::new(),
            recent: [0; RECENT],
            regions: 0,
            sync: 0,
            full_syncs: 0,
        }
    }
}

impl Tables {
    /// Begins a sync; there have been `full_syncs` in which every vCPU took part.
    pub fn begin(&mut self, full_syncs: u64) {
        // After four billion syncs, years, everything is looked at again.
        self.sync = match self.sync.checked_add(1) {
            Some(next) => next,
            None => {
                self.clear();
                1
            }
        };
        if self.full_syncs != full_syncs {
            self.full_syncs = full_syncs;
            let expired = |entry: &Entry| {
                entry
                    .gone
                    .is_some_and(|gone| full_syncs.saturating_sub(gone) > LATE_SYNCS)
            };
            if self.entries.iter().any(expired) {
                self.retain(|entry| !expired(entry));
            }
        }
    }

    /// Number of this sync.
    pub const fn sync(&self) -> u32 {
        self.sync
    }

    fn clear(&mut self) {
        self.retain(|_| false);
    }

    /// The table of `key`, made now if need be, and the first sync whose look at the guest still counts. `word` reads the key's
    /// change word, `None` while a change is under way.
    #[inline]
    pub fn enter(&mut self, key: Key, word: impl FnOnce() -> Option<u64>) -> (Place, u32) {
        let slot = recent_slot(key);
        let index = self.recent[slot];
        let index = match self.entries.get(index as usize) {
            Some(entry) if entry.key == key => index,
            _ => {
                let index = self.find_or_make(key);
                self.recent[slot] = index;
                index
            }
        };
        let mut floor = self.sync;
        if let Some(entry) = self.entries.get_mut(index as usize) {
            entry.used = self.sync;
            if entry.entered != self.sync {
                entry.entered = self.sync;
                let word = word();
                if word.is_none() || word != entry.word {
                    entry.word = word;
                    entry.floor = self.sync;
                }
                entry.floor = entry.floor.max(self.sync.saturating_sub(RECHECK));
            }
            entry.gone = None;
            floor = entry.floor;
        }
        (Place(index), floor)
    }

    #[cold]
    fn find_or_make(&mut self, key: Key) -> u32 {
        if let Some(&index) = self.by_key.get(&key) {
            return index;
        }
        self.make_room();
        // At most MAX_TABLES.
        let index = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.entries.push(Entry {
            key,
            table: Table::default(),
            progress: Progress::Tried(0),
            program: None,
            entered: 0,
            floor: self.sync,
            word: None,
            used: self.sync,
            gone: None,
        });
        self.by_key.insert(key, index);
        self.by_process.insert(key.tgid, index);
        index
    }

    /// The table of a process that has given up its address space, while samples of it may still come.
    pub fn late(&mut self, tgid: u32) -> Option<(Place, Key)> {
        let index = *self.by_process.get(&tgid)?;
        let entry = self.entries.get_mut(index as usize)?;
        entry.gone.get_or_insert(self.full_syncs);
        entry.used = self.sync;
        Some((Place(index), entry.key))
    }

    /// A task is about to give up the address space at `space`. Whoever still has it shows by using it.
    pub fn released(&mut self, space: u64) {
        for entry in &mut self.entries {
            if entry.key.space == space {
                entry.gone.get_or_insert(self.full_syncs);
            }
        }
    }

    /// Mappings of the address space at `space` are about to go.
    pub fn changes(&mut self, space: u64) {
        for entry in &mut self.entries {
            if entry.key.space == space {
                self.regions -= entry.table.len();
                entry.table.clear();
                entry.progress = Progress::Tried(0);
            }
        }
    }

    /// What is remembered of an address space.
    #[inline]
    pub fn entry(&self, Place(index): Place) -> Option<&Entry> {
        self.entries.get(index as usize)
    }

    /// What is remembered of an address space, to be changed; its table only by [`Tables::change`].
    pub fn entry_mut(&mut self, Place(index): Place) -> Option<&mut Entry> {
        self.entries.get_mut(index as usize)
    }

    /// Has the mapping of an address space that begins at `start` compared with the guest before it is used again.
    pub fn recheck(&mut self, key: Key, start: u64) {
        let Some(&index) = self.by_key.get(&key) else {
            return;
        };
        self.change(Place(index), |table| {
            let index = table.find(start)?;
            table.region_mut(index).map(|region| region.checked = 0)
        });
    }

    /// Changes a table.
    pub fn change<T>(
        &mut self,
        Place(index): Place,
        change: impl FnOnce(&mut Table) -> T,
    ) -> Option<T> {
        let entry = self.entries.get_mut(index as usize)?;
        self.regions -= entry.table.len();
        let result = change(&mut entry.table);
        self.regions += entry.table.len();
        Some(result)
    }

    /// Whether so many mappings more can be remembered.
    pub const fn has_room(&self, regions: usize) -> bool {
        self.regions.saturating_add(regions) <= MAX_REGIONS
    }

    /// Address spaces and mappings that are remembered.
    #[cfg(test)]
    const fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.regions)
    }

    /// Forgets the half of the tables that has not been used for longest, when no other fits. Half, so that this is rare.
    fn make_room(&mut self) {
        if self.entries.len() < MAX_TABLES && self.has_room(1) {
            return;
        }
        let mut uses: Vec<u32> = self.entries.iter().map(|entry| entry.used).collect();
        let middle = uses.len() / 2;
        let (_, &mut median, _) = uses.select_nth_unstable(middle);
        let mut kept = 0;
        self.retain(|entry| {
            // Of those used in one sync some must go as well.
            let keep = entry.used > median || (entry.used == median && kept < middle / 2);
            kept += usize::from(keep);
            keep
        });
    }

    fn retain(&mut self, keep: impl FnMut(&Entry) -> bool) {
        self.entries.retain(keep);
        self.recent = [0; RECENT];
        self.by_key.clear();
        self.by_process.clear();
        self.regions = 0;
        for (index, entry) in (0..).zip(&self.entries) {
            self.by_key.insert(entry.key, index);
            self.by_process.insert(entry.key.tgid, index);
            self.regions += entry.table.len();
        }
    }
}

fn recent_slot(key: Key) -> usize {
    // Address spaces are some hundred bytes apart.
    let mixed = (key.space >> 6) ^ (key.space >> 12) ^ u64::from(key.tgid);
    // Less than RECENT, which fits.
    #[expect(clippy::cast_possible_truncation)]
    {
        (mixed % RECENT as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::vma::{Found, Vma};

    fn key(number: u32) -> Key {
        Key {
            space: 0xffff_9000_0000_0000 + u64::from(number) * 1_024,
            tgid: number,
        }
    }

    /// As where no change words are kept.
    fn enter(tables: &mut Tables, key: Key) -> Place {
        tables.enter(key, || None).0
    }

    fn fill(tables: &mut Tables, place: Place, regions: u64) {
        tables.change(place, |table| {
            for number in 0..regions {
                let vma = Vma {
                    pointer: number,
                    start: number * 16,
                    end: number * 16 + 8,
                    page_offset: 0,
                    file: 0,
                    flags: 0,
                };
                let region = Region {
                    end: vma.end,
                    shift: 0,
                    cookie: 9,
                    checked: 0,
                    is_file: true,
                };
                table.insert(Found::unanchored(vma), region);
            }
        });
    }

    fn regions(tables: &Tables, place: Place) -> usize {
        tables.entry(place).map_or(0, |entry| entry.table.len())
    }

    #[test]
    fn an_address_space_keeps_its_table_and_another_process_gets_another() {
        let mut tables = Tables::default();
        tables.begin(0);
        let first = enter(&mut tables, key(1));
        fill(&mut tables, first, 3);
        // The same address for another process, and many in between.
        let reused = Key { tgid: 9, ..key(1) };
        let other = enter(&mut tables, reused);
        assert_eq!(regions(&tables, other), 0);
        for number in 10..200 {
            enter(&mut tables, key(number));
        }
        let again = enter(&mut tables, key(1));
        assert_eq!((again, regions(&tables, again)), (first, 3));
        assert_eq!(tables.size(), (192, 3));
    }

    #[test]
    fn looks_count_while_the_change_word_stays() {
        let mut tables = Tables::default();
        let mut floor = |word: Option<u64>| {
            tables.begin(0);
            tables.enter(key(1), || word).1
        };
        let words = [Some(5), Some(5), Some(6), Some(6), None, Some(6), Some(6)];
        let floors = words.map(&mut floor);
        assert_eq!(floors, [1, 1, 3, 3, 5, 6, 6]);
        // Now and then everything is looked at again.
        let later: Vec<u32> = (8..=RECHECK + 8).map(|_| floor(Some(6))).collect();
        assert_eq!(later.first(), Some(&6));
        assert_eq!(later.last(), Some(&8));
    }

    #[test]
    fn a_change_word_is_looked_at_once_a_sync() {
        let mut tables = Tables::default();
        tables.begin(0);
        let (_, floor) = tables.enter(key(1), || Some(1));
        let again = tables.enter(key(1), || panic!("looked at again"));
        assert_eq!(again.1, floor);
    }

    #[test]
    fn what_the_guest_says_is_changing_is_forgotten_at_once() {
        let mut tables = Tables::default();
        tables.begin(0);
        let place = enter(&mut tables, key(1));
        fill(&mut tables, place, 3);
        tables.changes(key(2).space);
        assert_eq!(regions(&tables, place), 3);
        tables.changes(key(1).space);
        assert_eq!(tables.size(), (1, 0));
    }

    #[test]
    fn a_process_that_is_gone_serves_two_full_syncs_more() {
        let mut tables = Tables::default();
        tables.begin(5);
        let place = enter(&mut tables, key(1));
        fill(&mut tables, place, 1);
        tables.released(key(1).space);
        for full_syncs in [5, 6, 7] {
            tables.begin(full_syncs);
            let (late, of) = tables.late(1).expect("still there");
            assert_eq!((of, regions(&tables, late)), (key(1), 1));
        }
        tables.begin(8);
        assert_eq!(tables.late(1), None);
        assert_eq!(tables.size(), (0, 0));
    }

    #[test]
    fn an_address_space_that_is_released_and_used_on_stays() {
        let mut tables = Tables::default();
        tables.begin(0);
        enter(&mut tables, key(1));
        tables.released(key(1).space);
        enter(&mut tables, key(1));
        tables.begin(9);
        assert_eq!(tables.size(), (1, 0));
    }

    #[test]
    fn the_latest_address_space_of_a_process_is_the_late_one() {
        let mut tables = Tables::default();
        tables.begin(0);
        enter(&mut tables, key(1));
        let exec = Key { tgid: 1, ..key(2) };
        enter(&mut tables, exec);
        assert_eq!(tables.late(1).map(|(_, key)| key), Some(exec));
        assert_eq!(tables.late(2), None);
    }

    #[test]
    fn tables_are_bounded_and_the_latest_stay() {
        let mut tables = Tables::default();
        for number in 0..12_288 {
            tables.begin(0);
            let place = enter(&mut tables, key(number));
            assert_eq!(
                tables.entry(place).map(|entry| entry.key),
                Some(key(number))
            );
            assert!(tables.size().0 <= MAX_TABLES);
            if let Some(before) = number.checked_sub(100) {
                assert!(tables.by_key.contains_key(&key(before)), "{number}");
            }
        }
    }

    #[test]
    fn tables_of_one_sync_are_bounded_too() {
        let mut tables = Tables::default();
        tables.begin(0);
        for number in 0..8_192 {
            enter(&mut tables, key(number));
            assert!(tables.size().0 <= MAX_TABLES);
        }
    }

    #[test]
    fn mappings_are_bounded_by_those_who_ask_for_room() {
        let mut tables = Tables::default();
        for number in 0..40 {
            tables.begin(0);
            let place = enter(&mut tables, key(number));
            if tables.has_room(20_000) {
                fill(&mut tables, place, 20_000);
            }
            assert!(tables.size().1 <= MAX_REGIONS);
        }
        // Room was made by the half that was not used for longest.
        assert!(tables.by_key.contains_key(&key(39)));
    }

    #[test]
    fn numbers_of_syncs_start_over_with_nothing_remembered() {
        let mut tables = Tables {
            sync: u32::MAX - 1,
            ..Tables::default()
        };
        tables.begin(0);
        enter(&mut tables, key(1));
        tables.begin(0);
        assert_eq!((tables.sync(), tables.size()), (1, (0, 0)));
    }
}
