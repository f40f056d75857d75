//! Guest RAM that counts accesses to it, and that changes while it is read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use vm_memory::bitmap::BS;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap, GuestMemoryRegion,
    GuestMemoryRegionBytes, GuestUsize, MemoryRegionAddress, VolatileSlice,
};

/// A word that changes just before an access: what another vCPU does meanwhile, made repeatable.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Accesses from when the change was planned until it happens.
    pub after: u64,
    /// GPA; outside RAM nothing happens.
    pub gpa: u64,
    /// What is written there.
    pub word: u64,
}

/// Most accesses for one read: to look for its region in vain, for each of two regions that touch, for what is behind them.
pub const ACCESSES_PER_READ: u64 = 4;

/// A region. Of watched RAM it is never given out as a whole: who wants to read it again asks again.
#[derive(Debug)]
pub struct WatchedRegion {
    is_watched: bool,
    memory: GuestMemoryMmap,
    start: GuestAddress,
    length: GuestUsize,
}

impl GuestMemoryRegion for WatchedRegion {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.length
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn bitmap(&self) -> BS<'_, ()> {}

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, BS<'_, ()>>, GuestMemoryError> {
        let region = self.memory.find_region(self.start);
        let region = region.filter(|_| !self.is_watched || count as u64 != self.length);
        region
            .ok_or(GuestMemoryError::HostAddressNotAvailable)?
            .get_slice(offset, count)
    }
}

impl GuestMemoryRegionBytes for WatchedRegion {}

/// RAM of a guest as the device gets it.
///
/// Each piece of RAM that is looked up counts as an access, so that work can be compared with its bound without a clock and
/// without trusting the counters of the code under test.
#[derive(Debug)]
pub struct WatchedRam {
    inner: GuestMemoryMmap,
    regions: Vec<WatchedRegion>,
    accesses: AtomicU64,
    /// Number of the access before which the next change happens.
    next_change: AtomicU64,
    /// By access, the next one last.
    changes: Mutex<Vec<Change>>,
}

impl WatchedRam {
    /// Watches `inner`.
    #[must_use]
    pub fn new(inner: &GuestMemoryMmap) -> Self {
        Self::maybe_watched(inner, true)
    }

    /// Watches `inner`, or gives its regions out as they are, as RAM of a real guest is: then most reads are no accesses.
    #[must_use]
    pub fn maybe_watched(inner: &GuestMemoryMmap, is_watched: bool) -> Self {
        Self {
            inner: inner.clone(),
            regions: inner
                .iter()
                .map(|region| WatchedRegion {
                    is_watched,
                    memory: inner.clone(),
                    start: region.start_addr(),
                    length: region.len(),
                })
                .collect(),
            accesses: AtomicU64::new(0),
            next_change: AtomicU64::new(u64::MAX),
            changes: Mutex::new(Vec::new()),
        }
    }

    /// The RAM without anybody watching.
    #[must_use]
    pub const fn plain(&self) -> &GuestMemoryMmap {
        &self.inner
    }

    /// Accesses so far.
    #[must_use]
    pub fn accesses(&self) -> u64 {
        self.accesses.load(Ordering::Relaxed)
    }

    /// Runs `work` and returns what it returned and the accesses that it made.
    pub fn count<R>(&self, work: impl FnOnce() -> R) -> (R, u64) {
        let before = self.accesses();
        let result = work();
        (result, self.accesses() - before)
    }

    /// Plans changes, in place of those planned before.
    pub fn plan(&self, changes: impl IntoIterator<Item = Change>) {
        let now = self.accesses();
        let mut list: Vec<Change> = changes
            .into_iter()
            .map(|change| Change {
                after: now.saturating_add(change.after),
                ..change
            })
            .collect();
        list.sort_by_key(|change| std::cmp::Reverse(change.after));
        let next = list.last().map_or(u64::MAX, |change| change.after);
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner) = list;
        self.next_change.store(next, Ordering::Relaxed);
    }

    #[cold]
    fn change(&self, now: u64) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(change) = changes.pop_if(|change| change.after <= now) {
            // A change outside RAM is none.
            let _ = self
                .inner
                .write_obj(change.word.to_le(), GuestAddress(change.gpa));
        }
        let next = changes.last().map_or(u64::MAX, |change| change.after);
        self.next_change.store(next, Ordering::Relaxed);
    }
}

impl GuestMemoryBackend for WatchedRam {
    type R = WatchedRegion;

    fn num_regions(&self) -> usize {
        self.regions.len()
    }

    fn find_region(&self, address: GuestAddress) -> Option<&WatchedRegion> {
        let now = self.accesses.fetch_add(1, Ordering::Relaxed);
        if now >= self.next_change.load(Ordering::Relaxed) {
            self.change(now);
        }
        self.regions
            .iter()
            .find(|region| region.to_region_addr(address).is_some())
    }

    fn iter(&self) -> impl Iterator<Item = &WatchedRegion> {
        self.regions.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_counted_and_a_change_happens_before_its_own() {
        let inner = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let ram = WatchedRam::new(&inner);
        let read = || ram.read_obj::<u64>(GuestAddress(8)).unwrap();
        let change = |after, word| Change {
            after,
            gpa: 8,
            word,
        };
        ram.plan([change(2, 7), change(1, 5), change(1 << 40, 9)]);
        let (words, accesses) = ram.count(|| [read(), read(), read(), read()]);
        assert_eq!((words, accesses), ([0, 5, 7, 7], 4));
    }
}
