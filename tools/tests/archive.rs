//! Archives of a virtual machine's session: they hold what is needed and nothing of the host, and read as the session does.

#[allow(
    dead_code,
    reason = "the other tests of this crate need the rest of the guest"
)]
mod support;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use oprofile_session::Account;
use oprofile_session::sample_file::{self, Header};
use tempfile::TempDir;

use support::{Guest, MTIME, Session, TEXT, program, trimmed, vcpu};

fn oparchive(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_oparchive"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap()
}

/// Archives a session to `archive` below `directory`; that must succeed. Returns the messages.
#[track_caller]
fn archive(directory: &Path, session: &Path, arguments: &[&str]) -> String {
    let session = format!("--session-dir={}", session.display());
    let arguments = [&["-o", "archive", &session], arguments].concat();
    let output = oparchive(directory, &arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    stderr
}

/// A program with a library, and the kernel, on two vCPUs; some samples are lost.
fn session() -> Session {
    let mut guest = Guest::default();
    let work = guest.file(
        b"/bin/work",
        Some(program(&[(0, b"first"), (0x100, b"second")])),
    );
    let library = guest.file(b"/lib/libx.so", Some(program(&[(0, b"inner")])));
    let gone = guest.file(b"/bin/gone", None);
    let reads = [
        vcpu(
            0,
            &[
                (work, TEXT, 5),
                (library, TEXT + 4, 3),
                (0, support::KERNEL, 2),
            ],
        ),
        vcpu(1, &[(work, TEXT + 0x100, 7), (gone, 0x10, 1)]),
    ];
    let account = Account::from_iter([("received", 20), ("no_mm", 2)]);
    Session::record(guest, &reads, &account)
}

/// All files below a directory, relative to it.
fn files(top: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![top.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(top).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

#[test]
fn archive_reads_as_the_session_does() {
    let session = session();
    let place = TempDir::new().unwrap();
    let messages = archive(place.path(), session.path(), &[]);
    assert!(messages.contains("warning: /bin/gone could not be found."));
    assert!(messages.contains("NOTE: The sample data in this archive"));
    let from = format!("archive:{}", place.path().join("archive").display());
    for arguments in [
        &["-l", "-m", "cpu"][..],
        &["-m", "all"],
        &["-l", "-x", "cpu:1"],
    ] {
        let output = support::opreport([&from[..]].iter().chain(arguments).map(OsStr::new));
        let (stdout, _) = session.report(arguments);
        assert_eq!(trimmed(&String::from_utf8(output.stdout).unwrap()), stdout);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("Lost samples"), "{stderr}");
        assert!(!stderr.contains("last modified time"), "{stderr}");
    }
}

#[test]
fn archive_holds_the_whole_session_and_the_sampled_files_only() {
    let session = session();
    let place = TempDir::new().unwrap();
    archive(place.path(), session.path(), &[]);
    let archived = files(&place.path().join("archive"));
    let standard = "var/lib/oprofile/";
    let below: BTreeSet<String> = archived
        .iter()
        .filter_map(|file| file.strip_prefix(standard))
        .map(str::to_owned)
        .collect();
    let mut original: BTreeSet<String> = files(&session.path().join("samples"))
        .into_iter()
        .map(|file| format!("samples/{file}"))
        .collect();
    original.insert("abi".to_owned());
    assert_eq!(below, original);
    let images: Vec<&String> = archived
        .iter()
        .filter(|file| !file.starts_with(standard))
        .collect();
    assert_eq!(images, ["bin/work", "boot/tiny-1.0", "lib/libx.so"]);
}

#[test]
fn list_names_what_would_be_copied() {
    let session = session();
    let place = TempDir::new().unwrap();
    let directory = format!("--session-dir={}", session.path().display());
    let output = oparchive(place.path(), &["-l", "-x", &directory, "image:*/bin/work"]);
    let list = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = list
        .lines()
        .map(|line| {
            line.strip_prefix(session.path().to_str().unwrap())
                .unwrap_or(line)
        })
        .collect();
    let sample = |cpu| {
        format!(
            "/samples/current/{{root}}/bin/work/{{dep}}/{{root}}/bin/work/TIMER.0.0.all.all.{cpu}"
        )
    };
    assert_eq!(lines[..3], ["/root/bin/work", &sample(0), &sample(1)]);
    assert!(
        lines[3..]
            .iter()
            .any(|line| line.ends_with("stats//total_samples"))
    );
    assert_eq!(lines[lines.len() - 2..], ["/abi", "/samples/operf.log"]);
    assert!(fs::read_dir(place.path()).unwrap().next().is_none());
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let session = session();
    let place = TempDir::new().unwrap();
    let directory = format!("--session-dir={}", session.path().display());
    for (arguments, part) in [
        (&[][..], "Requires --output-directory option."),
        (&["-l", "-V", "stats,foo"], "foo"),
        (&["-l", "image:/nowhere"], "too strict"),
        (&["-l", "-p", "/nowhere"], "/nowhere"),
    ] {
        let output = oparchive(place.path(), &[&[&directory[..]], arguments].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty());
    }
    let output = oparchive(place.path(), &[&directory, "-l", "-V", "stats,all"]);
    assert_eq!(output.status.code(), Some(0));
}

/// A guest may call its program like a file of the host; that file must not leave the host with the guest's session.
#[test]
fn files_of_the_host_do_not_get_into_a_guests_archive() {
    let own = std::env::current_exe().unwrap();
    let session = session();
    let name = format!("{{root}}{0}/{{dep}}/{{root}}{0}", own.display());
    let path = session.sample_file(&name).join("TIMER.0.0.all.all.0");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let bytes = sample_file::encode(&Header::timer(0, 0, MTIME), [(1, 1)].into_iter());
    fs::write(path, bytes).unwrap();
    let place = TempDir::new().unwrap();
    let messages = archive(place.path(), session.path(), &[]);
    let shown = own.display().to_string();
    assert!(
        messages.contains(&format!("{shown} could not be found")),
        "{messages}"
    );
    let archived = files(&place.path().join("archive"));
    assert!(!archived.contains(&shown[1..]), "{archived:?}");
}

#[test]
fn file_that_cannot_be_copied_is_told_and_the_others_are_copied() {
    let session = session();
    let place = TempDir::new().unwrap();
    fs::create_dir_all(place.path().join("archive/bin/work")).unwrap();
    let directory = format!("--session-dir={}", session.path().display());
    let output = oparchive(place.path(), &["-o", "archive", &directory]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("archive/bin/work"), "{stderr}");
    assert!(stderr.contains("1 of "), "{stderr}");
    assert!(place.path().join("archive/lib/libx.so").is_file());
}

#[test]
fn archive_into_the_guest_tree_does_not_follow_its_link() {
    let session = session();
    let before = files(session.path().join("samples").as_path());
    let root = session.path().join("root");
    let directory = format!("--session-dir={}", session.path().display());
    let output = oparchive(&root, &["-o", ".", &directory]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("is a link"), "{stderr}");
    assert_eq!(files(session.path().join("samples").as_path()), before);
}
