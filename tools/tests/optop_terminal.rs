//! `optop` on a real pseudo-terminal, and beside a VM that says what it is told to.

mod scripted_vm;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use oprofile_session::sample_file::{Header, encode};
use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use scripted_vm::{PATIENCE, ScriptedVm, status};

/// Puts a sample file of `app` in the session, as a collector would.
fn write_samples(session: &Path, app: &str, count: u64) {
    let directory = session.join(format!(
        "samples/current/{{root}}/srv/{app}/{{dep}}/{{root}}/srv/{app}"
    ));
    fs::create_dir_all(&directory).unwrap();
    let bytes = encode(&Header::timer(0, 0, 0), std::iter::once((16, count)));
    let new = session.join("new");
    fs::write(&new, bytes).unwrap();
    fs::rename(new, directory.join("TIMER.0.0.all.all.0")).unwrap();
}

/// What the terminal shows.
struct Screen {
    parser: vt100::Parser,
    output: Receiver<Vec<u8>>,
}

impl Screen {
    /// Waits until the screen is as wanted.
    fn wait(&mut self, what: &str, wanted: impl Fn(&vt100::Screen) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(self.parser.screen()) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.parser.process(&bytes),
                Err(error) => panic!(
                    "{what} did not come ({error}):\n{}",
                    self.parser.screen().contents()
                ),
            }
        }
    }

    fn wait_text(&mut self, text: &str) {
        self.wait(text, |screen| screen.contents().contains(text));
    }
}

/// `optop` on a terminal of 20 lines and 100 columns.
struct Terminal {
    child: Box<dyn portable_pty::Child + Send + Sync>,
    master: Box<dyn portable_pty::MasterPty + Send>,
    keys: Box<dyn std::io::Write + Send>,
    screen: Screen,
    pump: JoinHandle<()>,
}

impl Terminal {
    fn start(session: &Path, arguments: &[&str]) -> Self {
        let pty = native_pty_system()
            .openpty(PtySize {
                rows: 20,
                cols: 100,
                pixel_width: 0,
                pixel_height: 0,
            })
            .unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_optop"));
        command.args(["--interval", "0.05", "--session-dir"]);
        command.arg(session);
        command.args(arguments);
        command.env("TERM", "xterm-256color");
        command.env("NO_COLOR", "1");
        let child = pty.slave.spawn_command(command).unwrap();
        drop(pty.slave);
        let mut reader = pty.master.try_clone_reader().unwrap();
        let keys = pty.master.take_writer().unwrap();
        let (sender, output) = channel();
        let pump = thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error is how the end of a pseudo-terminal looks.
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            master: pty.master,
            keys,
            screen: Screen {
                parser: vt100::Parser::new(20, 100, 0),
                output,
            },
            pump,
        }
    }

    /// `optop` was told to end.
    fn end(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status:?}");
        drop(self.master);
        drop(self.keys);
        drop(self.screen);
        self.pump.join().unwrap();
    }
}

#[test]
fn table_is_kept_up_to_date_and_the_terminal_is_given_back() {
    let session = tempfile::tempdir().unwrap();
    write_samples(session.path(), "first", 70);
    fs::write(
        session.path().join("account.txt"),
        "received 75\nno_mapping 5\n",
    )
    .unwrap();
    let mut terminal = Terminal::start(session.path(), &[]);
    let screen = &mut terminal.screen;
    screen.wait_text("[first]");
    screen.wait_text("received 75, lost 5, no_mapping 5");
    assert!(screen.parser.screen().alternate_screen());

    write_samples(session.path(), "second", 30);
    screen.wait_text("[second]");
    screen.wait_text("100 samples");

    let keys = &mut terminal.keys;
    keys.write_all(b"/FIRST").unwrap();
    screen.wait("only the first row", |screen| {
        let text = screen.contents();
        text.contains("[first]") && !text.contains("[second]")
    });
    keys.write_all(b"\r").unwrap();
    screen.wait_text("filter: FIRST ");
    keys.write_all(b"p").unwrap();
    screen.wait_text("PAUSED");
    keys.write_all(b"q").unwrap();
    screen.wait("the main screen", |screen| !screen.alternate_screen());
    terminal.end();
}

#[test]
fn terminal_without_a_cursor_gets_plain_lines() {
    let session = tempfile::tempdir().unwrap();
    write_samples(session.path(), "first", 70);
    let pty = native_pty_system().openpty(PtySize::default()).unwrap();
    let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_optop"));
    command.arg("--session-dir");
    command.arg(session.path());
    command.env("TERM", "vt100");
    let mut child = pty.slave.spawn_command(command).unwrap();
    drop(pty.slave);
    let mut reader = pty.master.try_clone_reader().unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains("[first]") {
        let length = reader.read(&mut buffer).unwrap();
        assert_ne!(length, 0, "optop ended");
        seen.extend_from_slice(&buffer[..length]);
    }
    assert!(
        !seen.contains(&0x1b),
        "escape sequences on a plain terminal"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn once_prints_one_table_and_no_samples_are_an_error() {
    let session = tempfile::tempdir().unwrap();
    let once = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_optop"))
            .arg("--once")
            .args(arguments)
            .arg("--session-dir")
            .arg(session.path())
            .output()
            .unwrap()
    };
    let failed = once(&[]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("No sample found"));
    write_samples(session.path(), "first", 70);
    write_samples(session.path(), "second", 30);
    let json = once(&["--json", "--lines", "1"]);
    assert!(json.status.success());
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["total"], 100);
    assert_eq!(value["functions"][0]["function"], "[first]");
    assert_eq!(value["functions"][1], serde_json::Value::Null);
    let text = String::from_utf8(once(&[]).stdout).unwrap();
    assert!(
        text.starts_with("100 samples, sorted by samples\n"),
        "{text}"
    );
}

#[test]
fn losses_come_from_the_vm_and_stay_when_it_has_ended() {
    let session = tempfile::tempdir().unwrap();
    write_samples(session.path(), "first", 70);
    let vm = ScriptedVm::new();
    let mut terminal = Terminal::start(session.path(), &[&vm.option()]);
    let screen = &mut terminal.screen;
    let mut connection = vm.accept();
    connection.answer(&status(&[60, 20], &[("no_mm", 0), ("lost_in_guest", 10)]));
    screen.wait_text("VM, profiling runs: received 80, lost 10");
    screen.wait_text("no_mm 0 ");
    screen.wait_text("lost_in_guest 10 ");
    screen.wait_text("75.0 %        60");
    screen.wait_text("[first]");

    connection.answer(&status(&[60, 40], &[("no_mm", 4), ("lost_in_guest", 10)]));
    screen.wait_text("received 100 (");
    screen.wait("rates by name", |screen| {
        let text = screen.contents();
        let rate = |name: &str| {
            text.split_once(name)?
                .1
                .split_once("/s)")?
                .0
                .parse::<f64>()
                .ok()
        };
        rate("no_mm 4 (").is_some_and(|rate| rate > 0.0) && rate("lost_in_guest 10 (") == Some(0.0)
    });
    // All 20 samples since the last look.
    screen.wait_text("100.0 %        20 (");

    drop(connection);
    screen.wait_text("VM HAS ENDED");
    screen.wait_text("The VM has ended; its last state: received 100 (");
    screen.wait_text("no_mm 4 (");
    // What the collector writes at the end is still shown.
    write_samples(session.path(), "second", 30);
    screen.wait_text("[second]");
    terminal.keys.write_all(b"q").unwrap();
    terminal.end();
}

#[test]
fn plain_lines_end_with_the_vm() {
    let session = tempfile::tempdir().unwrap();
    write_samples(session.path(), "first", 70);
    let vm = ScriptedVm::new();
    let child = Command::new(env!("CARGO_BIN_EXE_optop"))
        .args([&vm.option(), "--json", "--interval=0.05", "--session-dir"])
        .arg(session.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut connection = vm.accept();
    connection.answer(&status(&[80], &[("raced", 1)]));
    connection.answer(&status(&[90], &[("raced", 3)]));
    drop(connection);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let document = |line| -> serde_json::Value { serde_json::from_str(line).unwrap() };
    let documents: Vec<_> = text.lines().map(document).collect();
    assert!(
        documents
            .iter()
            .any(|it| it["vm"]["received"]["value"] == 80),
        "{text}"
    );
    let last = documents.last().unwrap();
    assert_eq!(last["vm"]["ended"], "The VM has ended");
    assert_eq!(last["vm"]["losses"][0]["value"], 3);
    assert!(last["vm"]["losses"][0]["per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(last["functions"][0]["function"], "[first]");
}

#[test]
fn once_looks_twice_at_the_vm_and_finds_its_session() {
    let session = tempfile::tempdir().unwrap();
    write_samples(session.path(), "first", 70);
    let vm = ScriptedVm::new();
    let child = Command::new(env!("CARGO_BIN_EXE_optop"))
        .args([&vm.option(), "--once", "--interval=0.05"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut connection = vm.accept();
    for received in [70, 80, 100] {
        let mut status = status(&[received], &[("no_mapping", received - 70)]);
        status.session = Some(session.path().to_owned());
        connection.answer(&status);
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "70 samples, sorted by samples");
    assert!(
        lines[1].starts_with("VM, profiling runs: received 100 ("),
        "{text}"
    );
    assert!(lines[2].starts_with("  no_mapping 30 ("), "{text}");
    assert!(lines[3].contains("100.0 %        20 ("), "{text}");
    assert!(lines[5].ends_with("[first]"), "{text}");
}

#[test]
fn a_vm_that_is_not_there_is_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_optop"))
        .arg("--socket=/nonexistent/s")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("/nonexistent/s") && errors.contains("socket="),
        "{errors}"
    );
    // One that ends before it has said anything.
    let vm = ScriptedVm::new();
    let child = Command::new(env!("CARGO_BIN_EXE_optop"))
        .args([&vm.option(), "--once"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(vm.accept());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("may have ended"), "{errors}");
}
