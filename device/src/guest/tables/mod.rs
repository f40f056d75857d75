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

/// Most tables of one address space, which processes between vfork and exec share with their parent: a note of the guest has all of
/// them to look at.
const MAX_SHARERS: usize = 64;

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
    pub const NOWHERE: Self = Self(NOWHERE);
}

/// No entry has this index.
const NOWHERE: u32 = u32::MAX;

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
    /// Index of another one of its address space, or [`NOWHERE`].
    next: u32,
}

/// All that is remembered.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    entries: Vec<Entry>,
    by_key: HashMap<Key, u32>,
    /// The latest address space of each process.
    by_process: HashMap<u32, u32>,
    /// The latest table of each address space; [`Entry::next`] leads to the others.
    by_space: HashMap<u64, u32>,
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
            by_space: HashMap::new(),
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
        let entry = Entry {
            key,
            table: Table::default(),
            progress: Progress::Tried(0),
            program: None,
            entered: 0,
            floor: self.sync,
            word: None,
            used: self.sync,
            gone: None,
            next: NOWHERE,
        };
        if let Some(index) = self.least_used_of_many(key.space) {
            self.replace(index, entry);
            return index;
        }
        self.make_room();
        // At most MAX_TABLES.
        let index = u32::try_from(self.entries.len()).unwrap_or(NOWHERE);
        self.entries.push(entry);
        self.list(index);
        index
    }

    /// Makes a new entry be found.
    fn list(&mut self, index: u32) {
        if let Some(entry) = self.entries.get_mut(index as usize) {
            let Key { space, tgid } = entry.key;
            self.by_key.insert(entry.key, index);
            self.by_process.insert(tgid, index);
            // One that was listed before, so that there is an end.
            entry.next = self.by_space.insert(space, index).unwrap_or(NOWHERE);
        }
    }

    /// The entry of an address space that has not been used for longest, if it has as many as it may have.
    fn least_used_of_many(&self, space: u64) -> Option<u32> {
        let mut next = *self.by_space.get(&space)?;
        let mut least: Option<(u32, u32)> = None;
        let mut count = 0;
        while let Some(entry) = self.entries.get(next as usize) {
            count += 1;
            if least.is_none_or(|(used, _)| entry.used < used) {
                least = Some((entry.used, next));
            }
            next = entry.next;
        }
        let (_, index) = least.filter(|_| count >= MAX_SHARERS)?;
        Some(index)
    }

    /// Puts a new entry in the place of another one of its address space.
    fn replace(&mut self, index: u32, new: Entry) {
        let Some(entry) = self.entries.get_mut(index as usize) else {
            return;
        };
        let (key, next) = (new.key, entry.next);
        let old = std::mem::replace(entry, Entry { next, ..new });
        self.regions -= old.table.len();
        self.by_key.remove(&old.key);
        if self.by_process.get(&old.key.tgid) == Some(&index) {
            self.by_process.remove(&old.key.tgid);
        }
        self.by_key.insert(key, index);
        self.by_process.insert(key.tgid, index);
    }

    /// Does something with each entry of an address space, at most [`MAX_SHARERS`].
    fn for_each_of(&mut self, space: u64, mut work: impl FnMut(&mut Entry)) {
        let mut next = self.by_space.get(&space).copied().unwrap_or(NOWHERE);
        while let Some(entry) = self.entries.get_mut(next as usize) {
            work(entry);
            next = entry.next;
        }
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
        let full_syncs = self.full_syncs;
        self.for_each_of(space, |entry| {
            entry.gone.get_or_insert(full_syncs);
        });
    }

    /// Mappings of the address space at `space` are about to go.
    pub fn changes(&mut self, space: u64) {
        let mut gone = 0;
        self.for_each_of(space, |entry| {
            gone += entry.table.len();
            entry.table.clear();
            entry.progress = Progress::Tried(0);
        });
        self.regions -= gone;
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
        self.by_space.clear();
        self.regions = self.entries.iter().map(|entry| entry.table.len()).sum();
        for index in (0..).take(self.entries.len()) {
            self.list(index);
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
mod tests;
