//! Descriptors that can be used, and those that cannot.

use oprofile_wire::layout::{LayoutEntry, VmaStore};

use super::*;
use crate::test_utils::{COMPACT_LAYOUT, LINUX_4_19_LAYOUT, LINUX_6_1_LAYOUT, TINY_LAYOUT};

fn layout(vma_store: VmaStore, entries: &[LayoutEntry]) -> Result<Layout, LayoutError> {
    Layout::new(&Descriptor { vma_store, entries })
}

fn without(entries: &[LayoutEntry], field: Field) -> Vec<LayoutEntry> {
    let others = |entry: &&LayoutEntry| entry.field.get() != field as u16;
    entries.iter().filter(others).copied().collect()
}

fn with(entries: &[LayoutEntry], entry: LayoutEntry) -> Vec<LayoutEntry> {
    [
        &without(entries, Field::from_u16(entry.field.get()).unwrap())[..],
        &[entry],
    ]
    .concat()
}

#[test]
fn every_kernels_layout_is_accepted_for_the_stores_that_it_has() {
    use VmaStore::{List, Maple, RbTree};
    for (store, entries, usable) in [
        (List, COMPACT_LAYOUT, true),
        (RbTree, COMPACT_LAYOUT, false),
        (Maple, COMPACT_LAYOUT, false),
        (List, TINY_LAYOUT, true),
        (List, LINUX_4_19_LAYOUT, true),
        (RbTree, LINUX_4_19_LAYOUT, true),
        (Maple, LINUX_4_19_LAYOUT, false),
        (List, LINUX_6_1_LAYOUT, false),
        (RbTree, LINUX_6_1_LAYOUT, false),
        (Maple, LINUX_6_1_LAYOUT, true),
    ] {
        assert_eq!(layout(store, entries).is_ok(), usable, "{store:?}");
    }
}

#[test]
fn a_missing_field_of_a_store_is_named() {
    for (store, entries, field) in [
        (VmaStore::List, LINUX_4_19_LAYOUT, Field::MmVmaList),
        (VmaStore::List, LINUX_4_19_LAYOUT, Field::VmaNext),
        (VmaStore::RbTree, LINUX_4_19_LAYOUT, Field::MmVmaRoot),
        (VmaStore::RbTree, LINUX_4_19_LAYOUT, Field::VmaRb),
        (VmaStore::Maple, LINUX_6_1_LAYOUT, Field::MmMapleTree),
        (VmaStore::Maple, LINUX_6_1_LAYOUT, Field::MapleRoot),
        (VmaStore::Maple, LINUX_6_1_LAYOUT, Field::VmaMm),
        (VmaStore::Maple, LINUX_6_1_LAYOUT, Field::TaskFlags),
    ] {
        let missing = layout(store, &without(entries, field)).unwrap_err();
        assert_eq!(missing, LayoutError::Missing(field));
    }
}

#[test]
fn a_window_reaches_from_the_first_field_to_the_last() {
    let list = layout(VmaStore::List, LINUX_4_19_LAYOUT).unwrap();
    assert_eq!((list.vma.window.start, list.vma.window.bytes), (0, 168));
    let maple = layout(VmaStore::Maple, LINUX_6_1_LAYOUT).unwrap();
    assert_eq!((maple.vma.window.start, maple.vma.window.bytes), (0, 120));
    assert_eq!(
        (maple.dentry.window.start, maple.dentry.window.bytes),
        (4, 52)
    );
    // A node that ends the window grows it.
    let node = LayoutEntry::field(Field::VmaRb, 200, 24);
    let tree = layout(VmaStore::RbTree, &with(LINUX_4_19_LAYOUT, node)).unwrap();
    assert_eq!(tree.vma.window.bytes, 224);
    let StoreLayout::RbTree(tree) = tree.mm.store else {
        panic!("no tree");
    };
    assert_eq!((tree.right.in_window, tree.left.in_window), (208, 216));
    let far = LayoutEntry::field(Field::VmaRb, 240, 24);
    let refused = layout(VmaStore::RbTree, &with(LINUX_4_19_LAYOUT, far)).unwrap_err();
    assert_eq!(refused, LayoutError::TooFarApart(Field::RbLeft));
}

#[test]
fn children_of_a_red_black_node_are_where_the_layout_says() {
    let left = LayoutEntry::field(Field::RbLeft, 0, 8);
    let StoreLayout::RbTree(tree) = layout(VmaStore::RbTree, &with(LINUX_4_19_LAYOUT, left))
        .unwrap()
        .mm
        .store
    else {
        panic!("no tree");
    };
    assert_eq!((tree.left.in_node, tree.right.in_node), (0, 8));
    assert_eq!((tree.left.in_window, tree.right.in_window), (32, 40));
}

#[test]
fn maple_nodes_are_linuxs_unless_the_layout_says_otherwise() {
    let maple = |entries: &[LayoutEntry]| match layout(VmaStore::Maple, entries)?.mm.store {
        StoreLayout::Maple(maple) => Ok::<_, LayoutError>(maple),
        other => panic!("{other:?}"),
    };
    let linux = maple(LINUX_6_1_LAYOUT).unwrap();
    let counts = |node: NodeLayout| (node.pivot_count, node.slot_count, node.window.bytes);
    assert_eq!(linux.root, 8);
    assert_eq!(counts(linux.range), (15, 16, 248));
    assert_eq!(counts(linux.arange), (9, 10, 152));
    assert_eq!(counts(linux.dense), (0, 31, 248));
    for (field, offset, size, error) in [
        // One slot more than there are pivots.
        (
            Field::MapleRangeSlots,
            128,
            120,
            LayoutError::Range(Field::MapleRangePivots, 8),
        ),
        (
            Field::MapleArangePivots,
            8,
            80,
            LayoutError::Range(Field::MapleArangePivots, 8),
        ),
        // Within a node, in whole words.
        (
            Field::MapleRangeSlots,
            136,
            128,
            LayoutError::Range(Field::MapleRangeSlots, 136),
        ),
        (
            Field::MapleDenseSlots,
            8,
            65_528,
            LayoutError::Range(Field::MapleDenseSlots, 8),
        ),
        (
            Field::MapleDenseSlots,
            8,
            12,
            LayoutError::Size(Field::MapleDenseSlots, 12),
        ),
        (
            Field::MapleDenseSlots,
            8,
            0,
            LayoutError::Size(Field::MapleDenseSlots, 0),
        ),
    ] {
        let entry = LayoutEntry::field(field, offset, size);
        let refused = maple(&with(LINUX_6_1_LAYOUT, entry));
        assert_eq!(refused, Err(error));
    }
}

#[test]
fn counters_of_an_address_space_have_four_or_eight_bytes() {
    for (size, wide) in [(4, true), (8, true), (2, false), (16, false)] {
        for field in [Field::MmSequence, Field::MmGeneration] {
            let entry = LayoutEntry::field(field, 64, size);
            let accepted = layout(VmaStore::Maple, &with(LINUX_6_1_LAYOUT, entry));
            assert_eq!(accepted.is_ok(), wide);
            assert!(accepted.is_err() || accepted.unwrap().mm.has_counter());
        }
    }
    assert!(
        !layout(VmaStore::Maple, LINUX_6_1_LAYOUT)
            .unwrap()
            .mm
            .has_counter()
    );
}
