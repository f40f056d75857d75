//! Samples of guests that keep their VMAs in different ways, through the whole device.

use oprofile_wire::layout::{Field, LayoutEntry, VmaStore};

use super::*;
use crate::guest::paging::Levels;
use crate::test_utils::{
    COMPACT_LAYOUT, GuestShape, LINUX_4_19_LAYOUT, LINUX_6_1_LAYOUT, PageSize, TINY_LAYOUT,
};
use crate::{CookieTarget, Fault};

const STORES: [(VmaStore, &[LayoutEntry]); 5] = [
    (VmaStore::List, COMPACT_LAYOUT),
    (VmaStore::List, TINY_LAYOUT),
    (VmaStore::List, LINUX_4_19_LAYOUT),
    (VmaStore::RbTree, LINUX_4_19_LAYOUT),
    (VmaStore::Maple, LINUX_6_1_LAYOUT),
];

/// A guest of every store, with 4 and 5 levels of page tables.
fn guests() -> impl Iterator<Item = SyntheticGuest> {
    STORES.into_iter().flat_map(|(store, layout)| {
        [Levels::Four, Levels::Five].map(|levels| {
            SyntheticGuest::with_shape(GuestShape {
                levels,
                layout: layout.to_vec(),
                store,
                linear_pages: PageSize::Small,
                ..GuestShape::default()
            })
        })
    })
}

/// A file of each name, mapped one after the other from [`TEXT`] on, with gaps.
fn mapped(guest: &mut SyntheticGuest, paths: &[&[u8]]) -> Vec<VmaSpec> {
    let starts = (0..).map(|index| TEXT + index * 0x10_000);
    let mapped = paths.iter().zip(starts).map(|(path, start)| VmaSpec {
        start,
        end: start + 0x4000,
        page_offset: 3,
        file: guest.file_at(path),
    });
    mapped.collect()
}

#[test]
fn samples_lead_to_the_same_files_in_every_store() {
    const PATHS: [&[u8]; 4] = [b"/bin/prog", b"/lib/a.so", b"/lib/b.so", b"/lib/c \xff.so"];
    for mut guest in guests() {
        let vmas = mapped(&mut guest, &PATHS);
        let mm = guest.mm(vmas[0].file, &vmas);
        let task = guest.task(7, 7, mm);
        let store = guest.store();
        let mut driver = Driver::new(guest, 1).hello();
        let mut buffer = driver.buffer(0).user(task);
        for vma in vmas.iter().rev() {
            buffer = buffer.sample(vma.start).sample(vma.end - 1);
            buffer = buffer.sample(vma.start - 1).sample(vma.end);
        }
        driver.post(0, &buffer);
        driver.device.tick();
        let words = driver.words();
        let switched = words
            .windows(7)
            .filter(|record| record[..2] == [u64::MAX, 3]);
        let mut seen = Vec::new();
        for record in switched {
            let Some(CookieTarget::File { path, deleted, .. }) = driver.device.cookie(record[2])
            else {
                panic!("{record:?} is no file");
            };
            assert!(!deleted);
            assert_eq!([record[3], record[5]], [0x3000, 0x6fff]);
            seen.push(path);
        }
        let expected: Vec<_> = PATHS.iter().rev().map(|path| path.to_vec()).collect();
        assert_eq!(seen, expected, "{store:?}");
        let account = driver.device.account();
        assert_eq!((account.sync.file, account.sync.no_mapping), (8, 8));
        assert!(account.adds_up() && account.faults.total() == 0);
    }
}

#[test]
fn a_mapping_replaced_after_a_doorbell_is_told_from_the_one_before() {
    for mut guest in guests() {
        let old = mapped(&mut guest, &[b"/bin/old"]);
        let new = mapped(&mut guest, &[b"/bin/new"]);
        let mm = guest.mm(old[0].file, &old);
        let task = guest.task(7, 7, mm);
        let mut driver = Driver::new(guest, 1).hello();
        let mut paths = Vec::new();
        // Each set of structures is made of the memory of the one before.
        for vmas in [&old, &new, &old, &new] {
            driver.guest.replace_vmas(mm, vmas);
            let sequence = driver.guest.get(mm, Field::MmSequence);
            driver.guest.set(mm, Field::MmSequence, sequence + 2);
            let buffer = driver.buffer(0).user(task).sample(TEXT + 0x10);
            driver.post(0, &buffer);
            driver.ring(0);
            let words = driver.words();
            let [.., cookie, offset, _] = words[..] else {
                panic!("{words:?}")
            };
            assert_eq!(offset, 0x3010);
            match driver.device.cookie(cookie) {
                Some(CookieTarget::File { path, .. }) => paths.push(path),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(paths, [b"/bin/old", b"/bin/new", b"/bin/old", b"/bin/new"]);
    }
}

#[test]
fn a_tree_without_end_is_counted_and_the_next_sample_is_resolved() {
    let mut guest = SyntheticGuest::with_shape(GuestShape {
        layout: LINUX_6_1_LAYOUT.to_vec(),
        store: VmaStore::Maple,
        ..GuestShape::default()
    });
    let process = process(&mut guest, 7, b"prog");
    let victim = self::process(&mut guest, 8, b"victim");
    // A root that is its own child: an inner node where there was a leaf.
    let root = guest.maple_nodes(victim.mm)[0];
    for slot in 0..10 {
        guest.poke(root + 80 + slot * 8, root | 3 << 3);
    }
    guest.poke(victim.mm + 8, root | 3 << 3 | 2);
    let mut driver = Driver::new(guest, 1).hello();
    let buffer = driver.buffer(0).user(victim.task).sample(TEXT);
    let buffer = buffer.user(process.task).sample(TEXT);
    driver.post(0, &buffer);
    driver.device.tick();
    let account = driver.device.account();
    assert_eq!((account.sync.raced, account.sync.file), (1, 1));
    assert!(account.fault(Fault::BadTree) > 0 && account.adds_up());
}
