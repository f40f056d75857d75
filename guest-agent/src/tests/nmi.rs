use oprofile_wire::clock::SENT;
use oprofile_wire::config::capability;
use oprofile_wire::control::{Hello, HostClock, kind};
use zerocopy::FromBytes;

use super::fake::{FakeTransport, Guest, decode, description};
use crate::{Clocks, Control, Nmi, NmiSampler, Platform, Sample};

const PC: u64 = 0xffff_ffff_8100_0000;

/// Brought up, online, sampling by the host's NMIs.
fn ticking(guest: &Guest) -> Control<FakeTransport> {
    let mut control = guest.bring_up().unwrap();
    control.hello(guest, &description()).unwrap();
    for vcpu in 0..control.vcpus() {
        control.cpu_state(guest, vcpu, true).unwrap();
        guest.nmis[usize::from(vcpu)].set_busy(true);
    }
    assert_eq!(control.update(guest), Ok(Clocks::ByHost));
    control.start_host_clock(guest).unwrap();
    control
}

/// What the device was asked, in order.
fn requests(guest: &Guest) -> Vec<HostClock> {
    let device = guest.device.borrow();
    let asked = device
        .requests
        .iter()
        .filter(|r| r.kind == kind::HOST_CLOCK);
    asked
        .map(|request| HostClock::read_from_bytes(&request.payload).unwrap())
        .collect()
}

fn cell(guest: &Guest, vcpu: u32) -> u64 {
    let mut asked = requests(guest);
    asked.retain(|clock| clock.vcpu.get() == vcpu && clock.cell.get() != 0);
    asked.last().unwrap().cell.get()
}

/// The host counts an NMI in.
fn send(guest: &Guest, vcpu: u32) {
    let at = cell(guest, vcpu) + SENT as u64;
    let device = guest.device.borrow();
    let sent: u32 = device.read(at);
    device.write(at, sent.wrapping_add(1));
}

fn handle(sampler: &NmiSampler, pc: u64) -> Nmi {
    sampler.nmi(|depth, frames| {
        for caller in 1..=u64::from(depth) {
            frames.frame(pc + caller);
        }
        let sample = Sample {
            pc,
            is_kernel: true,
            event: 0,
            task: 7,
        };
        (sample, 0)
    })
}

#[test]
fn the_hosts_nmi_becomes_a_sample_and_another_one_does_not() {
    let guest = Guest::with_nmis(1);
    ticking(&guest);
    let sampler = &guest.nmis[0];
    assert_eq!(handle(sampler, PC), Nmi::NotOurs);
    for round in 0..3 {
        send(&guest, 0);
        assert_eq!(handle(sampler, PC + round), Nmi::Sampled);
        assert_eq!(handle(sampler, PC), Nmi::NotOurs);
    }
    guest.with_cpu(0, |agent| assert!(agent.post_everything(&guest)));
    guest.device.borrow_mut().drain(0);
    let samples = decode(&guest.device.borrow().buffers, 0);
    assert_eq!(samples, [PC, PC + 1, PC + 2].map(|pc| (pc, 7, true)));
}

#[test]
fn call_chains_come_with_their_samples() {
    let guest = Guest::with_nmis(1);
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.backtrace_depth = 4.into());
    ticking(&guest);
    send(&guest, 0);
    assert_eq!(handle(&guest.nmis[0], PC), Nmi::Sampled);
    guest.with_cpu(0, |agent| assert!(agent.post_everything(&guest)));
    guest.device.borrow_mut().drain(0);
    let device = guest.device.borrow();
    let words = &device.buffers[0].words;
    assert_eq!(
        words[3..],
        [PC, 0, PC + 1, 0, PC + 2, 0, PC + 3, 0, PC + 4, 0]
    );
}

#[test]
fn an_idle_vcpus_nmi_is_taken_and_is_no_sample() {
    let guest = Guest::with_nmis(1);
    ticking(&guest);
    guest.nmis[0].set_busy(false);
    send(&guest, 0);
    assert_eq!(handle(&guest.nmis[0], PC), Nmi::NoSample);
    guest.nmis[0].set_busy(true);
    send(&guest, 0);
    assert_eq!(handle(&guest.nmis[0], PC), Nmi::Sampled);
    let counters = guest.with_cpu(0, |agent| agent.statistics().counters);
    assert_eq!(counters.received, 1);
}

#[test]
fn what_a_full_ring_loses_is_counted() {
    let guest = Guest::with_nmis(1);
    ticking(&guest);
    let mut lost = 0;
    for _ in 0..40 {
        send(&guest, 0);
        lost += u64::from(handle(&guest.nmis[0], PC) == Nmi::Lost);
    }
    assert_eq!(lost, 8);
    let counters = guest.with_cpu(0, |agent| agent.statistics().counters);
    assert_eq!((counters.received, counters.lost), (40, 8));
    send(&guest, 0);
    assert_eq!(handle(&guest.nmis[0], PC), Nmi::Sampled);
}

#[test]
fn quiescing_asks_the_host_to_stop_before_it_says_so_and_keeps_what_was_taken() {
    let guest = Guest::with_nmis(2);
    let mut control = ticking(&guest);
    send(&guest, 1);
    assert_eq!(handle(&guest.nmis[1], PC), Nmi::Sampled);
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.enable = 0.into());
    assert_eq!(control.update(&guest), Ok(Clocks::Stop));
    // One that was on its way.
    send(&guest, 1);
    assert_eq!(handle(&guest.nmis[1], PC), Nmi::NoSample);
    control.quiesce(&guest).unwrap();
    let asked = requests(&guest);
    let stops: Vec<_> = asked[2..]
        .iter()
        .map(|clock| (clock.vcpu.get(), clock.cell.get()))
        .collect();
    assert_eq!(stops, [(0, 0), (1, 0)]);
    let device = guest.device.borrow();
    assert_eq!(device.requests.last().unwrap().kind, kind::QUIESCED);
    assert_eq!(decode(&device.buffers, 1).len(), 1);
    drop(device);
    // And again.
    guest
        .device
        .borrow_mut()
        .change_config(|config| config.enable = 1.into());
    assert_eq!(control.update(&guest), Ok(Clocks::ByHost));
    control.start_host_clock(&guest).unwrap();
    assert_eq!(requests(&guest).len(), 6);
}

#[test]
fn each_vcpu_tells_its_apic_id_and_a_cell_of_its_own() {
    let guest = Guest::with_nmis(3);
    let mut control = ticking(&guest);
    // What ticks is not asked for again.
    control.start_host_clock(&guest).unwrap();
    let asked = requests(&guest);
    let ids: Vec<_> = asked.iter().map(|clock| clock.apic_id.get()).collect();
    assert_eq!(ids, [3, 4, 5]);
    for pair in asked.windows(2) {
        assert_eq!(pair[1].cell.get() - pair[0].cell.get(), 64);
    }
    control.cpu_state(&guest, 1, false).unwrap();
    let last = *requests(&guest).last().unwrap();
    assert_eq!((last.vcpu.get(), last.cell.get()), (1, 0));
    control.cpu_state(&guest, 1, true).unwrap();
    let last = *requests(&guest).last().unwrap();
    assert_eq!((last.vcpu.get(), last.cell.get()), (1, cell(&guest, 1)));
}

#[test]
fn a_kernel_without_a_handler_or_a_host_without_the_wish_leaves_timers_running() {
    let hello = |guest: &Guest| {
        let mut control = guest.bring_up().unwrap();
        control.hello(guest, &description()).unwrap();
        assert!(matches!(control.update(guest), Ok(Clocks::Run { .. })));
        let device = guest.device.borrow();
        let (hello, _) = Hello::read_from_prefix(&device.requests[0].payload).unwrap();
        assert_eq!(hello.capabilities.get() & capability::HOST_NMI, 0);
    };
    hello(&Guest::new(1));
    let guest = Guest::with_nmis(1);
    guest.device.borrow_mut().change_config(|config| {
        config.capabilities = (capability::ALL & !capability::HOST_NMI).into();
    });
    hello(&guest);
}

/// One thread is the NMI handler, another one drains.
#[test]
fn a_handler_and_a_drain_at_once_lose_and_double_nothing() {
    const NMIS: u64 = 20_000;
    let guest = Guest::with_nmis(1);
    ticking(&guest);
    let cell = guest.nmis[0].cell_for_tests();
    let sampler = &guest.nmis[0];
    let (done, lost) = std::thread::scope(|scope| {
        let handler = scope.spawn(move || {
            let mut lost = 0;
            for number in 0..NMIS {
                cell.fetch_add(1, std::sync::atomic::Ordering::Release);
                lost += u64::from(handle(sampler, number) == Nmi::Lost);
            }
            lost
        });
        let mut done = Vec::new();
        while !handler.is_finished() || done.is_empty() {
            sampler.drain_for_tests(|sample| done.push(sample.pc));
        }
        let lost = handler.join().unwrap();
        sampler.drain_for_tests(|sample| done.push(sample.pc));
        (done, lost)
    });
    assert!(done.is_sorted_by(|a, b| a < b));
    assert_eq!(done.len() as u64 + lost, NMIS);
}
