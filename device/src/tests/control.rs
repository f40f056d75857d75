//! Requests and their answers.

use oprofile_wire::CONTROL_QUEUE;
use oprofile_wire::control::{
    MAX_REQUEST_BYTES, ModuleEntry, SymbolEntry, SymbolsHeader, flag, kind, status,
};
use oprofile_wire::layout::{Field, LayoutEntry, VmaStore};
use zerocopy::IntoBytes;

use super::*;
use crate::Fault;
use crate::event_buffer::record::{ESCAPE, MODULE_LOADED};
use crate::test_utils::{COMPACT_LAYOUT, Descriptor, KERNEL_START};

fn task_free(tasks: &[u64]) -> Vec<u8> {
    let mut payload = u64::try_from(tasks.len()).unwrap().to_le_bytes().to_vec();
    payload.extend(tasks.iter().flat_map(|task| task.to_le_bytes()));
    SyntheticGuest::request(kind::TASK_FREE, 0, &payload)
}

fn module(base: u64, name: &[u8]) -> Vec<u8> {
    let entry = ModuleEntry {
        base: base.into(),
        size: 0x1000.into(),
        name_bytes: u16::try_from(name.len()).unwrap().into(),
        reserved: [0; 6],
    };
    [entry.as_bytes(), name].concat()
}

#[test]
fn hello_brings_capabilities_into_force_and_the_kernel_to_the_host() {
    let mut driver = Driver::new(SyntheticGuest::default(), 1);
    assert!(driver.device.kernel().is_none());
    let mut hello = driver.guest.hello();
    hello.capabilities = 1.into();
    let layout = driver.guest.layout_bytes(VmaStore::List);
    let answer = driver.request(&SyntheticGuest::hello_request(&hello, &layout));
    assert_eq!((answer.status.get(), answer.value.get()), (status::OK, 1));
    let kernel = driver.device.kernel().unwrap();
    assert_eq!(
        (&kernel.release[..], kernel.start),
        (&b"test"[..], KERNEL_START)
    );
    assert!(driver.device.account().said_hello);
}

#[test]
fn everything_else_before_hello_is_refused() {
    let mut driver = Driver::new(SyntheticGuest::default(), 1);
    for request in [
        SyntheticGuest::request(kind::QUIESCED, 0, &[]),
        SyntheticGuest::request(kind::CPU_STATE, 0, &[0; 8]),
        SyntheticGuest::request(kind::MODULES, flag::FIRST | flag::LAST, &[]),
        SyntheticGuest::request(kind::SYMBOLS, 0, &[0; 16]),
        task_free(&[1]),
    ] {
        assert_eq!(driver.request(&request).status.get(), status::BAD_STATE);
    }
    assert!(!driver.device.quiesced());
    assert_eq!(driver.device.account().fault(Fault::BadRequest), 5);
}

#[test]
fn dead_tasks_are_given_back_after_every_vcpu_was_synced_twice() {
    let (mut driver, process) = driver(2);
    let room = driver.post_request(&task_free(&[process.task]));
    driver.ring(0);
    driver.ring(1);
    driver.ring(0);
    assert!(driver.answer(room).is_none());
    driver.ring(1);
    assert_eq!(driver.answer(room).unwrap().status.get(), status::OK);
}

#[test]
fn a_held_request_lets_later_ones_through() {
    let (mut driver, process) = driver(1);
    let held = driver.post_request(&task_free(&[process.task]));
    let quiesced = SyntheticGuest::request(kind::QUIESCED, 0, &[]);
    assert_eq!(driver.request(&quiesced).status.get(), status::OK);
    assert!(driver.answer(held).is_none());
    let later = driver.rings[0].take_used();
    driver.device.tick();
    let first = driver.rings[0].take_used();
    assert!(driver.answer(held).is_some());
    assert!(later.last() > first.last());
}

#[test]
fn an_offline_vcpu_is_drained_and_not_waited_for() {
    let (mut driver, process) = driver(2);
    let buffer = driver.buffer(1).user(process.task).sample(TEXT);
    driver.post(1, &buffer);
    driver.set_online(1, false);
    assert_eq!(driver.device.account().sync.file, 1);
    let room = driver.post_request(&task_free(&[process.task]));
    driver.ring(0);
    driver.ring(0);
    assert!(driver.answer(room).is_some());
}

#[test]
fn more_held_requests_than_the_device_keeps_are_refused() {
    let (mut driver, process) = driver(1);
    let rooms: Vec<_> = (0..65)
        .map(|_| {
            let room = driver.post_request(&task_free(&[process.task]));
            (room, driver.answer(room).map(|answer| answer.status.get()))
        })
        .collect();
    assert!(rooms[..64].iter().all(|(_, answer)| answer.is_none()));
    assert_eq!(rooms[64].1, Some(status::LIMIT_EXCEEDED));
    driver.device.tick();
    driver.device.tick();
    assert!(rooms.iter().all(|&(room, _)| driver.answer(room).is_some()));
}

#[test]
fn a_new_hello_answers_what_was_held() {
    let (mut driver, process) = driver(1);
    let held = driver.post_request(&task_free(&[process.task]));
    let driver = driver.hello();
    assert!(driver.answer(held).is_some());
}

#[test]
fn modules_and_symbols_reach_the_host_and_a_coming_module_the_reader() {
    let (mut driver, _) = driver(1);
    let both = flag::FIRST | flag::LAST;
    let base = 0xffff_ffff_c000_0000u64;
    let list = module(base, b"mod");
    let coming = SyntheticGuest::request(kind::MODULES, both | flag::MODULE_COMING, &list);
    assert_eq!(driver.request(&coming).status.get(), status::OK);
    assert_eq!(driver.words(), [ESCAPE, MODULE_LOADED]);
    let header = SymbolsHeader {
        image_base: base.into(),
        count: 1.into(),
        reserved: 0.into(),
    };
    let entry = SymbolEntry {
        address: (base + 0x10).into(),
        size: 4.into(),
        reserved: 0.into(),
        name_bytes: 3.into(),
    };
    let payload = [header.as_bytes(), entry.as_bytes(), b"fun"].concat();
    let symbols = SyntheticGuest::request(kind::SYMBOLS, both, &payload);
    assert_eq!(driver.request(&symbols).status.get(), status::OK);
    let unloaded = SyntheticGuest::request(kind::MODULES, both, &[]);
    assert_eq!(driver.request(&unloaded).status.get(), status::OK);
    assert!(driver.words().is_empty());
    let kernel = driver.device.kernel().unwrap();
    let former = kernel.module_at(base).unwrap();
    assert!(!former.loaded);
    assert_eq!(&*former.symbols[0].name, b"fun");
}

#[test]
fn quiesced_drains_and_is_forgotten_when_samples_are_wanted_again() {
    let (mut driver, process) = driver(2);
    driver.device.set_enabled(true);
    driver.device.set_enabled(false);
    let buffer = driver.buffer(1).user(process.task).sample(TEXT);
    driver.post(1, &buffer);
    assert!(!driver.device.quiesced());
    let request = SyntheticGuest::request(kind::QUIESCED, 0, &[]);
    assert_eq!(driver.request(&request).status.get(), status::OK);
    assert!(driver.device.quiesced());
    assert_eq!(driver.device.account().sync.file, 1);
    driver.device.set_enabled(true);
    assert!(!driver.device.quiesced());
    assert_eq!(driver.interrupts.config(), 3);
}

#[test]
fn answers_interrupt_only_when_the_driver_wants_it() {
    let (mut driver, process) = driver(1);
    driver.interrupts.take_queues();
    // used_event stays at 0, which has long been passed.
    let request = SyntheticGuest::request(kind::QUIESCED, 0, &[]);
    driver.request(&request);
    assert!(driver.interrupts.take_queues().is_empty());

    let queues = driver.device.reset();
    assert_eq!(queues.len(), 2);
    let memory = driver.guest.memory();
    driver.rings = (0..2)
        .map(|_| crate::test_utils::Ring::new(memory.clone(), driver.guest.allocate(8192)))
        .collect();
    // Without EVENT_IDX, a flag of 0 asks for an interrupt each time.
    driver.activate(1 << 32);
    let mut driver = driver.hello();
    assert_eq!(driver.interrupts.take_queues(), [CONTROL_QUEUE; 2]);
    let flags = vm_memory::GuestAddress(driver.rings[1].available_ring());
    vm_memory::Bytes::write_obj(&*memory, 1u16, flags).unwrap();
    let buffer = driver.buffer(0).user(process.task).sample(TEXT);
    driver.post(0, &buffer);
    driver.device.tick();
    assert!(driver.interrupts.take_queues().is_empty());
}

#[test]
fn a_reset_takes_what_is_queued_and_forgets_the_hello() {
    let (mut driver, process) = driver(1);
    let buffer = driver.buffer(0).user(process.task).sample(TEXT);
    driver.post(0, &buffer);
    assert_eq!(driver.device.reset().len(), 2);
    let account = driver.device.account();
    assert_eq!((account.sync.file, account.said_hello), (1, true));
    assert!(driver.device.reset().is_empty());
    driver.ring(0);
    driver.device.tick();
    driver.device.notify(0);
    assert_eq!(driver.device.account().received, 1);
}

#[test]
fn unusable_layouts_are_refused_with_the_field() {
    let mut driver = Driver::new(SyntheticGuest::default(), 1);
    let without = |field: Field| -> Vec<LayoutEntry> {
        let kept = COMPACT_LAYOUT
            .iter()
            .filter(|entry| entry.field.get() != field as u16);
        kept.copied().collect()
    };
    let with = |entry: LayoutEntry| -> Vec<LayoutEntry> {
        let field = Field::from_u16(entry.field.get()).unwrap();
        let mut entries = without(field);
        entries.push(entry);
        entries
    };
    let mut twice = COMPACT_LAYOUT.to_vec();
    twice.push(LayoutEntry::field(Field::TaskMm, 8, 8));
    let cases = [
        (Field::TaskMm, without(Field::TaskMm)),
        (Field::VmaNext, without(Field::VmaNext)),
        (Field::DentryName, without(Field::DentryName)),
        (Field::TaskMm, twice),
        (
            Field::TaskPid,
            with(LayoutEntry::field(Field::TaskPid, 8, 8)),
        ),
        (
            Field::VmaFile,
            with(LayoutEntry::field(Field::VmaFile, 65_535, 8)),
        ),
        (
            Field::VmaEnd,
            with(LayoutEntry::field(Field::VmaEnd, 4_096, 8)),
        ),
        (
            Field::TaskMm,
            with(LayoutEntry::field(Field::TaskMm, u32::MAX, 8)),
        ),
        (
            Field::PageShift,
            with(LayoutEntry::constant(Field::PageShift, 64)),
        ),
        (
            Field::MountParent,
            with(LayoutEntry::field(Field::FileMount, 8, 8)),
        ),
    ];
    for (field, entries) in cases {
        let layout = SyntheticGuest::descriptor(VmaStore::List, &entries);
        let mut hello = driver.guest.hello();
        hello.layout_bytes = u32::try_from(layout.len()).unwrap().into();
        let answer = driver.request(&SyntheticGuest::hello_request(&hello, &layout));
        let told = (answer.status.get(), answer.detail.get());
        assert_eq!(told, (status::BAD_LAYOUT, field as u32), "{field:?}");
    }
    assert!(!driver.device.account().said_hello);
    driver.hello().assert_lives(0);
}

#[test]
fn a_store_whose_root_is_missing_is_refused_with_it() {
    let mut driver = Driver::new(SyntheticGuest::default(), 1);
    for (store, field) in [
        (VmaStore::RbTree, Field::MmVmaRoot),
        (VmaStore::Maple, Field::MmMapleTree),
    ] {
        let layout = driver.guest.layout_bytes(store);
        let hello = driver.guest.hello();
        let answer = driver.request(&SyntheticGuest::hello_request(&hello, &layout));
        let told = (answer.status.get(), answer.detail.get());
        assert_eq!(told, (status::BAD_LAYOUT, field as u32));
    }
}

#[test]
fn a_kernel_that_is_not_in_memory_is_refused_until_a_true_hello_comes() {
    let mut driver = Driver::new(SyntheticGuest::default(), 1);
    let layout = driver.guest.layout_bytes(VmaStore::List);
    let good = driver.guest.hello();
    let mut cases = [good; 6];
    cases[0].page_table_root = 0x7fff_ffff_f000.into();
    cases[1].page_table_root = (good.page_table_root.get() + 8).into();
    cases[2].init_task = 0xffff_a000_0000_0000.into();
    cases[3].page_table_levels = 3.into();
    cases[4].kernel_end = good.kernel_start;
    cases[5].user_end = 0.into();
    for hello in cases {
        let answer = driver.request(&SyntheticGuest::hello_request(&hello, &layout));
        assert_eq!(answer.status.get(), status::BAD_KERNEL, "{hello:?}");
    }
    assert_eq!(driver.device.account().fault(Fault::BadKernel), 6);
    driver.hello().assert_lives(0);
}

#[test]
fn a_request_without_room_for_its_answer_or_too_long_comes_back_empty() {
    let (mut driver, _) = driver(1);
    driver.rings[0].take_used();
    let quiesced = SyntheticGuest::request(kind::QUIESCED, 0, &[]);
    let gpa = driver.place(&quiesced);
    let room = driver.place(&[0; 16]);
    let long = u32::try_from(MAX_REQUEST_BYTES + 1).unwrap();
    for chain in [
        vec![Descriptor::readable(gpa, 16)],
        vec![
            Descriptor::readable(gpa, 16),
            Descriptor::writable(room, 15),
        ],
        vec![
            Descriptor::readable(0, long),
            Descriptor::writable(room, 16),
        ],
        vec![
            Descriptor::writable(room, 16),
            Descriptor::readable(gpa, 16),
        ],
    ] {
        let head = driver.rings[0].post(&chain);
        driver.device.notify(CONTROL_QUEUE);
        assert_eq!(driver.rings[0].take_used(), [(u32::from(head), 0)]);
    }
    assert!(!driver.device.quiesced());
    assert_eq!(driver.device.account().fault(Fault::BadChain), 4);
    driver.assert_lives(0);
}

#[test]
fn requests_and_answers_may_be_in_pieces() {
    let (mut driver, _) = driver(1);
    driver.rings[0].take_used();
    let gpa = driver.place(&SyntheticGuest::request(kind::QUIESCED, 0, &[]));
    let room = driver.place(&[0xff; 16]);
    driver.rings[0].post(&[
        Descriptor::readable(gpa, 3),
        Descriptor::readable(gpa + 3, 13),
        Descriptor::writable(room, 5),
        Descriptor::writable(room + 5, 100),
    ]);
    driver.device.notify(CONTROL_QUEUE);
    assert_eq!(driver.answer(room).unwrap().status.get(), status::OK);
    assert_eq!(driver.rings[0].take_used()[0].1, 16);
}
