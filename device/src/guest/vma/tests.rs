//! Every store, laid out and searched.

mod changes;
mod hostile;

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
}

/// A maple tree of three levels and the place of a VMA in it.
fn tall_tree() -> World {
    let tree = maple(4, 3, MapleInner::AllocationRange);
    World::new(shape(VmaStore::Maple, LINUX_6_1_LAYOUT, tree), &spread(12))
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
