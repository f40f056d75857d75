//! The control socket of a VM that says what its test wants, when its test wants it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oprofile_control::Status;
use oprofile_control::frame::{FrameBuffer, FrameKind, MAX_REQUEST_BYTES, append};
use oprofile_control::message::{Answer, Command, Greeting, Outcome, parse_request};
use oprofile_control::status::{Counter, Reader, SettingsStatus, VcpuStatus};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use tempfile::TempDir;

/// How long a busy machine may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A socket that listens.
pub struct ScriptedVm {
    directory: TempDir,
    listener: UnixListener,
}

impl ScriptedVm {
    /// A VM that nobody is connected to.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(path(directory.path())).unwrap();
        Self {
            directory,
            listener,
        }
    }

    /// The option that names its socket.
    pub fn option(&self) -> String {
        format!("--socket={}", path(self.directory.path()).display())
    }

    /// Greets the next client.
    pub fn accept(&self) -> Connection {
        let timeout = Timespec::try_from(PATIENCE).unwrap();
        let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&timeout)), Ok(1), "no client came");
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut connection = Connection {
            stream,
            frames: FrameBuffer::new(MAX_REQUEST_BYTES),
        };
        connection.send(&Greeting::new("test"));
        connection
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join("socket")
}

/// A client. Dropping it is the VM's end.
pub struct Connection {
    stream: UnixStream,
    frames: FrameBuffer,
}

impl Connection {
    fn send(&mut self, message: &impl Serialize) {
        let mut bytes = Vec::new();
        let payload = serde_json::to_vec(message).unwrap();
        append(&mut bytes, FrameKind::Message, &payload).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// Waits until the client asks for the status, and answers.
    pub fn answer(&mut self, status: &Status) {
        let frame = loop {
            if let Some(frame) = self.frames.take().unwrap() {
                break frame;
            }
            let mut piece = [0; 1024];
            let count = self.stream.read(&mut piece).expect("a request");
            assert_ne!(count, 0, "the client has gone");
            self.frames.extend(&piece[..count]);
        };
        let request = parse_request(&frame.payload).unwrap();
        assert_eq!(request.command, Command::Status);
        let outcome = Outcome::Ok(serde_json::to_value(status).unwrap());
        let id = request.id;
        self.send(&Answer { id, outcome });
    }
}

/// The status of a VM with so many samples of each vCPU, all of them in files but those of `losses`.
pub fn status(vcpus: &[u64], losses: &[(&str, u64)]) -> Status {
    let counter = |name: &str, value| Counter {
        name: name.to_owned(),
        value,
    };
    let received = vcpus.iter().sum();
    let lost: u64 = losses.iter().map(|(_, value)| value).sum();
    let mut account = vec![
        counter("received", received),
        counter("file", received - lost),
    ];
    account.extend(losses.iter().map(|(name, value)| counter(name, *value)));
    let vcpu = |received: &u64| VcpuStatus {
        received: *received,
        ..VcpuStatus::default()
    };
    Status {
        said_hello: true,
        started: true,
        quiesced: false,
        reader: Reader::Collector,
        session: None,
        device_id: 63,
        release: Some("tiny-1.0".to_owned()),
        cpu_type: "timer".to_owned(),
        settings: SettingsStatus::default(),
        ends: account.len() - 1,
        account,
        adds_up: true,
        vcpus: vcpus.iter().map(vcpu).collect(),
        collector: Vec::new(),
        clients: 1,
    }
}
