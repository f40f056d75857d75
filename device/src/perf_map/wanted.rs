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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process {
    space: u64,
    tgid: u32,
}

/// The map of one process.
#[derive(Debug)]
struct Known {
    tgid: u32,
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
    by_process: HashMap<Process, u32>,
    /// Of each process id, the map of who has it now.
    latest: HashMap<u32, u32>,
    last_id: u32,
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
            by_process: HashMap::new(),
            latest: HashMap::new(),
            last_id: 0,
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
        for (process, id) in &self.by_process {
            if process.space == space
                && let Some(known) = self.known.get_mut(id)
            {
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
            if let Some(known) = oldest.and_then(|id| self.known.remove(&id)) {
                self.kept -= known.map.bytes();
            }
            let kept = &self.known;
            self.by_process.retain(|_, id| kept.contains_key(id));
            self.latest.retain(|_, id| kept.contains_key(id));
        }
        // A guest that makes four billion of them gets no names any more.
        self.last_id = self.last_id.saturating_add(1);
        let known = Known {
            tgid: process.tgid,
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
        if let Some(before) = self.known.insert(self.last_id, known) {
            self.kept -= before.map.bytes();
        }
        self.by_process.insert(process, self.last_id);
        self.latest.insert(process.tgid, self.last_id);
        self.last_id
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
        Some((known.tgid, known.text.begin()))
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
        if known.tgid != tgid || known.text.offset() != offset {
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
        if known.tgid != tgid {
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
        let of_number = || self.known.values().rev().filter(|known| known.tgid == tgid);
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
mod tests {
    use super::*;

    const LINE: &[u8] = b"1000 10 f\n";

    impl PerfMaps {
        fn cookies_of(&self, tgid: u32) -> Vec<u64> {
            let known = self.known.values().filter(|known| known.tgid == tgid);
            known.flat_map(|known| known.regions.clone()).collect()
        }
    }

    fn maps() -> PerfMaps {
        PerfMaps::new(Arc::default())
    }

    /// Ticks until the driver is told, at most so many times; after how many it was.
    fn told_after(maps: &mut PerfMaps, most: u32) -> Option<u32> {
        (1..=most).find(|_| {
            maps.tick();
            maps.take_change()
        })
    }

    #[test]
    fn a_process_is_asked_for_once_a_second_while_it_has_samples() {
        let mut maps = maps();
        assert_eq!(told_after(&mut maps, 30), None);
        maps.sampled(1, 7, 2);
        assert_eq!(told_after(&mut maps, 30), Some(1));
        assert_eq!(maps.counter.load(Ordering::Acquire), 1);
        assert_eq!(maps.ask(false), Some((7, 0)));
        assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
        // No sample, no question.
        assert_eq!(told_after(&mut maps, 30), None);
        maps.sampled(1, 7, 2);
        assert_eq!(told_after(&mut maps, 30), Some(1));
        assert_eq!(maps.ask(false), Some((7, 0)));
        assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
        maps.sampled(1, 7, 2);
        assert_eq!(maps.ask(false), None);
        assert_eq!(told_after(&mut maps, 30), Some(PAUSE));
        // A driver that does not ask is told again.
        assert_eq!(told_after(&mut maps, 30), Some(PAUSE));
    }

    #[test]
    fn the_end_of_a_process_and_of_the_driver_leave_nothing_behind() {
        let mut maps = maps();
        maps.sampled(1, 7, 2);
        assert_eq!(maps.ask(false), Some((7, 0)));
        assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
        assert_eq!(maps.ask(true), None);
        maps.sampled(1, 7, 2);
        assert_eq!(maps.ask(false), None);
        assert_eq!(maps.ask(true), Some((7, 0)));
        assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
        maps.released(99);
        assert_eq!(told_after(&mut maps, 30), None);
        maps.released(1);
        assert_eq!(told_after(&mut maps, 30), Some(1));
    }

    #[test]
    fn a_map_that_cannot_be_read_is_asked_for_less_and_less() {
        let mut maps = maps();
        maps.sampled(1, 7, 2);
        assert_eq!(told_after(&mut maps, 1), Some(1));
        for pause in [20, 40, 80, 160, 160] {
            assert_eq!(maps.ask(false), Some((7, 0)));
            assert_eq!(maps.cannot_be_read(8), Err(NotAsked));
            assert_eq!(maps.cannot_be_read(7), Ok(()));
            maps.sampled(1, 7, 2);
            assert_eq!(told_after(&mut maps, 999), Some(pause));
        }
        // Once it can be, it is as any other.
        assert_eq!(maps.ask(false), Some((7, 0)));
        assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
        maps.sampled(1, 7, 2);
        assert_eq!(told_after(&mut maps, 999), Some(PAUSE));
    }

    #[test]
    fn only_what_was_asked_for_is_taken() {
        let mut maps = maps();
        assert_eq!(maps.take((7, 0), LINE, true), Err(NotAsked));
        maps.sampled(1, 7, 2);
        maps.sampled(2, 8, 3);
        assert_eq!(maps.take((7, 0), LINE, true), Err(NotAsked));
        assert_eq!(maps.ask(false), Some((7, 0)));
        assert_eq!(maps.take((8, 0), LINE, true), Err(NotAsked));
        assert_eq!(maps.take((7, 1), LINE, true), Err(NotAsked));
        assert_eq!(maps.take((7, 0), LINE, false), Ok((0, true)));
        assert_eq!(maps.take((7, 0), LINE, false), Err(NotAsked));
        assert_eq!(maps.take((7, 10), b"junk\n", true), Ok((1, false)));
        assert_eq!(maps.take((7, 15), LINE, true), Err(NotAsked));
        assert_eq!(maps.of_region(7, 2).unwrap().len(), 1);
        assert!(maps.of_region(8, 3).is_none());
        assert_eq!(maps.counts().functions, 1);
    }

    /// What process 7 answers when it is asked for: the offset from which on, and the file.
    fn answer(maps: &mut PerfMaps, file: &[u8]) -> Option<u64> {
        let (tgid, offset) = maps.ask(true)?;
        let rest = file.get(usize::try_from(offset).unwrap()..);
        let rest = rest.unwrap_or_default();
        // As the driver does: the end by itself, unless the device takes no more.
        if let (_, true) = maps.take((tgid, offset), rest, false).unwrap() {
            let end = offset + rest.len() as u64;
            maps.take((tgid, end), b"", true).unwrap();
        }
        Some(offset)
    }

    #[test]
    fn a_map_that_was_written_anew_is_read_anew_and_its_names_stay_until_then() {
        let mut maps = maps();
        let names = |maps: &PerfMaps| {
            let map = maps.of_region(7, 2).unwrap();
            let name = |piece| String::from_utf8(map.name(piece).to_vec()).unwrap();
            let names = map.pieces().into_iter().map(name);
            (map.version(), names.collect::<Vec<_>>().concat())
        };
        let line = |at: usize| format!("{at:x}0 10 {}\n", at % 10);
        let dump = |functions| (1..=functions).map(line).collect::<String>();
        maps.sampled(1, 7, 2);
        assert_eq!(answer(&mut maps, dump(30).as_bytes()), Some(0));
        let first = names(&maps);
        // Shorter, gone for a moment, longer with other functions at the same places.
        for other in ["9000 20 g\n".to_owned(), dump(99).replace(' ', "  ")] {
            maps.sampled(1, 7, 2);
            let before = names(&maps);
            let (offset, kept) = (answer(&mut maps, other.as_bytes()), maps.kept);
            assert!(offset > Some(0));
            assert_eq!((names(&maps), kept), (before.clone(), maps.kept));
            // Whoever can be asked is asked at once.
            assert_eq!(answer(&mut maps, b""), Some(0));
            assert_eq!(names(&maps), before);
            maps.sampled(1, 7, 2);
            assert_eq!(maps.ask(true), Some((7, 0)));
            assert_eq!(maps.cannot_be_read(7), Ok(()));
            assert_eq!(names(&maps), before);
            maps.sampled(1, 7, 2);
            assert_eq!(answer(&mut maps, other.as_bytes()), Some(0));
            assert_ne!(names(&maps).0, before.0);
            assert_eq!(maps.kept, maps.of_region(7, 2).unwrap().bytes());
            assert_eq!(answer(&mut maps, b""), None);
            if other.len() < 20 {
                assert_eq!(names(&maps).1, "g");
                maps.sampled(1, 7, 2);
                // Nothing has changed, and what was appended.
                assert_eq!(answer(&mut maps, other.as_bytes()), Some(0));
                maps.sampled(1, 7, 2);
                let more = other + &dump(30);
                assert_eq!(answer(&mut maps, more.as_bytes()), Some(0));
                assert_eq!(names(&maps).1, first.1.clone() + "g");
            }
        }
        assert_eq!(names(&maps).1.len(), 99);
        assert_eq!(maps.counts().maps, 1);
    }

    #[test]
    fn a_map_that_is_written_anew_again_and_again_is_asked_for_less_and_less() {
        let mut maps = maps();
        maps.sampled(1, 7, 2);
        assert_eq!(answer(&mut maps, LINE), Some(0));
        let other = LINE.to_ascii_uppercase();
        for (file, pause) in [&other[..], LINE]
            .iter()
            .cycle()
            .zip([20, 40, 80, 160, 160])
        {
            maps.sampled(1, 7, 2);
            assert!(told_after(&mut maps, 999).is_some());
            assert_eq!(answer(&mut maps, file), Some(0));
            // At once.
            assert_eq!(answer(&mut maps, file), Some(0));
            maps.sampled(1, 7, 2);
            assert_eq!(told_after(&mut maps, 999), Some(pause));
        }
    }

    #[test]
    fn another_process_of_the_same_number_has_a_map_of_its_own() {
        let mut maps = maps();
        maps.sampled(1, 7, 2);
        assert_eq!(maps.ask(false), Some((7, 0)));
        assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
        maps.sampled(9, 7, 3);
        assert!(maps.of_region(7, 3).is_none());
        assert_eq!(maps.ask(false), Some((7, 0)));
        assert_eq!(maps.take((7, 0), b"1 1 g\n2 2 h\n", true), Ok((0, false)));
        // A late sample of the one before makes nobody ask.
        maps.sampled(1, 7, 2);
        assert_eq!(maps.ask(true), None);
        assert_eq!(maps.of_region(7, 2).unwrap().len(), 1);
        assert_eq!(maps.of_region(7, 3).unwrap().len(), 2);
        maps.forget_processes();
        maps.sampled(9, 7, 3);
        assert_eq!(maps.ask(false), Some((7, 0)));
        assert_eq!(maps.of_region(7, 3).unwrap().len(), 2);
    }

    #[test]
    fn all_regions_of_a_process_have_its_names_however_many_there_are() {
        let mut maps = maps();
        let last = MAX_REGIONS as u64 + 1;
        for cookie in 0..=last {
            maps.sampled(1, 7, cookie);
        }
        assert_eq!(maps.ask(false), Some((7, 0)));
        assert!(maps.of_region(7, last).is_none());
        assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
        assert_eq!(maps.of_region(7, last).unwrap().len(), 1);
        assert!(maps.of_region(8, last).is_none());
        // Also when the driver is gone.
        maps.forget_processes();
        assert_eq!(maps.of_region(7, last).unwrap().len(), 1);
        // Which of two processes had it is not known.
        maps.sampled(9, 7, 3);
        assert!(maps.of_region(7, last).is_none());
        assert_eq!(maps.of_region(7, 3).unwrap().len(), 1);
    }

    #[test]
    fn a_process_that_was_forgotten_in_between_has_its_names_in_all_regions() {
        let mut maps = maps();
        maps.sampled(1, 7, 2);
        let mut tgid = 1_000;
        while maps.known.values().any(|known| known.tgid == 7) {
            tgid += 1;
            maps.sampled(1, tgid, 3);
        }
        maps.sampled(1, 7, 4);
        assert_eq!(maps.cookies_of(7), [4]);
        while maps.ask(false).is_some_and(|(tgid, _)| tgid != 7) {}
        assert_eq!(maps.take((7, 0), LINE, true), Ok((0, false)));
        assert_eq!(maps.of_region(7, 2).unwrap().len(), 1);
        assert_eq!(maps.of_region(7, 4).unwrap().len(), 1);
    }

    #[test]
    fn maps_have_bounds_and_the_oldest_goes() {
        let mut maps = maps();
        maps.sampled(1, 1, 1);
        assert_eq!(maps.ask(false), Some((1, 0)));
        assert_eq!(maps.take((1, 0), LINE, true), Ok((0, false)));
        for tgid in 2..1_000 {
            maps.sampled(u64::from(tgid), tgid, tgid.into());
        }
        assert_eq!(maps.known.len(), MAX_MAPS);
        assert_eq!(maps.by_process.len(), MAX_MAPS);
        assert_eq!(maps.latest.len(), MAX_MAPS);
        // Those without names go first.
        assert!(maps.of_region(1, 1).is_some());
        for cookie in 0..5_000 {
            maps.sampled(999, 999, cookie);
        }
        let regions = maps.known.values().map(|known| known.regions.len());
        assert_eq!(regions.max(), Some(MAX_REGIONS));
    }

    #[test]
    fn a_map_without_an_end_is_cut_and_not_asked_for_again() {
        let mut maps = maps();
        let text = LINE.repeat(20_000);
        maps.sampled(1, 7, 2);
        let (_, mut offset) = maps.ask(false).unwrap();
        while let Ok((0, true)) = maps.take((7, offset), &text, false) {
            offset += text.len() as u64;
        }
        assert!(offset <= super::super::MAX_TEXT_BYTES);
        assert_eq!(maps.take((7, offset), &text, false), Err(NotAsked));
        assert_eq!(maps.counts().cut, 1);
        maps.sampled(1, 7, 2);
        assert_eq!(maps.ask(true), None);
        assert_eq!(told_after(&mut maps, 300), None);
        // All of them together have a bound, too.
        for tgid in 8..100 {
            maps.sampled(1, tgid, 2);
            let (_, mut offset) = maps.ask(false).unwrap();
            while let Ok((0, true)) = maps.take((tgid, offset), &text, false) {
                offset += text.len() as u64;
            }
        }
        let kept: usize = maps.known.values().map(|known| known.map.bytes()).sum();
        assert!(kept == maps.kept && kept <= MAX_KEPT, "{kept}");
    }
}
