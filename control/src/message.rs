//! Requests and answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a server introduces itself: the first frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// [`Greeting::PROTOCOL`].
    pub protocol: String,
    /// [`crate::VERSION`].
    pub version: u32,
    /// Name and version of the server.
    pub server: String,
}

impl Greeting {
    /// Name of the protocol.
    pub const PROTOCOL: &str = "oprofile-control";

    /// The greeting of `server`, a name and a version.
    #[must_use]
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            protocol: Self::PROTOCOL.to_owned(),
            version: crate::VERSION,
            server: server.into(),
        }
    }
}

/// Under which program samples of libraries and of the kernel are filed; OProfile's `--separate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Separation {
    /// Each image under itself.
    None,
    /// Libraries under their program.
    Library,
    /// Libraries and kernel code under their program.
    Kernel,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Command {
    /// Everything that is known of the VM's profiling: a [`crate::Status`].
    Status,
    /// The control files: `[{"path":…,"mode":…},…]`.
    List,
    /// Reads a control file: `{"text":…}`.
    Read {
        /// Its path in the tree, `stats/cpu0/sample_received` for instance.
        path: String,
    },
    /// Writes a control file, as a whole.
    Write {
        /// Its path in the tree.
        path: String,
        /// What to write.
        text: String,
    },
    /// Starts profiling; new sizes of buffers take effect.
    Start,
    /// Stops profiling; answered when the guest has handed in what it has, or does not in time: `{"quiesced":…}`.
    Stop,
    /// Has everything that was sampled brought to the reader; with a session, answered when it is on disk.
    Dump,
    /// Forgets what is in the session.
    Reset,
    /// Keeps the session under a name, and begins another one.
    Save {
        /// Its name.
        name: String,
    },
    /// How samples are filed from now on. The session must be empty.
    Separate {
        /// Under which program.
        separation: Separation,
        /// A file for each vCPU.
        per_cpu: bool,
    },
    /// Samples a second and vCPU from now on.
    Rate {
        /// How many.
        hz: u64,
    },
    /// What a cookie stands for: a [`CookieAnswer`].
    Cookie {
        /// The cookie.
        cookie: u64,
    },
    /// Makes this connection the reader of the event buffer: words follow the answer.
    Events,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the answer.
    #[serde(default)]
    pub id: u64,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// What a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The bytes are no request that the server knows.
    BadRequest,
    /// As many clients are connected as the server takes.
    TooManyClients,
    /// A control file refuses; `code` tells why.
    ControlFile,
    /// The event buffer has a reader.
    ReaderBusy,
    /// Nobody reads the event buffer.
    NoReader,
    /// The VM writes no session.
    NoSession,
    /// The session refuses or fails.
    Session,
    /// A value out of its range.
    Value,
    /// The server shuts down.
    Ending,
    /// A kind that this version does not know.
    #[serde(other)]
    Other,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What it is about.
    pub kind: FailureKind,
    /// For a control file Linux's error number, negated; else 0.
    #[serde(default)]
    pub code: i32,
    /// For a person.
    pub message: String,
}

impl Failure {
    /// A failure without an error number.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: 0,
            message: message.into(),
        }
    }
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done.
    Ok(Value),
    /// It was not.
    Error(Failure),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// That of the request; 0 when it could not be read.
    #[serde(default)]
    pub id: u64,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What a cookie stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum CookieAnswer {
    /// A file of the guest.
    File {
        /// Its path; bytes that are no UTF-8 are replaced.
        path: String,
        /// The path's bytes in hexadecimal, when `path` could not hold them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path_hex: Option<String>,
        /// It has been unlinked.
        deleted: bool,
    },
    /// Memory of a process without a file.
    Anonymous {
        /// Process id.
        tgid: u32,
        /// First address.
        start: u64,
        /// Address behind the last.
        end: u64,
        /// What it is called.
        name: String,
    },
    /// No cookie that was given out.
    Unknown,
}

impl CookieAnswer {
    /// The answer for a file with a path of any bytes.
    #[must_use]
    pub fn file(path: &[u8], deleted: bool) -> Self {
        let hex = || path.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = String::from_utf8_lossy(path);
        Self::File {
            path_hex: std::str::from_utf8(path).is_err().then(hex),
            path: text.into_owned(),
            deleted,
        }
    }
}

/// Reads a request.
///
/// # Errors
/// When it is none, with an answer that says so under the request's id if that can be read.
pub fn parse_request(payload: &[u8]) -> Result<Request, Box<Answer>> {
    serde_json::from_slice(payload).map_err(|error| {
        #[derive(Deserialize)]
        struct OnlyId {
            #[serde(default)]
            id: u64,
        }
        let id = serde_json::from_slice(payload).map_or(0, |only: OnlyId| only.id);
        let message = format!("This is no request of version {}: {error}", crate::VERSION);
        let failure = Failure::new(FailureKind::BadRequest, message);
        Box::new(Answer {
            id,
            outcome: Outcome::Error(failure),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_read_as_the_specification_shows_them() {
        for (text, command) in [
            (r#"{"id":1,"do":"status"}"#, Command::Status),
            (
                r#"{"id":1,"do":"write","path":"enable","text":"1"}"#,
                Command::Write {
                    path: "enable".into(),
                    text: "1".into(),
                },
            ),
            (
                r#"{"id":1,"do":"cookie","cookie":18446744073709551615}"#,
                Command::Cookie { cookie: u64::MAX },
            ),
            (
                r#"{"id":1,"do":"separate","separation":"kernel","per_cpu":true}"#,
                Command::Separate {
                    separation: Separation::Kernel,
                    per_cpu: true,
                },
            ),
        ] {
            let request = parse_request(text.as_bytes()).unwrap();
            assert_eq!(request, Request { id: 1, command }, "{text}");
        }
    }

    #[test]
    fn a_request_is_read_back_as_it_was_written() {
        let commands = [
            Command::Status,
            Command::List,
            Command::Start,
            Command::Stop,
            Command::Dump,
            Command::Reset,
            Command::Events,
            Command::Save {
                name: "a\"\n".into(),
            },
            Command::Rate { hz: u64::MAX },
            Command::Read { path: "é".into() },
        ];
        for command in commands {
            let request = Request { id: 9, command };
            let bytes = serde_json::to_vec(&request).unwrap();
            assert_eq!(parse_request(&bytes), Ok(request));
        }
    }

    #[test]
    fn what_is_no_request_is_answered_under_its_id() {
        for (text, id) in [
            (r#"{"id":7,"do":"dance"}"#, 7),
            (r#"{"id":8}"#, 8),
            (r#"{"id":-1,"do":"status"}"#, 0),
            ("[]", 0),
            ("\u{1}", 0),
            ("", 0),
        ] {
            let answer = parse_request(text.as_bytes()).unwrap_err();
            assert_eq!(answer.id, id, "{text}");
            let Outcome::Error(failure) = answer.outcome else {
                panic!("{text} was done");
            };
            assert_eq!(failure.kind, FailureKind::BadRequest);
        }
    }

    #[test]
    fn answers_are_ok_or_error() {
        let answer = |outcome| serde_json::to_value(Answer { id: 3, outcome }).unwrap();
        let done = answer(Outcome::Ok(json!({"text": "1\n"})));
        assert_eq!(done, json!({"id": 3, "ok": {"text": "1\n"}}));
        let failure = Failure {
            kind: FailureKind::ControlFile,
            code: -16,
            message: "busy".into(),
        };
        let failed = answer(Outcome::Error(failure));
        let expected =
            json!({"id": 3, "error": {"kind": "control_file", "code": -16, "message": "busy"}});
        assert_eq!(failed, expected);
    }

    #[test]
    fn a_kind_of_failure_to_come_is_read_as_another_one() {
        let text = r#"{"kind":"weather","message":"rain"}"#;
        let failure: Failure = serde_json::from_str(text).unwrap();
        assert_eq!(failure.kind, FailureKind::Other);
    }

    #[test]
    fn a_path_of_any_bytes_keeps_them() {
        let plain = serde_json::to_value(CookieAnswer::file(b"/bin/a", false)).unwrap();
        let expected = json!({"kind": "file", "path": "/bin/a", "deleted": false});
        assert_eq!(plain, expected);
        let CookieAnswer::File { path_hex, .. } = CookieAnswer::file(b"/\xff", true) else {
            panic!("no file");
        };
        assert_eq!(path_hex.as_deref(), Some("2fff"));
    }
}
