//! Build-ids of the files that samples are in, and vDSOs, read from where a process has them mapped.
//!
//! A file's build-id is looked for with the first sample in it that is looked up in the guest; while its page is not in memory,
//! again in later syncs, a bounded number of times. It is work of its own, rationed like any other, and never a part of the
//! sample's answer. An anonymous region of a vDSO's size is looked at in the same way: whether it holds one.

use vm_memory::GuestMemoryBackend;

use super::super::build_id::{self, Image};
use super::super::memory::{MemoryError, Ram};
use super::super::paging::{self, Levels, WalkError};
use super::super::tables::{Key, Tables};
use super::super::vma::{self, Place, Vma};
use super::super::walker::Stop;
use super::{Answer, GuestWorld, Mm};
use crate::cookies::{FileBuild, MAX_VDSO_BYTES};
use crate::fault::Fault;
use crate::sync::Lookup;

/// Work to read a build-id with: a search for the mapping of the file's start, three pages that are walked to, and 4 KiB of
/// copies take about a hundred. More for trees that are walked without a linear map, and for a second try.
const WORK_PER_BUILD_ID: u32 = 1_024;

/// Bytes of a page.
const PAGE_BYTES: usize = 4_096;

/// Mappings below the one with the sample that are looked at for the start of the file. Linkers make four or five.
const MAX_SEGMENTS: usize = 8;

/// How an ELF file begins.
const MAGIC: &[u8; 4] = b"\x7fELF";

/// What a Linux vDSO calls itself, among the strings of its dynamic section.
const VDSO_SONAMES: [&[u8]; 2] = [b"\0linux-vdso.so.1\0", b"\0linux-gate.so.1\0"];

/// Mappings whose file is looked at again in the next sync, the samples of a sync are commonly in some ten.
const MAX_UNREAD: usize = 64;

/// Mappings of files whose build-id was not to be had in this sync.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// By address space and first address.
    mappings: Vec<(Key, u64)>,
}

impl Unread {
    fn remember(&mut self, mapping: (Key, u64)) {
        if self.mappings.len() < MAX_UNREAD && !self.mappings.contains(&mapping) {
            self.mappings.push(mapping);
        }
    }

    /// Has the next sample in each of them looked up in the guest.
    pub fn look_again(&mut self, tables: &mut Tables) {
        for (key, start) in self.mappings.drain(..) {
            tables.recheck(key, start);
        }
    }
}

/// What came of reading a file's build-id.
enum Reading {
    /// All that will ever be known; [`FileBuild::Unknown`] when the start of the file is not mapped.
    Final(FileBuild),
    /// A page is not in memory now.
    NotPresent,
}

/// The start of a file as a process has it mapped.
struct Mapped<'r, 'm, M: GuestMemoryBackend> {
    ram: &'r mut Ram<'m, M>,
    levels: Levels,
    /// GPA of the process's top-level page table.
    root: u64,
    start: u64,
    bytes: u64,
}

impl<M: GuestMemoryBackend> Image for Mapped<'_, '_, M> {
    type Error = WalkError;

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), WalkError> {
        // Within a mapping, which ends below 2^64.
        let (mut gva, mut into) = (self.start.wrapping_add(offset), into);
        while !into.is_empty() {
            let found = paging::translate(self.ram, self.levels, self.root, gva)?;
            let left = usize::try_from(found.bytes_left()).unwrap_or(usize::MAX);
            let count = left.min(into.len());
            let (part, rest) = into.split_at_mut(count);
            self.ram.read(found.gpa, part)?;
            into = rest;
            gva = gva.wrapping_add(count as u64);
        }
        Ok(())
    }
}

/// Why memory of a process in this address space cannot be read.
fn stop(error: WalkError, space: u64) -> Stop {
    let fault = match error {
        WalkError::Memory(MemoryError::OverBudget) => Fault::OverBudget,
        WalkError::Cycle(_)
        | WalkError::Reserved(_)
        | WalkError::Memory(_)
        | WalkError::NotCanonical(_)
        | WalkError::NotPresent(_) => Fault::BadPageTable,
    };
    Stop::Bad(fault, space)
}

impl<'a, M: GuestMemoryBackend> GuestWorld<'a, M> {
    /// Whether the build-id of a file may be read.
    pub(super) fn wants_build(&self, cookie: u64) -> bool {
        self.walker.layout.mm.page_table.is_some() && self.cookies.wants_build(cookie)
    }

    /// Reads the build-id of the file that a sample at `address` was just found in, unless that is known or given up; of an anonymous
    /// region, the vDSO if it is one.
    pub(super) fn identify(&mut self, mm: Mm, address: u64, lookup: Lookup) {
        let Some(page_table) = self.walker.layout.mm.page_table else {
            return;
        };
        match lookup {
            Lookup::File { cookie, .. } if self.cookies.wants_build(cookie) => {
                let Some(work) = self.work_to_identify() else {
                    return self.look_again(mm, address);
                };
                if !self.cookies.try_build(cookie, self.sync) {
                    return;
                }
                let read = self.ask_aside(work, |world| {
                    world.read_build(mm, address, cookie, page_table)
                });
                let Answer::Found(Reading::Final(build)) = read else {
                    return self.look_again(mm, address);
                };
                self.cookies.set_build(cookie, build);
            }
            Lookup::Anonymous { cookie, .. } if self.cookies.wants_vdso(cookie) => {
                let Some(work) = self.work_to_identify() else {
                    return self.look_again(mm, address);
                };
                if !self.cookies.try_vdso(cookie, self.sync) {
                    return;
                }
                let read = self.ask_aside(work, |world| world.read_vdso(mm, address, page_table));
                let Answer::Found(Some(image)) = read else {
                    return self.look_again(mm, address);
                };
                self.cookies.set_vdso(cookie, image.as_deref());
            }
            _ => {}
        }
    }

    /// Asks within `work`. That it does not suffice is nothing wrong: a long list of mappings takes more to search.
    fn ask_aside<T>(
        &mut self,
        work: u32,
        question: impl FnMut(&mut Self) -> Result<T, Stop>,
    ) -> Answer<T> {
        let (answer, wrong) = self.attempt(work, question);
        if let Some((fault, pointer)) = wrong.filter(|wrong| wrong.0 != Fault::OverBudget) {
            self.count_wrong(fault, pointer);
        }
        answer
    }

    /// Work to identify a file or region with: of what the look-up of the sample has left, so that both together cost no more than a
    /// question may. No try is lost when there is not enough left.
    fn work_to_identify(&self) -> Option<u32> {
        let left = self.walker.ram.work_left();
        let work = self.memory.budget.grant(WORK_PER_BUILD_ID.min(left));
        work.filter(|work| *work == WORK_PER_BUILD_ID)
    }

    /// Has the next sample in the mapping of `address` looked up in the guest when the next sync comes.
    fn look_again(&mut self, mm: Mm, address: u64) {
        let entry = self.memory.tables.entry(mm.place);
        let start = entry.and_then(|entry| {
            let index = entry.table.find(address)?;
            Some(entry.table.origin(index)?.vma.start)
        });
        if let Some(start) = start {
            self.memory.unread.remember((mm.key, start));
        }
    }

    /// The start of `vma` as its process has it in memory.
    fn mapped(
        &mut self,
        space: u64,
        vma: &Vma,
        page_table: u32,
    ) -> Result<Mapped<'_, 'a, M>, Stop> {
        let table = self.walker.u64(space, page_table, Fault::BadMapping)?;
        Ok(Mapped {
            root: self.walker.gpa(table, Fault::BadPageTable)?,
            levels: self.walker.space.description().levels,
            ram: &mut self.walker.ram,
            start: vma.start,
            bytes: vma.end.min(self.user_end).saturating_sub(vma.start),
        })
    }

    /// Reads the anonymous region at `address` if it holds a vDSO: `Some(None)` when it holds none, `None` when its first page is not in
    /// memory. Pages behind that are not are left zero.
    fn read_vdso(
        &mut self,
        mm: Mm,
        address: u64,
        page_table: u32,
    ) -> Result<Option<Option<Vec<u8>>>, Stop> {
        let space = mm.key.space;
        let place = vma::find(&mut self.walker, space, address)?;
        let region = place.vma(address).filter(|vma| vma.file == 0);
        let region = region.ok_or(Stop::Changed)?;
        let bytes = region.end.saturating_sub(region.start).min(MAX_VDSO_BYTES);
        let mut mapped = self.mapped(space, &region, page_table)?;
        let mut magic = [0; MAGIC.len()];
        match mapped.read(0, &mut magic) {
            Ok(()) => {}
            Err(WalkError::NotPresent(_)) => return Ok(None),
            Err(error) => return Err(stop(error, space)),
        }
        // Other memory is none of the host's business.
        if magic != *MAGIC {
            return Ok(Some(None));
        }
        let mut image = vec![0; usize::try_from(bytes).unwrap_or(0)];
        for (page, offset) in image.chunks_mut(PAGE_BYTES).zip((0..).step_by(PAGE_BYTES)) {
            match mapped.read(offset, page) {
                Ok(()) => {}
                Err(WalkError::NotPresent(_)) => page.fill(0),
                Err(error) => return Err(stop(error, space)),
            }
        }
        place.check(&mut self.walker, space)?;
        self.check_task(mm)?;
        let calls_itself = |name: &&[u8]| image.windows(name.len()).any(|bytes| bytes == *name);
        let is_vdso = VDSO_SONAMES.iter().any(calls_itself);
        Ok(Some(is_vdso.then_some(image)))
    }

    /// Reads the build-id of the file that is mapped at `address`, which must be the one with this cookie.
    fn read_build(
        &mut self,
        mm: Mm,
        address: u64,
        cookie: u64,
        page_table: u32,
    ) -> Result<Reading, Stop> {
        let space = mm.key.space;
        let sequence = self.settled_sequence(mm)?;
        let place = vma::find(&mut self.walker, space, address)?;
        let sampled = place.vma(address).filter(|vma| vma.file != 0);
        let sampled = sampled.ok_or(Stop::Changed)?;
        let Some((place, start)) = self.start_of_file(space, sampled, place)? else {
            return Ok(Reading::Final(FileBuild::Unknown));
        };
        let mut image = self.mapped(space, &start, page_table)?;
        let reading = match build_id::find(&mut image) {
            Ok(Some(id)) => Reading::Final(FileBuild::Id(id)),
            Ok(None) => Reading::Final(FileBuild::WithoutId),
            Err(WalkError::NotPresent(_) | WalkError::NotCanonical(_)) => Reading::NotPresent,
            Err(error) => return Err(stop(error, space)),
        };
        // What was read belongs to the file if the mapping was there before and is there now: while it is, so is its file.
        if self.file_cookie(start.file)? != cookie {
            return Err(Stop::Changed);
        }
        place.check(&mut self.walker, space)?;
        if sequence != vma::sequence(&mut self.walker, space)? {
            return Err(Stop::Changed);
        }
        self.check_task(mm)?;
        Ok(reading)
    }

    /// The mapping of the start of the file that `sampled`, found at `place`, maps a part of.
    fn start_of_file(
        &mut self,
        space: u64,
        sampled: Vma,
        place: Place,
    ) -> Result<Option<(Place, Vma)>, Stop> {
        if sampled.page_offset == 0 {
            return Ok(Some((place, sampled)));
        }
        let is_start = |vma: &Vma| vma.file == sampled.file && vma.page_offset == 0;
        // Commonly each part is as far from the first as in the file.
        let page_shift = self.walker.layout.vma.page_shift;
        let offset = sampled.file_offset(sampled.start, page_shift);
        if let Some(address) = sampled.start.checked_sub(offset) {
            let place = vma::find(&mut self.walker, space, address)?;
            if let Some(vma) = place.vma(address).filter(is_start) {
                return Ok(Some((place, vma)));
            }
        }
        let mut above = sampled;
        for _ in 0..MAX_SEGMENTS {
            let Some(address) = above.start.checked_sub(1) else {
                break;
            };
            let place = vma::find(&mut self.walker, space, address)?;
            match place.vma(address) {
                Some(vma) if is_start(&vma) => return Ok(Some((place, vma))),
                Some(vma) if vma.file == sampled.file => above = vma,
                _ => break,
            }
        }
        Ok(None)
    }
}
