//! What is wrong in a store.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

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
