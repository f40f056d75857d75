//! What the builder lays out is what a kernel would.

use std::ops::RangeInclusive;

use oprofile_wire::layout::{Field, VmaStore};

use super::*;
use crate::test_utils::GuestView;

fn linux(store: VmaStore, layout: &[LayoutEntry]) -> SyntheticGuest {
    SyntheticGuest::with_shape(GuestShape {
        store,
        layout: layout.to_vec(),
        ..GuestShape::default()
    })
}

fn vmas(count: u64) -> Vec<VmaSpec> {
    let vma = |index: u64| VmaSpec {
        start: (index * 3) << 12,
        end: (index * 3 + 2) << 12,
        page_offset: index,
        file: 0,
    };
    (1..=count).map(vma).collect()
}

/// Black nodes on every way down from `node`, when all of them have as many and no red node has a red child.
fn black_height(guest: &SyntheticGuest, node: u64, parent: u64, parent_is_red: bool) -> u32 {
    if node == 0 {
        return 0;
    }
    let word = guest.peek(node);
    let is_red = word & 1 == 0;
    assert_eq!(word & !1, parent);
    assert!(!(is_red && parent_is_red));
    let right = black_height(guest, guest.peek(node + 8), node, is_red);
    let left = black_height(guest, guest.peek(node + 16), node, is_red);
    assert_eq!(right, left);
    left + u32::from(!is_red)
}

#[test]
fn red_black_trees_are_red_and_black() {
    let mut guest = linux(VmaStore::RbTree, LINUX_4_19_LAYOUT);
    for count in 0..70 {
        let mm = guest.mm(0, &vmas(count));
        let root = guest.get(mm, Field::MmVmaRoot);
        assert!(root == 0 || guest.peek(root) & 1 == 1);
        black_height(&guest, root, 0, false);
    }
}

/// Checks the maple node at `pointer` and those below it; returns its largest gap and its number of VMAs.
fn maple_branch(guest: &SyntheticGuest, pointer: u64, range: RangeInclusive<u64>) -> (u64, usize) {
    let node = pointer & !0xff;
    let (is_leaf, count, pivots, slots, metadata) = match pointer >> 3 & 0xf {
        1 => (true, 16, 15, 128, 248),
        2 => (false, 16, 15, 128, 248),
        3 => (false, 10, 9, 80, 240),
        kind => panic!("kind {kind}"),
    };
    let pivot = |index| guest.peek(node + 8 + index * 8);
    let end = (0..pivots)
        .find(|&index| pivot(index) == *range.end())
        .unwrap_or(count - 1);
    if end < pivots || pointer >> 3 & 0xf == 3 {
        assert_eq!(guest.peek(node + metadata) & 0xff, end);
    }
    let (mut first, mut largest, mut vmas) = (*range.start(), 0, 0);
    for index in 0..=end {
        let last = if index == end {
            *range.end()
        } else {
            pivot(index)
        };
        assert!(first <= last);
        let value = guest.peek(node + slots + index * 8);
        let gap = match (is_leaf, value) {
            (true, 0) => last - first + 1,
            (true, vma) => {
                let bounds = [Field::VmaStart, Field::VmaEnd].map(|field| guest.get(vma, field));
                assert_eq!(bounds, [first, last + 1]);
                vmas += 1;
                0
            }
            (false, child) => {
                let parent = guest.peek(child & !0xff);
                assert_eq!((parent & !0xff, parent >> 3 & 0x1f), (node, index));
                let (gap, below) = maple_branch(guest, child, first..=last);
                vmas += below;
                gap
            }
        };
        if pointer >> 3 & 0xf == 3 {
            assert_eq!(guest.peek(node + 160 + index * 8), gap);
        }
        largest = largest.max(gap);
        first = last.wrapping_add(1);
    }
    assert_eq!(pointer & 4 != 0, largest > 0);
    (largest, vmas)
}

#[test]
fn maple_trees_know_their_ranges_gaps_and_parents() {
    for (leaf_slots, children, inner) in [
        (2, 2, MapleInner::AllocationRange),
        (16, 10, MapleInner::AllocationRange),
        (5, 16, MapleInner::Range),
    ] {
        let mut guest = SyntheticGuest::with_shape(GuestShape {
            store: VmaStore::Maple,
            layout: LINUX_6_1_LAYOUT.to_vec(),
            maple: MapleShape {
                leaf_slots,
                children,
                inner,
            },
            ..GuestShape::default()
        });
        for count in [1, 2, 7, 8, 60, 200] {
            let mm = guest.mm(0, &vmas(count));
            let root = guest.peek(mm + 8);
            assert_eq!(root & 3, 2);
            assert_eq!(guest.peek(root & !0xff), mm | 1);
            let (_, vmas) = maple_branch(&guest, root & !2, 0..=u64::MAX);
            assert_eq!(vmas as u64, count);
        }
    }
}

#[test]
fn memory_of_replaced_vmas_is_used_again() {
    let mut guest = linux(VmaStore::Maple, LINUX_6_1_LAYOUT);
    let mm = guest.mm(0, &vmas(100));
    guest.replace_vmas(mm, &vmas(100));
    guest.replace_vmas(mm, &vmas(100));
    let used = guest.used_bytes();
    for _ in 0..100 {
        guest.replace_vmas(mm, &vmas(100));
    }
    assert_eq!(guest.used_bytes(), used);
    assert_eq!(GuestView::new(&guest).mappings(mm).len(), 100);
}

#[test]
fn objects_of_a_kind_lie_one_behind_the_other() {
    let mut guest = linux(VmaStore::Maple, LINUX_6_1_LAYOUT);
    for (kind, bytes) in [
        (ObjectKind::Task, 9_792),
        (ObjectKind::Vma, 152),
        (ObjectKind::MapleNode, 256),
    ] {
        let first = guest.object_of(kind);
        assert_eq!(guest.object_of(kind) - first, bytes);
    }
    let before = guest.used_bytes();
    let mm = guest.mm(0, &vmas(10_000));
    // 152 bytes a VMA, 256 a node of 7 VMAs and as many gaps.
    assert!(guest.used_bytes() - before < 10_000 * 200);
    assert_eq!(GuestView::new(&guest).mappings(mm).len(), 10_000);
}

#[test]
fn ram_and_linear_map_are_as_large_as_wanted() {
    for (linear_pages, ram_bytes) in [
        (PageSize::Small, 4 << 20),
        (PageSize::Large, 64 << 20),
        (PageSize::Huge, 3 << 30),
    ] {
        for levels in [Levels::Four, Levels::Five] {
            let mut guest = SyntheticGuest::with_shape(GuestShape {
                levels,
                linear_pages,
                ram_bytes,
                ..GuestShape::default()
            });
            assert_eq!(guest.ram_bytes(), ram_bytes);
            let file = guest.file_at(b"/bin/a");
            let mm = guest.mm(file, &vmas(3));
            assert_eq!(GuestView::new(&guest).mappings(mm).len(), 3);
        }
    }
}
