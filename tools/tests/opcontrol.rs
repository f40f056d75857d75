//! `opcontrol` and `opread` as programs, against a server that says what it is told to.

mod scripted_vm;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};

use oprofile_control::frame::{FrameBuffer, FrameKind, MAX_REQUEST_BYTES, append};
use oprofile_control::message::{Greeting, Request};
use rustix::process::{Pid, Signal, kill_process};
use scripted_vm::{PATIENCE, ScriptedVm, status};

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

/// `opcontrol --watch` that runs, and its lines.
struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    fn start(vm: &ScriptedVm) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_opcontrol"))
            .args([&vm.option(), "--watch"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("opcontrol runs");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines() {
                // The test has failed.
                let _ = sender.send(line.unwrap());
            }
        });
        Self { child, lines }
    }

    fn line(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.expect("a line")
    }

    /// The figures of a line.
    fn figures(&self) -> Vec<u64> {
        let line = self.line();
        line.split_whitespace()
            .map(|figure| figure.parse().unwrap())
            .collect()
    }

    /// Exit code and messages.
    fn end(mut self) -> (Option<i32>, String) {
        let more = self.lines.recv_timeout(PATIENCE);
        assert_eq!(more, Err(RecvTimeoutError::Disconnected), "it does not end");
        let mut errors = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut errors)
            .unwrap();
        (self.child.wait().unwrap().code(), errors)
    }
}

#[test]
fn watching_prints_a_line_for_each_answer_until_ctrl_c() {
    let vm = ScriptedVm::new();
    let watching = Watching::start(&vm);
    let mut connection = vm.accept();
    connection.answer(&status(&[10, 0], &[("lost_in_guest", 1)]));
    assert!(watching.line().contains("received"));
    // received, kernel, file, anon, unmapped, lost, lost words
    assert_eq!(watching.figures(), [10, 0, 9, 0, 0, 1, 0]);
    connection.answer(&status(&[20, 5], &[("lost_in_guest", 1), ("no_mm", 4)]));
    assert_eq!(watching.figures(), [15, 0, 11, 0, 4, 0, 0]);
    let pid = Pid::from_child(&watching.child);
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(watching.end(), (Some(0), String::new()));
}

#[test]
fn watching_ends_with_the_vm() {
    let vm = ScriptedVm::new();
    let watching = Watching::start(&vm);
    let mut connection = vm.accept();
    connection.answer(&status(&[10], &[]));
    watching.line();
    assert_eq!(watching.figures()[0], 10);
    drop(connection);
    let (code, errors) = watching.end();
    assert_eq!(code, Some(0));
    assert!(errors.contains("may have ended"), "{errors}");
}

#[test]
fn watching_ends_with_its_reader() {
    let vm = ScriptedVm::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_opcontrol"))
        .args([&vm.option(), "--watch"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("opcontrol runs");
    let mut connection = vm.accept();
    drop(child.stdout.take());
    connection.answer(&status(&[10], &[]));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
