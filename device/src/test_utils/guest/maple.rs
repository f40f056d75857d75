//! VMAs as a maple tree.

use oprofile_wire::layout::Field;

use super::{ObjectKind, SyntheticGuest, VmaSpec};

/// Kinds of nodes, as a pointer to one tells them from bit 3 on.
const LEAF: u64 = 1;
const RANGE: u64 = 2;
const ALLOCATION_RANGE: u64 = 3;

/// In a pointer to a node: there are gaps below it.
const GAPS_BELOW: u64 = 1 << 2;
/// In the root word: it leads to a node.
const ROOT_NODE: u64 = 0b10;
/// In the first word of the root: it leads to the tree.
const IS_ROOT: u64 = 1;
/// In the first word of another node: what precedes is a slot of a node with 64-bit ranges.
const PARENT_RANGE: u64 = 6;
/// Flags of an address space's tree: it tracks gaps, is read without locks, has a lock of its own. The height is in bits 2 to 6.
const FLAGS: u64 = 0x303;
const HEIGHT_SHIFT: u32 = 2;

/// Offset of the largest gaps below each slot of an `arange_64` node, of its metadata, and of a `range_64` node's.
const GAPS: u64 = 160;
const ARANGE_METADATA: u64 = 240;
const RANGE_METADATA: u64 = 248;

/// Kind of the inner nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapleInner {
    /// `range_64`, up to 16 children.
    Range,
    /// `arange_64`, up to 10 children: what Linux uses for address spaces.
    AllocationRange,
}

/// How a maple tree is built: fuller nodes, lower trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapleShape {
    /// Most slots of a leaf, gaps included: 2 to 16.
    pub leaf_slots: usize,
    /// Most children of an inner node: 2 to 10, or 16 with [`MapleInner::Range`].
    pub children: usize,
    /// Kind of the inner nodes.
    pub inner: MapleInner,
}

impl Default for MapleShape {
    fn default() -> Self {
        Self {
            leaf_slots: 14,
            children: 9,
            inner: MapleInner::AllocationRange,
        }
    }
}

/// What goes into a slot.
#[derive(Clone, Copy)]
struct Slot {
    /// Last index of its range.
    last: u64,
    value: u64,
    /// Largest gap in it or below it, in indices.
    gap: u64,
}

/// Where a kind of node keeps pivots and slots.
#[derive(Clone, Copy)]
struct Places {
    pivots: u64,
    pivot_count: usize,
    slots: u64,
}

impl SyntheticGuest {
    /// Builds the tree of `mm` out of `vmas`, which `specs` describe, and returns its nodes, each behind those below it.
    pub(super) fn build_maple_tree(
        &mut self,
        mm: u64,
        vmas: &[u64],
        specs: &[VmaSpec],
    ) -> Vec<u64> {
        let tree = mm + self.offset(Field::MmMapleTree);
        let mut nodes = Vec::new();
        let (mut root, mut height) = (0, 0);
        if !vmas.is_empty() {
            let MapleShape {
                leaf_slots,
                children,
                inner,
            } = self.shape.maple;
            let inner = match inner {
                MapleInner::Range => RANGE,
                MapleInner::AllocationRange => ALLOCATION_RANGE,
            };
            let mut level =
                self.build_level(LEAF, leaf_slots, &leaf_slots_of(vmas, specs), &mut nodes);
            height = 1;
            while level.len() > 1 {
                level = self.build_level(inner, children, &level, &mut nodes);
                height += 1;
            }
            root = level[0].value;
            self.poke(root & !0xff, tree | IS_ROOT);
            root |= ROOT_NODE;
        }
        self.set(tree, Field::MapleRoot, root);
        self.set(tree, Field::MapleFlags, FLAGS | height << HEIGHT_SHIFT);
        nodes
    }

    /// Nodes of the maple tree of `mm`, each behind those below it.
    #[must_use]
    pub fn maple_nodes(&self, mm: u64) -> &[u64] {
        match self.stores.get(&mm) {
            Some(store) => &store.maple_nodes,
            None => &[],
        }
    }

    /// Marks a maple node as taken out of its tree.
    pub fn kill_maple_node(&self, node: u64) {
        self.poke(node, node);
    }

    /// Distributes ascending slots over nodes, and returns the slots that lead to these.
    fn build_level(
        &mut self,
        kind: u64,
        most: usize,
        slots: &[Slot],
        nodes: &mut Vec<u64>,
    ) -> Vec<Slot> {
        // As evenly as possible: every node but a lone one gets two slots at least.
        let count = slots.len().div_ceil(most);
        let (mut rest, mut above) = (slots, Vec::with_capacity(count));
        for left in (1..=count).rev() {
            let (part, others) = rest.split_at(rest.len().div_ceil(left));
            rest = others;
            above.push(self.build_node(kind, part));
        }
        nodes.extend(above.iter().map(|slot| slot.value & !0xff));
        above
    }

    fn build_node(&mut self, kind: u64, slots: &[Slot]) -> Slot {
        let node = self.object_of(ObjectKind::MapleNode);
        let places = self.places(kind);
        let last = slots.last().map_or(0, |slot| slot.last);
        for (index, slot) in slots.iter().enumerate() {
            let offset = index as u64 * 8;
            if index < places.pivot_count {
                self.poke(node + places.pivots + offset, slot.last);
            }
            self.poke(node + places.slots + offset, slot.value);
            if kind != LEAF {
                self.poke(slot.value & !0xff, node | offset | PARENT_RANGE);
            }
        }
        let gap = slots.iter().map(|slot| slot.gap).max().unwrap_or(0);
        if !self.has_own_nodes() {
            self.write_metadata(node, kind, slots, gap);
        }
        let gaps_below = if gap > 0 { GAPS_BELOW } else { 0 };
        Slot {
            last,
            value: node | kind << 3 | gaps_below,
            gap,
        }
    }

    /// Gaps and the number of slots in use, where Linux keeps them.
    fn write_metadata(&self, node: u64, kind: u64, slots: &[Slot], gap: u64) {
        let end = slots.len() as u64 - 1;
        if kind == ALLOCATION_RANGE {
            for (index, slot) in slots.iter().enumerate() {
                self.poke(node + GAPS + index as u64 * 8, slot.gap);
            }
            let largest = slots.iter().position(|slot| slot.gap == gap).unwrap_or(0) as u64;
            self.poke(node + ARANGE_METADATA, end | largest << 8);
        } else if slots.len() <= self.places(kind).pivot_count {
            // A full node has its last slot there.
            self.poke(node + RANGE_METADATA, end);
        }
    }

    /// Whether the layout says itself what a node looks like.
    fn has_own_nodes(&self) -> bool {
        [
            Field::MapleRangePivots,
            Field::MapleRangeSlots,
            Field::MapleArangePivots,
            Field::MapleArangeSlots,
        ]
        .into_iter()
        .any(|field| self.has(field))
    }

    fn places(&self, kind: u64) -> Places {
        let (pivots, slots) = if kind == ALLOCATION_RANGE {
            (
                (Field::MapleArangePivots, (8, 72)),
                (Field::MapleArangeSlots, 80),
            )
        } else {
            (
                (Field::MapleRangePivots, (8, 120)),
                (Field::MapleRangeSlots, 128),
            )
        };
        let (at, bytes) = self.fields.find(pivots.0).unwrap_or(pivots.1);
        Places {
            pivots: at,
            pivot_count: usize::from(bytes) / 8,
            slots: self.fields.find(slots.0).map_or(slots.1, |(at, _)| at),
        }
    }
}

/// VMAs and the gaps between them, over all indices.
fn leaf_slots_of(vmas: &[u64], specs: &[VmaSpec]) -> Vec<Slot> {
    let gap = |first: u64, last: u64| Slot {
        last,
        value: 0,
        gap: last - first + 1,
    };
    let mut slots = Vec::with_capacity(2 * vmas.len() + 1);
    let mut first = 0;
    for (vma, spec) in vmas.iter().zip(specs) {
        if first < spec.start {
            slots.push(gap(first, spec.start - 1));
        }
        slots.push(Slot {
            last: spec.end - 1,
            value: *vma,
            gap: 0,
        });
        first = spec.end;
    }
    slots.push(gap(first, u64::MAX));
    slots
}
