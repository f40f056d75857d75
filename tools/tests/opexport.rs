//! `opexport` on sessions made here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use oprofile_session::sample_file::{Header, encode};

const FORMATS: [&str; 7] = [
    "folded",
    "flamegraph",
    "pprof",
    "firefox",
    "speedscope",
    "perf-script",
    "json",
];

fn write(session: &Path, path: &str, counts: &[(u64, u64)]) {
    let file: PathBuf = session.join("samples/current").join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let bytes = encode(&Header::timer(0, 0, 0), counts.iter().copied());
    fs::write(file, bytes).unwrap();
}

/// A program and its library on two vCPUs and in two processes; the library is called from the program.
fn session() -> tempfile::TempDir {
    let session = tempfile::tempdir().unwrap();
    let at = |path: &str, counts: &[(u64, u64)]| write(session.path(), path, counts);
    at(
        "{root}/srv/app/{dep}/{root}/srv/app/TIMER.0.0.7.7.0",
        &[(0x10, 5)],
    );
    at(
        "{root}/srv/app/{dep}/{root}/srv/lib.so/TIMER.0.0.7.7.0",
        &[(0x20, 10), (0x30, 4)],
    );
    at(
        "{root}/srv/app/{dep}/{root}/srv/lib.so/TIMER.0.0.8.8.1",
        &[(0x20, 1)],
    );
    // Fewer arcs than samples at 0x20, more at 0x30, and one for an address without samples.
    at(
        "{root}/srv/app/{dep}/{root}/srv/app/{cg}/{root}/srv/lib.so/TIMER.0.0.7.7.0",
        &[
            (0x11_0000_0020, 8),
            (0x11_0000_0030, 400),
            (0x11_0000_0040, 9),
        ],
    );
    session
}

fn opexport(session: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_opexport"))
        .args(arguments)
        .arg("--session-dir")
        .arg(session)
        .output()
        .unwrap()
}

fn folded(session: &Path, arguments: &[&str]) -> String {
    let output = opexport(session, &[&["-F", "folded"], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn callers_are_told_once_and_counts_add_up() {
    let session = session();
    assert_eq!(
        folded(session.path(), &[]),
        "app;process 7;thread 7;vCPU 0;[app] 5\n\
         app;process 7;thread 7;vCPU 0;[app];[lib.so] 12\n\
         app;process 7;thread 7;vCPU 0;[lib.so] 2\n\
         app;process 8;thread 8;vCPU 1;[lib.so] 1\n"
    );
    assert_eq!(
        folded(session.path(), &["--merge", "all", "--flat"]),
        "app;[app] 5\nlib.so;[lib.so] 15\n"
    );
}

#[test]
fn caller_need_not_be_selected_to_be_named() {
    let session = session();
    assert_eq!(
        folded(
            session.path(),
            &["--merge=cpu,tgid", "lib-image:/srv/lib.so"]
        ),
        "app;[app];[lib.so] 12\napp;[lib.so] 3\n"
    );
}

#[test]
fn every_format_is_written_whole_or_not_at_all() {
    let session = session();
    let out = tempfile::tempdir().unwrap();
    for format in FORMATS {
        let file = out.path().join(format);
        let arguments = ["-F", format, "-o", file.to_str().unwrap()];
        assert!(opexport(session.path(), &arguments).status.success());
        assert!(fs::metadata(&file).unwrap().len() > 0, "{format}");
    }
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), FORMATS.len());
    let nowhere = out.path().join("none/file");
    let failed = opexport(
        session.path(),
        &["-F", "json", "-o", nowhere.to_str().unwrap()],
    );
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("No such file"));
}

#[test]
fn session_without_samples_is_an_error() {
    let empty = tempfile::tempdir().unwrap();
    let failed = opexport(empty.path(), &["-F", "json"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(failed.stdout.is_empty());
    assert!(String::from_utf8_lossy(&failed.stderr).contains("No sample found"));
}

#[test]
fn more_records_than_a_text_should_have_are_refused() {
    let session = tempfile::tempdir().unwrap();
    write(
        session.path(),
        "{root}/srv/app/{dep}/{root}/srv/app/TIMER.0.0.all.all.all",
        &[(0, 10_000_001)],
    );
    let failed = opexport(session.path(), &["-F", "perf-script"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("10000000"));
}
