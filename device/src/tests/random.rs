//! Random input: nothing panics, nothing goes on for ever, every sample is accounted for.

use oprofile_wire::layout::{Field, LayoutEntry, VmaStore};
use oprofile_wire::sample::{ESCAPE, note, note_word};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::test_utils::{
    COMPACT_LAYOUT, Descriptor, GuestShape, KERNEL_START, LINUX_4_19_LAYOUT, LINUX_6_1_LAYOUT, Ring,
};

const STORES: [(VmaStore, &[LayoutEntry]); 4] = [
    (VmaStore::List, COMPACT_LAYOUT),
    (VmaStore::List, LINUX_4_19_LAYOUT),
    (VmaStore::RbTree, LINUX_4_19_LAYOUT),
    (VmaStore::Maple, LINUX_6_1_LAYOUT),
];

fn words() -> impl Strategy<Value = Vec<u64>> {
    let word = prop_oneof![
        3 => Just(ESCAPE),
        3 => (0u64..32, 0usize..4).prop_map(|(flags, data)| note_word(flags, data)),
        2 => Just(TEXT),
        1 => Just(ANON),
        1 => Just(KERNEL_START),
        2 => any::<u64>(),
    ];
    prop::collection::vec(word, 0..80)
}

/// Descriptors near RAM and near each other, so that many chains are half right.
fn descriptor() -> impl Strategy<Value = Descriptor> {
    let address = prop_oneof![0u64..(20 << 20), any::<u64>()];
    let length = prop_oneof![0u32..5_000, any::<u32>()];
    (address, length, 0u16..8, 0u16..140).prop_map(|(address, length, flags, next)| Descriptor {
        address,
        length,
        flags,
        next,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_entries_of_real_and_unreal_tasks_add_up(
        buffers in prop::collection::vec((words(), any::<u32>(), any::<[u16; 3]>(), 0usize..4), 1..6))
    {
        let (mut driver, process) = driver(1);
        let init = driver.guest.init_task();
        let tasks = [process.task, init, process.mm, 0];
        for (words, samples, [lost, invalid, aborted], task) in buffers {
            let flags = note::KERNEL_CTX_SWITCH | note::USER_CTX_SWITCH;
            let mut buffer = driver
                .buffer(0)
                .words(&[ESCAPE, note_word(flags, 1), tasks[task]])
                .words(&words);
            buffer.header.samples = samples.into();
            buffer.header.lost = u64::from(lost).into();
            buffer.header.invalid = u64::from(invalid).into();
            buffer.header.aborted = u64::from(aborted).into();
            driver.post(0, &buffer);
            driver.device.tick();
        }
        prop_assert!(driver.device.account().adds_up());
        driver.assert_lives(0);
    }

    #[test]
    fn any_ring_and_descriptors_leave_the_other_vcpu_alone(
        descriptors in prop::collection::vec(descriptor(), 1..12),
        heads in prop::collection::vec(0u16..140, 0..8),
        control: bool,
        available in prop::option::of(any::<u16>()),
        noise in prop::collection::vec(any::<u8>(), 0..512))
    {
        let (mut driver, process) = driver(2);
        let memory = driver.guest.memory();
        memory.write_slice(&noise, GuestAddress(0)).unwrap();
        let queue = if control { 0 } else { 1 };
        let ring: &mut Ring = &mut driver.rings[queue];
        for (index, descriptor) in (0..).zip(descriptors) {
            ring.set_descriptor(index, descriptor);
        }
        for head in heads {
            ring.publish(head);
        }
        if let Some(index) = available {
            ring.set_available(index);
        }
        driver.device.notify(u16::try_from(queue).unwrap());
        driver.ring(0);
        driver.device.tick();
        let buffer = driver.buffer(1).user(process.task).sample(TEXT);
        driver.post(1, &buffer);
        driver.device.tick();
        let account = driver.device.account();
        prop_assert_eq!(account.vcpus[1].received, 1);
        prop_assert!(account.adds_up());
    }

    #[test]
    fn any_bytes_as_a_buffer_or_request_are_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u16..8, header: bool)
    {
        let (mut driver, _) = driver(1);
        driver.post_bytes(0, &bytes);
        let buffer = driver.buffer(0).build();
        driver.post_bytes(0, &[&buffer[..], &bytes].concat());
        let request = match header {
            true => SyntheticGuest::request(kind, 3, &bytes),
            false => bytes,
        };
        driver.post_request(&request);
        driver.device.tick();
        driver.device.tick();
        prop_assert!(driver.device.account().adds_up());
    }

    #[test]
    fn kernel_objects_full_of_garbage_are_answered(
        store in 0usize..4,
        garbage in prop::collection::vec((0usize..64, 0usize..64, any::<u64>(), 0u64..24), 1..60),
        addresses in prop::collection::vec(prop_oneof![TEXT..TEXT + 0x5000, any::<u64>()], 1..20))
    {
        let (store, layout) = STORES[store];
        let mut guest = SyntheticGuest::with_shape(GuestShape {
            store,
            layout: layout.to_vec(),
            ..GuestShape::default()
        });
        let process = process(&mut guest, 7, b"prog");
        let vmas = guest.set_vmas(process.mm, &mappings(process.file));
        let dentry = guest.get(process.file, Field::FileDentry);
        let inode = guest.get(dentry, Field::DentryInode);
        let mut objects = vec![process.task, process.mm, process.file, dentry, inode];
        objects.extend([guest.root_dentry(), guest.root_mount()]);
        objects.extend(vmas);
        objects.extend(guest.maple_nodes(process.mm));
        for (object, field, word, near) in garbage {
            // Mostly pointers to another object, mostly where a field is.
            let index = usize::try_from(word % objects.len() as u64).unwrap();
            let word = if near == 0 { word } else { objects[index] + near % 8 * 8 };
            let entry = layout[field % layout.len()];
            let offset = if entry.size.get() == 0 { 0 } else { entry.offset.get() };
            let at = objects[object % objects.len()] + u64::from(offset & !7);
            guest.poke(at, word);
        }
        let mut driver = Driver::new(guest, 1).hello();
        let mut buffer = driver.buffer(0).user(process.task);
        for &address in &addresses {
            if address != ESCAPE {
                buffer = buffer.sample(address);
            }
        }
        driver.post(0, &buffer);
        driver.device.tick();
        prop_assert!(driver.device.account().adds_up());
        driver.assert_lives(0);
    }
}
