//! Perf maps: which processes' the device wants, and what it takes.

use oprofile_wire::config::capability;
use oprofile_wire::control::{PerfMap, Response, flag, kind, status};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use super::*;
use crate::Fault;
use crate::test_utils::PageSize;

/// Bytes in front of a piece of text.
const HEAD: usize = 32;

impl Driver {
    /// As the configuration space shows it.
    fn wanted_maps(&self) -> u32 {
        let mut bytes = [0; 4];
        self.device.read_config(52, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Takes a sample in `process`'s memory without a file; its cookie.
    fn sample_anonymous(&mut self, process: &Process) -> u64 {
        let buffer = self.buffer(0).user(process.task).sample(ANON + 0x10);
        self.post(0, &buffer);
        self.device.tick();
        let words = self.words();
        let switch = words
            .windows(3)
            .rfind(|words| words[..2] == [u64::MAX, 3])
            .unwrap();
        switch[2]
    }

    /// Asks which map is wanted: the process and the offset.
    fn ask(&mut self, flags: u32) -> (u32, u64) {
        let answer = self.request(&SyntheticGuest::request(kind::WANTED_MAP, flags, &[]));
        assert_eq!(answer.status.get(), status::OK);
        (answer.detail.get(), answer.value.get())
    }

    fn send(&mut self, flags: u32, (tgid, offset): (u32, u64), text: &[u8]) -> Response {
        let map = PerfMap {
            tgid: tgid.into(),
            reserved: 0.into(),
            offset: offset.into(),
        };
        let payload = [map.as_bytes(), text].concat();
        self.request(&SyntheticGuest::request(kind::PERF_MAP, flags, &payload))
    }

    fn names(&self, cookie: u64) -> Vec<String> {
        let map = self.device.perf_map(cookie);
        let map = map.unwrap_or_default();
        let pieces = map.pieces();
        let name = |piece| String::from_utf8_lossy(map.name(piece)).into_owned();
        pieces.into_iter().map(name).collect()
    }
}

#[test]
fn a_sample_in_memory_without_a_file_makes_the_map_wanted_and_its_functions_known() {
    let (mut driver, process) = driver(1);
    let interrupts = driver.interrupts.config();
    assert_eq!((driver.wanted_maps(), driver.ask(0)), (0, (0, 0)));
    let cookie = driver.sample_anonymous(&process);
    assert_eq!(driver.wanted_maps(), 1);
    assert_eq!(driver.interrupts.config(), interrupts + 1);
    assert_eq!(driver.ask(0), (7, 0));
    let answer = driver.send(0, (7, 0), b"7f0000000000 20 first\n7f00000");
    assert_eq!((answer.status.get(), answer.value.get()), (status::OK, 1));
    let answer = driver.send(flag::LAST, (7, 29), b"00020 20 second\n");
    assert_eq!((answer.status.get(), answer.value.get()), (status::OK, 0));
    assert_eq!(driver.names(cookie), ["first", "second"]);
    let account = driver.device.account();
    assert_eq!((account.perf_maps, account.perf_map_functions), (1, 2));
    assert_eq!(account.faults.total(), 0);
    // Nothing more while no sample comes.
    for _ in 0..30 {
        driver.device.tick();
    }
    assert_eq!((driver.wanted_maps(), driver.ask(flag::LAST)), (1, (0, 0)));
    driver.sample_anonymous(&process);
    // What was read last is read again, as far as it goes.
    assert_eq!((driver.wanted_maps(), driver.ask(0)), (2, (7, 0)));
    driver.assert_lives(0);
}

#[test]
fn a_map_that_was_written_anew_is_asked_for_from_its_start() {
    let (mut driver, process) = driver(1);
    let cookie = driver.sample_anonymous(&process);
    assert_eq!(driver.ask(0), (7, 0));
    let text = b"7f0000000000 20 first\n".repeat(10);
    let answer = driver.send(flag::LAST, (7, 0), &text);
    assert_eq!(answer.status.get(), status::OK);
    driver.sample_anonymous(&process);
    let last = text.len() as u64 - 64;
    assert_eq!(driver.ask(flag::LAST), (7, last));
    // It is shorter now.
    let answer = driver.send(flag::LAST, (7, last), b"");
    assert_eq!((answer.status.get(), answer.value.get()), (status::OK, 0));
    assert_eq!(driver.names(cookie), ["first"]);
    assert_eq!(driver.ask(flag::LAST), (7, 0));
    driver.send(flag::LAST, (7, 0), b"7f0000000000 20 other\n");
    assert_eq!(driver.names(cookie), ["other"]);
    driver.sample_anonymous(&process);
    assert_eq!(driver.ask(flag::LAST), (7, 0));
    // It is longer now, and another one.
    let answer = driver.send(0, (7, 0), &text);
    assert_eq!((answer.status.get(), answer.value.get()), (status::OK, 0));
    assert_eq!(driver.ask(flag::LAST), (7, 0));
    driver.send(flag::LAST, (7, 0), &text);
    assert_eq!(driver.names(cookie), ["first"]);
    assert_eq!(driver.device.account().faults.total(), 0);
    driver.assert_lives(0);
}

#[test]
fn samples_in_files_and_in_the_kernel_make_no_map_wanted() {
    let (mut driver, process) = driver(1);
    let init = driver.guest.init_task();
    let buffer = driver
        .buffer(0)
        .user(process.task)
        .sample(TEXT + 0x10)
        .sample(0x10)
        .kernel(init)
        .sample(crate::test_utils::KERNEL_START);
    driver.post(0, &buffer);
    driver.device.tick();
    assert_eq!((driver.wanted_maps(), driver.ask(flag::LAST)), (0, (0, 0)));
}

#[test]
fn a_driver_that_sends_no_maps_is_not_asked_and_may_not_send_any() {
    let mut guest = SyntheticGuest::default();
    let process = process(&mut guest, 7, b"prog");
    let mut driver = Driver::new(guest, 1);
    let layout = driver.guest.layout_bytes(driver.guest.store());
    let mut hello = driver.guest.hello();
    hello.capabilities = (hello.capabilities.get() & !capability::PERF_MAPS).into();
    let request = SyntheticGuest::hello_request(&hello, &layout);
    assert_eq!(driver.request(&request).status.get(), status::OK);
    driver.set_online(0, true);
    driver.sample_anonymous(&process);
    assert_eq!(driver.wanted_maps(), 0);
    let ask = SyntheticGuest::request(kind::WANTED_MAP, 0, &[]);
    assert_eq!(driver.request(&ask).status.get(), status::BAD_STATE);
    let answer = driver.send(flag::LAST, (7, 0), b"1 1 f\n");
    assert_eq!(answer.status.get(), status::BAD_STATE);
}

#[test]
fn what_was_not_asked_for_is_refused_and_counted() {
    let (mut driver, process) = driver(1);
    let refused = |driver: &mut Driver, flags, place, text: &[u8]| {
        let before = driver.device.account().fault(Fault::BadRequest);
        let answer = driver.send(flags, place, text);
        assert_eq!(answer.status.get(), status::BAD_STATE, "{place:?}");
        let after = driver.device.account().fault(Fault::BadRequest);
        assert_eq!(after, before + 1);
    };
    refused(&mut driver, 0, (7, 0), b"1 1 f\n");
    let cookie = driver.sample_anonymous(&process);
    refused(&mut driver, 0, (7, 0), b"1 1 f\n");
    assert_eq!(driver.ask(0), (7, 0));
    // Of another process, ahead, behind, twice.
    refused(&mut driver, 0, (8, 0), b"1 1 f\n");
    refused(&mut driver, 0, (7, 6), b"1 1 f\n");
    refused(&mut driver, 0, (7, u64::MAX), b"1 1 f\n");
    refused(&mut driver, flag::LAST | flag::UNREADABLE, (8, 0), b"");
    assert_eq!(driver.send(0, (7, 0), b"1 1 f\n").status.get(), status::OK);
    refused(&mut driver, 0, (7, 0), b"1 1 g\n");
    assert_eq!(
        driver
            .send(flag::LAST | flag::UNREADABLE, (7, 6), b"")
            .status
            .get(),
        status::OK
    );
    refused(&mut driver, 0, (7, 6), b"1 1 g\n");
    assert_eq!(driver.names(cookie), ["f"]);
    driver.assert_lives(0);
}

#[test]
fn bad_lines_are_counted_and_spoil_no_others() {
    let (mut driver, process) = driver(1);
    let cookie = driver.sample_anonymous(&process);
    driver.ask(0);
    let text = b"\n# a comment\n1000 0 none\n2000 10 good\n\xff\xff\xff\nffffffffffffffff 9 far\n";
    driver.send(flag::LAST, (7, 0), text);
    assert_eq!(driver.names(cookie), ["good"]);
    assert_eq!(driver.device.account().fault(Fault::BadMapLine), 4);
    driver.assert_lives(0);
}

#[test]
fn a_map_without_an_end_ends() {
    let (mut driver, process) = driver(1);
    driver.sample_anonymous(&process);
    assert_eq!(driver.ask(0), (7, 0));
    // One request at the same place of memory, again and again with another offset.
    let text = vec![b'1'; oprofile_wire::control::MAX_REQUEST_BYTES - HEAD];
    let map = PerfMap {
        tgid: 7.into(),
        reserved: 0.into(),
        offset: 0.into(),
    };
    let payload = [map.as_bytes(), &text].concat();
    let request = SyntheticGuest::request(kind::PERF_MAP, 0, &payload);
    let (gpa, room) = (driver.place(&request), driver.place(&[0; 16]));
    let memory = driver.guest.memory();
    let mut offset = 0u64;
    loop {
        memory
            .write_slice(&offset.to_le_bytes(), GuestAddress(gpa + 24))
            .unwrap();
        let length = u32::try_from(request.len()).unwrap();
        driver.rings[0].post(&[
            crate::test_utils::Descriptor::readable(gpa, length),
            crate::test_utils::Descriptor::writable(room, 16),
        ]);
        driver.device.notify(0);
        let answer = driver.answer(room).unwrap();
        assert_eq!(answer.status.get(), status::OK);
        if answer.value.get() == 0 {
            break;
        }
        offset += text.len() as u64;
        assert!(offset <= crate::perf_map::MAX_TEXT_BYTES);
    }
    let account = driver.device.account();
    assert_eq!(account.perf_maps_cut, 1);
    // All of it was one line.
    assert_eq!(account.fault(Fault::BadMapLine), 1);
    driver.sample_anonymous(&process);
    assert_eq!(driver.ask(flag::LAST), (0, 0));
    driver.assert_lives(0);
}

#[test]
fn another_hello_knows_of_no_question_and_the_names_stay() {
    let (mut driver, process) = driver(1);
    let cookie = driver.sample_anonymous(&process);
    driver.ask(0);
    driver.send(0, (7, 0), b"1 1 f\n");
    let mut driver = driver.hello();
    let answer = driver.send(0, (7, 6), b"1 1 g\n");
    assert_eq!(answer.status.get(), status::BAD_STATE);
    assert_eq!(driver.names(cookie), ["f"]);
    driver.sample_anonymous(&process);
    assert_eq!(driver.ask(0), (7, 0));
}

#[test]
fn a_vdso_has_no_perf_map() {
    use crate::test_utils::{GuestShape, LINUX_6_1_LAYOUT};
    use oprofile_wire::layout::VmaStore;
    let mut guest = SyntheticGuest::with_shape(GuestShape {
        layout: LINUX_6_1_LAYOUT.to_vec(),
        store: VmaStore::Maple,
        ..GuestShape::default()
    });
    let process = process(&mut guest, 7, b"prog");
    let compiled = VmaSpec {
        start: ANON + 0x1_0000,
        end: ANON + 0x1_1000,
        page_offset: 0,
        file: 0,
    };
    let space = guest.mm(process.file, &[compiled]);
    let task = guest.task(7, 7, space);
    let page = guest.allocate(0x1000);
    let image = [&b"\x7fELF"[..], b"....\0linux-vdso.so.1\0"].concat();
    let mut driver = Driver::new(guest, 1).hello();
    let memory = driver.guest.memory();
    memory.write_slice(&image, GuestAddress(page)).unwrap();
    driver.guest.map(ANON, page, PageSize::Small);
    let cookie = driver.sample_anonymous(&process);
    assert!(driver.device.vdso(cookie).is_some());
    assert_eq!((driver.wanted_maps(), driver.ask(flag::LAST)), (0, (0, 0)));
    // Not even where the process has one.
    let buffer = driver.buffer(0).user(task).sample(compiled.start);
    driver.post(0, &buffer);
    driver.device.tick();
    assert_eq!(driver.ask(0), (7, 0));
    driver.send(flag::LAST, (7, 0), b"1 1 f\n");
    assert_eq!(driver.device.account().perf_maps, 1);
    assert!(driver.device.perf_map(cookie).is_none());
}
