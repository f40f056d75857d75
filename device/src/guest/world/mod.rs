//! The guest's world as the sync pipeline asks for it: from what the host remembers, and from live RAM.

mod ahead;
mod build;
mod build_ids;
mod read_tasks;

use vm_memory::GuestMemoryBackend;

use super::budget::Budget;
use super::changes::ChangeWords;
use super::files::Files;
use super::memory::Ram;
use super::tables::{Content, Key, Place, Program, Region, Tables};
use super::task::{TaskFields, TaskKind};
use super::vma::{self, Found, Vma};
use super::walker::{Stop, Walker};
use super::{Guest, task};
use crate::cookies::{Cookies, OVERFLOW_COOKIE};
use crate::event_buffer::record::NO_COOKIE;
use crate::fault::{Fault, FaultLog};
use crate::perf_map::PerfMaps;
use crate::sync::{LANES, Lookup, Task, World};

use ahead::Ahead;
use build::Taken;
use build_ids::Unread;
use read_tasks::ReadTasks;

/// How often a look-up is tried while the guest changes what is read. Measured on Linux 6.1 under heavy mmap
/// churn, fewer than 1 in 100 need a second try.
const MAX_TRIES: u32 = 8;

/// How often what looks wrong is read again: a change may look wrong for a moment, while a cycle costs its whole bound each time.
const MAX_TRIES_OF_WRONG: u32 = 3;

/// Work to read a task with: a few fields, walked to without large pages, tried a few times.
const WORK_PER_TASK: u32 = 512;

/// An address space. Two tasks with the same one and the same process id share it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mm {
    key: Key,
    place: Place,
    state: State,
    /// The first sync whose look at the guest still counts.
    floor: u32,
}

/// What there is of an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its task has it.
    Present,
    /// The process has given it up: there is no more of it than what is remembered.
    Late,
    /// Its task has not been read: there was no work left for that.
    Throttled,
}

impl Mm {
    /// The address space of a task that has not been read.
    const THROTTLED: Self = Self {
        key: Key { space: 0, tgid: 0 },
        place: Place::NOWHERE,
        state: State::Throttled,
        floor: u32::MAX,
    };
}

impl PartialEq for Mm {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// What a question of the pipeline comes to.
enum Answer<T> {
    Found(T),
    Raced,
    Throttled,
}

/// What outlives a sync.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    pub tables: Tables,
    pub files: Files,
    pub budget: Budget,
    /// VMAs on their way into a table.
    scratch: Vec<Taken>,
    tasks: ReadTasks,
    unread: Unread,
}

/// Guest RAM for the time of one sync.
///
/// What is remembered of mappings is compared with the guest before it is used: once in this time, for the samples of a sync were taken before
/// it began, so what held at any time of it is as good; or less often, where the driver counts changes and has counted none.
#[derive(Debug)]
pub(crate) struct GuestWorld<'a, M: GuestMemoryBackend> {
    walker: Walker<'a, M>,
    memory: &'a mut Remembered,
    cookies: &'a mut Cookies,
    faults: &'a FaultLog,
    user_end: u64,
    keeps_late: bool,
    change_words: Option<ChangeWords>,
    /// The task that the pipeline asked for last: whose samples follow.
    task: u64,
    /// Number of this sync.
    sync: u32,
    /// Samples that have not been paid into the budget yet.
    samples: u32,
    ahead: Ahead,
    /// Who wants to know of samples in anonymous regions, and the last that it was told: address space and cookie.
    maps: Option<&'a mut PerfMaps>,
    last_anonymous: (Key, u64),
}

impl<'a, M: GuestMemoryBackend> GuestWorld<'a, M> {
    /// A world for one sync; there have been `full_syncs` in which every vCPU took part.
    pub fn new(
        guest: &'a mut Guest,
        memory: &'a M,
        cookies: &'a mut Cookies,
        faults: &'a FaultLog,
        full_syncs: u64,
    ) -> Self {
        guest.space.flush();
        guest.remembered.tables.begin(full_syncs);
        guest
            .remembered
            .unread
            .look_again(&mut guest.remembered.tables);
        Self {
            user_end: guest.space.description().user_end,
            keeps_late: guest.keeps_late,
            change_words: guest.change_words,
            sync: guest.remembered.tables.sync(),
            walker: Walker {
                ram: Ram::new(memory, 0),
                space: &mut guest.space,
                layout: guest.layout,
            },
            memory: &mut guest.remembered,
            cookies,
            faults,
            task: 0,
            samples: 0,
            ahead: Ahead::default(),
            maps: None,
            last_anonymous: (Mm::THROTTLED.key, NO_COOKIE),
        }
    }

    /// Has samples in anonymous regions told to `maps`.
    pub const fn watch(&mut self, maps: &'a mut PerfMaps) {
        self.maps = Some(maps);
    }

    /// A sample was in an anonymous region.
    fn tell(&mut self, key: Key, cookie: u64) {
        let is_region = cookie != OVERFLOW_COOKIE && self.cookies.vdso(cookie).is_none();
        if let Some(maps) = self.maps.as_deref_mut().filter(|_| is_region) {
            maps.sampled(key.space, key.tgid, cookie);
        }
        self.last_anonymous = (key, cookie);
    }

    /// What a cookie stands for.
    #[cfg(any(test, feature = "test-utils"))]
    pub(super) fn cookie_target(&self, cookie: u64) -> Option<crate::CookieTarget> {
        self.cookies.target(cookie)
    }

    /// Mappings of the address space at `space` are about to go.
    pub fn space_changes(&mut self, space: u64) {
        self.memory.tables.changes(space);
    }

    /// A task is about to give up the address space at `space`.
    pub fn space_released(&mut self, space: u64) {
        self.memory.tables.released(space);
        if let Some(maps) = self.maps.as_deref_mut() {
            maps.released(space);
        }
    }

    /// Asks until the guest holds still, within what the budget grants. What is wrong is counted, once.
    fn ask<T>(&mut self, question: impl FnMut(&mut Self) -> Result<T, Stop>) -> Answer<T> {
        self.memory.budget.earn(std::mem::take(&mut self.samples));
        match self.memory.budget.question() {
            Some(work) => self.ask_within(work, question),
            None => Answer::Throttled,
        }
    }

    /// Asks within `work`. What is wrong is counted, once.
    fn ask_within<T>(
        &mut self,
        work: u32,
        question: impl FnMut(&mut Self) -> Result<T, Stop>,
    ) -> Answer<T> {
        let (answer, wrong) = self.attempt(work, question);
        if let Some((fault, pointer)) = wrong {
            self.count_wrong(fault, pointer);
        }
        answer
    }

    fn count_wrong(&self, fault: Fault, pointer: u64) {
        let task = self.task;
        self.faults
            .count(fault, || format!("at {pointer:#x}, task {task:#x}"));
    }

    /// The answer within `work`, and what was wrong where.
    fn attempt<T>(
        &mut self,
        work: u32,
        mut question: impl FnMut(&mut Self) -> Result<T, Stop>,
    ) -> (Answer<T>, Option<(Fault, u64)>) {
        self.walker.ram.set_work(work);
        let mut answer = Answer::Raced;
        let mut wrong = None;
        let mut wrongs = 0;
        for _ in 0..MAX_TRIES {
            match question(self) {
                Ok(found) => {
                    answer = Answer::Found(found);
                    wrong = None;
                    break;
                }
                Err(Stop::Changed) => wrong = None,
                Err(Stop::Gone) => {
                    wrong = None;
                    break;
                }
                Err(Stop::Bad(fault, pointer)) => {
                    wrong = Some((fault, pointer));
                    wrongs += 1;
                    if fault == Fault::OverBudget {
                        answer = Answer::Throttled;
                        break;
                    }
                    if wrongs == MAX_TRIES_OF_WRONG {
                        break;
                    }
                }
            }
        }
        self.memory.budget.spend(work - self.walker.ram.work_left());
        (answer, wrong)
    }

    /// What is remembered and known to hold.
    #[inline]
    fn known(&mut self, mm: Mm, address: u64) -> Option<Lookup> {
        let table = &self.memory.tables.entry(mm.place)?.table;
        // The table may have changed since it was searched, or be another one.
        let region = match table.holding(self.ahead.take(address), address) {
            Some(region) => region,
            None => table.region(table.find(address)?)?,
        };
        (region.checked >= mm.floor).then(|| region.lookup(address))
    }

    /// Looks into the guest.
    #[cold]
    fn look_up(&mut self, mm: Mm, address: u64) -> Lookup {
        if address >= self.user_end {
            return Lookup::Unmapped;
        }
        match mm.state {
            State::Present => {}
            State::Late => return self.look_back(mm, address),
            State::Throttled => return Lookup::Throttled,
        }
        match self.ask(|world| world.resolve(mm, address)) {
            Answer::Found(lookup) => {
                self.identify(mm, address, lookup);
                lookup
            }
            Answer::Raced => Lookup::Raced,
            Answer::Throttled => Lookup::Throttled,
        }
    }

    /// Answers by what is remembered of a process that is gone. That is no look at the guest: to a task that still has the
    /// address space it proves nothing.
    fn look_back(&mut self, mm: Mm, address: u64) -> Lookup {
        let table = self.memory.tables.entry(mm.place).map(|entry| &entry.table);
        let Some((region, origin)) = table.and_then(|table| {
            let index = table.find(address)?;
            Some((*table.region(index)?, table.origin(index)?))
        }) else {
            return Lookup::Unmapped;
        };
        let cookie = match region.is_file {
            true => region.cookie,
            false => self.anonymous_cookie(mm, &origin.vma),
        };
        Region { cookie, ..region }.lookup(address)
    }

    fn resolve(&mut self, mm: Mm, address: u64) -> Result<Lookup, Stop> {
        if let Some(lookup) = self.confirm(mm, address)? {
            return Ok(lookup);
        }
        if self.build(mm)?
            && let Some(lookup) = self.confirm(mm, address)?
        {
            return Ok(lookup);
        }
        self.search(mm, address)
    }

    /// Compares what is remembered with the guest. `None` when it does not hold any more, or nothing is remembered.
    fn confirm(&mut self, mm: Mm, address: u64) -> Result<Option<Lookup>, Stop> {
        let table = self.memory.tables.entry(mm.place).map(|entry| &entry.table);
        let Some((index, origin, remembered)) = table.and_then(|table| {
            let index = table.find(address)?;
            let region = table.region(index)?;
            let cookie = (!region.is_file).then_some(region.cookie);
            Some((index, table.origin(index)?, cookie))
        }) else {
            return Ok(None);
        };
        let remembered = remembered.filter(|&cookie| cookie != NO_COOKIE);
        let known = match origin.vma.file {
            0 => remembered.map(Content::Memory),
            file => {
                let files = &mut self.memory.files;
                match files.known(&mut self.walker, self.sync, file) {
                    // The memory of a file that is gone may be anything.
                    Err(Stop::Bad(Fault::BadPath, _)) => None,
                    known => match known? {
                        Some(NO_COOKIE) => remembered.map(Content::Memory),
                        known => known.map(Content::File),
                    },
                }
            }
        };
        // Behind the look at the file: while the mapping is there, so is its file.
        if !vma::is_still_there(&mut self.walker, mm.key.space, &origin)? {
            return Ok(None);
        }
        let content = match known {
            Some(known) => known,
            None => {
                let read = self.content(mm, &origin.vma)?;
                if !vma::is_still_there(&mut self.walker, mm.key.space, &origin)? {
                    return Ok(None);
                }
                read
            }
        };
        self.check_task(mm)?;
        let now = self.region(&origin.vma, content, self.sync);
        let region = self.memory.tables.change(mm.place, |table| {
            let region = table.region_mut(index)?;
            *region = Region {
                end: region.end,
                ..now
            };
            Some(*region)
        });
        Ok(region.flatten().map(|region| region.lookup(address)))
    }

    /// Walks to the VMA of `address`: copy, look up, check that nothing changed.
    fn search(&mut self, mm: Mm, address: u64) -> Result<Lookup, Stop> {
        let sequence = self.settled_sequence(mm)?;
        let place = vma::find(&mut self.walker, mm.key.space, address)?;
        let found = place.found(address);
        let content = match &found {
            Some(found) => self.content(mm, &found.vma)?,
            None => Content::Memory(NO_COOKIE),
        };
        place.check(&mut self.walker, mm.key.space)?;
        if sequence != vma::sequence(&mut self.walker, mm.key.space)? {
            return Err(Stop::Changed);
        }
        self.check_task(mm)?;
        let Some(found) = found else {
            if self.pays_to_move(mm, address) {
                self.memory.tables.change(mm.place, |table| {
                    if let Some(gone) = table.find(address) {
                        table.remove(gone);
                    }
                });
            }
            return Ok(Lookup::Unmapped);
        };
        let region = self.region(&found.vma, content, self.sync);
        self.remember(mm, found, region);
        Ok(region.lookup(address))
    }

    fn region(&self, vma: &Vma, content: Content, checked: u32) -> Region {
        let (cookie, is_file) = match content {
            Content::File(cookie) => (cookie, true),
            Content::Memory(cookie) => (cookie, false),
        };
        let offset = vma.file_offset(vma.start, self.walker.layout.vma.page_shift);
        Region {
            end: vma.end.min(self.user_end),
            shift: if is_file {
                offset.wrapping_sub(vma.start)
            } else {
                0
            },
            cookie,
            checked,
            is_file,
        }
    }

    fn remember(&mut self, mm: Mm, found: Found, region: Region) {
        let start = found.vma.start;
        if start < region.end && self.memory.tables.has_room(1) && self.pays_to_move(mm, start) {
            let tables = &mut self.memory.tables;
            tables.change(mm.place, |table| table.insert(found, region));
        }
    }

    /// Pays for what moves in a table behind `address`. A guest may have a large one, and change its front with each sample.
    fn pays_to_move(&mut self, mm: Mm, address: u64) -> bool {
        let entry = self.memory.tables.entry(mm.place);
        let bytes = entry.map_or(0, |entry| entry.table.bytes_behind(address));
        self.walker.ram.pay(bytes)
    }

    /// What a VMA maps.
    fn content(&mut self, mm: Mm, vma: &Vma) -> Result<Content, Stop> {
        let file = match vma.file {
            0 => NO_COOKIE,
            file => self.file_cookie(file)?,
        };
        Ok(match file {
            NO_COOKIE => Content::Memory(self.anonymous_cookie(mm, vma)),
            file => Content::File(file),
        })
    }

    fn anonymous_cookie(&mut self, mm: Mm, vma: &Vma) -> u64 {
        let cookie = self.cookies.anonymous(mm.key.tgid, vma.start, vma.end);
        self.count_overflow(cookie);
        cookie
    }

    /// As [`Files::cookie`].
    fn file_cookie(&mut self, file: u64) -> Result<u64, Stop> {
        let files = &mut self.memory.files;
        let cookie = files.cookie(&mut self.walker, self.cookies, self.sync, file)?;
        self.count_overflow(cookie);
        Ok(cookie)
    }

    fn count_overflow(&self, cookie: u64) {
        if cookie == OVERFLOW_COOKIE {
            self.faults.count(Fault::TooManyCookies, String::new);
        }
    }

    /// The sequence number of `mm` when no change is under way.
    fn settled_sequence(&mut self, mm: Mm) -> Result<Option<u64>, Stop> {
        let sequence = vma::sequence(&mut self.walker, mm.key.space)?;
        match sequence {
            Some(odd) if odd % 2 != 0 => Err(Stop::Changed),
            settled => Ok(settled),
        }
    }

    /// Whether the task still has `mm`: exit and exec take it away before they tear it down.
    fn check_task(&mut self, mm: Mm) -> Result<(), Stop> {
        if task::mm(&mut self.walker, self.task)? != mm.key.space {
            return Err(Stop::Gone);
        }
        Ok(())
    }

    /// Reads a task that has not been read in this sync.
    fn read_task(&mut self, pointer: u64) -> Answer<TaskFields> {
        self.memory.budget.earn(std::mem::take(&mut self.samples));
        let Some(work) = self.memory.budget.grant(WORK_PER_TASK) else {
            return Answer::Throttled;
        };
        let read = self.ask_within(work, |world| {
            world
                .walker
                .space
                .prove_linear(&mut world.walker.ram, pointer);
            task::read(&mut world.walker, pointer)
        });
        match read {
            Answer::Found(fields) => {
                self.memory.tasks.put(self.sync, pointer, fields);
                Answer::Found(fields)
            }
            // As one that is nowhere: it is counted as bad.
            Answer::Raced | Answer::Throttled => Answer::Raced,
        }
    }

    fn read_program(&mut self, mm: Mm, offset: u32) -> Result<Program, Stop> {
        let space = mm.key.space;
        let file = self.walker.u64(space, offset, Fault::BadMapping)?;
        let cookie = match file {
            0 => NO_COOKIE,
            file => self.file_cookie(file)?,
        };
        if self.walker.u64(space, offset, Fault::BadMapping)? != file {
            return Err(Stop::Changed);
        }
        Ok(Program {
            cookie,
            checked: self.sync,
        })
    }
}

impl<M: GuestMemoryBackend> World for GuestWorld<'_, M> {
    type Mm = Mm;

    fn task(&mut self, pointer: u64) -> Option<Task<Mm>> {
        self.task = pointer;
        let fields = match self.memory.tasks.get(self.sync, pointer) {
            Some(fields) => fields,
            None => match self.read_task(pointer) {
                Answer::Found(fields) => fields,
                Answer::Raced => return None,
                Answer::Throttled => {
                    return Some(Task {
                        pid: 0,
                        tgid: 0,
                        mm: Some(Mm::THROTTLED),
                    });
                }
            },
        };
        let tables = &mut self.memory.tables;
        let mm = match fields.own_mm() {
            0 if self.keeps_late && fields.kind != TaskKind::KernelThread => {
                tables.late(fields.tgid).map(|(place, key)| Mm {
                    key,
                    place,
                    state: State::Late,
                    floor: self.sync,
                })
            }
            0 => None,
            space => {
                let key = Key {
                    space,
                    tgid: fields.tgid,
                };
                let (words, ram) = (self.change_words, &mut self.walker.ram);
                let (place, floor) = tables.enter(key, || {
                    ram.set_work(1);
                    words?.settled(ram, space)
                });
                Some(Mm {
                    key,
                    place,
                    state: State::Present,
                    floor,
                })
            }
        };
        Some(Task {
            pid: fields.pid,
            tgid: fields.tgid,
            mm,
        })
    }

    fn exe_cookie(&mut self, mm: Mm) -> u64 {
        let known = self.memory.tables.entry(mm.place);
        let program = known.and_then(|entry| entry.program);
        if let Some(program) = program
            && (program.checked >= mm.floor || mm.state == State::Late)
        {
            return program.cookie;
        }
        let Some(offset) = self
            .walker
            .layout
            .mm
            .exe_file
            .filter(|_| mm.state == State::Present)
        else {
            return NO_COOKIE;
        };
        let Answer::Found(program) = self.ask(|world| world.read_program(mm, offset)) else {
            return NO_COOKIE;
        };
        if let Some(entry) = self.memory.tables.entry_mut(mm.place) {
            entry.program = Some(program);
        }
        program.cookie
    }

    #[inline]
    fn lookup(&mut self, mm: Mm, address: u64) -> Lookup {
        self.samples = self.samples.wrapping_add(1);
        let lookup = match self.known(mm, address) {
            Some(known) => known,
            None => self.look_up(mm, address),
        };
        if let Lookup::Anonymous { cookie, .. } = lookup
            && self.last_anonymous != (mm.key, cookie)
        {
            self.tell(mm.key, cookie);
        }
        lookup
    }

    #[inline]
    fn look_ahead(&mut self, mm: Mm, addresses: [u64; LANES]) {
        if let Some(entry) = self.memory.tables.entry(mm.place) {
            self.ahead = Ahead::new(&entry.table, addresses);
        }
    }
}
