//! Runs `opreport` on sessions as the collector writes them.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use oprofile_session::Account;
use support::{ESC, Guest, KERNEL, Session, TEXT, opreport, program, trimmed, vcpu};

const WORK: u64 = 1;
const LIBRARY: u64 = 2;
const IN_KERNEL: u64 = 0;

/// A program with a library on two vCPUs, and the kernel.
fn demo() -> Session {
    let mut guest = Guest::default();
    guest.file(
        b"/bin/work",
        Some(program(&[(0, b"main"), (0x100, b"_RNvC4work6crunch")])),
    );
    guest.file(b"/lib/libshare.so", Some(program(&[(0x80, b"_Z3mixi")])));
    let reads = [
        vcpu(
            0,
            &[
                (WORK, TEXT + 0x10, 10),
                (WORK, TEXT + 0x120, 50),
                (LIBRARY, TEXT + 0x90, 20),
            ],
        ),
        vcpu(
            1,
            &[(WORK, TEXT + 0x100, 5), (IN_KERNEL, KERNEL + 0x180, 15)],
        ),
    ];
    Session::record(guest, &reads, &Account::default())
}

#[test]
fn summary_has_a_column_for_each_vcpu() {
    let (stdout, stderr) = demo().report(&[]);
    assert_eq!(
        stdout,
        "\
CPU: CPU with timer interrupt
Profiling through timer interrupt
Samples on CPU 0
Samples on CPU 1
            cpu:0|            cpu:1|
  samples|      %|  samples|      %|
------------------------------------
       80 100.000         5 25.0000 work
\t            cpu:0|            cpu:1|
\t  samples|      %|  samples|      %|
\t------------------------------------
\t       60 75.0000         5 100.000 work
\t       20 25.0000         0       0 libshare.so
        0       0        15 75.0000 tiny-1.0"
    );
    assert_eq!(stderr, "");
}

#[test]
fn symbols_are_found_in_the_guest_tree_without_being_told() {
    let (stdout, stderr) = demo().report(&["-l", "-m", "cpu"]);
    assert_eq!(
        stdout,
        "\
CPU: CPU with timer interrupt
Profiling through timer interrupt
samples  %        image name               app name                 symbol name
55       55.0000  work                     work                     work::crunch
20       20.0000  libshare.so              work                     mix(int)
15       15.0000  tiny-1.0                 tiny-1.0                 tiny::schedule
10       10.0000  work                     work                     main"
    );
    assert_eq!(stderr, "");
}

#[test]
fn symbol_list_has_two_columns_for_each_vcpu() {
    let (stdout, _) = demo().report(&["--symbols", "--no-header"]);
    assert_eq!(
        stdout,
        "\
50       62.5000  5        25.0000  work                     work                     work::crunch
20       25.0000  0              0  libshare.so              work                     mix(int)
10       12.5000  0              0  work                     work                     main
0              0  15       75.0000  tiny-1.0                 tiny-1.0                 tiny::schedule"
    );
}

#[test]
fn merged_libraries_stand_for_themselves() {
    let (stdout, _) = demo().report(&["-n", "--merge=cpu,lib"]);
    assert_eq!(
        stdout,
        "       65 65.0000 work\n       20 20.0000 libshare.so\n       15 15.0000 tiny-1.0"
    );
}

#[test]
fn libraries_and_small_rows_can_be_left_out() {
    let session = demo();
    assert_eq!(
        session.report(&["-n", "-x", "-m", "cpu"]).0,
        "       65 81.2500 work\n       15 18.7500 tiny-1.0"
    );
    assert_eq!(
        session.report(&["-n", "-x", "-m", "cpu", "-t", "50"]).0,
        "       65 81.2500 work"
    );
}

#[test]
fn addresses_and_raw_names_are_shown_on_demand() {
    let (stdout, _) = demo().report(&["-lnw", "-m", "all", "-D", "none"]);
    assert_eq!(
        stdout,
        "\
0000000000400100 55       55.0000  work                     _RNvC4work6crunch
0000000000400080 20       20.0000  libshare.so              _Z3mixi
ffff800000100100 15       15.0000  tiny-1.0                 _RNvC4tiny8schedule
0000000000400000 10       10.0000  work                     main"
    );
}

#[test]
fn samples_can_be_selected() {
    let session = demo();
    assert_eq!(
        session.report(&["-ln", "cpu:1", "image:*/work"]).0,
        "5        100.000  work::crunch"
    );
    assert_eq!(
        session.report(&["-ln", "/bin/work", "lib-image:*.so"]).0,
        "20       100.000  libshare.so              mix(int)"
    );
    let output = session.try_report(&["cpu:7"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        stderr.lines().last(),
        Some("error: no sample files found: profile specification too strict ?")
    );
}

#[test]
fn guest_tree_is_an_archive() {
    let session = demo();
    let archive = format!("archive:{}", session.path().join("root").display());
    let output = opreport([
        OsStr::new(&archive),
        OsStr::new("-ln"),
        OsStr::new("-m"),
        OsStr::new("all"),
    ]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        trimmed(std::str::from_utf8(&output.stdout).unwrap()),
        session.report(&["-ln", "-m", "all"]).0
    );
}

#[test]
fn session_directory_can_be_named_directly() {
    let session = demo();
    let current = format!(
        "session:{}",
        session.path().join("samples/current").display()
    );
    assert_eq!(
        session.report(&["-n", &current]).0,
        session.report(&["-n"]).0
    );
    let output = session.try_report(&["session:previous"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn given_root_outranks_the_guest_tree() {
    let session = demo();
    let nowhere = format!("--root={}", session.path().join("samples").display());
    let (stdout, stderr) = session.report(&["-ln", "-m", "all", &nowhere]);
    assert_eq!(
        stdout,
        "65       65.0000  work                     /bin/work\n20       20.0000  libshare.so              /lib/libshare.so\n15       15.0000  tiny-1.0                 /boot/tiny-1.0"
    );
    assert_eq!(
        stderr
            .lines()
            .filter(|line| line.ends_with("could not be found."))
            .count(),
        3
    );
}

#[test]
fn missing_session_is_told_with_the_place_that_was_tried() {
    let output = opreport([OsStr::new("-l")]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.starts_with("Using /var/lib/oprofile//samples/ for samples directory.\n"),
        "{stderr}"
    );
    assert!(
        stderr.contains("No sample found: Please specify a session containing"),
        "{stderr}"
    );
}

#[test]
fn lost_samples_are_told() {
    let mut guest = Guest::default();
    guest.file(b"/bin/work", None);
    let account = Account::from_iter([("received", 100), ("lost_in_guest", 1)]);
    let session = Session::record(guest, &[vcpu(0, &[(WORK, TEXT, 99)])], &account);
    let (stdout, stderr) = session.report(&["-n"]);
    assert_eq!(stdout, "       99 100.000 work");
    let log = session.path().join("samples/operf.log");
    assert_eq!(
        stderr,
        format!(
            "\nWARNING: Lost samples detected! See {} for details.\n",
            log.display()
        )
    );
    assert!(
        fs::read_to_string(log)
            .unwrap()
            .contains("lost reported by perf_events kernel: 1\n")
    );
}

#[test]
fn binary_that_changed_since_is_told() {
    let session = demo();
    let binary = session.path().join("root/bin/work");
    fs::write(&binary, fs::read(&binary).unwrap()).unwrap();
    let (_, stderr) = session.report(&["-l"]);
    assert!(
        stderr.starts_with("warning: the last modified time of the binary file does not match"),
        "{stderr}"
    );
}

#[test]
fn damaged_binary_is_one_symbol_and_told() {
    for damage in [&b"\x7fELF\x02\x01\x01"[..], b"", b"#!/bin/sh\n"] {
        let mut guest = Guest::default();
        guest.file(b"/bin/work", Some(damage.to_vec()));
        let session = Session::record(guest, &[vcpu(0, &[(WORK, TEXT, 9)])], &Account::default());
        let (stdout, stderr) = session.report(&["-ln"]);
        assert_eq!(stdout, "9        100.000  /bin/work");
        assert!(stderr.contains("warning: no symbols from "), "{stderr}");
    }
}

#[test]
fn hostile_names_stay_in_their_place_and_cannot_control_the_terminal() {
    let mut guest = Guest::default();
    guest.file(
        b"/../../{dep}/\x1b[2J\xff",
        Some(program(&[(0, b"\x1b]0;owned\x07"), (0x10, b"\xff\xfe")])),
    );
    let session = Session::record(
        guest,
        &[vcpu(0, &[(WORK, TEXT, 3), (WORK, TEXT + 0x20, 2)])],
        &Account::default(),
    );
    let (stdout, stderr) = session.report(&["-l"]);
    assert!(
        stdout.ends_with("3        60.0000  \\x1b]0;owned\\x07\n2        40.0000  \\xff\\xfe"),
        "{stdout}"
    );
    assert_eq!(stderr, "");
    let (stdout, _) = session.report(&["-nf"]);
    assert_eq!(
        stdout,
        "        5 100.000 /%2E%2E/%2E%2E/%7Bdep}/%1B[2J\\xff"
    );
}

/// A file of the demo session.
const SAMPLES: &str = "{root}/bin/work/{dep}/{root}/bin/work/TIMER.0.0.all.all.0";

#[test]
fn damaged_sample_file_is_refused_with_its_name() {
    let good = fs::read(demo().sample_file(SAMPLES)).unwrap();
    let changed = |at: usize, bytes: &[u8]| {
        let mut damaged = good.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        damaged
    };
    for (damaged, reason) in [
        (Vec::new(), "Can't read sample file header"),
        (good[..80].to_vec(), "Can't read sample file header"),
        (good[..good.len() - 40].to_vec(), "Invalid argument"),
        (changed(0, b"ELF"), "Invalid sample file, bad magic number"),
        (changed(4, &[0x12]), "ersion"),
        (changed(8, &[200]), "processor type 200"),
        (changed(76, &[0xff; 4]), "Damaged sample file"),
    ] {
        let session = demo();
        fs::write(session.sample_file(SAMPLES), damaged).unwrap();
        for arguments in [&[][..], &["-l"]] {
            let output = session.try_report(arguments);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            assert!(
                stderr.contains(reason) && stderr.contains(SAMPLES),
                "{stderr}"
            );
        }
    }
}

#[test]
fn unreadable_sample_file_is_told() {
    let session = demo();
    let path = session.sample_file(SAMPLES);
    fs::remove_file(&path).unwrap();
    // Not even root can open a link to itself.
    std::os::unix::fs::symlink(&path, &path).unwrap();
    let output = session.try_report(&[]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains(SAMPLES) && stderr.contains("symbolic links"),
        "{stderr}"
    );
}

#[test]
fn file_that_is_no_sample_file_is_refused() {
    let session = demo();
    let other = session.sample_file("{root}/bin/work/{dep}/{root}/bin/work/nonsense");
    fs::write(other, "").unwrap();
    let output = session.try_report(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("EVENT.COUNT.UNITMASK.TGID.TID.CPU expected")
    );
}

#[test]
fn details_list_the_positions_in_each_symbol() {
    let session = demo();
    assert_eq!(
        session
            .report(&["-dna", "-m", "cpu", "image:*work", "-x"])
            .0,
        "\
00400100 55       55            84.6154  84.6154    work::crunch
  00400100 5        5              9.0909   9.0909
  00400120 50       55            90.9091  100.000
00400000 10       65            15.3846  100.000    main
  00400010 10       10            100.000  100.000"
    );
    assert!(
        session
            .report(&["-dn", "-%", "-m", "cpu"])
            .0
            .contains("  0000000000400120 50       50.0000")
    );
}

#[test]
fn rows_are_in_the_order_asked_for() {
    let session = demo();
    let order = |arguments: &[&str]| -> Vec<String> {
        let all = [&["-ln", "-m", "cpu"], arguments].concat();
        let (stdout, _) = session.report(&all);
        stdout
            .lines()
            .filter_map(|line| line.split_whitespace().last())
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(
        order(&["-s", "symbol"]),
        ["main", "mix(int)", "tiny::schedule", "work::crunch"]
    );
    assert_eq!(order(&["-r"])[0], "main");
    assert_eq!(
        order(&["-s", "image,sample"]),
        ["mix(int)", "tiny::schedule", "work::crunch", "main"]
    );
    assert_eq!(
        order(&["-e", "main,_Z3mixi"]),
        ["work::crunch", "tiny::schedule"]
    );
    assert_eq!(order(&["-i", "main"]), ["main"]);
    assert_eq!(order(&["-i", "main", "-i", "_Z3mixi"]), ["mix(int)"]);
}

#[test]
fn what_changed_between_two_profiles_is_shown() {
    let session = demo();
    let (stdout, _) = session.report(&["-l", "{", "cpu:0", "}", "{", "cpu:1", "}"]);
    let table: Vec<&str> = stdout.lines().skip(2).collect();
    assert_eq!(
        table,
        [
            "samples  %        diff %    image name               app name                 symbol name",
            "20       ---      ---       libshare.so              work                     mix(int)",
            "15       75.0000  +++       tiny-1.0                 tiny-1.0                 tiny::schedule",
            "10       ---      ---       work                     work                     main",
            "5        25.0000  -60.0000  work                     work                     work::crunch",
        ]
    );
}

#[test]
fn options_that_do_not_exist_or_do_not_fit_are_refused() {
    let session = demo();
    for (arguments, message) in [
        (&["--no-such-option"][..], "unexpected argument"),
        (&["-a"], "are meaningless without --symbols"),
        (
            &["-s", "vma"],
            "--sort=vma is meaningless without --symbols",
        ),
        (&["-s", "foo"], "unknown sort option: foo"),
        (&["-l", "-%"], "--global-percent is meaningless"),
        (&["-c", "-d"], "--callgraph is incompatible with --details"),
        (&["-V", "foo"], "unknown --verbose= options"),
        (&["-p", "/nonexistent"], "invalid --image-path= options"),
        (&["{", "a"], "invalid profile specification { a "),
        (
            &["{", "session:current", "}", "{", "}"],
            "different profiles are meaningless without --symbols",
        ),
        (&["-m", "foo"], "unknown merge option: foo"),
        (
            &["-t", "101"],
            "illegal threshold value: 101 allowed range: [0-100]",
        ),
        (&["-t", "-1"], "illegal threshold value: -1"),
        (&["-D", "foo"], "invalid option --demangle=foo"),
        (&["-w"], "--show-address is meaningless without --symbols"),
        (
            &["-x", "-m", "lib"],
            "--merge=lib is meaningless with --exclude-dependent",
        ),
    ] {
        let output = session.try_report(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
    }
    for arguments in [["--help"], ["-?"], ["--version"]] {
        assert_eq!(session.try_report(&arguments).status.code(), Some(0));
    }
}

#[test]
fn kernel_code_without_symbols_before_it_is_not_dropped() {
    let mut guest = Guest::default();
    guest.file(b"/bin/work", None);
    let words = [vec![ESC, 2, 0, ESC, 4], vec![KERNEL, 0, KERNEL + 0xfff, 0]].concat();
    let session = Session::record(guest, &[words], &Account::default());
    assert_eq!(
        session.report(&["-ln"]).0,
        "1        50.0000  entry\n1        50.0000  tiny::schedule"
    );
}

#[test]
fn report_that_cannot_be_written_is_an_error() {
    let session = demo();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_opreport"))
        .arg(format!("--session-dir={}", session.path().display()))
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("Cannot write the report: No space left")
    );
}
