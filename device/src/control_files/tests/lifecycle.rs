//! Steps, their order, and what is left when one of them fails.

use super::*;

const OPEN: [&str; 4] = [
    "cpu buffers 8192",
    "events 131072 32768",
    "set up",
    "register",
];
const FREE: [&str; 2] = ["free events", "free cpu buffers"];

fn open(files: &mut ControlFiles<Recorder>) -> Result<(), ControlError> {
    files.open_event_buffer(Caller::Administrator)
}

fn words(files: &mut ControlFiles<Recorder>) -> Result<Vec<u64>, ControlError> {
    let count = files.life_cycle().read_bytes();
    files.read_event_buffer(0, count)
}

#[test]
fn opening_and_closing_go_through_their_steps_in_order() {
    let mut files = files(1);
    open(&mut files).unwrap();
    assert_eq!(files.profiler_mut().take_steps(), OPEN);
    files.start().unwrap();
    assert_eq!(files.profiler_mut().take_steps(), ["start"]);
    files.close_event_buffer().unwrap();
    let steps = files.profiler_mut().take_steps();
    assert_eq!(steps[..4], ["stop", "sync 0", "unregister", "shut down"]);
    assert_eq!(steps[4..], FREE);
}

#[test]
fn only_an_administrator_opens_and_only_one() {
    let mut files = files(1);
    let refused = files.open_event_buffer(Caller::Other);
    assert_eq!(refused, Err(ControlError::NotPermitted));
    assert_eq!(files.close_event_buffer(), Err(ControlError::NotOpen));
    open(&mut files).unwrap();
    assert_eq!(open(&mut files), Err(ControlError::Busy));
    files.close_event_buffer().unwrap();
    assert_eq!(open(&mut files), Ok(()));
}

#[test]
fn a_watershed_that_leaves_no_room_fails_late_and_changes_what_a_read_must_ask_for() {
    let mut files = opened(1);
    files.close_event_buffer().unwrap();
    files.profiler_mut().take_steps();
    write(&mut files, "buffer_size", "32768").unwrap();
    assert_eq!(open(&mut files), Err(ControlError::Invalid));
    let steps = files.profiler_mut().take_steps();
    assert_eq!(steps, ["cpu buffers 8192", "free cpu buffers"]);
    assert_eq!(files.life_cycle().read_bytes(), 8 * 32_768);
    assert!(!files.life_cycle().is_open() && !files.profiler().cookies);
    write(&mut files, "buffer_watershed", "32767").unwrap();
    assert_eq!(open(&mut files), Ok(()));
}

#[test]
fn a_set_up_that_fails_is_undone_and_its_answer_passed_on() {
    let mut files = files(1);
    files.profiler_mut().set_up = Err(ControlError::Driver(-12));
    assert_eq!(open(&mut files).unwrap_err().code(), -12);
    let steps = files.profiler_mut().take_steps();
    assert_eq!(steps[3..], FREE);
    assert_eq!(files.start(), Err(ControlError::Invalid));
    files.profiler_mut().set_up = Ok(());
    assert_eq!(open(&mut files), Ok(()));
}

#[test]
fn syncs_that_fail_to_start_leave_an_open_buffer_with_nothing_behind() {
    let mut files = files(1);
    files.profiler_mut().sync_start = SyncStart::Failed;
    assert_eq!(open(&mut files), Ok(()));
    assert!(files.life_cycle().is_open());
    let steps = files.profiler_mut().take_steps();
    assert_eq!(
        steps[2..],
        ["set up", "shut down", "free events", "free cpu buffers"]
    );
    assert_eq!(files.start(), Err(ControlError::Invalid));
    assert_eq!(words(&mut files), Err(ControlError::WouldWait));
    files.write("dump", 0, b"").unwrap();
    assert_eq!(words(&mut files), Err(ControlError::Interrupted));
    assert_eq!(open(&mut files), Err(ControlError::Busy));
    assert_eq!(files.close_event_buffer(), Ok(()));
}

#[test]
fn a_driver_that_syncs_by_itself_is_left_alone() {
    let mut files = files(2);
    files.profiler_mut().sync_start = SyncStart::ByDriver;
    files.profiler_mut().sync_stop = SyncStop::ByDriver;
    open(&mut files).unwrap();
    assert_eq!(files.life_cycle().next_due(), None);
    files.tick(1000);
    files.close_event_buffer().unwrap();
    let steps = files.profiler_mut().take_steps();
    assert!(
        !steps
            .iter()
            .any(|step| step.contains("sync") || step.contains("register"))
    );
}

#[test]
fn syncs_that_the_driver_stops_but_did_not_start_go_on_after_close() {
    let mut files = opened(1);
    files.profiler_mut().sync_stop = SyncStop::ByDriver;
    files.close_event_buffer().unwrap();
    assert!(files.profiler().mortuary.is_registered());
    files.profiler_mut().take_steps();
    files.tick(250);
    assert_eq!(files.profiler_mut().take_steps(), ["sync 0", "sync 0"]);
    assert!(files.profiler().events.pending().is_empty());
}

#[test]
fn starting_needs_set_up_and_happens_once() {
    let mut files = files(1);
    assert_eq!(files.start(), Err(ControlError::Invalid));
    files.stop();
    assert!(files.profiler_mut().take_steps().is_empty());
    open(&mut files).unwrap();
    files.profiler_mut().counters.sample_lost_no_mm = 5;
    files.start().unwrap();
    files.profiler_mut().counters.sample_lost_no_mm = 6;
    files.start().unwrap();
    assert_eq!(text(&mut files, "stats/sample_lost_no_mm"), "6\n");
    files.stop();
    assert_eq!(text(&mut files, "stats/sample_lost_no_mm"), "6\n");
    files.start().unwrap();
    assert_eq!(text(&mut files, "stats/sample_lost_no_mm"), "0\n");
}

#[test]
fn a_start_that_fails_has_reset_the_counters() {
    let mut files = opened(1);
    files.profiler_mut().counters.bt_lost_no_mapping = 5;
    files.profiler_mut().start = Err(ControlError::Driver(3));
    assert_eq!(files.write("enable", 0, b"1").unwrap_err().code(), 3);
    assert_eq!(text(&mut files, "enable"), "0\n");
    assert_eq!(text(&mut files, "stats/bt_lost_no_mapping"), "0\n");
    assert!(files.life_cycle().next_due().is_some_and(|due| due == 100));
}

#[test]
fn stopping_makes_the_reader_ready_and_closing_unready() {
    let mut files = opened(1);
    files.start().unwrap();
    files.stop();
    files.stop();
    assert_eq!(files.profiler_mut().events.take_wakeups(), 1);
    assert_eq!(words(&mut files), Ok(vec![]));
    assert_eq!(words(&mut files), Err(ControlError::WouldWait));
    files.write("dump", 3, b"anything").unwrap();
    files.close_event_buffer().unwrap();
    assert!(!files.profiler().events.is_ready());
}

#[test]
fn a_dump_while_closed_is_seen_by_the_next_reader() {
    let mut files = files(1);
    files.write("dump", 0, b"1").unwrap();
    open(&mut files).unwrap();
    assert_eq!(words(&mut files), Ok(vec![]));
}

#[test]
fn first_syncs_come_a_jiffy_apart_and_return_after_a_period() {
    let mut files = opened(3);
    for (jiffies, steps) in [
        (99, &[][..]),
        (1, &["sync 0"]),
        (2, &["sync 1", "sync 2"]),
        (97, &[]),
        (1, &["sync 0"]),
        (100, &["sync 1", "sync 2", "sync 0"]),
    ] {
        files.tick(jiffies);
        assert_eq!(files.profiler_mut().take_steps(), steps);
    }
    assert_eq!(files.life_cycle().now(), 300);
    assert_eq!(files.life_cycle().next_due(), Some(1));
}

#[test]
fn a_cpu_that_is_offline_when_its_sync_is_due_is_not_synced_again() {
    let mut files = opened(2);
    files.profiler_mut().online = vec![0];
    files.tick(101);
    files.profiler_mut().online = vec![0, 1];
    files.tick(300);
    let steps = files.profiler_mut().take_steps();
    assert_eq!(steps, ["sync 0"; 4]);
}

#[test]
fn closing_leaves_the_work_of_offline_cpus_until_the_next_open() {
    let mut files = opened(2);
    files.profiler_mut().online = vec![0];
    files.tick(50);
    files.close_event_buffer().unwrap();
    files.profiler_mut().online = vec![0, 1];
    files.profiler_mut().take_steps();
    files.tick(60);
    assert_eq!(files.profiler_mut().take_steps(), ["sync 1"]);
    files.tick(300);
    assert_eq!(files.profiler_mut().take_steps(), [""; 0]);

    let mut files = opened(2);
    files.profiler_mut().online = vec![0];
    files.tick(50);
    files.close_event_buffer().unwrap();
    files.profiler_mut().take_steps();
    open(&mut files).unwrap();
    files.profiler_mut().online = vec![0, 1];
    files.tick(60);
    assert_eq!(files.profiler_mut().take_steps(), OPEN);
}

#[test]
fn closing_frees_every_dead_task() {
    let mut files = opened(1);
    assert_eq!(files.profiler_mut().mortuary.bury(1), None);
    files.tick(100);
    assert_eq!(files.profiler_mut().mortuary.bury(2), None);
    assert_eq!(files.profiler_mut().mortuary.bury(3), None);
    files.close_event_buffer().unwrap();
    assert_eq!(files.profiler().freed, [1, 3, 2]);
    assert_eq!(files.profiler_mut().mortuary.bury(4), Some(4));
}

#[test]
fn events_are_switched_each_slice_until_the_hook_ends_it_or_profiling_stops() {
    let mut files = opened(1);
    write(&mut files, "time_slice", "30").unwrap();
    files.profiler_mut().switches_left = 5;
    files.start().unwrap();
    files.tick(29);
    assert_eq!(text(&mut files, "stats/multiplex_counter"), "0\n");
    files.tick(61);
    assert_eq!(text(&mut files, "stats/multiplex_counter"), "3\n");
    files.stop();
    files.tick(1000);
    assert_eq!(files.profiler().switches_left, 2);
    assert_eq!(text(&mut files, "stats/multiplex_counter"), "3\n");
    files.start().unwrap();
    files.tick(1000);
    assert_eq!(text(&mut files, "stats/multiplex_counter"), "2\n");
}

#[test]
fn a_slice_of_no_time_does_not_hang() {
    let mut files = opened(1);
    write(&mut files, "time_slice", "0").unwrap();
    files.profiler_mut().switches_left = u64::MAX;
    files.start().unwrap();
    files.tick(10);
    assert_eq!(text(&mut files, "stats/multiplex_counter"), "11\n");
}

#[test]
fn the_end_of_time_does_not_hang() {
    let mut files = files(2);
    files.tick(u64::MAX);
    open(&mut files).unwrap();
    files.profiler_mut().switches_left = u64::MAX;
    files.start().unwrap();
    files.tick(u64::MAX);
    assert_eq!(files.life_cycle().now(), u64::MAX);
}

#[test]
fn cookies_are_looked_up_only_while_open_and_by_administrators() {
    let mut files = files(1);
    let lookup = |files: &ControlFiles<Recorder>, cookie, room| {
        files.lookup_dcookie(Caller::Administrator, cookie, room)
    };
    assert_eq!(lookup(&files, 7, 100), Err(ControlError::Invalid));
    open(&mut files).unwrap();
    assert_eq!(lookup(&files, 7, 100), Ok(b"/bin/a\0".to_vec()));
    assert_eq!(lookup(&files, 7, 6), Err(ControlError::OutOfRange));
    assert_eq!(lookup(&files, 8, 100), Err(ControlError::Invalid));
    let other = files.lookup_dcookie(Caller::Other, 7, 100);
    assert_eq!(other, Err(ControlError::NotPermitted));
    files.close_event_buffer().unwrap();
    assert_eq!(lookup(&files, 7, 100), Err(ControlError::Invalid));
}
