//! Requests that begin and end the NMIs of a vCPU.

use oprofile_wire::clock::{BUSY, SENT, TAKEN};
use oprofile_wire::config::capability;
use oprofile_wire::control::{HostClock, kind, status};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use super::*;
use crate::settings::{Clock, MIN_PERIOD_NS};
use crate::{Fault, Settings};

const NOT_WAITED_FOR: Duration = Duration::from_secs(20);

/// A driver of a device whose host wants to be the clock, and which has said hello with `capabilities` on top of all others.
fn driver_with(capabilities: u64) -> Driver {
    let settings = Settings {
        vcpus: 2,
        period_ns: MIN_PERIOD_NS,
        clock: Clock::HostNmi,
        ..Settings::default()
    };
    let mut driver = Driver::with_settings(SyntheticGuest::default(), settings);
    let mut hello = driver.guest.hello();
    hello.capabilities = (hello.capabilities.get() | capabilities).into();
    let layout = driver.guest.layout_bytes(driver.guest.store());
    let request = SyntheticGuest::hello_request(&hello, &layout);
    assert_eq!(driver.request(&request).status.get(), status::OK);
    driver.device.set_enabled(true);
    driver
}

fn clock(vcpu: u32, apic_id: u32, cell: u64) -> Vec<u8> {
    let clock = HostClock {
        vcpu: vcpu.into(),
        apic_id: apic_id.into(),
        cell: cell.into(),
    };
    SyntheticGuest::request(kind::HOST_CLOCK, 0, clock.as_bytes())
}

/// A cell of a busy vCPU.
fn cell(driver: &mut Driver) -> u64 {
    driver.place(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
}

/// Serves the clock; NMIs come through the channel.
fn serve(driver: &Driver) -> (Receiver<u32>, JoinHandle<()>) {
    let clock = Arc::clone(driver.device.host_clock());
    let (sender, nmis) = channel();
    let thread = std::thread::spawn(move || clock.serve(|id| sender.send(id).is_ok()));
    (nmis, thread)
}

/// The handler: takes what has been sent.
fn take(driver: &Driver, cell: u64) {
    let memory = driver.guest.memory();
    let sent: u32 = memory.read_obj(GuestAddress(cell + SENT as u64)).unwrap();
    memory
        .write_obj(sent, GuestAddress(cell + TAKEN as u64))
        .unwrap();
}

#[test]
fn nmis_begin_with_the_request_and_none_is_sent_behind_its_end() {
    let mut driver = driver_with(capability::HOST_NMI);
    let (nmis, thread) = serve(&driver);
    let cell = cell(&mut driver);
    let begin = clock(1, 3, cell);
    let end = clock(1, 3, 0);
    for _ in 0..20 {
        assert_eq!(driver.request(&begin).status.get(), status::OK);
        for _ in 0..3 {
            assert_eq!(nmis.recv_timeout(NOT_WAITED_FOR), Ok(3));
            take(&driver, cell);
        }
        assert_eq!(driver.request(&end).status.get(), status::OK);
        let sent = driver.device.account().clock.sent;
        // What was sent before the answer is here already.
        while nmis.try_recv().is_ok() {}
        take(&driver, cell);
        assert_eq!(driver.device.account().clock.sent, sent);
        let memory = driver.guest.memory();
        memory.write_obj(0_u64, GuestAddress(cell)).unwrap();
    }
    driver.device.host_clock().close();
    thread.join().unwrap();
    assert!(nmis.try_recv().is_err());
}

#[test]
fn a_reset_another_hello_an_offline_vcpu_and_a_stop_end_the_nmis() {
    type Ending = fn(&mut Driver);
    let endings: [Ending; 4] = [
        |driver| drop(driver.device.reset()),
        |driver| {
            let layout = driver.guest.layout_bytes(driver.guest.store());
            let request = SyntheticGuest::hello_request(&driver.guest.hello(), &layout);
            assert_eq!(driver.request(&request).status.get(), status::OK);
        },
        |driver| driver.set_online(0, false),
        |driver| driver.device.set_enabled(false),
    ];
    for end in endings {
        let mut driver = driver_with(capability::HOST_NMI);
        let (nmis, thread) = serve(&driver);
        let cell = cell(&mut driver);
        let begin = clock(0, 0, cell);
        assert_eq!(driver.request(&begin).status.get(), status::OK);
        assert_eq!(nmis.recv_timeout(NOT_WAITED_FOR), Ok(0));
        take(&driver, cell);
        end(&mut driver);
        take(&driver, cell);
        let account = driver.device.account().clock;
        // Nobody is armed, so no tick of anybody is counted.
        driver.device.host_clock().close();
        thread.join().unwrap();
        assert_eq!(driver.device.account().clock, account);
    }
}

#[test]
fn a_guest_that_asks_for_none_gets_none() {
    let mut driver = driver_with(0);
    let cell = cell(&mut driver);
    let answer = driver.request(&clock(0, 0, cell));
    assert_eq!(answer.status.get(), status::BAD_STATE);
    assert_eq!(driver.device.account().clock.armed, 0);
}

#[test]
fn where_the_host_does_not_want_to_be_the_clock_a_hello_cannot_ask_for_it() {
    let mut driver = Driver::new(SyntheticGuest::default(), 1);
    let mut hello = driver.guest.hello();
    hello.capabilities = (hello.capabilities.get() | capability::HOST_NMI).into();
    let layout = driver.guest.layout_bytes(driver.guest.store());
    let request = SyntheticGuest::hello_request(&hello, &layout);
    assert_eq!(driver.request(&request).status.get(), status::MALFORMED);
}

#[test]
fn a_guest_whose_own_counter_is_the_clock_says_so_in_each_hello() {
    let mut driver = Driver::new(SyntheticGuest::default(), 1);
    for events in [u32::MAX, 0, 2_000_000] {
        let mut hello = driver.guest.hello();
        hello.clock_events = events.into();
        let layout = driver.guest.layout_bytes(driver.guest.store());
        let request = SyntheticGuest::hello_request(&hello, &layout);
        assert_eq!(driver.request(&request).status.get(), status::OK);
        assert_eq!(driver.device.account().guest_clock_events, events);
    }
}

#[test]
fn vcpus_ids_and_cells_out_of_range_are_refused() {
    let mut driver = driver_with(capability::HOST_NMI);
    let cell = cell(&mut driver);
    for (vcpu, apic_id, cell) in [
        (2, 0, cell),
        (u32::MAX, 0, cell),
        (0, 255, cell),
        (0, 0, cell + BUSY as u64),
        (0, 0, 1 << 45),
        (2, 0, 0),
    ] {
        let answer = driver.request(&clock(vcpu, apic_id, cell));
        assert_eq!(answer.status.get(), status::MALFORMED);
    }
    let account = driver.device.account();
    assert_eq!(
        (account.clock.armed, account.fault(Fault::BadRequest)),
        (0, 6)
    );
}
