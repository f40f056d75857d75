//! `opcontrol` and `opread` as programs, against a server that says what it is told to.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use oprofile_control::frame::{FrameBuffer, FrameKind, MAX_REQUEST_BYTES, append};
use oprofile_control::message::{Greeting, Request};

fn opcontrol(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_opcontrol"))
        .args(arguments)
        .output()
        .expect("opcontrol runs")
}

fn opread(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_opread"))
        .args(arguments)
        .output()
        .expect("opread runs")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Serves one client with `answers`, in order; returns its requests.
fn server(path: &Path, answers: &'static [&'static str]) -> JoinHandle<Vec<Request>> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        send(
            &mut stream,
            &serde_json::to_string(&Greeting::new("test")).unwrap(),
        );
        let mut frames = FrameBuffer::new(MAX_REQUEST_BYTES);
        let mut requests = Vec::new();
        for answer in answers {
            let frame = loop {
                if let Some(frame) = frames.take().unwrap() {
                    break frame;
                }
                let mut piece = [0; 1024];
                let count = stream.read(&mut piece).unwrap();
                assert_ne!(count, 0, "no request for {answer}");
                frames.extend(&piece[..count]);
            };
            let request: Request = serde_json::from_slice(&frame.payload).unwrap();
            send(&mut stream, &answer.replace("ID", &request.id.to_string()));
            requests.push(request);
        }
        requests
    })
}

fn send(stream: &mut UnixStream, message: &str) {
    let mut bytes = Vec::new();
    append(&mut bytes, FrameKind::Message, message.as_bytes()).unwrap();
    stream.write_all(&bytes).unwrap();
}

#[test]
fn settings_go_before_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    const DONE: &str = r#"{"id":ID,"ok":{}}"#;
    let server = server(&path, &[DONE; 4]);
    let socket = format!("--socket={}", path.display());
    let output = opcontrol(&[&socket, "--hz=250", "-c", "8", "-p", "kernel", "--save=x"]);
    assert!(output.status.success(), "{}", errors(&output));
    let requests = server.join().unwrap();
    let names = requests
        .iter()
        .map(|request| format!("{:?}", request.command));
    let names: Vec<String> = names.collect();
    assert!(names[0].contains("backtrace_depth") && names[0].contains('8'));
    assert!(names[1].contains("250"));
    assert!(names[2].contains("Kernel"));
    assert!(names[3].contains("Save"));
}

#[test]
fn a_refusal_is_told_and_escaped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    const REFUSAL: &str = r#"{"id":ID,"error":{"kind":"no_session","message":"none \u001b[2J"}}"#;
    let server = server(&path, &[REFUSAL]);
    let socket = format!("--socket={}", path.display());
    let output = opcontrol(&[&socket, "--reset"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(errors(&output), "opcontrol: none \\x1b[2J\n");
    server.join().unwrap();
}

#[test]
fn what_cannot_be_is_said_with_the_next_step() {
    let output = opcontrol(&["--socket=/nonexistent/s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("socket="), "{}", errors(&output));
    let output = opcontrol(&["--socket=/nonexistent/s", "--event=CYCLES:1000"]);
    assert!(errors(&output).contains("--hz"), "{}", errors(&output));
    let output = opcontrol(&["--socket=s", "--start", "--stop"]);
    assert_eq!(output.status.code(), Some(1));
    let output = opread(&[]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn words_of_a_file_are_decoded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("words");
    let words = [u64::MAX, 2, 1, u64::MAX, 4, 0x1000, 0];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.push(1);
    std::fs::write(&path, bytes).unwrap();
    let output = opread(&["--file", path.to_str().unwrap()]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "cpu 1\nkernel\nsample 0x1000 event 0\n");
    assert!(errors(&output).contains("no whole word"));
}

#[test]
fn options_without_a_meaning_are_answered_in_a_line() {
    for (arguments, instead) in [
        (&["--vmlinux=/boot/vmlinux", "--start"][..], "Leave it out"),
        (&["-l"], "--hz"),
        (&["--deinit"], "--shutdown"),
        (&["--image", "all"], "opreport image:"),
        (&["--session-dir=/tmp/s"], "session=DIR"),
    ] {
        let output = opcontrol(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let told = errors(&output);
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.starts_with("opcontrol: --"), "{told}");
        assert!(told.contains(instead), "{told}");
    }
}

#[test]
fn set_up_that_a_vm_has_already_is_no_error_and_asks_for_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let server = server(&path, &[]);
    let socket = format!("--socket={}", path.display());
    let output = opcontrol(&[&socket, "--setup", "--no-vmlinux", "--verbose=all"]);
    assert!(output.status.success(), "{}", errors(&output));
    assert_eq!(errors(&output), "");
    assert!(output.stdout.is_empty());
    assert!(server.join().unwrap().is_empty());
}

/// The answer to a status request, with this reader.
macro_rules! status {
    ($reader:literal) => {
        concat!(
            r#"{"id":ID,"ok":{"said_hello":true,"started":false,"quiesced":true,"reader":""#,
            $reader,
            r#"","session":null,"device_id":63,"release":"x","cpu_type":"timer","#,
            r#""settings":{"period_ns":1,"backtrace_depth":0,"buffer_size":1,"buffer_watershed":1,"#,
            r#""cpu_buffer_size":1},"account":[],"adds_up":true,"ends":0,"vcpus":[],"#,
            r#""collector":[],"clients":1}}"#
        )
    };
}

#[test]
fn daemon_is_started_where_somebody_collects() {
    let directory = tempfile::tempdir().unwrap();
    for (name, answers, code) in [
        ("collector", &[status!("collector")], 0),
        ("none", &[status!("none")], 1),
    ] {
        let path = directory.path().join(name);
        let server = server(&path, answers);
        let socket = format!("--socket={}", path.display());
        let output = opcontrol(&[&socket, "--start-daemon"]);
        assert_eq!(output.status.code(), Some(code), "{}", errors(&output));
        assert_eq!(errors(&output).contains("opread"), code == 1);
        server.join().unwrap();
    }
}

#[test]
fn the_short_option_of_shutdown_is_oprofiles() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    const STOPPED: &str = r#"{"id":ID,"ok":{"quiesced":true}}"#;
    let server = server(&path, &[STOPPED, STOPPED, status!("collector")]);
    let output = opcontrol(&[&format!("--socket={}", path.display()), "-h"]);
    assert!(output.status.success(), "{}", errors(&output));
    let requests = server.join().unwrap();
    assert!(format!("{:?}", requests[0].command).contains("Stop"));
    assert!(format!("{:?}", requests[1].command).contains("Dump"));
}

/// Serves each client with these bytes, whatever it asks, until `ended` is set and one more connects. `opread` is two.
fn raw_server(path: &Path, bytes: Vec<u8>, ended: Arc<AtomicBool>) -> JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let mut clients = Vec::new();
        for stream in listener.incoming() {
            if ended.load(Ordering::SeqCst) {
                break;
            }
            let mut stream = stream.unwrap();
            // A client that has seen enough closes first.
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
            clients.push(stream);
        }
    })
}

fn frame(message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(&mut bytes, FrameKind::Message, message).unwrap();
    bytes
}

#[test]
fn server_that_speaks_nonsense_is_told_and_controls_no_terminal() {
    let greeting = frame(&serde_json::to_vec(&Greeting::new("test")).unwrap());
    let after_greeting = |bytes: &[u8]| [&greeting[..], bytes].concat();
    let mut other_kind = after_greeting(&frame(b"{}"));
    other_kind[greeting.len()..].reverse();
    let nonsense: [Vec<u8>; 9] = [
        Vec::new(),
        vec![0xff; 64],
        b"\x1b]0;owned\x07HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        greeting[..greeting.len() - 1].to_vec(),
        frame(b"\x1b[2J"),
        greeting.clone(),
        after_greeting(&frame(br#"{"id":1,"ok":"\u001b[2J"}"#)),
        after_greeting(&frame(&[b'['; 100_000])),
        other_kind,
    ];
    for (number, bytes) in nonsense.iter().enumerate() {
        let tools: [fn(&[&str]) -> Output; 2] = [opcontrol, opread];
        for (tool, run) in ["opcontrol", "opread"].into_iter().zip(tools) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("s");
            let ended = Arc::new(AtomicBool::new(false));
            let server = raw_server(&path, bytes.clone(), ended.clone());
            let output = run(&[&format!("--socket={}", path.display())]);
            ended.store(true, Ordering::SeqCst);
            drop(UnixStream::connect(&path).unwrap());
            server.join().unwrap();
            let told = errors(&output);
            assert_eq!(output.status.code(), Some(1), "{tool} {number}: {told}");
            // Behind what to do next.
            let last = told.lines().last().unwrap_or_default();
            assert!(
                last.starts_with(&format!("{tool}: ")) && !told.contains("panicked"),
                "{tool} {number}: {told}"
            );
            let control = told.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(control, None, "{tool} {number}: {told:?}");
        }
    }
}

#[test]
fn file_that_is_no_stream_is_read_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("words");
    let file = path.to_str().unwrap();
    let gone = opread(&["--file", file]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(errors(&gone).contains("No such file"), "{}", errors(&gone));
    // Records that are cut, unknown codes, and escapes without end.
    for words in [
        vec![],
        vec![u64::MAX],
        vec![u64::MAX; 1000],
        vec![u64::MAX, 77, 1, 2],
        vec![u64::MAX, 1, u64::MAX - 1],
        (0..2000)
            .map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .collect(),
    ] {
        let bytes: Vec<u8> = words
            .iter()
            .flat_map(|word: &u64| word.to_le_bytes())
            .collect();
        std::fs::write(&path, bytes).unwrap();
        let output = opread(&["--file", file]);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{words:?}: {}",
            errors(&output)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.is_empty(), words.is_empty(), "{words:?}: {text}");
        assert!(
            text.chars().all(|c| !c.is_control() || c == '\n'),
            "{text:?}"
        );
    }
}
