//! What changes in a store while it is looked at.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

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
