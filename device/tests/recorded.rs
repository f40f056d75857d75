//! Recorded loads through everything: agent, rings, guest RAM with page tables and VMA stores, device, event buffer. The event
//! stream is the one that OProfile's C pipeline wrote on the machine itself.

use oprofile_device::Settings;
use oprofile_device::test_utils::{
    GuestShape, LINUX_4_19_LAYOUT, LINUX_6_1_LAYOUT, SyntheticGuest,
};
use oprofile_wire::layout::{LayoutEntry, VmaStore};
use oprofile_wire::sample::MAX_BUFFER_BYTES;
use oprofile_workload::loopback::Loopback;
use oprofile_workload::ram::WorldInRam;
use oprofile_workload::{MIXED, Recorded, StreamHash, TRACE, Workload};

/// RAM for the worlds of the recorded loads: 12,800 mappings at most.
const RAM_BYTES: u64 = 256 * 1024 * 1024;

fn check(recorded: &Recorded, store: VmaStore, layout: &[LayoutEntry]) {
    let workload = Workload::load(recorded).unwrap();
    let mut guest = SyntheticGuest::with_shape(GuestShape {
        layout: layout.to_vec(),
        store,
        ram_bytes: RAM_BYTES,
        ..GuestShape::default()
    });
    let mut world = WorldInRam::lay_out(&mut guest, &workload);
    let settings = Settings {
        backtrace_depth: u32::try_from(workload.depth).unwrap(),
        // What the original synced at once is one buffer here: each buffer tells mode and task anew.
        sample_buffer_bytes: u32::try_from(MAX_BUFFER_BYTES).unwrap(),
        ..Settings::default()
    };
    let mut loopback = Loopback::new(guest, settings).unwrap();
    let (mut stream, mut words) = (StreamHash::default(), Vec::new());
    for batch in workload.batches() {
        loopback.on_vcpu(0, |vcpu| world.sample(vcpu, &workload, batch));
        loopback.device().tick();
        words.clear();
        loopback.read(&mut words);
        world.add(&mut stream, &words, &loopback);
    }
    recorded.check(&stream).unwrap();
    let account = loopback.device().account();
    assert_eq!(account.received, workload.samples.len() as u64);
    assert!(account.adds_up(), "{account:?}");
    assert_eq!(account.faults.total(), 0, "{:?}", account.faults);
    let no_mapping = account.statistics.sample_lost_no_mapping;
    assert_eq!(no_mapping, recorded.no_mapping);
}

#[test]
fn mixed_load_over_maple_trees_has_the_stream_of_the_original() {
    check(&MIXED, VmaStore::Maple, LINUX_6_1_LAYOUT);
}

#[test]
fn mixed_load_over_red_black_trees_has_the_stream_of_the_original() {
    check(&MIXED, VmaStore::RbTree, LINUX_4_19_LAYOUT);
}

#[test]
fn call_chains_over_maple_trees_have_the_stream_of_the_original() {
    check(&TRACE, VmaStore::Maple, LINUX_6_1_LAYOUT);
}
