//! VMAs: what they are, and how they are found in an address space.
//!
//! | module | what it does |
//! |---|---|
//! | `list` | the sorted list (Linux up to 6.0, the tiny kernel) |
//! | `rb_tree` | the red-black tree (Linux up to 6.0) |
//! | `maple` | the maple tree (Linux 6.1 and later) |
//!
//! The guest changes them meanwhile. A search copies what it looks at and says what must be looked at again, after
//! everything else that the answer depends on: the word that led to the VMA, the VMA itself, and the address space's generation.

mod list;
mod maple;
mod rb_tree;

use std::ops::ControlFlow;

use vm_memory::GuestMemoryBackend;

use super::layout::{Counter, StoreLayout};
use super::walker::{Copied, Stop, Walker};
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
    /// 0 when the layout does not tell.
    pub flags: u64,
}

impl Vma {
    /// Copies the VMA at `pointer`, which must belong to `mm`.
    pub fn read<M: GuestMemoryBackend>(
        walker: &mut Walker<'_, M>,
        mm: u64,
        pointer: u64,
    ) -> Result<Self, Stop> {
        let mut copied = Copied::EMPTY;
        Self::read_into(walker, mm, pointer, &mut copied)
    }

    /// As [`Vma::read`], with what else was copied: the store's fields are in there.
    #[inline]
    fn read_into<M: GuestMemoryBackend>(
        walker: &mut Walker<'_, M>,
        mm: u64,
        pointer: u64,
        copied: &mut Copied,
    ) -> Result<Self, Stop> {
        let layout = walker.layout.vma;
        walker.window(pointer, layout.window, Fault::BadMapping, copied)?;
        let vma = Self {
            pointer,
            start: copied.u64(layout.start),
            end: copied.u64(layout.end),
            page_offset: copied.u64(layout.page_offset),
            file: copied.u64(layout.file),
            flags: layout.flags.map_or(0, |flags| copied.u64(flags)),
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

    /// Whether the guest still has it so. Its flags may change: they say nothing of where an address leads.
    pub fn check<M: GuestMemoryBackend>(
        &self,
        walker: &mut Walker<'_, M>,
        mm: u64,
    ) -> Result<(), Stop> {
        let mapping = |vma: &Self| (vma.start, vma.end, vma.page_offset, vma.file);
        match Self::read(walker, mm, self.pointer) {
            Ok(now) if mapping(&now) == mapping(self) => Ok(()),
            Ok(_) | Err(Stop::Changed | Stop::Bad(Fault::BadMapping, _)) => Err(Stop::Changed),
            Err(stop) => Err(stop),
        }
    }
}

/// A word of the guest that led somewhere, and must still do so when that is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    /// Where the word is.
    word: u64,
    /// What it held.
    value: u64,
    /// The maple node that it lies in, which must not be dead; 0 for other words.
    node: u64,
}

impl Anchor {
    const fn new(word: u64, value: u64) -> Self {
        Self {
            word,
            value,
            node: 0,
        }
    }

    /// Whether the guest still leads there.
    ///
    /// A list or red-black tree may have taken out the owner of the word together with what it leads to, and left the word as it
    /// is. So there it proves something only if the address space's sequence or generation is the same, too.
    pub fn check<M: GuestMemoryBackend>(&self, walker: &mut Walker<'_, M>) -> Result<(), Stop> {
        if walker.u64(self.word, 0, Fault::BadMapping)? != self.value
            || (self.node != 0 && maple::is_dead(walker, self.node)?)
        {
            return Err(Stop::Changed);
        }
        Ok(())
    }
}

/// A VMA and what led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub vma: Vma,
    pub anchor: Anchor,
}

impl Found {
    /// One that nothing led to.
    #[cfg(test)]
    pub(super) const fn unanchored(vma: Vma) -> Self {
        let anchor = Anchor::new(0, 0);
        Self { vma, anchor }
    }

    /// Whether the guest still leads to it and has it so, as far as [`Anchor::check`] can tell.
    pub fn check<M: GuestMemoryBackend>(
        &self,
        walker: &mut Walker<'_, M>,
        mm: u64,
    ) -> Result<(), Stop> {
        self.vma.check(walker, mm)?;
        self.anchor.check(walker)
    }
}

/// Where a search of a list or red-black tree ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Neighbours {
    /// The last VMA that ends at or below the address.
    before: Option<Vma>,
    /// The first VMA that ends above it.
    at: Option<Vma>,
    /// What led to `at`, or to nothing.
    anchor: Anchor,
}

impl Neighbours {
    fn check<M: GuestMemoryBackend>(
        &self,
        walker: &mut Walker<'_, M>,
        mm: u64,
    ) -> Result<(), Stop> {
        for vma in [self.before, self.at].into_iter().flatten() {
            vma.check(walker, mm)?;
        }
        self.anchor.check(walker)
    }
}

/// What a search came to, in the words of its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trail {
    List(Neighbours),
    RbTree(Neighbours),
    Maple(maple::Spot),
}

/// Where a search ended, and what led there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    address: u64,
    generation: Option<u64>,
    trail: Trail,
}

impl Place {
    /// The VMA that holds `address`, for which this place was searched.
    pub fn vma(&self, address: u64) -> Option<Vma> {
        let vma = match &self.trail {
            Trail::List(found) | Trail::RbTree(found) => found.at,
            Trail::Maple(spot) => spot.found.map(|found| found.vma),
        };
        vma.filter(|vma| vma.contains(address))
    }

    /// That VMA, with what led to it.
    pub fn found(&self, address: u64) -> Option<Found> {
        let found = match &self.trail {
            Trail::List(near) | Trail::RbTree(near) => near.at.map(|vma| Found {
                vma,
                anchor: near.anchor,
            }),
            Trail::Maple(spot) => spot.found,
        };
        found.filter(|found| found.vma.contains(address))
    }

    /// Whether the guest still leads there.
    pub fn check<M: GuestMemoryBackend>(
        &self,
        walker: &mut Walker<'_, M>,
        mm: u64,
    ) -> Result<(), Stop> {
        let is_counted = walker.layout.mm.has_counter();
        match &self.trail {
            Trail::Maple(maple::Spot {
                found: Some(found), ..
            }) => found.check(walker, mm)?,
            Trail::List(found) if is_counted => found.check(walker, mm)?,
            Trail::RbTree(found) if is_counted && self.vma(self.address).is_some() => {
                found.check(walker, mm)?;
            }
            // That there is no VMA takes two searches that agree: one beside a rotation, or in a node that is being made into
            // another, may miss it.
            Trail::Maple(_) | Trail::List(_) | Trail::RbTree(_) => {
                if search(walker, mm, self.address)? != self.trail {
                    return Err(Stop::Changed);
                }
            }
        }
        if generation(walker, mm)? != self.generation {
            return Err(Stop::Changed);
        }
        Ok(())
    }
}

fn search<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    mm: u64,
    address: u64,
) -> Result<Trail, Stop> {
    Ok(match walker.layout.mm.store {
        StoreLayout::List(layout) => Trail::List(list::search(walker, layout, mm, address)?),
        StoreLayout::RbTree(layout) => Trail::RbTree(rb_tree::search(walker, layout, mm, address)?),
        StoreLayout::Maple(layout) => Trail::Maple(maple::search(walker, layout, mm, address)?),
    })
}

/// Searches the VMAs of `mm` for the one that holds `address`. The place must be checked before it is believed.
pub(super) fn find<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    mm: u64,
    address: u64,
) -> Result<Place, Stop> {
    let generation = generation(walker, mm)?;
    Ok(Place {
        address,
        generation,
        trail: search(walker, mm, address)?,
    })
}

/// Whether a VMA that was found some time ago is still there and as it was. Only a maple tree can tell without a search: its nodes
/// are dead when they are taken out. Of the other stores what is remembered never counts as proven.
pub(super) fn is_still_there<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    mm: u64,
    found: &Found,
) -> Result<bool, Stop> {
    if !matches!(walker.layout.mm.store, StoreLayout::Maple(_)) {
        return Ok(false);
    }
    match found.check(walker, mm) {
        Ok(()) => Ok(true),
        Err(Stop::Changed | Stop::Bad(Fault::BadMapping | Fault::BadTree, _)) => Ok(false),
        Err(stop) => Err(stop),
    }
}

/// The first VMA of `mm` that ends above `address`, whether it holds it or not. It is as the guest had it a moment ago.
#[cfg_attr(
    not(any(test, feature = "test-utils")),
    expect(dead_code, reason = "guests apply the munmap rule themselves today")
)]
pub(super) fn first_above<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    mm: u64,
    address: u64,
) -> Result<Option<Vma>, Stop> {
    match walker.layout.mm.store {
        StoreLayout::Maple(layout) => maple::first_above(walker, layout, mm, address),
        StoreLayout::List(_) | StoreLayout::RbTree(_) => Ok(match search(walker, mm, address)? {
            Trail::List(found) | Trail::RbTree(found) => found.at,
            Trail::Maple(_) => None,
        }),
    }
}

/// Visits the VMAs of `mm` in ascending order, at most [`MAX_VMAS`], until `visit` breaks off.
///
/// They are as the guest had them one after the other, which need not be how it ever had them all: one that is used later is checked
/// then. After an error what was visited is worth nothing.
pub(super) fn walk<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    mm: u64,
    visit: &mut dyn FnMut(Found) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Stop> {
    let mut order = Order {
        mm,
        visit,
        left: MAX_VMAS,
        end: 0,
    };
    match walker.layout.mm.store {
        StoreLayout::List(layout) => list::walk(walker, layout, &mut order),
        StoreLayout::RbTree(layout) => rb_tree::walk(walker, layout, &mut order),
        StoreLayout::Maple(layout) => maple::walk(walker, layout, &mut order),
    }
}

/// What every walk in order holds to: a bounded number of VMAs, ascending.
struct Order<'a> {
    mm: u64,
    visit: &'a mut dyn FnMut(Found) -> ControlFlow<()>,
    /// VMAs that may still come.
    left: u32,
    /// End of the one before.
    end: u64,
}

impl Order<'_> {
    fn next(&mut self, found: Found) -> Result<ControlFlow<()>, Stop> {
        let left = self.left.checked_sub(1);
        let left = left.filter(|_| self.end <= found.vma.start);
        self.left = left.ok_or(Stop::Bad(Fault::CyclicList, self.mm))?;
        self.end = found.vma.end;
        Ok((self.visit)(found))
    }
}

fn counter<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    mm: u64,
    counter: Option<Counter>,
) -> Result<Option<u64>, Stop> {
    let Some(counter) = counter else {
        return Ok(None);
    };
    let value = match counter.is_wide {
        true => walker.u64(mm, counter.offset, Fault::BadMapping)?,
        false => u64::from(walker.u32(mm, counter.offset, Fault::BadMapping)?),
    };
    Ok(Some(value))
}

/// The sequence number of `mm`, when it has one.
#[inline]
pub(super) fn sequence<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    mm: u64,
) -> Result<Option<u64>, Stop> {
    counter(walker, mm, walker.layout.mm.sequence)
}

/// The generation of `mm`, when it has one.
#[inline]
fn generation<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    mm: u64,
) -> Result<Option<u64>, Stop> {
    counter(walker, mm, walker.layout.mm.generation)
}

#[cfg(test)]
mod tests;
