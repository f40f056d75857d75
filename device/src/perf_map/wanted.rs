//! Which processes' perf maps there are, and which the driver is asked for.
//!
//! A sample in memory without a file makes its process's map wanted. It is asked for again while samples come, from where
//! reading ended, since compilers append to it, and anew when it was written anew; and the driver tells what it has when a process is gone, too.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::resume::Resumable;
use super::{PerfMap, Snapshot};

/// Most processes whose map is kept or asked for; of more, the oldest goes.
pub(crate) const MAX_MAPS: usize = 256;

/// Most processes that become known in a tick of 100 ms; others that are sampled wait for the next one. Room is found by a look at all that
/// are known, and a guest may have as many others as it has samples.
const MAX_NEW: u32 = 32;

/// Most processes with one address space that are looked at again when it is given up: threads count as one.
const MAX_SHARERS: usize = 16;

/// Most regions of one process that get its names: an engine with its code in pages of its own has some hundred.
const MAX_REGIONS: usize = 1_024;

/// Most host memory that all maps together take, in bytes.
const MAX_KEPT: usize = 64 * 1024 * 1024;

/// Ticks (of 100 ms) between two questions for the same map: a second.
const PAUSE: u32 = 10;

/// Most ticks between two questions for a map that cannot be read, as most processes with such code have none, or that is written
/// anew again and again.
const MAX_PAUSE: u32 = 160;

/// The driver was asked for another map, or for another part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAsked;

/// A process as long as it has the same address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    space: u64,
    tgid: u32,
}

/// The map of one process.
#[derive(Debug)]
struct Known {
    process: Process,
    map: Snapshot,
    text: Resumable,
    /// It has named a function, before it was written anew perhaps.
    had_names: bool,
    /// Cookies of the regions that its samples are in.
    regions: HashSet<u64>,
    /// Samples came since it was asked for last.
    has_samples: bool,
    /// Tick at which it was asked for last, and at which the driver was told last that it is wanted.
    asked: Option<u32>,
    told: Option<u32>,
    /// Ticks until it is asked for again; when it can be read, and has not been written anew.
    pause: u32,
    usual_pause: u32,
    /// There is no room for more of it.
    is_full: bool,
}

/// How many maps of which kind there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MapCounts {
    /// Processes with a map that named a function.
    pub maps: u64,
    /// Functions that were named, again in a map that was written anew.
    pub functions: u64,
    /// Maps that were left out in part, for want of room.
    pub cut: u64,
}

/// All maps. What is asked for is one at a time.
#[derive(Debug)]
pub(crate) struct PerfMaps {
    /// By id, so the oldest first.
    known: BTreeMap<u32, Known>,
    by_process: BTreeMap<Process, u32>,
    /// Of each process id, the map of who has it now.
    latest: HashMap<u32, u32>,
    last_id: u32,
    /// Processes that became known in this tick.
    new: u32,
    /// What the driver has been told to send.
    asked: Option<u32>,
    now: u32,
    /// What all maps take.
    kept: usize,
    /// As the configuration space shows it.
    counter: Arc<AtomicU32>,
    has_changed: bool,
    counts: MapCounts,
}

impl PerfMaps {
    pub fn new(counter: Arc<AtomicU32>) -> Self {
        Self {
            known: BTreeMap::new(),
            by_process: BTreeMap::new(),
            latest: HashMap::new(),
            last_id: 0,
            new: 0,
            asked: None,
            now: 0,
            kept: 0,
            counter,
            has_changed: false,
            counts: MapCounts::default(),
        }
    }

    pub const fn counts(&self) -> MapCounts {
        self.counts
    }

    /// A sample of this process was in the anonymous region with this cookie.
    pub fn sampled(&mut self, space: u64, tgid: u32, cookie: u64) {
        let process = Process { space, tgid };
        let id = match self.by_process.get(&process) {
            Some(&id) => id,
            // A guest that makes four billion of them gets no names any more.
            None if self.new >= MAX_NEW || self.last_id == u32::MAX => return,
            None => self.add(process),
        };
        if let Some(known) = self.known.get_mut(&id) {
            known.has_samples = true;
            if known.regions.len() < MAX_REGIONS {
                known.regions.insert(cookie);
            }
        }
    }

    /// A task is about to give up an address space: its map is looked at once more.
    pub fn released(&mut self, space: u64) {
        let [first, last] = [0, u32::MAX].map(|tgid| Process { space, tgid });
        for (_, id) in self.by_process.range(first..=last).take(MAX_SHARERS) {
            if let Some(known) = self.known.get_mut(id) {
                known.has_samples = true;
            }
        }
    }

    fn add(&mut self, process: Process) -> u32 {
        if self.known.len() >= MAX_MAPS {
            // One without names before one with, the one that is being read never.
            let oldest = self
                .known
                .iter()
                .filter(|(id, _)| self.asked != Some(**id))
                .min_by_key(|(id, known)| (!known.map.is_empty(), **id))
                .map(|(id, _)| *id);
            if let Some(id) = oldest {
                self.forget(id);
            }
        }
        self.new += 1;
        self.last_id += 1;
        let known = Known {
            process,
            map: Arc::new(PerfMap::new(self.last_id)),
            text: Resumable::default(),
            had_names: false,
            regions: HashSet::new(),
            has_samples: true,
            asked: None,
            told: None,
            pause: PAUSE,
            usual_pause: PAUSE,
            is_full: false,
        };
        self.known.insert(self.last_id, known);
        self.by_process.insert(process, self.last_id);
        self.latest.insert(process.tgid, self.last_id);
        self.last_id
    }

    fn forget(&mut self, id: u32) {
        let Some(known) = self.known.remove(&id) else {
            return;
        };
        self.kept -= known.map.bytes();
        if self.by_process.get(&known.process) == Some(&id) {
            self.by_process.remove(&known.process);
        }
        if self.latest.get(&known.process.tgid) == Some(&id) {
            self.latest.remove(&known.process.tgid);
        }
    }

    /// Ends what a hello began: process ids may be those of another kernel from now on. What is known stays.
    pub fn forget_processes(&mut self) {
        self.by_process.clear();
        self.latest.clear();
        self.asked = None;
    }

    /// Another 100 ms have passed: tells the driver, if it has not been told, that maps are wanted.
    pub fn tick(&mut self) {
        self.now = self.now.wrapping_add(1);
        self.new = 0;
        let now = self.now;
        let mut has_news = false;
        for id in self.latest.values() {
            if let Some(known) = self.known.get_mut(id)
                && self.asked != Some(*id)
                && known.is_due(now)
                && known
                    .told
                    .is_none_or(|told| now.wrapping_sub(told) >= PAUSE)
            {
                known.told = Some(now);
                has_news = true;
            }
        }
        if has_news {
            self.counter.fetch_add(1, Ordering::AcqRel);
            self.has_changed = true;
        }
    }

    /// Whether the configuration space changed since this was asked last.
    pub const fn take_change(&mut self) -> bool {
        std::mem::replace(&mut self.has_changed, false)
    }

    /// The process whose map the driver is to send, and from where on. `is_last`: it will not ask again soon.
    pub fn ask(&mut self, is_last: bool) -> Option<(u32, u64)> {
        let now = self.now;
        let known = &self.known;
        let due = |id: &u32| {
            known.get(id).is_some_and(|known| {
                known.is_due(now) || is_last && known.has_samples && !known.is_full
            })
        };
        self.asked = self.latest.values().copied().filter(due).min();
        let id = self.asked?;
        let known = self.known.get_mut(&id)?;
        known.has_samples = false;
        known.asked = Some(now);
        known.told = None;
        Some((known.process.tgid, known.text.begin()))
    }

    /// Takes a piece of the map that was asked for. Returns the bad lines in it, and whether the device takes more.
    pub fn take(
        &mut self,
        (tgid, offset): (u32, u64),
        text: &[u8],
        is_last: bool,
    ) -> Result<(u64, bool), NotAsked> {
        let id = self.asked.ok_or(NotAsked)?;
        let known = self.known.get_mut(&id).ok_or(NotAsked)?;
        if known.process.tgid != tgid || known.text.offset() != offset {
            return Err(NotAsked);
        }
        let new = known.text.compare(text, is_last);
        if is_last || new.is_err() {
            self.asked = None;
            known.pause = known.usual_pause;
        }
        let Ok(new) = new else {
            // It is asked for at once, from its start. Its names stay until others come.
            known.text = Resumable::default();
            known.usual_pause = (known.usual_pause * 2).min(MAX_PAUSE);
            known.has_samples = true;
            known.asked = None;
            return Ok((0, false));
        };
        if known.is_full || new.is_empty() {
            return Ok((0, !known.is_full && !is_last));
        }
        if known.text.is_at_start() && !known.map.is_empty() {
            self.kept -= known.map.bytes();
            self.last_id = self.last_id.saturating_add(1);
            known.map = Arc::new(PerfMap::new(self.last_id));
        }
        let map = Arc::make_mut(&mut known.map);
        let before = (map.len(), map.bytes());
        let room = MAX_KEPT.saturating_sub(self.kept);
        let taking = known.text.read(new, map, room);
        let named = map.len() - before.0;
        self.kept += map.bytes() - before.1;
        self.counts.maps += u64::from(named > 0 && !known.had_names);
        known.had_names |= named > 0;
        self.counts.functions += named as u64;
        if taking.is_full {
            known.is_full = true;
            self.counts.cut += 1;
            if self.counts.cut == 1 {
                tracing::warn!(
                    tgid,
                    "A process's perf map is too long: functions behind its first {} have no name; further ones are only counted",
                    map.len()
                );
            }
            self.asked = None;
        }
        Ok((taking.bad_lines, !taking.is_full && !is_last))
    }

    /// The map that was asked for cannot be read.
    pub fn cannot_be_read(&mut self, tgid: u32) -> Result<(), NotAsked> {
        let id = self.asked.ok_or(NotAsked)?;
        let known = self.known.get_mut(&id).ok_or(NotAsked)?;
        if known.process.tgid != tgid {
            return Err(NotAsked);
        }
        self.asked = None;
        known.pause = (known.pause * 2).min(MAX_PAUSE);
        Ok(())
    }

    /// What is known of the code in the region of process `tgid` with this cookie: the latest map with names of a process that was
    /// sampled there. Of a region that nobody is known to have been sampled in (there were too many, or the process was forgotten in
    /// between) that of the process, unless there has been another one of its number.
    pub fn of_region(&self, tgid: u32, cookie: u64) -> Option<Snapshot> {
        let of_number = || {
            self.known
                .values()
                .rev()
                .filter(|known| known.process.tgid == tgid)
        };
        let mut sampled = of_number()
            .filter(|known| known.regions.contains(&cookie))
            .peekable();
        let known = if sampled.peek().is_some() {
            sampled.find(|known| !known.map.is_empty())?
        } else {
            let mut others = of_number();
            others.next().filter(|_| others.next().is_none())?
        };
        (!known.map.is_empty()).then(|| Arc::clone(&known.map))
    }
}

impl Known {
    const fn is_due(&self, now: u32) -> bool {
        let waits = match self.asked {
            Some(asked) => now.wrapping_sub(asked) < self.pause,
            None => false,
        };
        self.has_samples && !self.is_full && !waits
    }
}

#[cfg(test)]
mod tests;
