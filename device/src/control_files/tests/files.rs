//! What the files hold, what they take, and in which order they refuse.

use super::*;

#[test]
fn a_fresh_tree_has_the_names_modes_and_values_of_the_original() {
    let mut files = files(1);
    let list: Vec<_> = files
        .list()
        .into_iter()
        .map(|entry| format!("{:o} {}", entry.mode, entry.path))
        .collect();
    #[rustfmt::skip]
    let expected = [
        "644 enable", "666 dump", "644 buffer", "644 buffer_size", "644 buffer_watershed", "644 cpu_buffer_size",
        "644 cpu_type", "644 backtrace_depth", "644 pointer_size", "644 time_slice", "755 stats/", "755 stats/cpu0/",
        "444 stats/cpu0/sample_received", "444 stats/cpu0/sample_lost_overflow", "444 stats/cpu0/backtrace_aborted",
        "444 stats/cpu0/sample_invalid_eip", "444 stats/sample_lost_no_mm", "444 stats/sample_lost_no_mapping",
        "444 stats/event_lost_overflow", "444 stats/bt_lost_no_mapping", "444 stats/multiplex_counter",
    ];
    assert_eq!(list, expected);
    for (path, value) in [
        ("enable", "0\n"),
        ("buffer_size", "131072\n"),
        ("buffer_watershed", "32768\n"),
        ("cpu_buffer_size", "8192\n"),
        ("cpu_type", "test"),
        ("backtrace_depth", "0\n"),
        ("pointer_size", "8\n"),
        ("time_slice", "1\n"),
        ("stats/multiplex_counter", "0\n"),
    ] {
        assert_eq!(text(&mut files, path), value, "{path}");
    }
}

#[test]
fn a_read_sees_the_window_that_it_asks_for() {
    let mut files = files(1);
    for (offset, count, expected) in [
        (0, 3, "131"),
        (4, 4096, "72\n"),
        (7, 4096, ""),
        (0, 0, ""),
        (i64::MAX as u64, 1, ""),
        (1, u64::MAX, "31072\n"),
    ] {
        let read = files.read("buffer_size", offset, count).unwrap();
        assert_eq!(read, expected.as_bytes());
    }
    let negative = files.read("buffer_size", 1 << 63, 1);
    assert_eq!(negative, Err(ControlError::Invalid));
}

#[test]
fn files_that_do_not_read_or_write_say_so() {
    let mut files = opened(1);
    assert_eq!(files.read("dump", 0, 1), Err(ControlError::Invalid));
    for path in [
        "buffer",
        "cpu_type",
        "pointer_size",
        "stats/event_lost_overflow",
        "stats/cpu0/sample_received",
    ] {
        assert_eq!(write(&mut files, path, "1"), Err(ControlError::Invalid));
    }
    for path in ["stats", "stats/", "stats/cpu0", "stats/cpu0/"] {
        let directory = Err(ControlError::IsDirectory);
        assert_eq!(files.read(path, 0, 1).map(drop), directory);
        assert_eq!(write(&mut files, path, "1").map(drop), directory);
    }
}

#[test]
fn settings_are_locked_while_started_and_only_then() {
    const SETTINGS: [&str; 5] = [
        "buffer_size",
        "buffer_watershed",
        "cpu_buffer_size",
        "backtrace_depth",
        "time_slice",
    ];
    let mut files = opened(1);
    for path in SETTINGS {
        assert_eq!(write(&mut files, path, "100"), Ok(3));
    }
    files.start().unwrap();
    for path in SETTINGS {
        assert_eq!(write(&mut files, path, "7"), Err(ControlError::Busy));
        // An empty write or one that is no number is judged before.
        assert_eq!(write(&mut files, path, ""), Ok(0));
        assert_eq!(files.write(path, 1, b"7"), Err(ControlError::Invalid));
        assert_eq!(text(&mut files, path), "100\n");
    }
    files.stop();
    for path in SETTINGS {
        assert_eq!(write(&mut files, path, "7"), Ok(1));
        assert_eq!(text(&mut files, path), "7\n");
    }
}

#[test]
fn a_new_size_is_for_the_next_open() {
    let mut files = opened(1);
    write(&mut files, "buffer_size", "40000").unwrap();
    assert_eq!(files.life_cycle().read_bytes(), 8 * 131_072);
    let short = files.read_event_buffer(0, 8 * 40_000);
    assert_eq!(short, Err(ControlError::Invalid));
    files.close_event_buffer().unwrap();
    files.open_event_buffer(Caller::Administrator).unwrap();
    assert_eq!(files.life_cycle().read_bytes(), 8 * 40_000);
}

#[test]
fn the_buffer_reads_as_words_only_whole_and_only_when_ready() {
    let mut files = opened(2);
    let whole = files.life_cycle().read_bytes();
    files.tick(101);
    for (offset, count, error) in [
        (0, whole - 8, ControlError::Invalid),
        (8, whole, ControlError::Invalid),
        (0, whole, ControlError::WouldWait),
    ] {
        assert_eq!(files.read("buffer", offset, count), Err(error));
    }
    files.write("dump", 0, b"").unwrap();
    let bytes = files.read("buffer", 0, whole).unwrap();
    assert_eq!(bytes, [0u64.to_le_bytes(), 1u64.to_le_bytes()].concat());
}

#[test]
fn enabling_takes_any_number() {
    let mut files = opened(1);
    for (text, enabled) in [
        ("0x10", true),
        ("", true),
        ("0", false),
        ("yes", false),
        ("1\n", true),
        ("-1", false),
    ] {
        assert_eq!(write(&mut files, "enable", text), Ok(text.len()));
        assert_eq!(files.life_cycle().is_started(), enabled, "{text:?}");
    }
    let long = files.write("enable", 0, &[b'1'; 50]);
    assert_eq!(long, Err(ControlError::Invalid));
    let offset = files.write("enable", 1, b"1");
    assert_eq!(offset, Err(ControlError::Invalid));
}

#[test]
fn depth_needs_a_walker_even_for_an_empty_write() {
    let mut files = opened(1);
    write(&mut files, "backtrace_depth", "0x20").unwrap();
    assert_eq!(files.profiler_mut().take_steps(), ["depth 32"]);
    files.profiler_mut().walker = false;
    let refused = write(&mut files, "backtrace_depth", "");
    assert_eq!(refused, Err(ControlError::Invalid));
    files.start().unwrap();
    let refused = write(&mut files, "backtrace_depth", "1");
    assert_eq!(refused, Err(ControlError::Invalid));
    assert_eq!(text(&mut files, "backtrace_depth"), "32\n");
}

#[test]
fn a_time_slice_is_truncated_to_32_bits_and_then_signed() {
    let mut files = files(1);
    for (text, expected) in [
        ("7", Ok(7)),
        ("4294967301", Ok(5)),
        ("2147483647", Ok(2_147_483_647)),
        ("2147483648", Err(ControlError::Invalid)),
        ("4294967296", Ok(0)),
    ] {
        let written = write(&mut files, "time_slice", text);
        assert_eq!(written, expected.map(|_| text.len()));
        if let Ok(ms) = expected {
            assert_eq!(self::text(&mut files, "time_slice"), format!("{ms}\n"));
        }
    }
    files.profiler_mut().multiplexing = Multiplexing::NoHook;
    let refused = write(&mut files, "time_slice", "7");
    assert_eq!(refused, Err(ControlError::Invalid));
    assert_eq!(text(&mut files, "time_slice"), "0\n");
}

#[test]
fn each_cpu_has_counters_of_its_own() {
    let mut files = files(3);
    for cpu in 0..3 {
        let path = format!("stats/cpu{cpu}/sample_received");
        assert_eq!(text(&mut files, &path), format!("{cpu}\n"));
    }
}
