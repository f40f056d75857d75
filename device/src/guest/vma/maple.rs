//! The maple tree.
//!
//! A node is 256 bytes, aligned so; pointers to one tell its kind in bits 3 to 6. Word 0 leads to the parent, or to the node
//! itself once it is dead. Pivots are inclusive upper bounds of their slots; the last slot in use may have none, and ends
//! where its node ends. How many slots are in use a node also says in its last bytes, which a full one uses for a slot: the
//! pivots alone tell as much, so that is not read.

use std::ops::ControlFlow;

use vm_memory::GuestMemoryBackend;

use super::{Anchor, Found, Order, Vma};
use crate::fault::Fault;
use crate::guest::layout::{MapleLayout, NODE_BYTES, NodeLayout};
use crate::guest::walker::{Copied, Stop, Walker};

/// Most levels (Linux's `MAPLE_HEIGHT_MAX`); trees of address spaces have up to 5.
const MAX_LEVELS: u32 = 31;

/// How often a search begins anew at the root when it came upon a dead node. Measured on Linux 6.1 under heavy mmap churn, 6 of
/// 1,000 need a second try.
const MAX_RESTARTS: u32 = 8;

/// Most gaps one after the other. Linux merges neighbours, except where a node ends.
const MAX_GAPS_IN_ROW: u32 = 64;

/// Most nodes of a tree that is walked whole: Linux's are at least half full, and an address space has
/// [`MAX_VMAS`](super::MAX_VMAS) VMAs with a gap each at most.
const MAX_NODES: u32 = 65_536;

/// Values of a root word up to this are no pointers.
const MAX_ROOT_VALUE: u64 = 4_096;

/// Low bits of a root word, and what they are when it leads to a node.
const ROOT_MASK: u64 = 0b11;
const ROOT_NODE: u64 = 0b10;

/// Bits of a pointer to a node that are its address.
const ADDRESS_MASK: u64 = !(NODE_BYTES as u64 - 1);

/// A slot's bytes.
const SLOT: usize = 8;

/// What a node is laid out as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A leaf of one slot an index.
    Dense,
    /// A leaf.
    Leaf,
    /// An inner node.
    Range,
    /// An inner node that knows the gaps below it.
    AllocationRange,
}

/// A pointer to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    address: u64,
    kind: Kind,
}

impl Node {
    /// Takes a pointer apart.
    const fn decode(pointer: u64) -> Result<Self, Stop> {
        let kind = match pointer >> 3 & 0xf {
            0 => Kind::Dense,
            1 => Kind::Leaf,
            2 => Kind::Range,
            3 => Kind::AllocationRange,
            _ => return Err(Stop::Bad(Fault::BadTree, pointer)),
        };
        Ok(Self {
            address: pointer & ADDRESS_MASK,
            kind,
        })
    }

    const fn layout(self, layout: &MapleLayout) -> &NodeLayout {
        match self.kind {
            Kind::Dense => &layout.dense,
            Kind::Leaf | Kind::Range => &layout.range,
            Kind::AllocationRange => &layout.arange,
        }
    }

    const fn is_leaf(self) -> bool {
        matches!(self.kind, Kind::Dense | Kind::Leaf)
    }
}

/// Whether the node at `address` has been taken out of its tree. To be asked after everything else was read of it.
pub(super) fn is_dead<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    address: u64,
) -> Result<bool, Stop> {
    Ok(walker.u64(address, 0, Fault::BadMapping)? & ADDRESS_MASK == address)
}

/// Indices, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u64,
    last: u64,
}

impl Range {
    const ALL: Self = Self {
        first: 0,
        last: u64::MAX,
    };
}

/// A copy of pivots and slots.
struct Content<'a> {
    layout: &'a NodeLayout,
    copied: &'a Copied,
    node: Node,
    /// What the node stands for.
    range: Range,
}

/// A slot of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    /// Where in the window it is.
    at: usize,
    value: u64,
    range: Range,
}

impl<'a> Content<'a> {
    #[inline]
    fn read<M: GuestMemoryBackend>(
        walker: &mut Walker<'_, M>,
        layout: &'a MapleLayout,
        node: Node,
        range: Range,
        copied: &'a mut Copied,
    ) -> Result<Self, Stop> {
        let layout = node.layout(layout);
        walker.window(node.address, layout.window, Fault::BadMapping, copied)?;
        Ok(Self {
            layout,
            copied,
            node,
            range,
        })
    }

    /// The slot with this number that begins at `first`; `None` behind the last in use.
    #[inline]
    fn slot(&self, number: usize, first: u64) -> Option<Slot> {
        let &NodeLayout {
            pivots,
            pivot_count,
            slots,
            slot_count,
            ..
        } = self.layout;
        if number >= slot_count || first > self.range.last {
            return None;
        }
        let last = match self.node.kind {
            Kind::Dense => first,
            _ if number < pivot_count => match self.copied.u64(pivots + number * SLOT) {
                // No pivot any more: this is the last slot.
                0 if number > 0 => self.range.last,
                pivot => pivot.min(self.range.last),
            },
            _ => self.range.last,
        };
        let at = slots + number * SLOT;
        Some(Slot {
            at,
            value: self.copied.u64(at),
            range: Range { first, last },
        })
    }

    /// The slot that stands for `index`, which the node stands for.
    fn find(&self, index: u64) -> Option<Slot> {
        if self.node.kind == Kind::Dense {
            let number = usize::try_from(index.checked_sub(self.range.first)?).ok()?;
            return self.slot(number, index);
        }
        let mut first = self.range.first;
        for number in 0..self.layout.slot_count {
            let slot = self.slot(number, first)?;
            if index <= slot.range.last {
                return Some(slot);
            }
            first = slot.range.last.checked_add(1)?;
        }
        None
    }

    const fn anchor(&self, slot: Slot) -> Anchor {
        let node = self.node.address;
        Anchor {
            // It was read, so this does not wrap.
            word: node
                .wrapping_add(self.layout.window.start as u64)
                .wrapping_add(slot.at as u64),
            value: slot.value,
            node,
        }
    }
}

/// What a root word means.
enum Root {
    /// Nothing, or an entry for index 0, where no VMA can be.
    NoNode,
    Node(Node),
}

fn root<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    layout: &MapleLayout,
    mm: u64,
) -> Result<(Anchor, Root), Stop> {
    let value = walker.u64(mm, layout.root, Fault::BadMapping)?;
    // It was read, so this does not wrap.
    let anchor = Anchor::new(mm.wrapping_add(u64::from(layout.root)), value);
    let root = match value & ROOT_MASK {
        ROOT_NODE if value > MAX_ROOT_VALUE => Root::Node(Node::decode(value & !ROOT_NODE)?),
        _ => Root::NoNode,
    };
    Ok((anchor, root))
}

/// Where a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// The VMA that holds the address.
    pub found: Option<Found>,
    /// What led to it, or to nothing.
    anchor: Anchor,
    /// The indices that the last slot stands for.
    range: Range,
}

/// Goes down from the root to the slot of `index`; `None` when it came upon a dead node.
fn descend<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    layout: &MapleLayout,
    mm: u64,
    index: u64,
) -> Result<Option<Spot>, Stop> {
    let (anchor, root) = root(walker, layout, mm)?;
    let Root::Node(mut node) = root else {
        return Ok(Some(Spot {
            found: None,
            anchor,
            range: Range::ALL,
        }));
    };
    let mut range = Range::ALL;
    let mut copied = Copied::EMPTY;
    for _ in 0..MAX_LEVELS {
        let content = Content::read(walker, layout, node, range, &mut copied)?;
        let slot = content.find(index);
        if is_dead(walker, node.address)? {
            return Ok(None);
        }
        let slot = slot.ok_or(Stop::Bad(Fault::BadTree, node.address))?;
        if node.is_leaf() {
            return Ok(Some(Spot {
                found: None,
                anchor: content.anchor(slot),
                range: slot.range,
            }));
        }
        node = Node::decode(slot.value)?;
        range = slot.range;
    }
    Err(Stop::Bad(Fault::BadTree, mm))
}

/// Reads the VMA that `anchor` leads to and that must fill `range`.
fn entry<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    mm: u64,
    anchor: Anchor,
    range: Range,
) -> Result<Option<Found>, Stop> {
    if anchor.value == 0 {
        return Ok(None);
    }
    let vma = Vma::read(walker, mm, anchor.value)?;
    // Its end is above its start, so not 0.
    if vma.start != range.first || vma.end.wrapping_sub(1) != range.last {
        return Err(Stop::Bad(Fault::BadMapping, vma.pointer));
    }
    Ok(Some(Found { vma, anchor }))
}

pub(super) fn search<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    layout: MapleLayout,
    mm: u64,
    address: u64,
) -> Result<Spot, Stop> {
    for _ in 0..=MAX_RESTARTS {
        let Some(mut spot) = descend(walker, &layout, mm, address)? else {
            continue;
        };
        // A root word is none that leads to a VMA.
        if spot.anchor.node != 0 {
            spot.found = entry(walker, mm, spot.anchor, spot.range)?;
        }
        return Ok(spot);
    }
    Err(Stop::Changed)
}

pub(super) fn first_above<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    layout: MapleLayout,
    mm: u64,
    address: u64,
) -> Result<Option<Vma>, Stop> {
    let mut index = address;
    for _ in 0..MAX_GAPS_IN_ROW {
        let spot = search(walker, layout, mm, index)?;
        if let Some(found) = spot.found {
            return Ok(Some(found.vma));
        }
        index = match spot.range.last.checked_add(1) {
            Some(next) => next,
            None => return Ok(None),
        };
    }
    Err(Stop::Bad(Fault::BadTree, mm))
}

pub(super) fn walk<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    layout: MapleLayout,
    order: &mut Order<'_>,
) -> Result<ControlFlow<()>, Stop> {
    let (_, Root::Node(node)) = root(walker, &layout, order.mm)? else {
        return Ok(ControlFlow::Continue(()));
    };
    let mut subtree = Subtree {
        layout,
        order,
        nodes_left: MAX_NODES,
    };
    subtree.walk(walker, node, Range::ALL, MAX_LEVELS)
}

/// A walk of a whole tree.
struct Subtree<'a, 'o> {
    layout: MapleLayout,
    order: &'a mut Order<'o>,
    nodes_left: u32,
}

impl Subtree<'_, '_> {
    /// Walks what is below `node`, which calls itself once a level.
    fn walk<M: GuestMemoryBackend>(
        &mut self,
        walker: &mut Walker<'_, M>,
        node: Node,
        range: Range,
        levels_left: u32,
    ) -> Result<ControlFlow<()>, Stop> {
        let bad = Stop::Bad(Fault::BadTree, node.address);
        let levels_left = levels_left.checked_sub(1).ok_or(bad)?;
        self.nodes_left = self.nodes_left.checked_sub(1).ok_or(bad)?;
        let layout = self.layout;
        let mut copied = Copied::EMPTY;
        let content = Content::read(walker, &layout, node, range, &mut copied)?;
        if is_dead(walker, node.address)? {
            return Err(Stop::Changed);
        }
        let mut first = range.first;
        for number in 0..content.layout.slot_count {
            let Some(slot) = content.slot(number, first) else {
                break;
            };
            let flow = if !node.is_leaf() {
                let child = Node::decode(slot.value)?;
                self.walk(walker, child, slot.range, levels_left)?
            } else if let Some(found) =
                entry(walker, self.order.mm, content.anchor(slot), slot.range)?
            {
                self.order.next(found)?
            } else {
                ControlFlow::Continue(())
            };
            let next = slot.range.last.checked_add(1);
            match (flow, next) {
                (ControlFlow::Break(()), _) | (_, None) => return Ok(flow),
                (ControlFlow::Continue(()), Some(next)) => first = next,
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
