//! Every store, laid out and searched; what is wrong or changes in one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use oprofile_wire::layout::{Field, LayoutEntry, VmaStore};
use proptest::prelude::*;

use super::*;
use crate::guest::view::GuestView;
use crate::test_utils::{
    COMPACT_LAYOUT, GuestShape, LINEAR_BASE, LINUX_4_19_LAYOUT, LINUX_6_1_LAYOUT, MapleInner,
    MapleShape, ObjectKind, SyntheticGuest, TINY_LAYOUT, USER_END, VmaSpec,
};

const fn maple(leaf_slots: usize, children: usize, inner: MapleInner) -> MapleShape {
    MapleShape {
        leaf_slots,
        children,
        inner,
    }
}

fn shape(store: VmaStore, layout: &[LayoutEntry], maple: MapleShape) -> GuestShape {
    GuestShape {
        store,
        layout: layout.to_vec(),
        maple,
        ..GuestShape::default()
    }
}

/// 4.19's layout without what tells that VMAs were taken out.
fn uncounted() -> Vec<LayoutEntry> {
    let is_counter = |entry: &&LayoutEntry| entry.field.get() != Field::MmGeneration as u16;
    let entries = LINUX_4_19_LAYOUT.iter().filter(is_counter);
    entries.copied().collect()
}

/// 6.1's layout with maple and red-black nodes that are nobody's.
fn own_nodes() -> Vec<LayoutEntry> {
    let nodes = [
        LayoutEntry::field(Field::MapleRangePivots, 200, 4 * 8),
        LayoutEntry::field(Field::MapleRangeSlots, 40, 5 * 8),
        LayoutEntry::field(Field::MapleArangePivots, 100, 2 * 8),
        LayoutEntry::field(Field::MapleArangeSlots, 8, 3 * 8),
    ];
    [LINUX_6_1_LAYOUT, &nodes].concat()
}

/// Every store, with every kind of tree.
fn shapes() -> Vec<GuestShape> {
    use MapleInner::{AllocationRange, Range};
    let any = MapleShape::default();
    vec![
        shape(VmaStore::List, COMPACT_LAYOUT, any),
        shape(VmaStore::List, TINY_LAYOUT, any),
        shape(VmaStore::List, LINUX_4_19_LAYOUT, any),
        shape(VmaStore::List, &uncounted(), any),
        shape(VmaStore::RbTree, LINUX_4_19_LAYOUT, any),
        shape(VmaStore::RbTree, &uncounted(), any),
        shape(VmaStore::Maple, LINUX_6_1_LAYOUT, any),
        shape(
            VmaStore::Maple,
            LINUX_6_1_LAYOUT,
            maple(16, 10, AllocationRange),
        ),
        shape(
            VmaStore::Maple,
            LINUX_6_1_LAYOUT,
            maple(2, 2, AllocationRange),
        ),
        shape(VmaStore::Maple, LINUX_6_1_LAYOUT, maple(3, 16, Range)),
        shape(VmaStore::Maple, LINUX_6_1_LAYOUT, maple(16, 2, Range)),
        shape(VmaStore::Maple, &own_nodes(), maple(5, 3, AllocationRange)),
    ]
}

/// A guest with one address space.
struct World {
    guest: SyntheticGuest,
    view: GuestView,
    mm: u64,
    made: Vec<u64>,
}

impl World {
    fn new(shape: GuestShape, vmas: &[VmaSpec]) -> Self {
        let mut guest = SyntheticGuest::with_shape(shape);
        let mm = guest.mm(0, &[]);
        let made = guest.set_vmas(mm, vmas);
        let view = GuestView::new(&guest);
        Self {
            guest,
            view,
            mm,
            made,
        }
    }

    fn walker(&mut self) -> Walker<'_, vm_memory::GuestMemoryMmap> {
        self.view.walker()
    }

    fn place(&mut self, address: u64) -> Result<Place, Stop> {
        let mm = self.mm;
        find(&mut self.walker(), mm, address)
    }

    /// Start of the VMA that holds `address`, looked up as the world does.
    fn start(&mut self, address: u64) -> Result<Option<u64>, Stop> {
        let place = self.place(address)?;
        self.check(&place)?;
        Ok(place.vma(address).map(|vma| vma.start))
    }

    fn check(&mut self, place: &Place) -> Result<(), Stop> {
        let mm = self.mm;
        place.check(&mut self.walker(), mm)
    }

    fn sequence(&mut self) -> Option<u64> {
        let mm = self.mm;
        sequence(&mut self.walker(), mm).unwrap()
    }

    /// Replaces all VMAs as the guest's kernel does, which also counts that.
    fn replace(&mut self, vmas: &[VmaSpec]) {
        self.guest.set_vmas(self.mm, vmas);
        let sequence = self.guest.get(self.mm, Field::MmSequence);
        self.guest.set(self.mm, Field::MmSequence, sequence + 2);
    }

    fn first_above(&mut self, address: u64) -> Result<Option<Vma>, Stop> {
        let mm = self.mm;
        first_above(&mut self.walker(), mm, address)
    }

    fn walk(&mut self) -> Result<Vec<Found>, Stop> {
        let mm = self.mm;
        let mut all = Vec::new();
        let mut add = |found| {
            all.push(found);
            ControlFlow::Continue(())
        };
        let flow = walk(&mut self.walker(), mm, &mut add)?;
        assert!(flow.is_continue());
        Ok(all)
    }

    /// Everything that is asked of a store, and the answers to all of it.
    fn compare(&mut self, specs: &[VmaSpec]) {
        let mut addresses = vec![0, 1, USER_END - 1, u64::MAX];
        for spec in specs {
            let inside = spec.start + (spec.end - spec.start) / 2;
            addresses.extend([spec.start, inside, spec.end - 1, spec.end]);
            addresses.extend(spec.start.checked_sub(1));
        }
        let store = self.guest.store();
        for address in addresses {
            let expected = specs
                .iter()
                .find(|spec| (spec.start..spec.end).contains(&address));
            let place = self.place(address).unwrap();
            let found = place.vma(address);
            assert_eq!(
                found.map(mapping),
                expected.map(spec_mapping),
                "{address:#x} in {store:?}"
            );
            assert_eq!(self.check(&place), Ok(()));
            let expected = specs.iter().find(|spec| spec.end > address);
            let above = self.first_above(address).unwrap();
            assert_eq!(above.map(mapping), expected.map(spec_mapping));
        }
        let all = self.walk().unwrap();
        let expected: Vec<_> = specs.iter().map(spec_mapping).collect();
        let walked: Vec<_> = all.iter().map(|found| mapping(found.vma)).collect();
        assert_eq!(walked, expected);
        let mm = self.mm;
        for found in all {
            assert_eq!(found.check(&mut self.walker(), mm), Ok(()));
        }
    }
}

type Mapping = (u64, u64, u64, u64);

const fn mapping(vma: Vma) -> Mapping {
    (vma.start, vma.end, vma.page_offset, vma.file)
}

const fn spec_mapping(spec: &VmaSpec) -> Mapping {
    (spec.start, spec.end, spec.page_offset, spec.file)
}

/// VMAs out of gaps and lengths in pages; a gap of 0 makes neighbours.
fn vmas(parts: &[(u64, u64)]) -> Vec<VmaSpec> {
    let mut end = 0x1_0000;
    let mut vmas = Vec::new();
    for (index, &(gap, pages)) in (0..).zip(parts) {
        let start = end + (gap << 12);
        end = start + (pages << 12);
        vmas.push(VmaSpec {
            start,
            end,
            page_offset: index * 7,
            file: index % 3,
        });
    }
    vmas
}

/// `count` VMAs with a gap before each.
fn spread(count: usize) -> Vec<VmaSpec> {
    vmas(&vec![(3, 2); count])
}

#[test]
fn every_address_leads_to_the_vma_that_holds_it() {
    for shape in shapes() {
        for count in [0, 1, 2, 3, 15, 16, 17, 143] {
            World::new(shape.clone(), &spread(count)).compare(&spread(count));
        }
        // 16 slots, the last of them where a node that is not full keeps its metadata.
        let neighbours = vmas(&[(0, 1); 14]);
        World::new(shape, &neighbours).compare(&neighbours);
    }
}

#[test]
fn mappings_at_the_ends_of_user_space_are_found() {
    let ends = [
        VmaSpec {
            start: 0,
            end: 0x1000,
            page_offset: 0,
            file: 0,
        },
        VmaSpec {
            start: USER_END - 0x1000,
            end: USER_END,
            page_offset: 1 << 60,
            file: 1,
        },
    ];
    for shape in shapes() {
        World::new(shape, &ends).compare(&ends);
    }
}

#[test]
fn trees_of_thousands_are_as_high_as_linux_builds_them() {
    let many = spread(1_423);
    for (leaf_slots, children, height) in [(16, 10, 4), (2, 2, 12)] {
        let tree = maple(leaf_slots, children, MapleInner::AllocationRange);
        let mut world = World::new(shape(VmaStore::Maple, LINUX_6_1_LAYOUT, tree), &many);
        let flags = world.guest.get(world.mm, Field::MapleFlags);
        assert_eq!(flags >> 2 & 0x1f, height);
        world.compare(&many);
    }
    let any = MapleShape::default();
    World::new(shape(VmaStore::RbTree, LINUX_4_19_LAYOUT, any), &many).compare(&many);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_sets_of_vmas_are_found_in_every_store(
        parts in prop::collection::vec((0u64..4, 1u64..5), 0..80),
        leaf_slots in 2usize..=16, children in 2usize..=10, inner: bool)
    {
        let specs = vmas(&parts);
        let inner = if inner { MapleInner::Range } else { MapleInner::AllocationRange };
        let tree = maple(leaf_slots, children, inner);
        let maple = shape(VmaStore::Maple, LINUX_6_1_LAYOUT, tree);
        for shape in shapes().into_iter().take(6).chain([maple]) {
            World::new(shape, &specs).compare(&specs);
        }
    }

    #[test]
    fn a_store_full_of_garbage_ends_every_search(
        store in 0usize..12,
        garbage in prop::collection::vec((any::<u64>(), any::<u64>(), 0u32..4), 1..40),
        addresses in prop::collection::vec(prop_oneof![0u64..0x20_0000, any::<u64>()], 1..8))
    {
        let mut world = World::new(shapes().swap_remove(store), &spread(60));
        let first = world.made[0].min(world.mm);
        let objects = (world.guest.used_bytes() + LINEAR_BASE + 0x20_0000 - first) / 8;
        let targets = [world.made.clone(), world.guest.maple_nodes(world.mm).to_vec(), vec![world.mm]].concat();
        for (at, word, near) in garbage {
            // Mostly pointers to objects and maple nodes, some with a kind.
            let target = targets[usize::try_from(word % targets.len() as u64).unwrap()];
            let word = match near {
                0 => word,
                1 => target,
                2 => target | (word & 0x7f),
                _ => target + (word & 0xff),
            };
            world.guest.poke(first + at % objects * 8, word);
        }
        for address in addresses {
            let mm = world.mm;
            let mut walker = world.walker();
            let before = walker.ram.work_left();
            let found = find(&mut walker, mm, address);
            if let Ok(place) = &found {
                let _ = place.check(&mut walker, mm);
            }
            let _ = first_above(&mut walker, mm, address);
            let _ = walk(&mut walker, mm, &mut |_| ControlFlow::Continue(()));
            // A list of all VMAs, 64 or 9 x 31 levels a few times over, or 65,536 nodes of a tree with 16 slots.
            prop_assert!(before - walker.ram.work_left() < 4 << 20);
        }
    }
}

/// A maple tree of three levels and the place of a VMA in it.
fn tall_tree() -> World {
    let tree = maple(4, 3, MapleInner::AllocationRange);
    World::new(shape(VmaStore::Maple, LINUX_6_1_LAYOUT, tree), &spread(12))
}

/// Work that `ask` takes, and what it comes to.
fn work<T>(
    world: &mut World,
    ask: impl FnOnce(&mut Walker<'_, vm_memory::GuestMemoryMmap>) -> T,
) -> (u32, T) {
    let mut walker = world.walker();
    let before = walker.ram.work_left();
    let answer = ask(&mut walker);
    (before - walker.ram.work_left(), answer)
}

#[test]
fn a_dead_node_makes_the_search_begin_again_at_the_root_a_few_times() {
    let mut world = tall_tree();
    let (mm, address) = (world.mm, world.guest.get(world.made[0], Field::VmaStart));
    let StoreLayout::Maple(layout) = world.walker().layout.mm.store else {
        panic!("no maple tree");
    };
    // A leaf, so that each try goes all the way.
    let leaf = world.guest.maple_nodes(mm)[0];
    let parent = world.guest.peek(leaf);
    world.guest.kill_maple_node(leaf);
    let (all, found) = work(&mut world, |walker| find(walker, mm, address));
    assert_eq!(found, Err(Stop::Changed));
    world.guest.poke(leaf, parent);
    let (one, found) = work(&mut world, |walker| {
        maple::search(walker, layout, mm, address)
    });
    assert!(found.unwrap().found.is_some());
    // The VMA was not read by those that failed.
    assert_eq!(all, 9 * (one - 1));
    for node in world.guest.maple_nodes(mm).to_vec() {
        let parent = world.guest.peek(node);
        world.guest.kill_maple_node(node);
        assert_eq!(world.walk(), Err(Stop::Changed));
        world.guest.poke(node, parent);
    }
    assert_eq!(world.walk().unwrap().len(), 12);
}

#[test]
fn a_root_word_that_is_no_node_holds_no_vma() {
    let mut world = tall_tree();
    let vma = world.made[0];
    // Empty; a value; an entry for index 0.
    for root in [0, 2, 0xffe, vma, vma | 1, vma | 3] {
        world.guest.poke(world.mm + 8, root);
        for address in [0, 0x1_3000, u64::MAX] {
            assert_eq!(world.start(address), Ok(None), "{root:#x}");
            assert_eq!(world.first_above(address), Ok(None));
        }
        assert_eq!(world.walk(), Ok(Vec::new()));
        let place = world.place(0x1_3000).unwrap();
        world.guest.poke(world.mm + 8, root ^ 0x10);
        assert_eq!(world.check(&place), Err(Stop::Changed));
    }
}

#[test]
fn a_dense_leaf_holds_one_index_a_slot() {
    let mut world = World::new(
        shape(VmaStore::Maple, LINUX_6_1_LAYOUT, MapleShape::default()),
        &spread(2),
    );
    let mm = world.mm;
    let node = world.guest.object_of(ObjectKind::MapleNode);
    let vma = world.made[1];
    world.guest.set(vma, Field::VmaStart, 30);
    world.guest.set(vma, Field::VmaEnd, 31);
    world.guest.poke(node, mm | 1);
    world.guest.poke(node + 8 + 30 * 8, vma);
    world.guest.poke(mm + 8, node | 4 | 2);
    assert_eq!(world.start(30), Ok(Some(30)));
    assert_eq!(world.start(29), Ok(None));
    assert_eq!(world.walk().unwrap().len(), 1);
    // It has no more than 31.
    assert_eq!(world.start(31), Err(Stop::Bad(Fault::BadTree, node)));
    world.guest.set(vma, Field::VmaEnd, 32);
    assert_eq!(world.start(30), Err(Stop::Bad(Fault::BadMapping, vma)));
}

#[test]
fn pivots_behind_the_last_slot_in_use_say_nothing() {
    // A gap, a VMA, a gap.
    let mut world = World::new(
        shape(VmaStore::Maple, LINUX_6_1_LAYOUT, MapleShape::default()),
        &spread(1),
    );
    let spec = spread(1)[0];
    let leaf = world.guest.maple_nodes(world.mm)[0];
    let pivot = |index: u64| leaf + 8 + index * 8;
    for index in 3..15 {
        world.guest.poke(pivot(index), 0x5000 + index);
        world.guest.poke(leaf + 128 + index * 8, world.made[0]);
    }
    world.compare(&[spec]);
    // The last one may do without a pivot: it ends where the node does.
    for index in 2..15 {
        world.guest.poke(pivot(index), 0);
    }
    world.compare(&[spec]);
}

#[test]
fn what_changes_after_a_search_shows_when_it_is_checked() {
    type Change = fn(&mut World, u64);
    let changes: [Change; 6] = [
        |World { guest, .. }, vma| {
            guest.set(vma, Field::VmaStart, guest.get(vma, Field::VmaStart) + 1);
        },
        |World { guest, .. }, vma| {
            guest.set(vma, Field::VmaEnd, guest.get(vma, Field::VmaEnd) - 1);
        },
        |world, vma| world.guest.set(vma, Field::VmaPageOffset, 1 << 40),
        |world, vma| world.guest.set(vma, Field::VmaFile, 77),
        |world, vma| world.guest.set(vma, Field::VmaMm, world.mm + 64),
        |world, _| world.replace(&spread(12)),
    ];
    for shape in shapes() {
        for (index, change) in changes.iter().enumerate() {
            let mut world = World::new(shape.clone(), &spread(12));
            // Neither first nor last.
            let vma = world.made[5];
            let address = world.guest.get(vma, Field::VmaStart) + 0x1000;
            let place = world.place(address).unwrap();
            assert!(place.vma(address).is_some());
            assert_eq!(world.check(&place), Ok(()));
            let sequence = world.sequence();
            change(&mut world, vma);
            let store = world.guest.store();
            // The sequence number is the world's to compare.
            let changed = world.check(&place).is_err() || world.sequence() != sequence;
            assert!(changed, "change {index} in {store:?}");
        }
    }
}

#[test]
fn a_mapping_made_where_none_was_shows_when_the_gap_is_checked() {
    let specs = spread(12);
    let mut more = specs.clone();
    let new = VmaSpec {
        start: specs[5].end,
        end: specs[5].end + 0x1000,
        page_offset: 0,
        file: 0,
    };
    more.insert(6, new);
    let mut grown = specs.clone();
    grown[5].end += 0x1000;
    for shape in shapes() {
        for after in [&more, &grown] {
            let mut world = World::new(shape.clone(), &specs);
            let place = world.place(new.start).unwrap();
            assert_eq!(place.vma(new.start), None);
            assert_eq!(world.check(&place), Ok(()));
            let sequence = world.sequence();
            world.replace(after);
            assert!(world.check(&place).is_err() || world.sequence() != sequence);
        }
    }
}

#[test]
fn a_pivot_moved_in_place_shows_when_the_gap_is_checked() {
    let mut world = tall_tree();
    let spec = spread(12)[0];
    let place = world.place(spec.end).unwrap();
    assert_eq!(place.vma(spec.end), None);
    // A VMA that grows into the gap behind it needs no new node.
    let leaf = world.guest.maple_nodes(world.mm)[0];
    let index = (0..4).find(|index| world.guest.peek(leaf + 8 + index * 8) == spec.end - 1);
    let pivot = leaf + 8 + index.unwrap() * 8;
    world.guest.poke(pivot, spec.end + 0xfff);
    world
        .guest
        .set(world.made[0], Field::VmaEnd, spec.end + 0x1000);
    assert_eq!(world.check(&place), Err(Stop::Changed));
}

#[test]
fn a_vma_that_does_not_fill_its_slot_is_not_believed() {
    let mut world = tall_tree();
    let vma = world.made[3];
    let (start, end) = (
        world.guest.get(vma, Field::VmaStart),
        world.guest.get(vma, Field::VmaEnd),
    );
    for (field, value) in [
        (Field::VmaStart, start - 0x1000),
        (Field::VmaStart, start + 0x1000),
        (Field::VmaEnd, end + 0x1000),
        (Field::VmaEnd, end - 1),
    ] {
        let was = world.guest.get(vma, field);
        world.guest.set(vma, field, value);
        let bad = Stop::Bad(Fault::BadMapping, vma);
        assert_eq!(world.start(start + 0x1000), Err(bad));
        assert_eq!(world.walk(), Err(bad));
        world.guest.set(vma, field, was);
    }
    assert_eq!(world.start(start), Ok(Some(start)));
}

#[test]
fn a_vma_of_another_address_space_is_believed_in_no_store() {
    for shape in shapes() {
        let mut world = World::new(shape, &spread(3));
        let vma = world.made[1];
        let start = world.guest.get(vma, Field::VmaStart);
        world.guest.set(vma, Field::VmaMm, world.mm + 8);
        let bad = Stop::Bad(Fault::BadMapping, vma);
        assert_eq!(world.start(start), Err(bad));
        assert_eq!(world.walk(), Err(bad));
    }
}

#[test]
fn trees_that_lead_back_into_themselves_end() {
    // A maple node that is its own child, in each slot.
    let mut world = tall_tree();
    let root = *world.guest.maple_nodes(world.mm).last().unwrap();
    for slot in 0..10 {
        world.guest.poke(root + 80 + slot * 8, root | 3 << 3 | 4);
    }
    let mm = world.mm;
    assert_eq!(world.start(0x1_4000), Err(Stop::Bad(Fault::BadTree, mm)));
    assert!(matches!(world.walk(), Err(Stop::Bad(Fault::BadTree, _))));

    // A red-black node that is its own left, or its own right child.
    for right in [false, true] {
        let mut world = World::new(
            shape(VmaStore::RbTree, LINUX_4_19_LAYOUT, MapleShape::default()),
            &spread(7),
        );
        let (mm, top) = (world.mm, world.made[3]);
        let link = match right {
            true => world.guest.rb_right(top),
            false => world.guest.rb_left(top),
        };
        world.guest.poke(link, top + 32);
        let beyond = if right { u64::MAX } else { 0 };
        assert_eq!(world.start(beyond), Err(Stop::Bad(Fault::BadTree, mm)));
        let fault = if right {
            Fault::CyclicList
        } else {
            Fault::BadTree
        };
        assert_eq!(world.walk(), Err(Stop::Bad(fault, mm)));
    }
}

#[test]
fn pointers_into_nowhere_end_with_their_fault() {
    let wild = [
        8,
        0x40_0000,
        USER_END - 0x100,
        LINEAR_BASE + (1 << 40),
        1 << 63,
        u64::MAX - 7,
    ];
    for pointer in wild {
        // The pointer to a VMA, in each store.
        for shape in shapes() {
            let mut world = World::new(shape, &spread(1));
            let place = world.place(0x1_4000).unwrap();
            let word = match place.trail {
                Trail::List(found) | Trail::RbTree(found) => found.anchor.word,
                Trail::Maple(spot) => spot.found.unwrap().anchor.word,
            };
            world.guest.poke(word, pointer);
            for stop in [
                world.start(0x1_4000).unwrap_err(),
                world.walk().unwrap_err(),
            ] {
                assert!(
                    matches!(stop, Stop::Bad(Fault::BadMapping, _)),
                    "{pointer:#x}: {stop:?}"
                );
            }
            assert!(world.check(&place).is_err());
        }
        // The pointer to a maple node, from the root and from a node.
        let mut world = tall_tree();
        let root = *world.guest.maple_nodes(world.mm).last().unwrap();
        for word in [root + 80, world.mm + 8] {
            // The lowest ones are no pointers in a root word.
            let pointer = pointer.max(0x2000);
            world.guest.poke(word, (pointer & !0x7f) | 1 << 3 | 2);
            let stop = world.start(0x1_4000).unwrap_err();
            assert!(matches!(stop, Stop::Bad(Fault::BadMapping, _)), "{stop:?}");
        }
    }
}

#[test]
fn nodes_of_no_known_kind_are_refused() {
    let mut world = tall_tree();
    let root = *world.guest.maple_nodes(world.mm).last().unwrap();
    for kind in 4..16 {
        world.guest.poke(world.mm + 8, root | kind << 3 | 2);
        let bad = Stop::Bad(Fault::BadTree, root | kind << 3);
        assert_eq!(world.start(0x1_4000), Err(bad));
        assert_eq!(world.walk(), Err(bad));
    }
}

#[test]
fn a_walk_breaks_off_when_it_is_told_to() {
    for shape in shapes() {
        let mut world = World::new(shape, &spread(40));
        let mm = world.mm;
        let mut seen = 0;
        let flow = walk(&mut world.walker(), mm, &mut |_| {
            seen += 1;
            match seen {
                17 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        assert_eq!((flow, seen), (Ok(ControlFlow::Break(())), 17));
    }
}

/// One thread replaces all mappings without pause, in memory that is used again at once; this one looks up. Every third mapping
/// is the same in both sets, so it is there at any moment; the others are as one of the sets says.
#[test]
fn look_ups_beside_a_guest_that_runs_are_right_or_try_again() {
    const LOOK_UPS: u32 = 20_000;
    let shapes = [
        shape(VmaStore::List, LINUX_4_19_LAYOUT, MapleShape::default()),
        shape(VmaStore::RbTree, LINUX_4_19_LAYOUT, MapleShape::default()),
        shape(VmaStore::RbTree, &uncounted(), MapleShape::default()),
        shape(
            VmaStore::Maple,
            LINUX_6_1_LAYOUT,
            maple(6, 4, MapleInner::AllocationRange),
        ),
    ];
    let (first, mut second) = (spread(30), spread(45));
    for (index, spec) in second.iter_mut().enumerate() {
        if index % 3 != 0 || index >= first.len() {
            // Into the gap behind it, as another file.
            (spec.start, spec.end) = (spec.start + 0x3000, spec.end + 0x3000);
            spec.file += 1_000;
        }
    }
    let holding = |set: &[VmaSpec], address| {
        let holds = |spec: &&VmaSpec| (spec.start..spec.end).contains(&address);
        set.iter().find(holds).map(spec_mapping)
    };
    for shape in shapes {
        let store = shape.store;
        let World {
            mut guest,
            mut view,
            mm,
            ..
        } = World::new(shape, &first);
        let done = AtomicBool::new(false);
        let answered = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    guest.replace_vmas(mm, &second);
                    guest.replace_vmas(mm, &first);
                }
            });
            let mut answered = 0;
            for index in 0..LOOK_UPS {
                let spec = first[index as usize % first.len()];
                let address = spec.start + u64::from(index % 5) * 0x1000;
                let mut walker = view.walker();
                let asked = find(&mut walker, mm, address)
                    .and_then(|place| place.check(&mut walker, mm).map(|()| place));
                if let Ok(place) = asked {
                    answered += 1;
                    let found = place.vma(address).map(mapping);
                    let right = [holding(&first, address), holding(&second, address)];
                    if !right.contains(&found) {
                        done.store(true, Ordering::Relaxed);
                        panic!("{found:x?} for {address:#x} in {store:?}, not {right:x?}");
                    }
                }
            }
            done.store(true, Ordering::Relaxed);
            answered
        });
        assert!(answered > 0, "{store:?} never held still");
    }
}
