//! Bad input: the guest's other vCPUs go on, counters tell, the account adds up.

use oprofile_wire::layout::Field;
use oprofile_wire::sample::{ESCAPE, MAX_BUFFER_BYTES, note, note_word};
use virtio_bindings::virtio_ring::VRING_DESC_F_INDIRECT;

use super::*;
use crate::test_utils::{Descriptor, KERNEL_START, LINEAR_BASE, Ring, USER_END};
use crate::{Account, Fault, OpenError};

/// The account after a good sample of vCPU 1 came through beside whatever vCPU 0 did.
fn others_go_on(mut driver: Driver, process: &Process) -> Account {
    let before = driver.device.account();
    let buffer = driver.buffer(1).user(process.task).sample(TEXT);
    driver.post(1, &buffer);
    driver.device.tick();
    let account = driver.device.account();
    assert_eq!(account.vcpus[1].received, before.vcpus[1].received + 1);
    assert!(account.adds_up(), "{account:?}");
    account
}

/// A second process whose task is made wrong by the test, sampled on vCPU 0 before others go on.
fn with_victim(spoil: impl FnOnce(&mut SyntheticGuest, &Process)) -> Account {
    let (mut driver, good) = driver(2);
    let victim = process(&mut driver.guest, 9, b"victim");
    spoil(&mut driver.guest, &victim);
    let buffer = driver.buffer(0).user(victim.task).sample(TEXT).sample(ANON);
    driver.post(0, &buffer);
    driver.device.tick();
    let account = others_go_on(driver, &good);
    assert_eq!(account.received, 3);
    assert_eq!(account.sync.file, 1);
    account
}

#[test]
fn a_task_pointer_into_nowhere_has_no_address_space() {
    for pointer in [
        0,
        8,
        TEXT,
        USER_END,
        LINEAR_BASE + (64 << 20),
        u64::MAX - 7,
        u64::MAX,
    ] {
        let (mut driver, process) = driver(2);
        let buffer = driver.buffer(0).user(pointer).sample(TEXT);
        driver.post(0, &buffer);
        driver.device.tick();
        let account = others_go_on(driver, &process);
        assert_eq!(
            (account.sync.no_mm, account.sync.file),
            (1, 1),
            "{pointer:#x}"
        );
        assert!(account.sync.bad_task == 1 && account.faults.total() == 1);
    }
}

#[test]
fn an_address_space_into_nowhere_is_counted() {
    let account = with_victim(|guest, victim| {
        guest.set(victim.task, Field::TaskMm, LINEAR_BASE + (100 << 20));
    });
    assert_eq!(account.sync.raced, 2);
    assert!(account.fault(Fault::BadMapping) > 0);
}

#[test]
fn a_cyclic_vma_list_ends() {
    let account = with_victim(|guest, victim| {
        let made = guest.set_vmas(victim.mm, &mappings(victim.file)[1..]);
        guest.set(made[0], Field::VmaNext, made[0]);
        guest.set(victim.mm, Field::MmVmaCount, u32::MAX.into());
        // Below both samples, so that the search follows the list.
        guest.set(made[0], Field::VmaStart, 0x1000);
        guest.set(made[0], Field::VmaEnd, 0x2000);
    });
    assert_eq!(account.sync.raced, 2);
    assert_eq!(account.fault(Fault::CyclicList), 2);
}

#[test]
fn a_list_longer_than_told_ends() {
    let account = with_victim(|guest, victim| {
        let vmas: Vec<_> = (1..20)
            .map(|page| VmaSpec {
                start: page << 12,
                end: (page + 1) << 12,
                page_offset: 0,
                file: 0,
            })
            .collect();
        guest.set_vmas(victim.mm, &vmas);
        guest.set(victim.mm, Field::MmVmaCount, 5);
    });
    assert_eq!(account.fault(Fault::CyclicList), 2);
}

#[test]
fn a_vma_of_another_address_space_is_not_believed() {
    let account = with_victim(|guest, victim| {
        let made = guest.set_vmas(victim.mm, &mappings(victim.file));
        guest.set(made[0], Field::VmaMm, victim.mm + 8);
    });
    assert_eq!(account.sync.raced, 2);
    assert_eq!(account.fault(Fault::BadMapping), 2);
}

#[test]
fn a_page_table_that_refers_to_itself_or_outside_ram_ends_the_walk() {
    const OUTSIDE: u64 = 0x000f_0000_0000_0000 | 1;
    // An area of its own, so that only its tables are wrong.
    const AREA: u64 = 0xffff_c000_0000_0000;
    for (level, outside) in [(4, true), (3, true), (2, true), (1, true), (4, false)] {
        let account = with_victim(|guest, victim| {
            let entry = if outside { OUTSIDE } else { guest.root() | 1 };
            guest.set_entry(AREA, level, entry);
            guest.set(victim.task, Field::TaskMm, AREA);
        });
        assert_eq!(account.sync.raced, 2);
        let fault = if level == 1 {
            Fault::BadMapping
        } else {
            Fault::BadPageTable
        };
        assert!(account.fault(fault) > 0, "level {level}");
    }
}

#[test]
fn a_path_without_end_or_with_impossible_names_is_counted() {
    type Spoil = fn(&mut SyntheticGuest, u64);
    let spoils: [Spoil; 4] = [
        // Two entries that are each other's parent.
        |guest, dentry| {
            let other = guest.dentry(Some(dentry), b"x");
            guest.set(dentry, Field::DentryParent, other);
        },
        |guest, dentry| guest.set(dentry, Field::DentryNameLength, 256),
        |guest, dentry| guest.set(dentry, Field::DentryName, 4),
        |guest, dentry| guest.set(dentry, Field::DentryParent, 0),
    ];
    for spoil in spoils {
        let account = with_victim(|guest, victim| {
            let root = guest.dentry(None, b"/");
            let dentry = guest.dentry(Some(root), b"name");
            spoil(guest, dentry);
            guest.set(victim.file, Field::FileDentry, dentry);
        });
        assert_eq!((account.sync.raced, account.sync.anonymous), (1, 1));
        assert!(account.fault(Fault::BadPath) > 0);
    }
}

#[test]
fn names_of_full_length_make_a_path_and_one_past_path_max_none() {
    for (levels, resolved) in [(16u64, 2), (17, 1)] {
        let (mut driver, process) = driver(1);
        let mut dentry = driver.guest.dentry(None, b"/");
        for _ in 0..levels {
            dentry = driver.guest.dentry(Some(dentry), &[b'n'; 255]);
        }
        let long = driver.guest.file(dentry);
        driver.guest.set_vmas(process.mm, &mappings(long));
        let buffer = driver
            .buffer(0)
            .user(process.task)
            .sample(TEXT)
            .sample(ANON);
        driver.post(0, &buffer);
        driver.device.tick();
        let account = driver.device.account();
        assert_eq!(account.sync.file + account.sync.anonymous, resolved);
        assert!(account.adds_up());
    }
}

#[test]
fn a_guest_made_to_burn_the_host_runs_out_of_budget() {
    let (mut driver, process) = driver(2);
    let victim = self::process(&mut driver.guest, 9, b"victim");
    let vmas: Vec<_> = (1..1_500)
        .map(|page| VmaSpec {
            start: page << 12,
            end: (page + 1) << 12,
            page_offset: 0,
            file: 0,
        })
        .collect();
    driver.guest.set_vmas(victim.mm, &vmas);
    let mut buffer = driver.buffer(0).user(victim.task);
    for address in 0..8_000 {
        buffer = buffer.sample(TEXT + (1 << 30) + address);
    }
    driver.post(0, &buffer);
    driver.device.tick();
    let account = others_go_on(driver, &process);
    let ends = account.sync.no_mapping + account.sync.throttled;
    assert_eq!((ends, account.sync.raced), (8_000, 0));
    assert!(account.sync.throttled > 0 && account.sync.no_mapping > 0);
    assert_eq!(account.sync.file, 1);
}

#[test]
fn neither_another_hello_nor_a_reset_renews_the_budget() {
    let (mut driver, _) = driver(1);
    let victim = process(&mut driver.guest, 9, b"victim");
    let vmas: Vec<_> = (1..1_500)
        .map(|page| VmaSpec {
            start: page << 12,
            end: (page + 1) << 12,
            page_offset: 0,
            file: 0,
        })
        .collect();
    driver.guest.set_vmas(victim.mm, &vmas);
    let mut resolved = 0;
    for round in 0..4 {
        let mut buffer = driver.buffer(0).user(victim.task);
        for address in 0..8_000 {
            buffer = buffer.sample(TEXT + (1 << 30) + address);
        }
        let before = driver.device.account().sync.no_mapping;
        driver.post(0, &buffer);
        driver.ring(0);
        let more = driver.device.account().sync.no_mapping - before;
        assert!(more < 8_000);
        match round {
            0 => resolved = more,
            _ => assert!(more < resolved / 2, "round {round}: {more}, not {resolved}"),
        }
        if round % 2 != 0 {
            driver.device.reset();
            driver.rings = (0..2)
                .map(|_| Ring::new(driver.guest.memory(), driver.guest.allocate(Ring::BYTES)))
                .collect();
            driver.activate(driver.device.features());
        }
        driver = driver.hello();
    }
    assert!(driver.device.account().adds_up());
}

#[test]
fn a_doorbell_for_no_vcpu_is_counted() {
    let (driver, process) = driver(2);
    for vcpu in [2, 4_000_000, u32::MAX] {
        driver.ring(vcpu);
    }
    driver.device.write_config(48, &[0]);
    driver.device.write_config(20, &1u32.to_le_bytes());
    driver.device.notify(77);
    driver.device.notify(u16::MAX);
    let account = others_go_on(driver, &process);
    assert_eq!(account.fault(Fault::BadDoorbell), 3);
    assert_eq!(account.fault(Fault::BadConfigWrite), 2);
    assert_eq!(account.fault(Fault::BadKick), 2);
    // Three requests went before.
    assert_eq!((account.doorbells, account.kicks), (3, 3 + 2));
}

#[test]
fn bad_chains_come_back_empty_and_good_ones_behind_them_are_read() {
    let (mut driver, process) = driver(2);
    let good = driver.buffer(0).user(process.task).sample(TEXT).build();
    let gpa = driver.place(&good);
    let length = u32::try_from(good.len()).unwrap();
    let too_long = u32::try_from(MAX_BUFFER_BYTES + 8).unwrap();
    let indirect = |address, length| Descriptor {
        flags: u16::try_from(VRING_DESC_F_INDIRECT).unwrap(),
        ..Descriptor::readable(address, length)
    };
    let ring = &mut driver.rings[1];
    let bad = [
        // Loops, leaves the table, leaves RAM, is the device's to write, is too long, has no table.
        Descriptor::readable(gpa, length).then(0),
        Descriptor::readable(gpa, length).then(5_000),
        Descriptor::readable(u64::MAX - 100, length),
        Descriptor::readable(1 << 40, length),
        Descriptor::writable(gpa, length),
        Descriptor::readable(0, too_long),
        Descriptor::readable(0, u32::MAX),
        indirect(1 << 40, 32),
        indirect(gpa, 17),
        indirect(gpa, 0),
    ];
    for descriptor in bad {
        let head = ring.reserve(1);
        ring.set_descriptor(head, descriptor);
        ring.publish(head);
    }
    let head = ring.post(&[
        Descriptor::readable(gpa, 8),
        Descriptor::readable(gpa + 8, length - 8),
    ]);
    driver.device.tick();
    let used = driver.rings[1].take_used();
    assert_eq!(used.len(), bad.len() + 1);
    assert_eq!(used.last(), Some(&(u32::from(head), 0)));
    let account = others_go_on(driver, &process);
    assert_eq!(account.fault(Fault::BadChain), bad.len() as u64);
    assert_eq!(account.buffers_unread, bad.len() as u64);
    assert_eq!(account.sync.file, 2);
}

#[test]
fn a_head_outside_the_table_is_counted_and_the_next_is_read() {
    let (mut driver, process) = driver(2);
    driver.rings[1].publish(60_000);
    let buffer = driver.buffer(0).user(process.task).sample(TEXT);
    driver.post(0, &buffer);
    driver.device.tick();
    let account = others_go_on(driver, &process);
    assert_eq!(account.sync.file, 2);
    assert_eq!(account.fault(Fault::BadRing), 1);
}

#[test]
fn an_available_index_far_ahead_stops_only_its_queue() {
    let (mut driver, process) = driver(2);
    driver.rings[1].set_available(5_000);
    driver.device.tick();
    let account = others_go_on(driver, &process);
    assert!(account.fault(Fault::BadRing) >= 1);
    assert_eq!(account.sync.file, 1);
}

#[test]
fn bad_headers_are_refused_each() {
    let (mut driver, process) = driver(2);
    let good = driver.buffer(0).user(process.task).sample(TEXT);
    let mut bad = vec![good.clone(); 7];
    bad[0].header.magic = 0.into();
    bad[1].header.version = 9.into();
    bad[2].header.vcpu = 1.into();
    bad[3].header.header_bytes = 64.into();
    bad[4].header.header_bytes = 76.into();
    bad[5].header.entry_bytes = 8.into();
    bad[6].header.entry_bytes = u32::MAX.into();
    for buffer in &bad {
        driver.post(0, buffer);
    }
    driver.post_bytes(0, &good.build()[..71]);
    driver.post_bytes(0, &[]);
    driver.post_bytes(0, &good.build()[..good.build().len() - 1]);
    driver.post(0, &good);
    driver.device.tick();
    let account = others_go_on(driver, &process);
    assert_eq!(account.fault(Fault::BadBuffer), 10);
    assert_eq!(account.sync.file, 2);
    assert_eq!(account.received, 2);
}

#[test]
fn a_buffer_cut_in_an_entry_keeps_what_is_before_and_counts_what_it_claims() {
    let (mut driver, process) = driver(2);
    let mut buffer = driver.buffer(0).user(process.task).sample(TEXT).words(&[
        ESCAPE,
        note_word(note::USER_CTX_SWITCH, 60),
        1,
        2,
    ]);
    buffer.header.samples = 3.into();
    driver.post(0, &buffer);
    driver.device.tick();
    let account = others_go_on(driver, &process);
    assert_eq!(account.fault(Fault::CutBuffer), 1);
    assert_eq!((account.malformed, account.sync.file), (2, 2));
}

#[test]
fn a_header_cannot_claim_more_samples_than_fit() {
    let (mut driver, process) = driver(2);
    let mut buffer = driver.buffer(0).kernel(process.task).sample(KERNEL_START);
    buffer.header.samples = u32::MAX.into();
    driver.post(0, &buffer);
    driver.device.tick();
    let account = others_go_on(driver, &process);
    // Five words are at most two samples.
    assert_eq!(account.malformed, 1);
    assert_eq!(account.fault(Fault::SampleCount), 1);
}

#[test]
fn counters_that_go_back_or_leap_and_gaps_are_counted_and_add_nothing() {
    let (mut driver, process) = driver(2);
    for (sequence, lost) in [(0, 5), (2, 3), (3, u64::MAX), (4, 0)] {
        let mut buffer = driver.buffer(0).kernel(process.task).sample(KERNEL_START);
        buffer.header.sequence = sequence.into();
        buffer.header.lost = lost.into();
        driver.post(0, &buffer);
    }
    driver.device.tick();
    let account = others_go_on(driver, &process);
    assert_eq!(account.fault(Fault::BadCounter), 3);
    assert_eq!(account.fault(Fault::SequenceGap), 1);
    assert_eq!(account.lost, 5);
}

#[test]
fn samples_before_a_mode_note_are_ignored_and_counted() {
    let (mut driver, process) = driver(2);
    let buffer = driver
        .buffer(0)
        .sample(TEXT)
        .user(process.task)
        .sample(TEXT);
    driver.post(0, &buffer);
    driver.device.tick();
    let account = others_go_on(driver, &process);
    assert_eq!((account.sync.ignored, account.sync.file), (1, 2));
}

#[test]
fn a_data_record_of_no_known_kind_or_length_is_left_out_and_its_note_kept() {
    let record = |code, values: usize| {
        let mut words = vec![
            ESCAPE,
            note_word(note::USER_CTX_SWITCH, 3 + values),
            0,
            code,
            TEXT,
        ];
        words.extend(std::iter::repeat_n(1, values));
        words
    };
    // Told as it is: the last is too short for a record, which is OProfile's to count.
    for (code, values) in [(13, 6), (14, 12), (99, 0)] {
        let (mut driver, process) = driver(2);
        let mut words = record(code, values);
        words[2] = process.task;
        let buffer = driver.buffer(0).user(process.task).words(&words);
        driver.post(0, &buffer);
        driver.device.tick();
        assert_eq!(driver.device.account().fault(Fault::BadRecord), 0);
        let told = driver.words().windows(2).any(|pair| pair == [ESCAPE, code]);
        assert_eq!(told, values != 0);
    }
    // A CPU switch in disguise, a record that would swallow what follows, one that would leave words behind.
    for (code, values) in [(2, 1), (14, 1), (13, 7), (ESCAPE, 2)] {
        let (mut driver, process) = driver(2);
        let mut words = record(code, values);
        words[2] = process.task;
        let buffer = driver
            .buffer(0)
            .kernel(driver.guest.init_task())
            .words(&words)
            .words(&[ESCAPE, note_word(note::KERNEL_CTX_SWITCH, 0)])
            .sample(TEXT);
        driver.post(0, &buffer);
        driver.device.tick();
        let words = driver.words();
        assert_eq!(words[..3], [ESCAPE, 2, 0]);
        assert!(!words[3..].windows(2).any(|pair| pair == [ESCAPE, code]));
        let account = others_go_on(driver, &process);
        assert_eq!(account.fault(Fault::BadRecord), 1);
        // The task of the note was taken.
        assert_eq!((account.sync.file, account.sync.data_records), (2, 0));
    }
}

#[test]
fn a_guest_that_never_says_hello_gets_its_buffers_back_unread() {
    let mut guest = SyntheticGuest::default();
    let process = process(&mut guest, 7, b"prog");
    let mut driver = Driver::new(guest, 2);
    for vcpu in 0..2 {
        let buffer = driver.buffer(vcpu).user(process.task).sample(TEXT);
        driver.post(vcpu, &buffer);
    }
    driver.ring(0);
    driver.device.tick();
    assert_eq!(driver.rings[1].take_used().len(), 1);
    assert_eq!(driver.rings[2].take_used().len(), 1);
    let account = driver.device.account();
    assert!(!account.said_hello && account.adds_up());
    assert_eq!((account.received, account.buffers_unread), (0, 2));
    assert_eq!(account.fault(Fault::BufferBeforeHello), 2);
    assert!(driver.words().is_empty());
}

#[test]
fn a_second_reader_is_refused() {
    let (driver, process) = driver(2);
    assert_eq!(driver.device.open_events().unwrap_err(), OpenError::Busy);
    others_go_on(driver, &process);
}
