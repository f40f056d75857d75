//! Where an address space keeps its VMAs: a list, a red-black tree, a maple tree.

use oprofile_wire::layout::{Field, VmaStore};

use super::fields::{Fields, InWindow, Kind, Window};
use super::{LayoutError, NODE_BYTES};

/// Offset of the right child in a red-black node that does not tell.
const RB_RIGHT: u32 = 8;

/// Offset of the left child in a red-black node that does not tell.
const RB_LEFT: u32 = 16;

/// Bytes of a pivot, slot or pointer.
const WORD: u32 = 8;

/// A store, and its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreLayout {
    /// A sorted list.
    List(ListLayout),
    /// A red-black tree.
    RbTree(RbTreeLayout),
    /// A maple tree.
    Maple(MapleLayout),
}

/// A sorted list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListLayout {
    /// First VMA, in the address space.
    pub(in crate::guest) head: u32,
    /// Next VMA, in a VMA.
    pub(in crate::guest) next: u32,
    /// The same in the VMA's window.
    pub(in crate::guest) next_in_window: InWindow,
}

/// A red-black tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RbTreeLayout {
    /// Root pointer, in the address space.
    pub(in crate::guest) root: u32,
    /// Node, in a VMA.
    pub(in crate::guest) node: u32,
    pub(in crate::guest) left: RbChild,
    pub(in crate::guest) right: RbChild,
}

/// The pointer to a child of a red-black node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RbChild {
    /// In the node.
    pub(in crate::guest) in_node: u32,
    /// In the VMA's window.
    pub(in crate::guest) in_window: InWindow,
}

/// A maple tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapleLayout {
    /// Root word, in the address space.
    pub(in crate::guest) root: u32,
    /// Nodes of kind `leaf_64` and `range_64`.
    pub(in crate::guest) range: NodeLayout,
    /// Nodes of kind `arange_64`.
    pub(in crate::guest) arange: NodeLayout,
    /// Nodes of kind `dense`: they have no pivots.
    pub(in crate::guest) dense: NodeLayout,
}

/// Pivots and slots of a maple node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLayout {
    /// All of them.
    pub(in crate::guest) window: Window,
    /// First pivot.
    pub(in crate::guest) pivots: InWindow,
    pub(in crate::guest) pivot_count: usize,
    /// First slot.
    pub(in crate::guest) slots: InWindow,
    pub(in crate::guest) slot_count: usize,
}

impl StoreLayout {
    /// The fields of `store`. The VMA's window grows by those that lie in it, and must not grow any more afterwards.
    pub(super) fn new(
        store: VmaStore,
        fields: &Fields<'_>,
        window: &mut Window,
    ) -> Result<Self, LayoutError> {
        Ok(match store {
            VmaStore::List => Self::List(list(fields, window)?),
            VmaStore::RbTree => Self::RbTree(rb_tree(fields, window)?),
            VmaStore::Maple => Self::Maple(maple(fields)?),
        })
    }
}

fn list(fields: &Fields<'_>, window: &mut Window) -> Result<ListLayout, LayoutError> {
    let head = fields.need(Field::MmVmaList, Kind::Word)?;
    let next = fields.need(Field::VmaNext, Kind::Word)?;
    *window = window.cover(Field::VmaNext, next, WORD)?;
    Ok(ListLayout {
        head,
        next,
        next_in_window: window.place(next),
    })
}

fn rb_tree(fields: &Fields<'_>, window: &mut Window) -> Result<RbTreeLayout, LayoutError> {
    let root = fields.need(Field::MmVmaRoot, Kind::Word)?;
    let node = fields.need(Field::VmaRb, Kind::Embedded)?;
    let mut cover = |field, default| -> Result<u32, LayoutError> {
        let in_node = fields.get(field, Kind::Word)?.unwrap_or(default);
        *window = window.cover(field, node.saturating_add(in_node), WORD)?;
        Ok(in_node)
    };
    let left = cover(Field::RbLeft, RB_LEFT)?;
    let right = cover(Field::RbRight, RB_RIGHT)?;
    let child = |in_node| RbChild {
        in_node,
        in_window: window.place(node + in_node),
    };
    Ok(RbTreeLayout {
        root,
        node,
        left: child(left),
        right: child(right),
    })
}

fn maple(fields: &Fields<'_>) -> Result<MapleLayout, LayoutError> {
    let tree = fields.need(Field::MmMapleTree, Kind::Embedded)?;
    let root = fields.need(Field::MapleRoot, Kind::Word)?;
    Ok(MapleLayout {
        root: tree.saturating_add(root),
        range: node(
            fields,
            Some((Field::MapleRangePivots, (8, 15 * 8))),
            (Field::MapleRangeSlots, (128, 16 * 8)),
        )?,
        arange: node(
            fields,
            Some((Field::MapleArangePivots, (8, 9 * 8))),
            (Field::MapleArangeSlots, (80, 10 * 8)),
        )?,
        dense: node(fields, None, (Field::MapleDenseSlots, (8, 31 * 8)))?,
    })
}

/// An array of a node: its field, and offset and size of one that is not told.
type Array = (Field, (u32, u16));

fn node(
    fields: &Fields<'_>,
    pivots: Option<Array>,
    slots: Array,
) -> Result<NodeLayout, LayoutError> {
    let mut window = Window::EMPTY;
    let mut array = |(field, default): Array| -> Result<(u32, usize), LayoutError> {
        let told = fields.get_sized(field, Kind::Array)?;
        let (offset, size) = told.unwrap_or(default);
        if offset.saturating_add(u32::from(size)) > NODE_BYTES {
            return Err(LayoutError::Range(field, offset));
        }
        window = window.cover(field, offset, u32::from(size))?;
        Ok((offset, usize::from(size) / WORD as usize))
    };
    let (slots_at, slot_count) = array(slots)?;
    let (pivots_at, pivot_count) = match pivots {
        Some(pivots) => {
            let (at, count) = array(pivots)?;
            // The last slot ends where its node ends, every other one at its pivot.
            if count + 1 != slot_count {
                return Err(LayoutError::Range(pivots.0, at));
            }
            (at, count)
        }
        None => (slots_at, 0),
    };
    Ok(NodeLayout {
        window,
        pivots: window.place(pivots_at),
        pivot_count,
        slots: window.place(slots_at),
        slot_count,
    })
}
