//! One client's connection: frames in, bytes out, nothing that waits.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use oprofile_control::frame::{self, Frame, FrameBuffer, FrameError, FrameKind, MAX_REQUEST_BYTES};
use oprofile_control::message::{Answer, Failure, FailureKind, Outcome};
use serde::Serialize;

/// Bytes of one read.
const PIECE_BYTES: usize = 4096;

/// A connection. What a client does not take stays in `output`, and as long as something is in there, nothing is read from it
/// and nothing else is written: it holds one request and one answer, or one frame of words, at most.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    input: FrameBuffer,
    output: Vec<u8>,
    /// Bytes of `output` that have gone out.
    sent: usize,
    /// The client has closed its side: no more requests.
    ended: bool,
}

impl Connection {
    /// # Errors
    /// When the stream cannot be told not to block.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: FrameBuffer::new(MAX_REQUEST_BYTES),
            output: Vec::new(),
            sent: 0,
            ended: false,
        })
    }

    pub(super) const fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(super) const fn ended(&self) -> bool {
        self.ended
    }

    pub(super) const fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Takes in a piece of what has arrived.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(super) fn fill(&mut self) -> io::Result<()> {
        let mut piece = [0; PIECE_BYTES];
        match self.stream.read(&mut piece) {
            Ok(0) => self.ended = true,
            Ok(count) => self.input.extend(piece.get(..count).unwrap_or_default()),
            Err(error) if would_wait(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// When the client sends something else.
    pub(super) fn frame(&mut self) -> Result<Option<Frame>, FrameError> {
        self.input.take()
    }

    /// Sends what the client takes.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }

    /// Puts a message behind what goes out.
    pub(super) fn send(&mut self, message: &impl Serialize) {
        let sent = serde_json::to_vec(message).ok().is_some_and(|payload| {
            frame::append(&mut self.output, FrameKind::Message, &payload).is_ok()
        });
        if !sent {
            tracing::error!("An answer on the control socket was too long to be sent");
        }
    }

    /// Puts an answer behind what goes out.
    pub(super) fn answer(&mut self, id: u64, outcome: Result<serde_json::Value, Failure>) {
        let outcome = match outcome {
            Ok(value) => Outcome::Ok(value),
            Err(failure) => Outcome::Error(failure),
        };
        self.send(&Answer { id, outcome });
    }

    /// Tells the client that it does not speak the protocol.
    pub(super) fn answer_to_garbage(&mut self, error: FrameError) {
        let failure = Failure::new(FailureKind::BadRequest, error.to_string());
        self.answer(0, Err(failure));
    }

    /// What goes out, for frames of words.
    pub(super) const fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }
}

fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
