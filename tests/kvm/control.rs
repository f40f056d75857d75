//! A virtual machine that is controlled while it runs.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use oprofile_control::{Client, Status};
use oprofile_tests::vm::{Running, Vm, bin_dir};
use tempfile::TempDir;

/// How long an emulated machine may take for what a guest at work does at once.
const PATIENCE: Duration = Duration::from_secs(40);

/// Asks until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
    }
}

/// A machine whose guest works for a minute, and its socket.
fn start(vm: Vm) -> (Running, TempDir, PathBuf) {
    let directory = TempDir::new().expect("a temporary directory");
    let socket = directory.path().join("vm.sock");
    let option = format!("socket={}", socket.display());
    let mut running = vm.device(&option).device("hz=2000").start();
    running.wait_for_line("module modwork");
    (running, directory, socket)
}

fn tool(name: &str, socket: &Path, arguments: &[&str]) -> Output {
    Command::new(bin_dir().join(name))
        .arg(format!("--socket={}", socket.display()))
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn opcontrol(socket: &Path, arguments: &[&str]) -> String {
    let output = tool("opcontrol", socket, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "opcontrol {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn status(socket: &Path) -> Status {
    let text = opcontrol(socket, &["--status", "--json"]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn received(socket: &Path) -> u64 {
    status(socket).counter("received").expect("a counter")
}

#[test]
fn profiling_is_stopped_set_started_and_saved_while_the_guest_runs() {
    let (running, _directory, socket) = start(Vm::new("mix:60000").cpus(2));
    assert!(opcontrol(&socket, &["--status"]).contains("received = sum of all ends"));
    opcontrol(&socket, &["--stop"]);
    // It is answered after a while, whether the guest has handed in its samples or not.
    until("samples handed in", || status(&socket).quiesced);
    let stopped = received(&socket);
    assert!(stopped > 0);
    opcontrol(&socket, &["--save=first"]);
    assert_eq!(received(&socket), stopped, "samples came in while stopped");
    opcontrol(&socket, &["--hz=500", "--callgraph=4", "--start"]);
    assert_eq!(status(&socket).settings.backtrace_depth, 4);
    until("100 samples since the start", || {
        received(&socket) >= stopped + 100
    });
    opcontrol(&socket, &["--dump"]);
    // It finds the session by itself.
    let top = tool("optop", &socket, &["--once", "--json", "--interval=0.5"]);
    assert!(top.status.success(), "{top:?}");
    let top: serde_json::Value = serde_json::from_slice(&top.stdout).expect("a document");
    assert!(
        top["vm"]["received"]["value"].as_u64() >= Some(stopped + 100),
        "{top}"
    );
    assert_eq!(
        top["vm"]["vcpus"].as_array().map(Vec::len),
        Some(2),
        "{top}"
    );
    assert_ne!(top["functions"].as_array().map(Vec::len), Some(0), "{top}");
    let reader = tool("opread", &socket, &[]);
    let errors = String::from_utf8_lossy(&reader.stderr);
    assert!(
        !reader.status.success() && errors.contains("has a reader"),
        "{errors}"
    );
    running.signal("TERM");
    let ended = running.wait().expect_code(0);
    let account = ended.account();
    assert!(account.of("received") >= 100, "{account:#?}");
    assert!(account.of("frames") > 0, "{account:#?}");
    assert!(ended.session.join("samples/first/{root}").is_dir());
    assert!(!ended.opreport(&["session:first"]).is_empty());
    assert!(!socket.exists());
}

#[test]
fn clients_that_misbehave_harm_neither_guest_nor_session() {
    let (running, _directory, socket) = start(Vm::new("mix:60000"));
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        &[9, 0, 0, 0, 1, b'{'],
    ] {
        let mut stream = UnixStream::connect(&socket).expect("a socket");
        // The VM may have closed it already.
        let _ = stream.write_all(garbage);
    }
    let before = received(&socket);
    until("samples behind the garbage", || received(&socket) > before);
    running.signal("TERM");
    let account = running.wait().expect_code(0).account();
    assert!(account.of("received") > before);
}

#[test]
fn reader_that_takes_nothing_loses_words_and_the_guest_goes_on() {
    let vm = Vm::new("mix:60000")
        .without_session()
        .device("buffer-size=1K")
        .device("buffer-watershed=256");
    let (running, _directory, socket) = start(vm);
    let events = Client::connect(&socket)
        .and_then(Client::events)
        .expect("the stream");
    opcontrol(&socket, &["--start"]);
    until("lost words", || {
        status(&socket).counter("lost_words") > Some(0)
    });
    let before = received(&socket);
    until("samples behind the lost words", || {
        received(&socket) > before
    });
    assert!(status(&socket).adds_up);
    drop(events);
    running.signal("TERM");
    let _ = running.wait().expect_code(0);
}

#[test]
fn outside_reader_decodes_the_stream_with_names() {
    let (running, _directory, socket) = start(Vm::new("mix:60000").without_session());
    let output = tool("opread", &socket, &["--reads=3"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("cpu 0") && text.contains("sample "), "{text}");
    assert!(
        text.lines()
            .any(|line| line.starts_with("cookie ") && line.contains(" /bin/")),
        "{text}"
    );
    running.signal("TERM");
    let _ = running.wait().expect_code(0);
}
