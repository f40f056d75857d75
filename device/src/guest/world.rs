//! The guest's world as the sync pipeline asks for it, read from live RAM.

use vm_memory::GuestMemoryBackend;

use super::memory::Ram;
use super::vma::{self, Vma};
use super::walker::{Stop, Walker};
use super::{Guest, path, task};
use crate::cookies::{Cookies, OVERFLOW_COOKIE};
use crate::event_buffer::record::NO_COOKIE;
use crate::fault::{Fault, FaultLog};
use crate::sync::{Lookup, Task, World};

/// How often a look-up is tried while the guest changes what is read. Measured on Linux 6.1 under heavy mmap
/// churn, fewer than 1 in 100 need a second try.
const MAX_TRIES: u32 = 8;

/// Work for one question of the pipeline: the longest list of VMAs, each read once in a space that is walked without
/// large pages, and a path.
pub(crate) const WORK_PER_QUESTION: u32 = 512 * 1024;

/// Work for one sync, a fraction of a second: so long at most may a guest hold the device's lock, and with it a
/// vCPU that rang its doorbell, with structures made for it.
pub(crate) const WORK_PER_SYNC: u32 = 4 * 1024 * 1024;

/// VMAs and files that a sync remembers: program and libraries of a few processes.
const CACHED: usize = 16;

/// An address space. Two tasks with the same one and the same process id share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mm {
    pointer: u64,
    tgid: u32,
}

/// A VMA that was found in this sync, with what it stands for.
#[derive(Clone, Copy, Debug)]
struct CachedVma {
    mm: Mm,
    sequence: Option<u64>,
    vma: Vma,
    cookie: u64,
}

impl CachedVma {
    const fn lookup(&self, address: u64, page_shift: u32) -> Lookup {
        let cookie = self.cookie;
        if self.vma.file == 0 {
            let offset = address;
            return Lookup::Anonymous { cookie, offset };
        }
        let offset = self.vma.file_offset(address, page_shift);
        Lookup::File { cookie, offset }
    }
}

/// The last few entries, the oldest replaced first. It lives for one sync: a guest that follows the doorbell's rules changes
/// nothing meanwhile that the samples of this sync need, and each use is checked besides.
#[derive(Debug)]
struct Recent<T> {
    entries: [Option<T>; CACHED],
    next: usize,
}

impl<T: Copy> Recent<T> {
    const fn new() -> Self {
        Self {
            entries: [None; CACHED],
            next: 0,
        }
    }

    fn find(&self, matches: impl Fn(&T) -> bool) -> Option<(usize, T)> {
        let mut entries = self.entries.iter().enumerate();
        entries.find_map(|(index, entry)| entry.filter(&matches).map(|found| (index, found)))
    }

    fn forget(&mut self, index: usize) {
        self.entries[index] = None;
    }

    fn insert(&mut self, entry: T) {
        self.entries[self.next] = Some(entry);
        self.next = (self.next + 1) % CACHED;
    }
}

/// Guest RAM for the time of one sync.
#[derive(Debug)]
pub(crate) struct GuestWorld<'a, M> {
    walker: Walker<'a, M>,
    cookies: &'a mut Cookies,
    faults: &'a FaultLog,
    user_end: u64,
    /// The task that the pipeline asked for last: whose samples follow.
    task: u64,
    vmas: Recent<CachedVma>,
    /// File pointer and cookie.
    files: Recent<(u64, u64)>,
    work_left: u32,
}

impl<'a, M: GuestMemoryBackend> GuestWorld<'a, M> {
    pub fn new(
        guest: &'a mut Guest,
        memory: &'a M,
        cookies: &'a mut Cookies,
        faults: &'a FaultLog,
    ) -> Self {
        guest.space.flush();
        let user_end = guest.space.description().user_end;
        Self {
            walker: Walker {
                ram: Ram::new(memory, 0),
                space: &mut guest.space,
                layout: guest.layout,
            },
            cookies,
            faults,
            user_end,
            task: 0,
            vmas: Recent::new(),
            files: Recent::new(),
            work_left: WORK_PER_SYNC,
        }
    }

    /// Asks until the guest holds still, within the work for one question. `None` when it does not; what is wrong is
    /// counted, once.
    fn ask<T>(&mut self, mut question: impl FnMut(&mut Self) -> Result<T, Stop>) -> Option<T> {
        let work = self.work_left.min(WORK_PER_QUESTION);
        self.walker.ram.set_work(work);
        let mut stop = Stop::Changed;
        let mut answer = None;
        for _ in 0..MAX_TRIES {
            match question(self) {
                Ok(found) => {
                    answer = Some(found);
                    break;
                }
                Err(again) => stop = again,
            }
            if let Stop::Bad(Fault::OverBudget, _) = stop {
                break;
            }
        }
        self.work_left -= work - self.walker.ram.work_left();
        if let (None, Stop::Bad(fault, pointer)) = (&answer, stop) {
            let task = self.task;
            self.faults
                .count(fault, || format!("at {pointer:#x}, task {task:#x}"));
        }
        answer
    }

    /// The cookie of the file at `pointer`.
    fn file_cookie(&mut self, pointer: u64) -> Result<u64, Stop> {
        if let Some((_, (_, cookie))) = self.files.find(|&(file, _)| file == pointer) {
            return Ok(cookie);
        }
        let facts = path::read_file(&mut self.walker, pointer)?;
        let cookie = self.cookies.file(facts.key, facts.deleted);
        self.count_overflow(cookie);
        self.files.insert((pointer, cookie));
        Ok(cookie)
    }

    fn count_overflow(&mut self, cookie: u64) {
        if cookie == OVERFLOW_COOKIE {
            self.faults.count(Fault::TooManyCookies, String::new);
        }
    }

    /// The sequence number of `mm` when no change is under way.
    fn settled_sequence(&mut self, mm: Mm) -> Result<Option<u64>, Stop> {
        let sequence = vma::sequence(&mut self.walker, mm.pointer)?;
        match sequence {
            Some(odd) if odd % 2 != 0 => Err(Stop::Changed),
            settled => Ok(settled),
        }
    }

    /// Whether the task still has `mm`, and `mm` its sequence number.
    fn check(&mut self, mm: Mm, sequence: Option<u64>) -> Result<(), Stop> {
        if sequence != vma::sequence(&mut self.walker, mm.pointer)?
            || task::mm(&mut self.walker, self.task)? != mm.pointer
        {
            return Err(Stop::Changed);
        }
        Ok(())
    }

    /// Looks among the VMAs that this sync has found already, each still as it was.
    fn find_cached(&mut self, mm: Mm, address: u64) -> Option<Lookup> {
        let matches = |entry: &CachedVma| entry.mm == mm && entry.vma.contains(address);
        let (index, entry) = self.vmas.find(matches)?;
        let mut check = || {
            // With a sequence number that alone tells; without one, the VMA itself does.
            if entry.sequence.is_none() {
                entry.vma.check(&mut self.walker, mm.pointer)?;
            }
            self.check(mm, entry.sequence)
        };
        match check() {
            Ok(()) => Some(entry.lookup(address, self.walker.layout.vma.page_shift)),
            Err(_) => {
                self.vmas.forget(index);
                None
            }
        }
    }

    /// Walks to the VMA of `address`: copy, look up, check that nothing changed.
    fn find(&mut self, mm: Mm, address: u64) -> Result<Lookup, Stop> {
        if let Some(known) = self.find_cached(mm, address) {
            return Ok(known);
        }
        let sequence = self.settled_sequence(mm)?;
        let place = vma::find(&mut self.walker, mm.pointer, address)?;
        let Some(vma) = place.vma(address) else {
            place.check(&mut self.walker, mm.pointer)?;
            self.check(mm, sequence)?;
            return Ok(Lookup::Unmapped);
        };
        let cookie = match vma.file {
            0 => self.cookies.anonymous(mm.tgid, vma.start, vma.end),
            file => self.file_cookie(file)?,
        };
        place.check(&mut self.walker, mm.pointer)?;
        self.check(mm, sequence)?;
        if vma.file == 0 {
            self.count_overflow(cookie);
        }
        let found = CachedVma {
            mm,
            sequence,
            vma,
            cookie,
        };
        self.vmas.insert(found);
        Ok(found.lookup(address, self.walker.layout.vma.page_shift))
    }
}

impl<M: GuestMemoryBackend> World for GuestWorld<'_, M> {
    type Mm = Mm;

    fn task(&mut self, pointer: u64) -> Option<Task<Mm>> {
        self.task = pointer;
        let fields = self.ask(|world| {
            world
                .walker
                .space
                .prove_linear(&mut world.walker.ram, pointer);
            task::read(&mut world.walker, pointer)
        })?;
        let mm = Mm {
            pointer: fields.own_mm(),
            tgid: fields.tgid,
        };
        Some(Task {
            pid: fields.pid,
            tgid: fields.tgid,
            mm: (fields.own_mm() != 0).then_some(mm),
        })
    }

    fn exe_cookie(&mut self, mm: Mm) -> u64 {
        let Some(offset) = self.walker.layout.mm.exe_file else {
            return NO_COOKIE;
        };
        let cookie = self.ask(|world| {
            let file = world.walker.u64(mm.pointer, offset, Fault::BadMapping)?;
            if file == 0 {
                return Ok(NO_COOKIE);
            }
            let cookie = world.file_cookie(file)?;
            let again = world.walker.u64(mm.pointer, offset, Fault::BadMapping)?;
            if again != file {
                return Err(Stop::Changed);
            }
            Ok(cookie)
        });
        cookie.unwrap_or(NO_COOKIE)
    }

    fn lookup(&mut self, mm: Mm, address: u64) -> Lookup {
        if address >= self.user_end {
            return Lookup::Unmapped;
        }
        self.ask(|world| world.find(mm, address))
            .unwrap_or(Lookup::Raced)
    }
}
