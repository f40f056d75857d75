//! The protocol of a running VM's control socket, as `docs/control-protocol.md` specifies it.
//!
//! | module | what it does |
//! |---|---|
//! | [`frame`] | frames on a byte stream: a length, a kind, a payload |
//! | [`message`] | requests and answers, in JSON |
//! | [`status`] | the answer to [`Command::Status`] |
//! | [`words`] | words of the event buffer in frames |
//! | [`client`] | a client that waits for its answers |

pub mod client;
pub mod frame;
pub mod message;
pub mod status;
pub mod words;

pub use client::{Client, ClientError, EventStream};
pub use frame::{Frame, FrameBuffer, FrameError, FrameKind};
pub use message::{
    Answer, Command, CookieAnswer, Failure, FailureKind, Greeting, Outcome, Request,
};
pub use status::Status;

/// Version of the protocol. A server's greeting tells its version; another one means another protocol. New commands and
/// new members of answers do not change it.
pub const VERSION: u32 = 1;
