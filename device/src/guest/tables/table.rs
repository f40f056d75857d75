//! What the host remembers of one address space.

use std::hint::select_unpredictable;

use oprofile_wire::sample::ESCAPE;

use super::super::vma::Found;
use crate::sync::{LANES, Lookup};

/// What a mapping maps, by its cookie, [`NO_COOKIE`](crate::event_buffer::record::NO_COOKIE) when it has none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::guest) enum Content {
    File(u64),
    /// Memory without a file, or shared memory, of which Linux makes a file.
    Memory(u64),
}

/// A mapping, as far as an answer needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::guest) struct Region {
    /// Address behind the last.
    pub end: u64,
    /// What an address is increased by, wrapping, to get its offset.
    pub shift: u64,
    /// Cookie of the file or of the anonymous region.
    pub cookie: u64,
    /// Number of the sync in which it was last seen in the guest as it is here; 0 for none.
    pub checked: u32,
    /// Whether a file is mapped, not memory.
    pub is_file: bool,
}

impl Region {
    /// The answer for an address in it.
    #[inline]
    pub const fn lookup(&self, address: u64) -> Lookup {
        let (cookie, offset) = (self.cookie, address.wrapping_add(self.shift));
        if offset == ESCAPE {
            // It would be read as an escape, with a code of the guest's choice behind it. No file is so long.
            Lookup::Unmapped
        } else if self.is_file {
            Lookup::File { cookie, offset }
        } else {
            Lookup::Anonymous { cookie, offset }
        }
    }
}

/// Where a region's index is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::guest) struct Index(usize);

impl Index {
    /// Where no region is.
    pub const NONE: Self = Self(usize::MAX);
}

/// Mappings by address; they do not overlap.
///
/// Three arrays, so that a search runs over addresses alone and an answer reads one line more.
#[derive(Clone, Debug, Default)]
pub(in crate::guest) struct Table {
    starts: Vec<u64>,
    regions: Vec<Region>,
    origins: Vec<Found>,
}

impl Table {
    /// Number of mappings.
    pub const fn len(&self) -> usize {
        self.starts.len()
    }

    /// The mapping that holds `address`.
    #[inline]
    pub fn find(&self, address: u64) -> Option<Index> {
        let index = self
            .starts
            .partition_point(|&start| start <= address)
            .checked_sub(1)?;
        (address < self.regions.get(index)?.end).then_some(Index(index))
    }

    /// Where the mappings that hold `addresses` are, [`Index::NONE`] where there is none. The searches take each step together, so
    /// their waits for memory overlap.
    #[inline]
    pub fn find_all(&self, addresses: [u64; LANES]) -> [Index; LANES] {
        let mut last = [0; LANES];
        let mut left = self.starts.len();
        while left > 1 {
            let half = left / 2;
            for (last, &address) in last.iter_mut().zip(&addresses) {
                let middle = *last + half;
                let start = self.starts.get(middle).copied().unwrap_or(u64::MAX);
                *last = select_unpredictable(start <= address, middle, *last);
            }
            left -= half;
        }
        let mut found = [Index::NONE; LANES];
        for ((found, &last), &address) in found.iter_mut().zip(&last).zip(&addresses) {
            // Reads the region, so that it is in the cache when it is used.
            let ends = self.regions.get(last).map_or(0, |region| region.end);
            *found = select_unpredictable(address < ends, Index(last), Index::NONE);
        }
        found
    }

    /// The mapping at `index`, if there is one that holds `address` now.
    #[inline]
    pub fn holding(&self, Index(index): Index, address: u64) -> Option<&Region> {
        let (start, region) = (self.starts.get(index)?, self.regions.get(index)?);
        (*start <= address && address < region.end).then_some(region)
    }

    /// A mapping that was found.
    #[inline]
    pub fn region(&self, Index(index): Index) -> Option<&Region> {
        self.regions.get(index)
    }

    /// A mapping that was found, to be changed.
    pub fn region_mut(&mut self, Index(index): Index) -> Option<&mut Region> {
        self.regions.get_mut(index)
    }

    /// What a mapping was copied from.
    pub fn origin(&self, Index(index): Index) -> Option<Found> {
        self.origins.get(index).copied()
    }

    /// Bytes that move when a mapping at `address` is added or taken out.
    pub fn bytes_behind(&self, address: u64) -> usize {
        let first = self.starts.partition_point(|&start| start < address);
        (self.len() - first) * (size_of::<u64>() + size_of::<Region>() + size_of::<Found>())
    }

    /// Adds a mapping. Those that it overlaps are not there any more.
    pub fn insert(&mut self, origin: Found, region: Region) {
        let start = origin.vma.start;
        let first = match self.find(start) {
            Some(Index(index)) => index,
            None => self.starts.partition_point(|&known| known < start),
        };
        let last = self
            .starts
            .partition_point(|&known| known < region.end)
            .max(first);
        self.starts.splice(first..last, [start]);
        self.regions.splice(first..last, [region]);
        self.origins.splice(first..last, [origin]);
    }

    /// Takes a mapping out that is not there any more.
    pub fn remove(&mut self, Index(index): Index) {
        if index < self.len() {
            self.starts.remove(index);
            self.regions.remove(index);
            self.origins.remove(index);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.starts.clear();
        self.regions.clear();
        self.origins.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::vma::Vma;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn origin(start: u64, end: u64) -> Found {
        let vma = Vma {
            pointer: start,
            start,
            end,
            page_offset: 0,
            file: 0,
            flags: 0,
        };
        Found::unanchored(vma)
    }

    fn region(end: u64, cookie: u64) -> Region {
        Region {
            end,
            shift: 1,
            cookie,
            checked: 0,
            is_file: true,
        }
    }

    fn cookie_at(table: &Table, address: u64) -> Option<u64> {
        table
            .find(address)
            .and_then(|index| table.region(index))
            .map(|region| region.cookie)
    }

    #[test]
    fn an_answer_wraps_as_file_offsets_do() {
        let region = Region {
            shift: u64::MAX,
            ..region(10, 7)
        };
        let expected = Lookup::File {
            cookie: 7,
            offset: 4,
        };
        assert_eq!(region.lookup(5), expected);
        let anonymous = Region {
            is_file: false,
            ..region
        };
        let expected = Lookup::Anonymous {
            cookie: 7,
            offset: 4,
        };
        assert_eq!(anonymous.lookup(5), expected);
    }

    #[test]
    fn an_offset_that_would_be_read_as_an_escape_is_in_no_mapping() {
        let region = Region {
            shift: u64::MAX - 5,
            ..region(10, 7)
        };
        assert_eq!(region.lookup(5), Lookup::Unmapped);
        let after = Lookup::File {
            cookie: 7,
            offset: 0,
        };
        assert_eq!(region.lookup(6), after);
    }

    proptest! {
        #[test]
        fn the_last_mapping_of_an_address_is_found(
            inserts in prop::collection::vec((0u64..40, 1u64..12), 0..40),
            removed in prop::collection::vec(0u64..50, 0..5),
        ) {
            let mut table = Table::default();
            // By address: the insert that covers it, as long as none came over any part of that.
            let mut model: BTreeMap<u64, (u64, u64, u64)> = BTreeMap::new();
            for (cookie, &(start, length)) in (1..).zip(&inserts) {
                let end = start + length;
                model.retain(|_, &mut (from, to, _)| to <= start || end <= from);
                model.extend((start..end).map(|address| (address, (start, end, cookie))));
                table.insert(origin(start, end), region(end, cookie));
            }
            for address in removed {
                if let Some(index) = table.find(address) {
                    table.remove(index);
                    let (from, to, _) = model[&address];
                    model.retain(|address, _| *address < from || to <= *address);
                }
            }
            for address in 0..60 {
                let expected = model.get(&address).map(|&(.., cookie)| cookie);
                prop_assert_eq!(cookie_at(&table, address), expected);
            }
            // Side by side as one by one.
            for first in 0..60 {
                let addresses = [first, first * 7 % 60, 59 - first, first];
                let found = table.find_all(addresses);
                for (index, address) in found.into_iter().zip(addresses) {
                    let region = table.holding(index, address);
                    let expected = model.get(&address).map(|&(.., cookie)| cookie);
                    prop_assert_eq!(region.map(|region| region.cookie), expected);
                }
            }
            let regions: std::collections::BTreeSet<_> = model.values().collect();
            prop_assert_eq!(table.len(), regions.len());
        }
    }
}
