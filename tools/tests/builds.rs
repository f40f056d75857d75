//! Reports use a binary only if it is the build that the guest ran.

#[expect(dead_code, reason = "shared with the tests of opreport")]
mod support;

use std::fs::{self, File};
use std::time::SystemTime;

use oprofile_session::{Account, BuildId};
use support::{ESC, Guest, Session, TEXT, program};

/// A session of one program, with these contents, in whose first function its samples are.
fn session(contents: Vec<u8>, offset: u64) -> Session {
    let mut guest = Guest::default();
    let cookie = guest.file(b"/bin/work", Some(contents));
    let words = vec![ESC, 2, 0, ESC, 5, ESC, 3, cookie, offset, 0, offset, 0];
    Session::record(guest, &[words], &Account::default())
}

/// Has the session say that the guest ran this build.
fn expect_build(session: &Session, builds: &[&str]) {
    let mut list = String::new();
    for (build, inode) in builds.iter().zip(1..) {
        list.push_str(&format!("{build} 254:0 {inode} /bin/work\n"));
    }
    let stats = session.sample_file("stats");
    fs::create_dir_all(&stats).unwrap();
    fs::write(stats.join("files"), list).unwrap();
}

#[test]
fn a_binary_of_another_build_has_no_symbols_and_a_warning_says_which() {
    let session = session(program(&[(0, b"work")]), TEXT);
    let (report, told) = session.report(&["-l"]);
    assert!(
        report.ends_with("work") && !told.contains("build"),
        "{report}{told}"
    );
    expect_build(&session, &["none"]);
    assert!(session.report(&["-l"]).0.ends_with("work"));
    expect_build(&session, &["-"]);
    assert!(session.report(&["-l"]).0.ends_with("work"));
    expect_build(&session, &["abcd"]);
    let (report, told) = session.report(&["-l"]);
    assert!(!report.contains(" work"), "{report}");
    assert!(
        told.contains("has no build-id, but the guest ran abcd"),
        "{told}"
    );
    // Its samples are still there, under its name.
    assert!(
        report.contains("100.000  work") || report.contains("/bin/work"),
        "{report}"
    );
    expect_build(&session, &["abcd", "none"]);
    let (_, told) = session.report(&["-l"]);
    assert!(told.contains("more than one build"), "{told}");
}

#[test]
fn a_binary_that_its_build_id_proves_needs_no_matching_time() {
    let path = env!("CARGO_BIN_EXE_opreport");
    let contents = fs::read(path).unwrap();
    let id = BuildId::of_elf(&contents).unwrap();
    let session = session(contents, TEXT);
    let copy = File::options()
        .write(true)
        .open(session.path().join("root/bin/work"))
        .unwrap();
    copy.set_modified(SystemTime::now()).unwrap();
    let (_, told) = session.report(&[]);
    let (_, detailed) = session.report(&["-l"]);
    assert!(detailed.contains("last modified time"), "{told}{detailed}");
    expect_build(&session, &[&id.to_string()]);
    let (_, told) = session.report(&["-l"]);
    assert_eq!(
        told.lines()
            .filter(|line| line.starts_with("warning"))
            .count(),
        0,
        "{told}"
    );
    // And another one is told by both build-ids.
    expect_build(&session, &["abcd"]);
    let (_, told) = session.report(&["-l"]);
    assert!(
        told.contains(&format!("has build-id {id}, but the guest ran abcd")),
        "{told}"
    );
}

#[test]
fn a_list_of_files_that_is_none_is_named() {
    let session = session(program(&[(0, b"work")]), TEXT);
    expect_build(&session, &["what?"]);
    let output = session.try_report(&[]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && told.contains("stats/files"),
        "{told}"
    );
}
