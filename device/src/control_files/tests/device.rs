//! The files over a device with a driver.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::*;
use crate::Device;
use crate::Settings;
use crate::event_buffer::record::{CPU_SWITCH, KERNEL_ENTER};
use crate::test_utils::{Driver, KERNEL_START, SyntheticGuest};
use oprofile_wire::sample::ESCAPE;

type DeviceFiles = ControlFiles<DeviceProfiler<GuestMemoryMmap>>;

/// A driver, and the files over its device. The driver reads the event buffer no more.
fn driver(vcpus: u16) -> (Driver, DeviceFiles) {
    let mut driver = Driver::new(SyntheticGuest::default(), vcpus).hello();
    // The reader of another device takes its place, and it is dropped.
    let other = Device::<GuestMemoryMmap>::new(Settings::default()).unwrap();
    driver.reader = other.open_events().unwrap();
    let files = DeviceProfiler::control_files(Arc::clone(&driver.device));
    (driver, files)
}

fn text(files: &mut DeviceFiles, path: &str) -> String {
    String::from_utf8(files.read(path, 0, 4096).unwrap()).unwrap()
}

fn open(files: &mut DeviceFiles) -> Result<(), ControlError> {
    files.open_event_buffer(Caller::Administrator)
}

fn words(files: &mut DeviceFiles) -> Result<Vec<u64>, ControlError> {
    let count = files.life_cycle().read_bytes();
    files.read_event_buffer(0, count)
}

fn post_sample(driver: &mut Driver) {
    let task = driver.guest.init_task();
    let buffer = driver.buffer(0).kernel(task).sample(KERNEL_START);
    driver.post(0, &buffer);
}

#[test]
fn a_profile_is_taken_through_the_files_alone() {
    let (mut driver, mut files) = driver(2);
    assert_eq!(text(&mut files, "cpu_type"), "timer");
    open(&mut files).unwrap();
    files.write("enable", 0, b"1").unwrap();
    assert!(driver.device.enabled());
    post_sample(&mut driver);
    assert_eq!(words(&mut files), Err(ControlError::WouldWait));
    files.write("dump", 0, b"1").unwrap();
    let read = words(&mut files).unwrap();
    assert_eq!(read[..5], [ESCAPE, CPU_SWITCH, 0, ESCAPE, KERNEL_ENTER]);
    assert_eq!(text(&mut files, "stats/cpu0/sample_received"), "1\n");
    assert_eq!(text(&mut files, "stats/cpu1/sample_received"), "0\n");
    files.write("enable", 0, b"0").unwrap();
    assert!(!driver.device.enabled());
    assert_eq!(words(&mut files), Ok(vec![]));
    files.close_event_buffer().unwrap();
}

#[test]
fn files_of_multiplexing_do_not_exist() {
    let (_driver, files) = driver(1);
    let list = files.list();
    assert!(!list.iter().any(|entry| entry.path == "time_slice"));
    assert_eq!(list.len(), 9 + 1 + 5 + 4);
}

#[test]
fn somebody_else_reading_keeps_the_files_from_opening() {
    let (driver, mut files) = driver(1);
    let other = driver.device.open_events().unwrap();
    assert_eq!(open(&mut files), Err(ControlError::Busy));
    assert_eq!(files.start(), Err(ControlError::Invalid));
    drop(other);
    open(&mut files).unwrap();
    assert!(driver.device.open_events().is_err());
    files.close_event_buffer().unwrap();
    assert!(driver.device.open_events().is_ok());
}

#[test]
fn settings_reach_the_device() {
    let (driver, mut files) = driver(1);
    for (path, text) in [
        ("buffer_size", "4096"),
        ("buffer_watershed", "64"),
        ("cpu_buffer_size", "500"),
        ("backtrace_depth", "12"),
    ] {
        files.write(path, 0, text.as_bytes()).unwrap();
    }
    assert_eq!(driver.device.backtrace_depth(), 12);
    assert_eq!(driver.device.cpu_buffer_size(), 8_192);
    open(&mut files).unwrap();
    assert_eq!(driver.device.cpu_buffer_size(), 500);
    let reader = files.profiler_mut().take_reader().unwrap();
    assert_eq!(reader.size(), 4_096);
}

#[test]
fn values_that_the_device_does_not_take_are_refused() {
    let (driver, mut files) = driver(1);
    for depth in ["257", "4294967296"] {
        let refused = files.write("backtrace_depth", 0, depth.as_bytes());
        assert_eq!(refused, Err(ControlError::Invalid));
    }
    assert_eq!(text(&mut files, "backtrace_depth"), "0\n");
    for (path, bad, good) in [
        ("buffer_size", "0x7fffffffffffffff", "100000"),
        ("cpu_buffer_size", "0", "100"),
        ("cpu_buffer_size", "4294967297", "100"),
    ] {
        files.write(path, 0, bad.as_bytes()).unwrap();
        assert_eq!(open(&mut files), Err(ControlError::OutOfMemory));
        assert!(driver.device.open_events().is_ok(), "nobody reads");
        files.write(path, 0, good.as_bytes()).unwrap();
    }
    files.write("buffer_watershed", 0, b"100000").unwrap();
    assert_eq!(open(&mut files), Err(ControlError::Invalid));
}

#[test]
fn counters_count_from_the_last_start() {
    let (mut driver, mut files) = driver(1);
    let lost = |driver: &mut Driver, lost: u64| {
        let task = driver.guest.init_task();
        let mut buffer = driver.buffer(0).kernel(task).sample(KERNEL_START);
        buffer.header.lost = lost.into();
        driver.post(0, &buffer);
        driver.device.tick();
    };
    open(&mut files).unwrap();
    lost(&mut driver, 3);
    assert_eq!(text(&mut files, "stats/cpu0/sample_lost_overflow"), "3\n");
    files.start().unwrap();
    assert_eq!(text(&mut files, "stats/cpu0/sample_lost_overflow"), "0\n");
    lost(&mut driver, 5);
    assert_eq!(text(&mut files, "stats/cpu0/sample_lost_overflow"), "2\n");
    assert_eq!(text(&mut files, "stats/cpu0/sample_received"), "3\n");
    files.stop();
    assert_eq!(driver.device.account().received, 7);
    assert_eq!(text(&mut files, "stats/cpu0/sample_received"), "3\n");
}

#[test]
fn words_that_nobody_read_stay_and_keep_the_buffer_from_shrinking() {
    let (mut driver, mut files) = driver(1);
    open(&mut files).unwrap();
    files.start().unwrap();
    post_sample(&mut driver);
    files.close_event_buffer().unwrap();
    files.write("buffer_size", 0, b"8").unwrap();
    files.write("buffer_watershed", 0, b"4").unwrap();
    assert_eq!(open(&mut files), Err(ControlError::Busy));
    files.write("buffer_size", 0, b"64").unwrap();
    open(&mut files).unwrap();
    let read = words(&mut files).unwrap();
    assert!(read.contains(&KERNEL_START));
}

#[test]
fn a_reader_that_was_taken_reads_in_place_of_the_file() {
    let (mut driver, mut files) = driver(1);
    open(&mut files).unwrap();
    let mut reader = files.profiler_mut().take_reader().unwrap();
    post_sample(&mut driver);
    files.write("dump", 0, b"").unwrap();
    assert_eq!(words(&mut files), Err(ControlError::Interrupted));
    assert!(reader.read_ready().is_some_and(|words| !words.is_empty()));
    files.close_event_buffer().unwrap();
    assert_eq!(open(&mut files), Err(ControlError::Busy));
    drop(reader);
    assert_eq!(open(&mut files), Ok(()));
}

#[test]
fn cookies_of_the_device_are_looked_up_while_open() {
    let mut guest = SyntheticGuest::default();
    let process = crate::tests::process(&mut guest, 7, b"prog");
    let mut driver = Driver::new(guest, 1).hello();
    let buffer = driver
        .buffer(0)
        .user(process.task)
        .sample(crate::tests::TEXT)
        .sample(crate::tests::ANON);
    driver.post(0, &buffer);
    driver.device.tick();
    let cookies: Vec<_> = driver
        .words()
        .windows(3)
        .filter(|record| record[..2] == [ESCAPE, 3])
        .map(|record| record[2])
        .collect();
    let other = Device::<GuestMemoryMmap>::new(Settings::default()).unwrap();
    driver.reader = other.open_events().unwrap();
    let mut files = DeviceProfiler::control_files(Arc::clone(&driver.device));
    let lookup =
        |files: &DeviceFiles, cookie| files.lookup_dcookie(Caller::Administrator, cookie, 100);
    assert_eq!(lookup(&files, cookies[0]), Err(ControlError::Invalid));
    open(&mut files).unwrap();
    assert_eq!(lookup(&files, cookies[0]), Ok(b"/prog\0".to_vec()));
    assert_eq!(lookup(&files, cookies[1]), Err(ControlError::Invalid));
    assert_eq!(lookup(&files, 12_345), Err(ControlError::Invalid));
}
