//! `optop` on a real pseudo-terminal.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use oprofile_session::sample_file::{Header, encode};
use portable_pty::{CommandBuilder, PtySize, native_pty_system};

/// How long a busy machine may take to draw.
const PATIENCE: Duration = Duration::from_secs(60);

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

#[test]
fn table_is_kept_up_to_date_and_the_terminal_is_given_back() {
    let session = tempfile::tempdir().unwrap();
    write_samples(session.path(), "first", 70);
    fs::write(
        session.path().join("account.txt"),
        "received 75\nno_mapping 5\n",
    )
    .unwrap();
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
    command.arg(session.path());
    command.env("TERM", "xterm-256color");
    command.env("NO_COLOR", "1");
    let mut child = pty.slave.spawn_command(command).unwrap();
    drop(pty.slave);
    let mut reader = pty.master.try_clone_reader().unwrap();
    let mut keys = pty.master.take_writer().unwrap();
    let (sender, output) = channel();
    let pump = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // An error is how the end of a pseudo-terminal looks.
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut screen = Screen {
        parser: vt100::Parser::new(20, 100, 0),
        output,
    };
    screen.wait_text("[first]");
    screen.wait_text("received 75, lost 5, no_mapping 5");
    assert!(screen.parser.screen().alternate_screen());

    write_samples(session.path(), "second", 30);
    screen.wait_text("[second]");
    screen.wait_text("100 samples");

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
    let status = child.wait().unwrap();
    assert!(status.success(), "{status:?}");
    drop(pty.master);
    drop(keys);
    drop(screen);
    pump.join().unwrap();
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
