//! What the device remembers of address spaces from sync to sync, seen from outside.

use oprofile_wire::changes;
use oprofile_wire::control::status;
use oprofile_wire::layout::{Field, VmaStore};
use oprofile_wire::sample::{ESCAPE, note, note_word};

use super::*;
use crate::test_utils::{GuestShape, LINUX_6_1_LAYOUT};
use crate::{CookieTarget, Fault};

/// A driver of a guest like Linux 6.1 that said hello, with a process.
fn linux() -> (Driver, Process) {
    let mut guest = SyntheticGuest::with_shape(GuestShape {
        layout: LINUX_6_1_LAYOUT.to_vec(),
        store: VmaStore::Maple,
        ..GuestShape::default()
    });
    let process = process(&mut guest, 7, b"prog");
    (Driver::new(guest, 1).hello(), process)
}

/// The same, whose driver keeps change words.
fn counting_linux() -> (Driver, Process) {
    let mut guest = SyntheticGuest::with_shape(GuestShape {
        layout: LINUX_6_1_LAYOUT.to_vec(),
        store: VmaStore::Maple,
        ..GuestShape::default()
    });
    guest.keep_change_words();
    let process = process(&mut guest, 7, b"prog");
    (Driver::new(guest, 1).hello(), process)
}

/// Posts a sample at `address`, has it taken, and returns the path of the file that it is in.
fn sampled(driver: &mut Driver, task: u64, address: u64) -> Option<Vec<u8>> {
    let buffer = driver.buffer(0).user(task).sample(address);
    driver.post(0, &buffer);
    driver.device.tick();
    assert!(driver.device.account().adds_up());
    // Behind the cookie switch, if there is one.
    let words = driver.words();
    let switch = words.windows(3).rfind(|words| words[..2] == [ESCAPE, 3])?;
    match driver.device.cookie(switch[2]) {
        Some(CookieTarget::File { path, .. }) => Some(path),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_mapping_that_went_unannounced_is_not_answered_from_memory() {
    let (mut driver, process) = linux();
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/prog");
    driver.guest.replace_vmas(process.mm, &[]);
    assert_eq!(sampled(&mut driver, process.task, TEXT), None);
    assert_eq!(driver.device.account().sync.no_mapping, 1);
}

#[test]
fn a_mapping_that_moved_unannounced_is_found_where_it_is() {
    let (mut driver, process) = linux();
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/prog");
    let [mut text, anonymous] = mappings(driver.guest.file_named(b"other"));
    text.start -= 0x1000;
    driver.guest.replace_vmas(process.mm, &[text, anonymous]);
    let below = sampled(&mut driver, process.task, TEXT - 1);
    assert_eq!(below.unwrap(), b"/other");
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/other");
}

/// It was promised, so nobody looks: what breaks the promise misleads about itself.
#[test]
fn a_change_that_was_to_be_counted_and_was_not_goes_unseen() {
    let (mut driver, process) = counting_linux();
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/prog");
    driver.guest.replace_vmas(process.mm, &[]);
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/prog");
}

#[test]
fn a_change_that_is_counted_is_seen_at_once() {
    let (mut driver, process) = counting_linux();
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/prog");
    driver.guest.count_change(process.mm, changes::BEGUN);
    driver.guest.replace_vmas(process.mm, &[]);
    assert_eq!(sampled(&mut driver, process.task, TEXT), None);
    driver.guest.count_change(process.mm, changes::ENDED);
    let mappings = mappings(driver.guest.file_named(b"other"));
    driver.guest.replace_vmas(process.mm, &mappings);
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/other");
}

#[test]
fn what_was_seen_during_a_change_is_looked_at_again_after_it() {
    let (mut driver, process) = counting_linux();
    driver.guest.count_change(process.mm, changes::BEGUN);
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/prog");
    driver.guest.replace_vmas(process.mm, &[]);
    driver.guest.count_change(process.mm, changes::ENDED);
    assert_eq!(sampled(&mut driver, process.task, TEXT), None);
}

#[test]
fn an_address_space_that_takes_the_place_of_another_is_looked_at() {
    let (mut driver, process) = counting_linux();
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/prog");
    // Torn down, and the same process has another at the same place.
    driver.guest.count_change(process.mm, changes::BEGUN);
    driver.guest.count_change(process.mm, changes::ENDED);
    let mappings = mappings(driver.guest.file_named(b"other"));
    driver.guest.replace_vmas(process.mm, &mappings);
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/other");
}

#[test]
fn a_name_that_nobody_counts_is_read_again_in_the_end() {
    let (mut driver, process) = counting_linux();
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/prog");
    let dentry = driver.guest.get(process.file, Field::FileDentry);
    driver.guest.set_name(dentry, b"renamed");
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/prog");
    for _ in 0..512 {
        driver.device.tick();
    }
    let renamed = sampled(&mut driver, process.task, TEXT);
    assert_eq!(renamed.unwrap(), b"/renamed");
}

/// A thread that exits is resolved by what is remembered; to those that go on that proves nothing.
#[test]
fn a_late_look_does_not_stand_for_one_at_the_guest() {
    let (mut driver, process) = counting_linux();
    let thread = driver.guest.task(8, 7, process.mm);
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/prog");
    driver.guest.count_change(process.mm, changes::BEGUN);
    driver.guest.set_task_mm(thread, 0);
    assert_eq!(sampled(&mut driver, thread, TEXT).unwrap(), b"/prog");
    driver.guest.replace_vmas(process.mm, &[]);
    assert_eq!(sampled(&mut driver, process.task, TEXT), None);
}

#[test]
fn change_words_outside_of_ram_are_refused() {
    let mut guest = SyntheticGuest::default();
    guest.keep_change_words();
    let mut hello = guest.hello();
    hello.change_words = (guest.ram_bytes() - 8).into();
    let request = SyntheticGuest::hello_request(&hello, &guest.layout_bytes(guest.store()));
    let answer = Driver::new(guest, 1).request(&request);
    assert_eq!(
        (answer.status.get(), answer.detail.get()),
        (status::BAD_KERNEL, 5)
    );
}

/// Nothing in the address space tells: the VMA and its pointer to the file are what they were.
#[test]
fn a_file_that_changed_hands_in_place_is_told_apart() {
    let (mut driver, process) = linux();
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/prog");
    let root = driver.guest.root_dentry();
    let dentry = driver.guest.dentry(Some(root), b"other");
    driver.guest.set(process.file, Field::FileDentry, dentry);
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/other");
}

#[test]
fn a_name_that_changed_in_place_is_told_apart() {
    let (mut driver, process) = linux();
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/prog");
    let dentry = driver.guest.get(process.file, Field::FileDentry);
    driver.guest.set_name(dentry, b"renamed");
    let renamed = sampled(&mut driver, process.task, TEXT);
    assert_eq!(renamed.unwrap(), b"/renamed");
}

/// Exit, with or without word before that mappings change: only then is there nothing left to resolve late samples by.
#[test]
fn what_is_announced_to_change_does_not_serve_late_samples() {
    for (event, resolved) in [(note::SPACE_CHANGES, 0), (note::SPACE_RELEASED, 1)] {
        let (mut driver, process) = linux();
        sampled(&mut driver, process.task, TEXT);
        let word = note_word(event, 1);
        let buffer = driver.buffer(0).words(&[ESCAPE, word, process.mm]);
        driver.post(0, &buffer);
        driver.device.tick();
        driver.guest.set_task_mm(process.task, 0);
        sampled(&mut driver, process.task, TEXT);
        let account = driver.device.account();
        assert_eq!(account.sync.file, 1 + resolved);
        assert_eq!(account.sync.no_mapping, 1 - resolved);
        assert_eq!(account.sync.data_short, 0, "the pipeline has not seen it");
    }
}

#[test]
fn notes_about_nothing_change_nothing() {
    let (mut driver, process) = linux();
    sampled(&mut driver, process.task, TEXT);
    for words in [
        &[ESCAPE, note_word(note::SPACE_CHANGES, 0)][..],
        &[ESCAPE, note_word(note::SPACE_CHANGES, 2), process.mm, 0],
        &[ESCAPE, note_word(note::SPACE_RELEASED, 1), 0],
    ] {
        let buffer = driver.buffer(0).words(words);
        driver.post(0, &buffer);
        driver.device.tick();
    }
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/prog");
    assert_eq!(driver.device.account().faults.total(), 0);
}

#[test]
fn a_flood_of_tasks_is_throttled() {
    const NOTES: usize = 40_000;
    let (mut driver, process) = linux();
    // Far more than a sync keeps in mind.
    let tasks: Vec<u64> = (0..512)
        .map(|pid| driver.guest.task(pid, pid, process.mm))
        .collect();
    let mut ends = 0;
    for _ in 0..4 {
        let mut buffer = driver.buffer(0);
        for task in tasks.iter().cycle().take(NOTES) {
            buffer = buffer.user(*task);
        }
        let buffer = buffer.sample(TEXT);
        driver.post(0, &buffer);
        driver.ring(0);
        ends += 1;
    }
    let account = driver.device.account();
    assert!(account.sync.throttled > 0, "{account:?}");
    // Task records of those that were read fill the event buffer.
    let overflowed = account.sync.lost_overflow;
    assert_eq!(account.sync.throttled + overflowed, ends);
    assert_eq!(account.fault(Fault::OverBudget), 0);
    // Another period, another ration.
    driver.device.tick();
    driver.words();
    assert_eq!(sampled(&mut driver, process.task, TEXT).unwrap(), b"/prog");
}
