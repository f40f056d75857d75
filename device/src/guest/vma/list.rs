//! The sorted list.

use std::ops::ControlFlow;

use vm_memory::GuestMemoryBackend;

use super::{Anchor, Found, MAX_VMAS, Neighbours, Order, Vma};
use crate::fault::Fault;
use crate::guest::layout::ListLayout;
use crate::guest::walker::{Copied, Stop, Walker};

/// Goes along the list of `mm` until `visit` ends it. The list must ascend, so one that leads back into itself is found out at
/// once; one that goes on for ever ends by the number of VMAs that the address space says it has.
///
/// Returns what led to nothing when the list ended first.
fn follow<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    layout: ListLayout,
    mm: u64,
    mut visit: impl FnMut(Found) -> Result<ControlFlow<()>, Stop>,
) -> Result<Option<Anchor>, Stop> {
    let count = match walker.layout.mm.vma_count {
        Some(offset) => walker.u32(mm, offset, Fault::BadMapping)?,
        None => MAX_VMAS,
    };
    let mut pointer = walker.u64(mm, layout.head, Fault::BadMapping)?;
    // Both were read, so neither wraps; nor does the link of a VMA that was.
    let mut word = mm.wrapping_add(u64::from(layout.head));
    let mut end = 0;
    let mut copied = Copied::EMPTY;
    // One more than there are: an insertion may be half done.
    for _ in 0..=count.min(MAX_VMAS) {
        let anchor = Anchor::new(word, pointer);
        if pointer == 0 {
            return Ok(Some(anchor));
        }
        let vma = Vma::read_into(walker, mm, pointer, &mut copied)?;
        if vma.start < end {
            break;
        }
        end = vma.end;
        word = pointer.wrapping_add(u64::from(layout.next));
        pointer = copied.u64(layout.next_in_window);
        if visit(Found { vma, anchor })?.is_break() {
            return Ok(None);
        }
    }
    Err(Stop::Bad(Fault::CyclicList, mm))
}

pub(super) fn search<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    layout: ListLayout,
    mm: u64,
    address: u64,
) -> Result<Neighbours, Stop> {
    let (mut before, mut at) = (None, None);
    let end = follow(walker, layout, mm, |found| {
        Ok(if address < found.vma.end {
            at = Some(found);
            ControlFlow::Break(())
        } else {
            before = Some(found.vma);
            ControlFlow::Continue(())
        })
    })?;
    let anchor = at.map(|found| found.anchor).or(end);
    Ok(Neighbours {
        before,
        at: at.map(|found| found.vma),
        // A list that did not end has been broken off at a VMA.
        anchor: anchor.ok_or(Stop::Changed)?,
    })
}

pub(super) fn walk<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    layout: ListLayout,
    order: &mut Order<'_>,
) -> Result<ControlFlow<()>, Stop> {
    let mm = order.mm;
    Ok(
        match follow(walker, layout, mm, |found| order.next(found))? {
            Some(_) => ControlFlow::Continue(()),
            None => ControlFlow::Break(()),
        },
    )
}
