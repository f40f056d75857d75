//! Build-ids of sampled files, read through page tables.

use oprofile_wire::layout::{Field, LayoutEntry, VmaStore};
use oprofile_wire::sample::ESCAPE;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::guest::build_id::BuildId;
use crate::test_utils::{GuestShape, LINUX_6_1_LAYOUT, PageSize, TINY_LAYOUT, elf_with_build_id};
use crate::{CookieTarget, Fault, FileBuild};

/// Where the file's start is mapped: as far below its code as in the file.
const START: u64 = TEXT - 0x3000;

/// A process of a guest like Linux 6.1, of which nothing is in memory yet, and the page for the start of its program.
struct Scene {
    driver: Driver,
    process: Process,
    page: u64,
}

/// `start` is where the start of the file is mapped, if anywhere.
fn scene(layout: &[LayoutEntry], store: VmaStore, start: Option<u64>) -> Scene {
    let mut guest = SyntheticGuest::with_shape(GuestShape {
        layout: layout.to_vec(),
        store,
        ..GuestShape::default()
    });
    let process = process(&mut guest, 7, b"prog");
    let mut vmas = mappings(process.file).to_vec();
    if let Some(start) = start {
        vmas.push(VmaSpec {
            start,
            end: start + 0x1000,
            page_offset: 0,
            file: process.file,
        });
    }
    vmas.sort_by_key(|vma| vma.start);
    guest.set_vmas(process.mm, &vmas);
    let page = guest.allocate(0x1000);
    Scene {
        driver: Driver::new(guest, 1).hello(),
        process,
        page,
    }
}

fn linux() -> Scene {
    scene(LINUX_6_1_LAYOUT, VmaStore::Maple, Some(START))
}

impl Scene {
    /// Puts `file` into memory at `start`.
    fn map(&mut self, start: u64, file: &[u8]) {
        let page = GuestAddress(self.page);
        self.driver.guest.memory().write_slice(file, page).unwrap();
        self.driver.guest.map(start, self.page, PageSize::Small);
    }

    /// Takes a sample in the program; what is known of its build then.
    fn sampled(&mut self) -> FileBuild {
        let buffer = self
            .driver
            .buffer(0)
            .user(self.process.task)
            .sample(TEXT + 0x10);
        self.driver.post(0, &buffer);
        self.driver.device.tick();
        let account = self.driver.device.account();
        assert!(account.adds_up() && account.sync.raced == 0, "{account:#?}");
        let words = self.driver.words();
        let switch = words
            .windows(3)
            .rfind(|words| words[..2] == [ESCAPE, 3])
            .unwrap();
        match self.driver.device.cookie(switch[2]) {
            Some(CookieTarget::File { build, .. }) => build,
            other => panic!("{other:?}"),
        }
    }
}

fn id(byte: u8) -> FileBuild {
    FileBuild::Id(BuildId::new(&[byte; 20]).unwrap())
}

#[test]
fn the_first_sample_of_a_file_tells_its_build() {
    for (layout, store) in [
        (LINUX_6_1_LAYOUT, VmaStore::Maple),
        (TINY_LAYOUT, VmaStore::List),
    ] {
        let mut scene = scene(layout, store, Some(START));
        scene.map(START, &elf_with_build_id(true, 4, &[3; 20]));
        assert_eq!(scene.sampled(), id(3));
        let account = scene.driver.device.account();
        assert_eq!((account.build_ids, account.build_ids_none), (1, 0));
        assert_eq!(account.faults.total(), 0);
    }
}

#[test]
fn the_start_of_a_file_is_found_below_its_code_wherever_it_lies() {
    // Right below the code, not where the file's offsets would put it.
    let near = TEXT - 0x1000;
    let mut scene = scene(LINUX_6_1_LAYOUT, VmaStore::Maple, Some(near));
    scene.map(near, &elf_with_build_id(false, 4, &[4; 20]));
    assert_eq!(scene.sampled(), id(4));
}

#[test]
fn a_file_without_a_build_id_is_known_to_have_none() {
    let mut scene = linux();
    scene.map(START, b"#!/bin/sh\nexit 0\n");
    assert_eq!(scene.sampled(), FileBuild::WithoutId);
    // What is known is not looked at again.
    scene.map(START, &elf_with_build_id(true, 4, &[3; 20]));
    assert_eq!(scene.sampled(), FileBuild::WithoutId);
    assert_eq!(scene.driver.device.account().build_ids_none, 1);
}

#[test]
fn a_page_that_comes_later_is_read_then() {
    let mut scene = linux();
    assert_eq!(scene.sampled(), FileBuild::Unknown);
    assert_eq!(scene.sampled(), FileBuild::Unknown);
    scene.map(START, &elf_with_build_id(true, 4, &[5; 20]));
    assert_eq!(scene.sampled(), id(5));
    assert_eq!(scene.driver.device.account().build_ids_unreadable, 0);
}

#[test]
fn a_page_that_never_comes_is_given_up_and_counted() {
    let mut scene = linux();
    for _ in 0..20 {
        assert_eq!(scene.sampled(), FileBuild::Unknown);
    }
    let account = scene.driver.device.account();
    assert_eq!(account.build_ids_unreadable, 1);
    // Not being in memory is nothing wrong.
    assert_eq!(account.faults.total(), 0);
    scene.map(START, &elf_with_build_id(true, 4, &[5; 20]));
    assert_eq!(scene.sampled(), FileBuild::Unknown);
}

#[test]
fn a_file_whose_start_is_not_mapped_is_of_unknown_build() {
    let mut scene = scene(LINUX_6_1_LAYOUT, VmaStore::Maple, None);
    assert_eq!(scene.sampled(), FileBuild::Unknown);
    assert_eq!(scene.driver.device.account().build_ids_unreadable, 1);
}

#[test]
fn the_start_of_another_file_below_is_not_taken_for_it() {
    let mut scene = scene(LINUX_6_1_LAYOUT, VmaStore::Maple, None);
    let other = scene.driver.guest.file_named(b"other");
    let mut vmas = mappings(scene.process.file).to_vec();
    vmas.insert(
        0,
        VmaSpec {
            start: START,
            end: TEXT,
            page_offset: 0,
            file: other,
        },
    );
    scene.driver.guest.replace_vmas(scene.process.mm, &vmas);
    scene.map(START, &elf_with_build_id(true, 4, &[6; 20]));
    assert_eq!(scene.sampled(), FileBuild::Unknown);
}

#[test]
fn tables_that_lead_nowhere_cost_no_sample() {
    for (table, fault) in [
        (1 << 40, Fault::BadPageTable),
        (
            SyntheticGuest::linear(0x10_0000) | 1 << 45,
            Fault::BadPageTable,
        ),
    ] {
        let mut scene = linux();
        let guest = &scene.driver.guest;
        guest.set(scene.process.mm, Field::MmPageTable, table);
        for _ in 0..20 {
            assert_eq!(scene.sampled(), FileBuild::Unknown);
        }
        let account = scene.driver.device.account();
        assert_eq!(account.sync.file, 20);
        assert_eq!(account.build_ids_unreadable, 1);
        assert!(account.fault(fault) >= 1, "{account:#?}");
    }
}

#[test]
fn a_layout_without_page_tables_tells_no_build() {
    let layout: Vec<_> = LINUX_6_1_LAYOUT
        .iter()
        .filter(|entry| entry.field.get() != Field::MmPageTable as u16)
        .copied()
        .collect();
    let mut guest = SyntheticGuest::with_shape(GuestShape {
        layout,
        store: VmaStore::Maple,
        ..GuestShape::default()
    });
    let process = process(&mut guest, 7, b"prog");
    let mut driver = Driver::new(guest, 1).hello();
    let buffer = driver.buffer(0).user(process.task).sample(TEXT);
    driver.post(0, &buffer);
    driver.device.tick();
    let account = driver.device.account();
    assert_eq!((account.sync.file, account.build_ids_unreadable), (1, 0));
}

#[test]
fn a_list_that_is_too_long_to_search_again_is_nothing_wrong() {
    let mut scene = scene(TINY_LAYOUT, VmaStore::List, None);
    let mut vmas = mappings(scene.process.file).to_vec();
    let more = (0..1_200).map(|index| {
        let start = 0x1000 + index * 0x2000;
        VmaSpec {
            start,
            end: start + 0x1000,
            page_offset: 0,
            file: 0,
        }
    });
    vmas.splice(0..0, more.take_while(|vma| vma.end <= START));
    assert!(vmas.len() > 400);
    scene.driver.guest.set_vmas(scene.process.mm, &vmas);
    for _ in 0..20 {
        assert_eq!(scene.sampled(), FileBuild::Unknown);
    }
    let account = scene.driver.device.account();
    assert_eq!(account.build_ids_unreadable, 1);
    assert_eq!(account.faults.total(), 0);
}

/// Takes a sample in the process's anonymous region; the region's cookie.
fn sampled_in_region(scene: &mut Scene) -> u64 {
    let task = scene.process.task;
    let buffer = scene.driver.buffer(0).user(task).sample(ANON + 0x20);
    scene.driver.post(0, &buffer);
    scene.driver.device.tick();
    let words = scene.driver.words();
    let switch = words
        .windows(3)
        .rfind(|words| words[..2] == [ESCAPE, 3])
        .unwrap();
    switch[2]
}

fn name_of(scene: &Scene, cookie: u64) -> Vec<u8> {
    match scene.driver.device.cookie(cookie) {
        Some(CookieTarget::Anonymous { name, .. }) => name,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_region_with_a_vdso_has_its_name_and_its_image() {
    let mut scene = linux();
    let mut image = b"\x7fELF".to_vec();
    image.extend_from_slice(b"\0__vdso_time\0linux-vdso.so.1\0LINUX_2.6\0");
    scene.map(ANON, &image);
    let cookie = sampled_in_region(&mut scene);
    assert_eq!(name_of(&scene, cookie), b"[vdso]");
    image.resize(0x1000, 0);
    assert_eq!(
        scene.driver.device.vdso(cookie).as_deref(),
        Some(&image[..])
    );
    assert_eq!(scene.driver.device.account().faults.total(), 0);
}

#[test]
fn pages_of_a_vdso_that_are_not_in_memory_are_zero_but_the_first_must_be_there() {
    let mut scene = linux();
    let mut vmas = mappings(scene.process.file).to_vec();
    vmas[1].end = ANON + 0x3000;
    scene.driver.guest.set_vmas(scene.process.mm, &vmas);
    let cookie = sampled_in_region(&mut scene);
    assert_eq!(name_of(&scene, cookie), b"anon");
    assert_eq!(scene.driver.device.vdso(cookie), None);
    scene.map(ANON, b"\x7fELF\0linux-vdso.so.1\0");
    let again = sampled_in_region(&mut scene);
    assert_eq!(again, cookie);
    let image = scene.driver.device.vdso(cookie).unwrap();
    assert_eq!(image.len(), 0x3000);
    assert!(image[0x1000..].iter().all(|&byte| byte == 0));
}

#[test]
fn other_memory_is_not_kept() {
    for content in [&b"what a compiler made"[..], b"\x7fELF of something else"] {
        let mut scene = linux();
        scene.map(ANON, content);
        let cookie = sampled_in_region(&mut scene);
        assert_eq!(name_of(&scene, cookie), b"anon");
        assert_eq!(scene.driver.device.vdso(cookie), None);
    }
}
