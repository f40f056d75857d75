//! Errors name what failed, on what, and what to do next; each tool under its own name.

#[allow(
    dead_code,
    reason = "the other tests of this crate need the rest of the guest"
)]
mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use oprofile_control::frame::{FrameKind, append};
use oprofile_control::message::Greeting;
use oprofile_session::Account;

use support::{Guest, Session, TEXT, program, vcpu};

/// The tools that read a session, with what they need to do so.
const READERS: [(&str, &[&str]); 6] = [
    ("opreport", &["-l"]),
    ("opannotate", &["--source"]),
    ("opgprof", &["--output-filename=/dev/null"]),
    ("opexport", &["--format=folded"]),
    ("optop", &["--once"]),
    ("oparchive", &["--list-files"]),
];

/// What a tool says on standard error; it must fail.
#[track_caller]
fn failure(tool: &str, arguments: &[&str]) -> String {
    let empty = tempfile::tempdir().unwrap();
    let directory = Path::new(env!("CARGO_BIN_EXE_opreport")).parent().unwrap();
    let output = Command::new(directory.join(tool))
        .args(arguments)
        .current_dir(empty.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{tool}: {stderr}");
    assert!(output.stdout.is_empty(), "{tool}");
    stderr
}

#[track_caller]
fn session_failure(tool: &str, arguments: &[&str], session: &Path, more: &[&str]) -> String {
    let session = format!("--session-dir={}", session.display());
    failure(tool, &[arguments, &[&session], more].concat())
}

/// A session of two programs.
fn session() -> Session {
    let mut guest = Guest::default();
    let work = guest.file(b"/bin/work", Some(program(&[(0, b"main")])));
    let gone = guest.file(b"/bin/gone", None);
    let reads = [vcpu(0, &[(work, TEXT, 5), (gone, TEXT, 1)])];
    Session::record(guest, &reads, &Account::default())
}

#[test]
fn a_session_that_is_not_there_is_named_with_the_option_that_names_another() {
    for (tool, arguments) in READERS {
        let told = session_failure(tool, arguments, Path::new("/nonexistent/vm1"), &[]);
        let error = format!("{tool} error: No sample found");
        assert!(told.contains(&error), "{told}");
        assert!(told.contains("/nonexistent/vm1/samples/current"), "{told}");
        assert!(told.contains("--session-dir=DIR"), "{told}");
    }
}

#[test]
fn an_empty_session_is_told_with_what_fills_it() {
    let empty = tempfile::tempdir().unwrap();
    fs::create_dir_all(empty.path().join("samples/current")).unwrap();
    for (tool, arguments) in READERS {
        let told = session_failure(tool, arguments, empty.path(), &[]);
        assert!(told.contains("opcontrol --dump"), "{told}");
    }
}

#[test]
fn a_specification_that_selects_nothing_is_told_with_what_shows_everything() {
    let session = session();
    for (tool, arguments) in READERS {
        let told = session_failure(tool, arguments, session.path(), &["image:/bin/other"]);
        assert!(told.contains("error: no sample files found"), "{told}");
        assert!(told.contains("opreport without one"), "{told}");
    }
}

#[test]
fn a_damaged_sample_file_is_named_with_what_to_do_with_it() {
    let session = session();
    let name = "{root}/bin/work/{dep}/{root}/bin/work/TIMER.0.0.all.all.0";
    let file = session.sample_file(name);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..50]).unwrap();
    for (tool, arguments) in READERS {
        // It only copies.
        if tool == "oparchive" {
            continue;
        }
        let told = session_failure(tool, arguments, session.path(), &["image:/bin/work"]);
        assert!(told.contains(&format!("{tool} error: ")), "{told}");
        assert!(told.contains(name), "{told}");
        assert!(told.contains("Move this file out of the session"), "{told}");
    }
}

#[test]
fn missing_binaries_are_told_with_the_options_that_name_them() {
    let session = session();
    let (_, told) = session.report(&["-l"]);
    assert!(told.contains("/bin/gone could not be found"), "{told}");
    assert_eq!(told.matches("--image-path=DIR").count(), 1, "{told}");
    let (_, told) = session.report(&["-l", "--exclude-dependent"]);
    assert_eq!(told, "");
}

/// A listener that says `hello` and goes.
fn with_server(hello: &[u8], clients: usize, run: impl FnOnce(&str)) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            for stream in listener.incoming().take(clients) {
                // Whoever has read enough may be gone.
                let _ = stream.unwrap().write_all(hello);
            }
        });
        run(&format!("--socket={}", path.display()));
    });
}

#[test]
fn a_vm_that_ends_is_told_with_where_its_samples_are() {
    let greeting = serde_json::to_string(&Greeting::new("test")).unwrap();
    let mut hello = Vec::new();
    append(&mut hello, FrameKind::Message, greeting.as_bytes()).unwrap();
    with_server(&hello, 1, |socket| {
        let told = failure("opcontrol", &[socket, "--status"]);
        assert!(told.contains("it may have ended"), "{told}");
        assert!(told.contains("opreport --session-dir=DIR"), "{told}");
    });
    with_server(&hello, 2, |socket| {
        let told = failure("opread", &[socket]);
        assert!(told.contains("opread: The VM has closed"), "{told}");
        assert!(told.contains("opreport --session-dir=DIR"), "{told}");
    });
}

#[test]
fn a_socket_of_something_else_is_told_with_where_the_right_one_is_named() {
    with_server(
        b"220 mail ready, send your letters here please\r\n",
        1,
        |socket| {
            let told = failure("opcontrol", &[socket]);
            assert!(told.contains("does not speak this protocol"), "{told}");
            assert!(told.contains("--oprofile-dev socket="), "{told}");
        },
    );
}

#[test]
fn a_socket_that_is_not_there_is_named_with_how_it_is_made() {
    let told = failure("opread", &["--socket=/nonexistent/s"]);
    assert!(told.contains("socket=/nonexistent/s"), "{told}");
    let told = failure("opread", &["--file=/nonexistent/words"]);
    assert!(told.contains("/nonexistent/words: "), "{told}");
}
