//! The table of an address space that is seen for the first time.

use std::ops::ControlFlow;

use vm_memory::GuestMemoryBackend;

use super::super::tables::Content;
use super::super::tables::Progress;
use super::super::vma::{self, Found};
use super::super::walker::Stop;
use super::{GuestWorld, Mm};
use crate::event_buffer::record::NO_COOKIE;
use crate::fault::Fault;

/// Work that is left for what follows when the mappings of a new table are looked at again.
const WORK_PER_CHECK: u32 = 64;

/// How often the table of an address space is made before its mappings are only taken over one by one.
const MAX_BUILDS: u8 = 3;

/// Work that making a table takes for each VMA, at most, besides reading new files.
const WORK_PER_VMA: u32 = 2;

/// A VMA on its way into a table.
#[derive(Debug)]
pub(super) struct Taken {
    found: Found,
    content: Content,
    /// Whether it was there as it is at one time together with its file.
    holds: bool,
}

impl<M: GuestMemoryBackend> GuestWorld<'_, M> {
    /// Takes over every executable mapping when an address space is seen for the first time, so that samples that come when
    /// it is gone can still be resolved. Whether there is more now than before.
    pub(super) fn build(&mut self, mm: Mm) -> Result<bool, Stop> {
        let Some(entry) = self.memory.tables.entry_mut(mm.place) else {
            return Ok(false);
        };
        let Progress::Tried(tries @ 0..MAX_BUILDS) = entry.progress else {
            return Ok(false);
        };
        entry.progress = Progress::Tried(tries + 1);
        if let Some(offset) = self.walker.layout.mm.vma_count {
            let count = self.walker.u32(mm.key.space, offset, Fault::BadMapping)?;
            let work = count.saturating_mul(WORK_PER_VMA);
            if work > self.walker.ram.work_left() {
                return Ok(false);
            }
        }
        let mut scratch = std::mem::take(&mut self.memory.scratch);
        let taken = self.take_over(mm, &mut scratch);
        self.memory.scratch = scratch;
        taken.map(|()| true)
    }

    /// Takes over every executable mapping of `mm`, by way of `taken`.
    fn take_over(&mut self, mm: Mm, taken: &mut Vec<Taken>) -> Result<(), Stop> {
        taken.clear();
        let space = mm.key.space;
        let sequence = self.settled_sequence(mm)?;
        let executable = self.walker.layout.vma.executable;
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) =
            vma::walk(&mut self.walker, space, &mut |found| {
                if executable == 0 || found.vma.flags & executable != 0 {
                    taken.push(Taken {
                        found,
                        content: Content::Memory(NO_COOKIE),
                        holds: false,
                    });
                }
                ControlFlow::Continue(())
            })?;
        taken.retain_mut(|taken| match taken.found.vma.file {
            // Memory without a file gets its cookie when a sample is in it.
            0 => true,
            // A file that cannot be read is no reason to do without the others.
            file => self.file_cookie(file).is_ok_and(|cookie| {
                if cookie != NO_COOKIE {
                    taken.content = Content::File(cookie);
                }
                true
            }),
        });
        // Now that they are in the cache, another look costs little. Those that get none get it when they are used.
        let is_same = sequence.is_some() && sequence == vma::sequence(&mut self.walker, space)?;
        for Taken { found, holds, .. } in &mut *taken {
            if is_same {
                *holds = true;
            } else if self.walker.ram.work_left() > WORK_PER_CHECK {
                *holds = vma::is_still_there(&mut self.walker, space, found)?;
            }
        }
        let has_space = self.check_task(mm).is_ok();
        for taken in &*taken {
            // A file of which nothing is known yet is looked at with its first sample.
            let is_known = match taken.content {
                Content::File(cookie) => !self.wants_build(cookie),
                Content::Memory(_) => false,
            };
            let checked = match taken.holds && has_space && is_known {
                true => self.sync,
                false => 0,
            };
            let region = self.region(&taken.found.vma, taken.content, checked);
            self.remember(mm, taken.found, region);
        }
        if let Some(entry) = self.memory.tables.entry_mut(mm.place) {
            entry.progress = Progress::Done;
        }
        Ok(())
    }
}
