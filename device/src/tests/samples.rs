//! Samples on their way to the reader.

use oprofile_wire::layout::{Field, LayoutEntry};
use oprofile_wire::sample::ESCAPE;

use super::*;
use crate::event_buffer::record::{
    COOKIE_SWITCH, CPU_SWITCH, CTX_SWITCH, CTX_TGID, KERNEL_ENTER, KERNEL_EXIT, TRACE_BEGIN,
};
use crate::guest::paging::Levels;
use crate::test_utils::{COMPACT_LAYOUT, KERNEL_START};
use crate::{Account, CookieTarget, Settings};

fn path_of(driver: &Driver, cookie: u64) -> Vec<u8> {
    match driver.device.cookie(cookie) {
        Some(CookieTarget::File { path, .. }) => path,
        other => panic!("cookie {cookie} is {other:?}"),
    }
}

#[test]
fn a_user_sample_becomes_cookie_and_offset() {
    let (mut driver, process) = driver(1);
    let buffer = driver.buffer(0).user(process.task).sample(TEXT + 0x123);
    driver.post(0, &buffer);
    driver.device.tick();
    let words = driver.words();
    #[rustfmt::skip]
    let expected = [
        ESCAPE, CPU_SWITCH, 0,
        ESCAPE, KERNEL_EXIT,
        // Main program and mapped file are the same here.
        ESCAPE, CTX_SWITCH, 7, words[8],
        ESCAPE, CTX_TGID, 7,
        ESCAPE, COOKIE_SWITCH, words[8],
        0x3123, 0,
    ];
    assert_eq!(words, expected);
    assert_eq!(path_of(&driver, words[8]), b"/prog");
    let account = driver.device.account();
    assert_eq!((account.received, account.sync.file), (1, 1));
    assert!(account.adds_up());
    assert_eq!(account.faults.total(), 0);
}

#[test]
fn a_sample_without_a_file_gets_the_cookie_of_its_region() {
    let (mut driver, process) = driver(1);
    let buffer = driver.buffer(0).user(process.task).sample(ANON + 0x10);
    driver.post(0, &buffer);
    driver.device.tick();
    let words = driver.words();
    let [.., cookie, offset, _] = words[..] else {
        panic!("{words:?}")
    };
    assert_eq!(offset, ANON + 0x10);
    let target = CookieTarget::Anonymous {
        tgid: 7,
        start: ANON,
        end: ANON + 0x1000,
        name: b"anon".to_vec(),
    };
    assert_eq!(driver.device.cookie(cookie), Some(target));
}

#[test]
fn kernel_samples_and_call_chains_are_told_apart() {
    let (mut driver, process) = driver(1);
    let buffer = driver
        .buffer(0)
        .kernel(process.task)
        .trace()
        .sample(KERNEL_START)
        .frame(KERNEL_START + 1)
        .frame(KERNEL_START + 2);
    driver.post(0, &buffer);
    driver.device.tick();
    let words = driver.words();
    assert!(words.windows(2).any(|pair| pair == [ESCAPE, KERNEL_ENTER]));
    assert!(words.windows(2).any(|pair| pair == [ESCAPE, TRACE_BEGIN]));
    let account = driver.device.account();
    assert_eq!((account.received, account.sync.kernel), (1, 1));
    assert_eq!(account.sync.frames, 2);
    assert!(account.adds_up());
}

#[test]
fn an_address_in_no_mapping_is_counted_so() {
    let (mut driver, process) = driver(1);
    let mut buffer = driver.buffer(0).user(process.task);
    for address in [0, TEXT - 1, TEXT + 0x4000, ANON + 0x1000, u64::MAX - 1] {
        buffer = buffer.sample(address);
    }
    driver.post(0, &buffer);
    driver.device.tick();
    let account = driver.device.account();
    assert_eq!((account.received, account.sync.no_mapping), (5, 5));
    assert!(account.adds_up());
    assert_eq!(account.faults.total(), 0);
}

#[test]
fn munmap_after_a_doorbell_keeps_samples() {
    let (mut driver, process) = driver(2);
    let old = driver.buffer(1).user(process.task).sample(TEXT);
    driver.post(1, &old);
    driver.ring(1);
    let other = driver.guest.file_named(b"other");
    driver.guest.set_vmas(process.mm, &mappings(other));
    driver.guest.set(process.mm, Field::MmSequence, 2);
    let new = driver.buffer(1).user(process.task).sample(TEXT);
    driver.post(1, &new);
    driver.ring(1);
    let words = driver.words();
    let cookies: Vec<_> = words
        .windows(3)
        .filter(|record| record[..2] == [ESCAPE, COOKIE_SWITCH])
        .map(|record| path_of(&driver, record[2]))
        .collect();
    assert_eq!(cookies, [&b"/prog"[..], b"/other"]);
    assert_eq!(driver.device.account().doorbells, 2);
}

#[test]
fn exit_after_a_doorbell_keeps_samples() {
    let (mut driver, process) = driver(1);
    let buffer = driver.buffer(0).user(process.task).sample(TEXT);
    driver.post(0, &buffer);
    driver.ring(0);
    driver.guest.set(process.task, Field::TaskMm, 0);
    driver.ring(0);
    let account = driver.device.account();
    assert_eq!((account.sync.file, account.sync.no_mm), (1, 0));
    assert!(account.adds_up());
}

/// A process that was sampled once, in its file, and is gone. Samples that come then: in the file, elsewhere in it where none
/// has been before, in memory without a file, and in no mapping.
fn late_samples(settings: Settings, full_syncs: u64) -> Account {
    let mut guest = SyntheticGuest::default();
    let process = process(&mut guest, 7, b"prog");
    let mut driver = Driver::with_settings(guest, settings).hello();
    let buffer = driver.buffer(0).user(process.task).sample(TEXT);
    driver.post(0, &buffer);
    driver.device.tick();
    driver.guest.set(process.task, Field::TaskMm, 0);
    // Nothing of it can be read any more.
    driver.guest.set(process.mm, Field::MmVmaList, 4);
    for _ in 0..full_syncs {
        let kernel = driver.buffer(0).kernel(process.task).sample(1 << 63);
        driver.post(0, &kernel);
        driver.device.tick();
    }
    let late = driver
        .buffer(0)
        .user(process.task)
        .sample(TEXT)
        .sample(TEXT + 8)
        .sample(ANON)
        .sample(0x10);
    driver.post(0, &late);
    driver.device.tick();
    let account = driver.device.account();
    assert!(account.adds_up());
    assert_eq!(account.faults.total(), 0);
    account
}

#[test]
fn samples_of_a_process_that_is_gone_resolve_for_two_full_syncs() {
    let account = late_samples(Settings::default(), 1).sync;
    assert_eq!((account.file, account.anonymous), (3, 1));
    assert_eq!((account.no_mapping, account.no_mm), (1, 0));
    let account = late_samples(Settings::default(), 4).sync;
    assert_eq!((account.file, account.no_mm), (1, 4));
}

#[test]
fn late_samples_are_lost_where_the_host_wants_it_as_oprofile_has_it() {
    let settings = Settings {
        late_samples: false,
        ..Settings::default()
    };
    let account = late_samples(settings, 0).sync;
    assert_eq!((account.file, account.no_mm), (1, 4));
}

#[test]
fn a_doorbell_drains_only_the_vcpu_that_it_names() {
    let (mut driver, process) = driver(2);
    for vcpu in 0..2 {
        let buffer = driver.buffer(vcpu).user(process.task).sample(TEXT);
        driver.post(vcpu, &buffer);
    }
    driver.ring(1);
    assert!(driver.rings[1].take_used().is_empty());
    assert_eq!(driver.rings[2].take_used(), [(0, 0)]);
}

#[test]
fn threads_of_a_process_share_their_program() {
    let (mut driver, process) = driver(1);
    let thread = driver.guest.task(8, 7, process.mm);
    let buffer = driver
        .buffer(0)
        .user(process.task)
        .sample(TEXT)
        .user(thread)
        .sample(TEXT + 1);
    driver.post(0, &buffer);
    driver.device.tick();
    let words = driver.words();
    let switches = words
        .windows(2)
        .filter(|pair| *pair == [ESCAPE, COOKIE_SWITCH]);
    assert_eq!(switches.count(), 1);
    assert_eq!(driver.device.account().cookies, 1);
}

#[test]
fn a_kernel_thread_with_a_borrowed_mm_has_none() {
    let (mut driver, process) = driver(1);
    driver.guest.set(process.task, Field::TaskFlags, 2);
    let buffer = driver.buffer(0).user(process.task).sample(TEXT);
    driver.post(0, &buffer);
    driver.device.tick();
    assert_eq!(driver.device.account().sync.no_mm, 1);
}

#[test]
fn a_mapping_that_never_holds_still_is_raced() {
    let (mut driver, process) = driver(1);
    driver.guest.set(process.mm, Field::MmSequence, 1);
    let buffer = driver.buffer(0).user(process.task).sample(TEXT);
    driver.post(0, &buffer);
    driver.device.tick();
    let account = driver.device.account();
    assert_eq!((account.received, account.sync.raced), (1, 1));
    assert!(account.adds_up());
}

#[test]
fn a_replaced_file_at_a_reused_dentry_gets_another_cookie() {
    let (mut driver, process) = driver(1);
    let mut cookies = Vec::new();
    for number in [1, 2] {
        let dentry = driver.guest.dentry(None, b"/");
        let leaf = driver.guest.dentry(Some(dentry), b"prog");
        driver.guest.set(process.file, Field::FileDentry, leaf);
        let inode = driver.guest.object();
        driver.guest.set(inode, Field::InodeNumber, number);
        driver.guest.set(leaf, Field::DentryInode, inode);
        driver.guest.set(process.file, Field::FileInode, inode);
        let buffer = driver.buffer(0).user(process.task).sample(TEXT);
        driver.post(0, &buffer);
        driver.device.tick();
        cookies.push(driver.words()[8]);
    }
    assert_ne!(cookies[0], cookies[1]);
}

#[test]
fn five_levels_and_a_linear_map_that_was_not_told_work_as_well() {
    let mut guest = SyntheticGuest::new(Levels::Five, COMPACT_LAYOUT);
    let process = process(&mut guest, 7, b"prog");
    let mut driver = Driver::new(guest, 1);
    let mut hello = driver.guest.hello();
    hello.linear_map_base = 0.into();
    hello.init_task = 0.into();
    let layout = driver
        .guest
        .layout_bytes(oprofile_wire::layout::VmaStore::List);
    let request = SyntheticGuest::hello_request(&hello, &layout);
    assert_eq!(driver.request(&request).status.get(), 0);
    let buffer = driver.buffer(0).user(process.task).sample(TEXT);
    driver.post(0, &buffer);
    driver.device.tick();
    assert_eq!(driver.device.account().sync.file, 1);
}

/// A layout with mounts, and without what is optional.
const MOUNT_LAYOUT: &[LayoutEntry] = &[
    LayoutEntry::field(Field::TaskMm, 8, 8),
    LayoutEntry::field(Field::TaskPid, 16, 4),
    LayoutEntry::field(Field::TaskTgid, 20, 4),
    LayoutEntry::field(Field::MmVmaList, 0, 8),
    LayoutEntry::field(Field::VmaStart, 0, 8),
    LayoutEntry::field(Field::VmaEnd, 8, 8),
    LayoutEntry::field(Field::VmaPageOffset, 16, 8),
    LayoutEntry::field(Field::VmaFile, 24, 8),
    LayoutEntry::field(Field::VmaMm, 32, 8),
    LayoutEntry::field(Field::VmaNext, 40, 8),
    LayoutEntry::field(Field::FileDentry, 16, 8),
    LayoutEntry::field(Field::FileMount, 8, 8),
    LayoutEntry::field(Field::DentryParent, 0, 8),
    LayoutEntry::field(Field::DentryName, 8, 8),
    LayoutEntry::field(Field::DentryNameLength, 16, 4),
    LayoutEntry::field(Field::DentryHashLink, 24, 8),
    LayoutEntry::field(Field::MountParent, 0, 8),
    LayoutEntry::field(Field::MountPoint, 8, 8),
    LayoutEntry::field(Field::MountVisible, 16, 16),
    LayoutEntry::field(Field::VfsMountRoot, 0, 8),
];

/// A mount of `root` on `on` (parent mount, directory entry); on itself without one.
fn mount(guest: &mut SyntheticGuest, root: u64, on: Option<(u64, u64)>) -> u64 {
    let mount = guest.object();
    let (parent, point) = on.unwrap_or((mount, root));
    guest.set(mount, Field::MountParent, parent);
    guest.set(mount, Field::MountPoint, point);
    guest.set(mount + 16, Field::VfsMountRoot, root);
    mount
}

#[test]
fn a_path_crosses_mounts_and_a_deleted_or_detached_file_is_told() {
    let mut guest = SyntheticGuest::new(Levels::Four, MOUNT_LAYOUT);
    let root = guest.dentry(None, b"/");
    let usr = guest.dentry(Some(root), b"usr");
    let top = mount(&mut guest, root, None);
    let usr_root = guest.dentry(None, b"/");
    let usr_mount = mount(&mut guest, usr_root, Some((top, usr)));
    let bin = guest.dentry(Some(usr_root), b"bin");
    let prog = guest.dentry(Some(bin), b"pr\xffog");
    let on_usr = guest.file(prog);
    guest.set(on_usr, Field::FileMount, usr_mount + 16);
    let gone = guest.dentry(Some(usr), b"gone");
    guest.set(gone, Field::DentryHashLink, 0);
    let deleted = guest.file(gone);
    guest.set(deleted, Field::FileMount, top + 16);
    let memfd = guest.dentry(None, b"memfd:jit");
    guest.set(memfd, Field::DentryHashLink, 0);
    let detached = guest.file(memfd);
    guest.set(detached, Field::FileMount, top + 16);
    let vma = |index: u64, file| VmaSpec {
        start: index << 20,
        end: (index << 20) + 0x1000,
        page_offset: 0,
        file,
    };
    let mm = guest.mm(0, &[vma(1, on_usr), vma(2, deleted), vma(3, detached)]);
    let task = guest.task(5, 5, mm);
    let mut driver = Driver::new(guest, 1).hello();
    let buffer = driver.buffer(0).user(task);
    let buffer = buffer.sample(1 << 20).sample(2 << 20).sample(3 << 20);
    driver.post(0, &buffer);
    driver.device.tick();
    let words = driver.words();
    let files: Vec<_> = words
        .windows(3)
        .filter(|record| record[..2] == [ESCAPE, COOKIE_SWITCH])
        .map(|record| match driver.device.cookie(record[2]) {
            Some(CookieTarget::File { path, deleted, .. }) => (path, deleted),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        (b"/usr/bin/pr\xffog".to_vec(), false),
        (b"/usr/gone".to_vec(), true),
        (b"memfd:jit".to_vec(), true),
    ];
    assert_eq!(files, expected);
}

/// The root entry of a file system, and its mount, which is on no other one.
fn file_system(guest: &mut SyntheticGuest) -> (u64, u64) {
    let root = guest.dentry(None, b"/");
    (root, mount(guest, root, None))
}

/// What Linux shows as `/dev/zero (deleted)` is memory without a file to those who map it. The same name in a directory is a file's.
#[test]
fn memory_that_processes_share_is_a_region_of_each() {
    let mut guest = SyntheticGuest::new(Levels::Four, MOUNT_LAYOUT);
    let [(root, top), (_, internal)] = [(); 2].map(|()| file_system(&mut guest));
    let mut file = |parent, name, mount| {
        let dentry = guest.dentry(parent, name);
        guest.set(dentry, Field::DentryHashLink, u64::from(parent.is_some()));
        let file = guest.file(dentry);
        guest.set(file, Field::FileMount, mount + 16);
        file
    };
    let shared = file(None, b"dev/zero", internal);
    let huge = file(None, b"anon_hugepage", internal);
    let named = file(Some(root), b"anon_hugepage", top);
    let vma = |index: u64, file| VmaSpec {
        start: index << 20,
        end: (index << 20) + 0x1000,
        page_offset: 5,
        file,
    };
    let parent = guest.mm(0, &[vma(1, shared), vma(2, huge), vma(3, named)]);
    let child = guest.mm(0, &[vma(1, shared)]);
    let (parent, child) = (guest.task(5, 5, parent), guest.task(6, 6, child));
    let mut driver = Driver::new(guest, 1).hello();
    // Twice: what is remembered is as good.
    for _ in 0..2 {
        let buffer = driver.buffer(0).user(parent);
        let buffer = buffer.sample((1 << 20) + 8).sample((2 << 20) + 8);
        let buffer = buffer.sample((3 << 20) + 8).user(child);
        let buffer = buffer.sample((1 << 20) + 8);
        driver.post(0, &buffer);
        driver.device.tick();
        let words = driver.words();
        let switches = words
            .windows(4)
            .filter(|record| record[..2] == [ESCAPE, COOKIE_SWITCH]);
        let targets: Vec<_> = switches
            .map(|record| (driver.device.cookie(record[2]).unwrap(), record[3]))
            .collect();
        let region = |tgid, index: u64| CookieTarget::Anonymous {
            tgid,
            start: index << 20,
            end: (index << 20) + 0x1000,
            name: b"anon".to_vec(),
        };
        let offsets: Vec<_> = targets.iter().map(|(_, offset)| *offset).collect();
        assert_eq!(
            offsets,
            [(1 << 20) + 8, (2 << 20) + 8, 0x5008, (1 << 20) + 8]
        );
        assert_eq!(targets[0].0, region(5, 1));
        assert_eq!(targets[1].0, region(5, 2));
        assert!(
            matches!(&targets[2].0, CookieTarget::File { path, .. } if path == b"/anon_hugepage")
        );
        assert_eq!(targets[3].0, region(6, 1));
    }
    let account = driver.device.account();
    assert_eq!(
        (account.sync.file, account.sync.anonymous),
        (2, 6),
        "{account:?}"
    );
    assert_eq!(account.faults.total(), 0);
}

#[test]
fn a_mapping_whose_files_memory_is_used_anew_for_shared_memory_becomes_a_region() {
    let mut guest = SyntheticGuest::new(Levels::Four, MOUNT_LAYOUT);
    let [(root, top), (_, internal)] = [(); 2].map(|()| file_system(&mut guest));
    let library = guest.dentry(Some(root), b"library");
    let zero = guest.dentry(None, b"dev/zero");
    let file = guest.file(library);
    guest.set(file, Field::FileMount, top + 16);
    let mapping = VmaSpec {
        start: 1 << 20,
        end: (1 << 20) + 0x1000,
        page_offset: 5,
        file,
    };
    let space = guest.mm(0, &[mapping]);
    let task = guest.task(5, 5, space);
    let mut driver = Driver::new(guest, 1).hello();
    let places = [
        (library, top, 0x5008),
        (zero, internal, (1 << 20) + 8),
        (library, top, 0x5008),
    ];
    for (dentry, mount, offset) in places {
        driver.guest.set(file, Field::FileDentry, dentry);
        driver.guest.set(file, Field::FileMount, mount + 16);
        let buffer = driver.buffer(0).user(task).sample((1 << 20) + 8);
        driver.post(0, &buffer);
        driver.device.tick();
        let words = driver.words();
        assert_eq!(words[words.len() - 2], offset, "{words:x?}");
    }
    let account = driver.device.account();
    assert_eq!((account.sync.file, account.sync.anonymous), (2, 1));
}

#[test]
fn what_overflows_the_event_buffer_is_counted() {
    let mut guest = SyntheticGuest::default();
    let process = process(&mut guest, 7, b"prog");
    let settings = Settings {
        buffer_size: 24,
        buffer_watershed: 1,
        ..Settings::default()
    };
    let mut driver = Driver::with_settings(guest, settings).hello();
    let mut buffer = driver.buffer(0).user(process.task);
    for offset in 0..10 {
        buffer = buffer.sample(TEXT + offset);
    }
    driver.post(0, &buffer);
    driver.device.tick();
    let account = driver.device.account();
    assert_eq!(account.received, 10);
    assert_eq!(account.sync.file + account.sync.lost_overflow, 10);
    assert!(account.sync.lost_overflow > 0 && account.lost_words > 0);
    assert!(account.adds_up());
}

#[test]
fn what_the_guest_lost_comes_from_its_totals() {
    let (mut driver, process) = driver(1);
    for (lost, invalid) in [(3u64, 1u64), (5, 1)] {
        let mut buffer = driver.buffer(0).kernel(process.task).sample(KERNEL_START);
        buffer.header.lost = lost.into();
        buffer.header.invalid = invalid.into();
        driver.post(0, &buffer);
    }
    driver.device.tick();
    let account = driver.device.account();
    assert_eq!((account.lost, account.invalid), (5, 1));
    assert_eq!(account.received, 8);
    assert!(account.adds_up());
}

#[test]
fn an_idle_vcpu_writes_no_words() {
    let (mut driver, _) = driver(2);
    driver.device.tick();
    driver.device.tick();
    assert!(driver.words().is_empty());
    assert_eq!(driver.device.account().vcpus[1].syncs, 2);
}
