//! VMAs: the sorted list of an address space.

use vm_memory::GuestMemoryBackend;

use super::walker::{Stop, Walker};
use crate::fault::Fault;

/// Most VMAs of an address space that are looked at: Linux's default `vm.max_map_count` is 65,530.
pub const MAX_VMAS: u32 = 65_536;

/// A copy of a VMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vma {
    pub pointer: u64,
    pub start: u64,
    pub end: u64,
    pub page_offset: u64,
    pub file: u64,
    pub next: u64,
}

impl Vma {
    /// Copies the VMA at `pointer`, which must belong to `mm`.
    pub fn read<M: GuestMemoryBackend>(
        walker: &mut Walker<'_, M>,
        mm: u64,
        pointer: u64,
    ) -> Result<Self, Stop> {
        let layout = walker.layout.vma;
        let copied = walker.window(pointer, layout.window, Fault::BadMapping)?;
        let vma = Self {
            pointer,
            start: copied.u64(layout.start),
            end: copied.u64(layout.end),
            page_offset: copied.u64(layout.page_offset),
            file: copied.u64(layout.file),
            next: copied.u64(layout.next),
        };
        if copied.u64(layout.mm) != mm || vma.start >= vma.end {
            return Err(Stop::Bad(Fault::BadMapping, pointer));
        }
        Ok(vma)
    }

    /// Whether `address` lies in it.
    pub const fn contains(&self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// Offset of `address` in the file, wrapping at 64 bits as OProfile's does.
    pub const fn file_offset(&self, address: u64, page_shift: u32) -> u64 {
        self.page_offset
            .wrapping_shl(page_shift)
            .wrapping_add(address.wrapping_sub(self.start))
    }

    /// Whether the guest still has it so.
    pub fn check<M: GuestMemoryBackend>(
        &self,
        walker: &mut Walker<'_, M>,
        mm: u64,
    ) -> Result<(), Stop> {
        match Self::read(walker, mm, self.pointer) {
            Ok(now) if now == *self => Ok(()),
            Ok(_) | Err(Stop::Changed | Stop::Bad(Fault::BadMapping, _)) => Err(Stop::Changed),
            Err(stop) => Err(stop),
        }
    }
}

/// Where a search ended, and what led there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The last VMA that ends at or below the address.
    before: Option<Vma>,
    /// The first VMA that ends above it.
    at: Option<Vma>,
}

impl Place {
    /// The VMA that holds `address`.
    pub fn vma(&self, address: u64) -> Option<Vma> {
        self.at.filter(|vma| vma.contains(address))
    }

    /// Whether the guest still leads there.
    pub fn check<M: GuestMemoryBackend>(
        &self,
        walker: &mut Walker<'_, M>,
        mm: u64,
    ) -> Result<(), Stop> {
        match self.before {
            Some(before) => before.check(walker, mm)?,
            None => {
                let head = walker.u64(mm, walker.layout.mm.list, Fault::BadMapping)?;
                if head != self.at.map_or(0, |vma| vma.pointer) {
                    return Err(Stop::Changed);
                }
            }
        }
        match self.at {
            Some(vma) => vma.check(walker, mm),
            None => Ok(()),
        }
    }
}

/// Searches the list of `mm`. It must ascend, so one that leads back into itself is found out at once; one that goes on
/// for ever ends by the number of VMAs that the address space says it has.
pub(super) fn find<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    mm: u64,
    address: u64,
) -> Result<Place, Stop> {
    let layout = walker.layout.mm;
    let count = match layout.vma_count {
        Some(offset) => walker.u32(mm, offset, Fault::BadMapping)?,
        None => MAX_VMAS,
    };
    let mut pointer = walker.u64(mm, layout.list, Fault::BadMapping)?;
    let mut before: Option<Vma> = None;
    // One more than there are: an insertion may be half done.
    for _ in 0..=count.min(MAX_VMAS) {
        if pointer == 0 {
            return Ok(Place { before, at: None });
        }
        let vma = Vma::read(walker, mm, pointer)?;
        if before.is_some_and(|before| vma.start < before.end) {
            return Err(Stop::Bad(Fault::CyclicList, mm));
        }
        if address < vma.end {
            let at = Some(vma);
            return Ok(Place { before, at });
        }
        pointer = vma.next;
        before = Some(vma);
    }
    Err(Stop::Bad(Fault::CyclicList, mm))
}

/// The sequence number of `mm`, when it has one.
#[inline]
pub(super) fn sequence<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    mm: u64,
) -> Result<Option<u64>, Stop> {
    let Some(counter) = walker.layout.mm.sequence else {
        return Ok(None);
    };
    let value = match counter.is_wide {
        true => walker.u64(mm, counter.offset, Fault::BadMapping)?,
        false => u64::from(walker.u32(mm, counter.offset, Fault::BadMapping)?),
    };
    Ok(Some(value))
}
