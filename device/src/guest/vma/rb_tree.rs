//! The red-black tree. Colours play no part in a search, so they are not looked at.

use std::ops::ControlFlow;

use vm_memory::GuestMemoryBackend;

use super::{Anchor, Found, Neighbours, Order, Vma};
use crate::fault::Fault;
use crate::guest::layout::{RbChild, RbTreeLayout};
use crate::guest::walker::{Copied, Stop, Walker};

/// Most levels: a red-black tree of *n* nodes has at most 2 log2(*n* + 1), and an address space fewer than 2^32 VMAs.
const MAX_LEVELS: usize = 64;

/// The pointer to a node, and where it was found.
#[derive(Clone, Copy)]
struct Link {
    word: u64,
    node: u64,
}

/// A node that was copied.
struct Node {
    found: Found,
    left: Link,
    right: Link,
}

impl Link {
    /// The root pointer of `mm`.
    fn root<M: GuestMemoryBackend>(
        walker: &mut Walker<'_, M>,
        layout: RbTreeLayout,
        mm: u64,
    ) -> Result<Self, Stop> {
        let node = walker.u64(mm, layout.root, Fault::BadMapping)?;
        // It was read, so this does not wrap.
        let word = mm.wrapping_add(u64::from(layout.root));
        Ok(Self { word, node })
    }

    /// Copies the VMA that it leads to; `None` at the end of a branch.
    #[inline]
    fn follow<M: GuestMemoryBackend>(
        self,
        walker: &mut Walker<'_, M>,
        layout: RbTreeLayout,
        mm: u64,
        copied: &mut Copied,
    ) -> Result<Option<Node>, Stop> {
        let Self { word, node } = self;
        if node == 0 {
            return Ok(None);
        }
        let pointer = node.checked_sub(u64::from(layout.node));
        let pointer = pointer.ok_or(Stop::Bad(Fault::BadMapping, node))?;
        let vma = Vma::read_into(walker, mm, pointer, copied)?;
        let anchor = Anchor::new(word, node);
        let child = |child: RbChild| Self {
            // It was copied, so this does not wrap.
            word: node.wrapping_add(u64::from(child.in_node)),
            node: copied.u64(child.in_window),
        };
        Ok(Some(Node {
            found: Found { vma, anchor },
            left: child(layout.left),
            right: child(layout.right),
        }))
    }
}

pub(super) fn search<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    layout: RbTreeLayout,
    mm: u64,
    address: u64,
) -> Result<Neighbours, Stop> {
    let (mut before, mut at) = (None, None::<Found>);
    let mut link = Link::root(walker, layout, mm)?;
    let mut copied = Copied::EMPTY;
    for _ in 0..MAX_LEVELS {
        let Some(node) = link.follow(walker, layout, mm, &mut copied)? else {
            let end = Anchor::new(link.word, 0);
            return Ok(Neighbours {
                before,
                at: at.map(|found| found.vma),
                anchor: at.map_or(end, |found| found.anchor),
            });
        };
        let vma = node.found.vma;
        if vma.end <= address {
            before = Some(vma);
            link = node.right;
            continue;
        }
        at = Some(node.found);
        if vma.start <= address {
            // What lies before plays no part when the address is held.
            return Ok(Neighbours {
                before: None,
                at: Some(vma),
                anchor: node.found.anchor,
            });
        }
        link = node.left;
    }
    Err(Stop::Bad(Fault::BadTree, mm))
}

pub(super) fn walk<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    layout: RbTreeLayout,
    order: &mut Order<'_>,
) -> Result<ControlFlow<()>, Stop> {
    let mm = order.mm;
    // VMAs whose left branch is being walked, and the links to their right ones.
    let mut above: [Option<(Found, Link)>; MAX_LEVELS] = [None; MAX_LEVELS];
    let mut depth = 0;
    let mut link = Link::root(walker, layout, mm)?;
    let mut copied = Copied::EMPTY;
    // Ends: each turn goes one level down, or up past a VMA, of which the order allows only so many.
    loop {
        if let Some(node) = link.follow(walker, layout, mm, &mut copied)? {
            let room = above.get_mut(depth);
            *room.ok_or(Stop::Bad(Fault::BadTree, mm))? = Some((node.found, node.right));
            depth += 1;
            link = node.left;
            continue;
        }
        let Some((found, right)) = depth.checked_sub(1).and_then(|top| above[top]) else {
            return Ok(ControlFlow::Continue(()));
        };
        depth -= 1;
        if order.next(found)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        link = right;
    }
}
