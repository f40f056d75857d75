//! `opcontrol --watch`, against a VM that answers when the test wants it.

mod scripted_vm;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use scripted_vm::{PATIENCE, ScriptedVm, status};

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
