//! The recorded workloads come out as the original's C pipeline made them.

use crate::{MIXED, Recorded, Replay, TRACE, Workload};

fn check(recorded: &Recorded) {
    let workload = Workload::load(recorded).unwrap();
    let mut replay = Replay::new(&workload).unwrap();
    let stream = replay.run();
    recorded.check(&stream).unwrap();
    let statistics = replay.statistics();
    assert_eq!(statistics.sample_lost_no_mapping, recorded.no_mapping);
    assert_eq!(statistics.bt_lost_no_mapping, recorded.no_mapping);
    assert_eq!(
        replay.account().samples(),
        workload.samples.len() as u64,
        "each sample has one end"
    );
}

#[test]
fn mixed_load_has_the_stream_of_the_original() {
    check(&MIXED);
}

#[test]
fn call_chains_have_the_stream_of_the_original() {
    check(&TRACE);
}

#[test]
fn another_stream_is_told_from_the_original() {
    let mut workload = Workload::load(&MIXED).unwrap();
    workload.samples[100_000].pc ^= 4;
    let stream = Replay::new(&workload).unwrap().run();
    assert!(MIXED.check(&stream).is_err());
}
