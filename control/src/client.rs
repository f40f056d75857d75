//! A client that waits for its answers.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::frame::{self, Frame, FrameBuffer, FrameError, FrameKind, MAX_ANSWER_BYTES};
use crate::message::{Answer, Command, CookieAnswer, Failure, Greeting, Outcome, Request};
use crate::status::Status;
use crate::words::ReadBuffer;

/// How long an answer may take. A dump of a large session to a slow disk takes seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Bytes of one read from the socket.
const PIECE_BYTES: usize = 64 * 1024;

/// Why a request came to nothing.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There is no socket.
    #[error("There is no control socket {0}; start the VM with --oprofile-dev …,socket={0}", path.display())]
    NoSocket {
        /// Its path.
        path: PathBuf,
    },
    /// The socket is somebody else's.
    #[error("No permission to use {}: a VM's control socket is its user's alone; try as that user", path.display())]
    Permission {
        /// Its path.
        path: PathBuf,
    },
    /// Nobody listens.
    #[error("Nobody listens on {}: its VM has ended, or this is no control socket", path.display())]
    NotListening {
        /// Its path.
        path: PathBuf,
    },
    /// The connection failed.
    #[error("Cannot speak with the VM")]
    Io(#[source] io::Error),
    /// The VM closed the connection.
    #[error("The VM has closed the connection; it may have ended")]
    Closed,
    /// No answer in time.
    #[error("The VM did not answer within {} seconds", ANSWER_LIMIT.as_secs())]
    TimedOut,
    /// The peer sends no frames.
    #[error("What listens there does not speak this protocol")]
    Frame(#[from] FrameError),
    /// The peer sends something else.
    #[error("What listens there does not speak this protocol")]
    Message(#[source] serde_json::Error),
    /// A frame that has no place here.
    #[error("What listens there does not speak this protocol: unexpected {0}")]
    Unexpected(&'static str),
    /// The peer speaks another version.
    #[error("The VM speaks version {found} of the protocol, this program {expected}", expected = crate::VERSION)]
    Version {
        /// Its version.
        found: u32,
    },
    /// The VM refuses.
    #[error("{}", .0.message)]
    Refused(Failure),
}

impl ClientError {
    /// What the VM says about its refusal, if it is one.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Refused(failure) => Some(failure),
            _ => None,
        }
    }

    fn io(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// A connection to a VM.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    frames: FrameBuffer,
    next_id: u64,
    server: String,
}

impl Client {
    /// Connects to the socket at `path` and reads the greeting.
    ///
    /// # Errors
    /// When nobody listens there, the VM takes no more clients, or speaks another protocol.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| {
            let path = path.to_owned();
            match error.kind() {
                ErrorKind::NotFound => ClientError::NoSocket { path },
                ErrorKind::PermissionDenied => ClientError::Permission { path },
                ErrorKind::ConnectionRefused => ClientError::NotListening { path },
                _ => ClientError::Io(error),
            }
        })?;
        Self::over(stream)
    }

    /// Reads the greeting from `stream`.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn over(stream: UnixStream) -> Result<Self, ClientError> {
        let limit = Some(ANSWER_LIMIT);
        stream.set_read_timeout(limit).map_err(ClientError::Io)?;
        stream.set_write_timeout(limit).map_err(ClientError::Io)?;
        let mut client = Self {
            stream,
            frames: FrameBuffer::new(MAX_ANSWER_BYTES),
            next_id: 1,
            server: String::new(),
        };
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum First {
            Greeting(Greeting),
            Answer(Answer),
        }
        let first = client.frame()?.ok_or(ClientError::Closed)?;
        match serde_json::from_slice(&first.payload).map_err(ClientError::Message)? {
            First::Greeting(greeting) if greeting.protocol != Greeting::PROTOCOL => {
                Err(ClientError::Unexpected("greeting"))
            }
            First::Greeting(greeting) if greeting.version != crate::VERSION => {
                Err(ClientError::Version {
                    found: greeting.version,
                })
            }
            First::Greeting(greeting) => {
                client.server = greeting.server;
                Ok(client)
            }
            First::Answer(Answer {
                outcome: Outcome::Error(failure),
                ..
            }) => Err(ClientError::Refused(failure)),
            First::Answer(_) => Err(ClientError::Unexpected("answer")),
        }
    }

    /// Name and version of the server.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The next frame; `None` when the peer has closed behind a whole frame.
    fn frame(&mut self) -> Result<Option<Frame>, ClientError> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            if let Some(frame) = self.frames.take()? {
                return Ok(Some(frame));
            }
            match self.stream.read(&mut piece) {
                Ok(0) if self.frames.pending() == 0 => return Ok(None),
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => self.frames.extend(piece.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ClientError::io(error)),
            }
        }
    }

    /// Has `command` done, and waits for the answer.
    ///
    /// # Errors
    /// When the VM refuses, or the connection fails.
    pub fn ask(&mut self, command: Command) -> Result<Value, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let request = serde_json::to_vec(&Request { id, command }).map_err(ClientError::Message)?;
        let mut bytes = Vec::new();
        frame::append(&mut bytes, FrameKind::Message, &request)?;
        self.stream.write_all(&bytes).map_err(ClientError::io)?;
        let frame = self.frame()?.ok_or(ClientError::Closed)?;
        if frame.kind != FrameKind::Message {
            return Err(ClientError::Unexpected("words"));
        }
        let answer: Answer = parsed(&frame.payload)?;
        match answer.outcome {
            Outcome::Error(failure) => Err(ClientError::Refused(failure)),
            Outcome::Ok(_) if answer.id != id => Err(ClientError::Unexpected("answer")),
            Outcome::Ok(value) => Ok(value),
        }
    }

    fn ask_for<T: DeserializeOwned>(&mut self, command: Command) -> Result<T, ClientError> {
        serde_json::from_value(self.ask(command)?).map_err(ClientError::Message)
    }

    /// The VM's status.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.ask_for(Command::Status)
    }

    /// The text of the control file at `path`.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn read(&mut self, path: &str) -> Result<String, ClientError> {
        #[derive(Deserialize)]
        struct Text {
            text: String,
        }
        let path = path.to_owned();
        self.ask_for(Command::Read { path })
            .map(|answer: Text| answer.text)
    }

    /// Writes the control file at `path`.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn write(&mut self, path: &str, text: &str) -> Result<(), ClientError> {
        let (path, text) = (path.to_owned(), text.to_owned());
        self.ask(Command::Write { path, text }).map(drop)
    }

    /// What a cookie stands for.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn cookie(&mut self, cookie: u64) -> Result<CookieAnswer, ClientError> {
        self.ask_for(Command::Cookie { cookie })
    }

    /// Becomes the reader of the event buffer.
    ///
    /// # Errors
    /// As [`Client::ask`]; above all, there is another reader.
    pub fn events(mut self) -> Result<EventStream, ClientError> {
        self.ask(Command::Events)?;
        // From now on there may be nothing to say for as long as the guest is idle.
        let unlimited = self.stream.set_read_timeout(None);
        unlimited.map_err(ClientError::Io)?;
        Ok(EventStream {
            client: self,
            read: ReadBuffer::default(),
        })
    }
}

/// To wait for: between a request's answer and the next request, a VM says nothing but that it ends.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn parsed<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(payload).map_err(ClientError::Message)
}

/// The words of the event buffer, as they come.
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    read: ReadBuffer,
}

impl EventStream {
    /// Waits for the next read of the event buffer; `None` when the VM has ended.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn next_read(&mut self) -> Result<Option<Vec<u64>>, ClientError> {
        while let Some(frame) = self.client.frame()? {
            if let Some(words) = self.read.take_in(&frame)? {
                return Ok(Some(words));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::FailureKind;
    use std::thread;

    fn message(value: &impl serde::Serialize) -> Vec<u8> {
        let mut out = Vec::new();
        let payload = serde_json::to_vec(value).unwrap();
        frame::append(&mut out, FrameKind::Message, &payload).unwrap();
        out
    }

    /// A client whose server says `bytes` and no more.
    fn against(bytes: &[u8]) -> Result<Client, ClientError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let client = Client::over(ours);
        // Kept until now: a client may still write.
        drop(theirs);
        client
    }

    #[test]
    fn another_version_is_told() {
        let mut greeting = Greeting::new("s");
        greeting.version = 2;
        let refused = against(&message(&greeting));
        assert!(matches!(refused, Err(ClientError::Version { found: 2 })));
    }

    #[test]
    fn a_refusal_in_place_of_the_greeting_is_told() {
        let failure = Failure::new(FailureKind::TooManyClients, "too many");
        let outcome = Outcome::Error(failure);
        let refused = against(&message(&Answer { id: 0, outcome }));
        assert_eq!(refused.unwrap_err().to_string(), "too many");
    }

    #[test]
    fn other_protocols_are_told_apart() {
        for bytes in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            &[2, 0, 0, 0, 1, b'[', b']'],
        ] {
            let error = against(bytes).unwrap_err().to_string();
            assert!(error.contains("does not speak this protocol"), "{error}");
        }
        assert!(matches!(against(b""), Err(ClientError::Closed)));
        assert!(matches!(
            against(&[9, 0, 0, 0, 1, 1]),
            Err(ClientError::Closed)
        ));
    }

    #[test]
    fn what_is_missing_is_named_with_the_next_step() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("none");
        let error = Client::connect(&path).unwrap_err().to_string();
        assert!(
            error.contains("socket=") && error.contains("none"),
            "{error}"
        );
        // A socket that nobody listens on any more.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let error = Client::connect(&path).unwrap_err();
        assert!(matches!(error, ClientError::NotListening { .. }), "{error}");
    }

    #[test]
    fn an_answer_of_another_request_is_not_taken() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&message(&Greeting::new("s"))).unwrap();
        let outcome = Outcome::Ok(Value::Null);
        theirs
            .write_all(&message(&Answer { id: 77, outcome }))
            .unwrap();
        let mut client = Client::over(ours).unwrap();
        let taken = client.ask(Command::Start);
        assert!(matches!(taken, Err(ClientError::Unexpected("answer"))));
    }

    #[test]
    fn words_behind_the_answer_are_the_stream() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || {
            theirs.write_all(&message(&Greeting::new("s"))).unwrap();
            let outcome = Outcome::Ok(Value::Null);
            theirs
                .write_all(&message(&Answer { id: 1, outcome }))
                .unwrap();
            let mut out = Vec::new();
            crate::words::append(&mut out, &[5, 6]).unwrap();
            theirs.write_all(&out).unwrap();
            // Open until the request has been written.
            theirs
        });
        let mut events = Client::over(ours).unwrap().events().unwrap();
        assert_eq!(events.next_read().unwrap(), Some(vec![5, 6]));
        let theirs = server.join().unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(events.next_read().unwrap(), None);
    }
}
