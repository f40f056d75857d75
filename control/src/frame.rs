//! Frames: how messages and words follow each other on a byte stream.
//!
//! ```text
//! u32  bytes of the payload, little endian
//! u8   kind
//! …    payload
//! ```

use thiserror::Error;

/// Bytes in front of a payload.
pub const HEADER_BYTES: usize = 5;

/// Longest payload that a server takes. The longest request writes 49 bytes to a path; the rest is room for what is to come.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// Longest payload of a server. The longest answer, the status of 1,023 vCPUs, is about 300 KiB.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// JSON: a greeting, a request or an answer.
    Message,
    /// Words of the event buffer; more words of the same read follow in the next such frame.
    Words,
    /// Words of the event buffer, the last ones of a read.
    LastWords,
}

impl FrameKind {
    /// Its number in a frame.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Message => 1,
            Self::Words => 2,
            Self::LastWords => 3,
        }
    }

    /// The kind of that number.
    #[must_use]
    pub const fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Message),
            2 => Some(Self::Words),
            3 => Some(Self::LastWords),
            _ => None,
        }
    }
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: FrameKind,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Bytes that are no frames. Nothing behind them can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A kind that is not known.
    #[error("Frames have the kinds 1 to 3, not {0}")]
    Kind(u8),
    /// More bytes than the receiver takes.
    #[error("A frame has at most {limit} bytes here, not {length}")]
    Length {
        /// Bytes announced.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A payload that a frame cannot hold.
    #[error("Words come in eights of bytes, not {0}")]
    PartOfWord(usize),
}

/// Appends a frame to `out`.
///
/// # Errors
/// When the payload is longer than [`MAX_ANSWER_BYTES`]; nothing is appended then.
pub fn append(out: &mut Vec<u8>, kind: FrameKind, payload: &[u8]) -> Result<(), FrameError> {
    let too_long = FrameError::Length {
        length: payload.len(),
        limit: MAX_ANSWER_BYTES,
    };
    if payload.len() > MAX_ANSWER_BYTES {
        return Err(too_long);
    }
    let length = u32::try_from(payload.len()).map_err(|_| too_long)?;
    out.extend_from_slice(&length.to_le_bytes());
    out.push(kind.code());
    out.extend_from_slice(payload);
    Ok(())
}

/// Takes frames out of bytes as they arrive, in pieces of any size.
///
/// It holds no more than what was put in and not taken out; a caller that takes out all frames after each piece holds one frame
/// and one piece at most.
#[derive(Clone, Debug)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    limit: usize,
}

impl FrameBuffer {
    /// Takes payloads of at most `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit,
        }
    }

    /// Takes in bytes that have arrived.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that wait.
    #[must_use]
    pub const fn pending(&self) -> usize {
        self.bytes.len()
    }

    /// The next frame, once it is there as a whole.
    ///
    /// # Errors
    /// What stands there is no frame; it stays there.
    pub fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [a, b, c, d, code] = *header;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let kind = FrameKind::of(code).ok_or(FrameError::Kind(code))?;
        if length > self.limit {
            return Err(FrameError::Length {
                length,
                limit: self.limit,
            });
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.bytes.drain(..HEADER_BYTES + length);
        Ok(Some(Frame { kind, payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_is_length_kind_and_payload() {
        let mut out = Vec::new();
        append(&mut out, FrameKind::Message, b"{}").unwrap();
        assert_eq!(out, [2, 0, 0, 0, 1, b'{', b'}']);
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_arrive() {
        let mut frames = FrameBuffer::new(16);
        frames.extend(&[17, 0, 0, 0, 1]);
        let refused = FrameError::Length {
            length: 17,
            limit: 16,
        };
        assert_eq!(frames.take(), Err(refused));
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let mut frames = FrameBuffer::new(16);
        frames.extend(b"GET / HTTP/1.1\r\n");
        assert_eq!(frames.take(), Err(FrameError::Kind(b'/')));
    }

    #[test]
    fn a_payload_that_no_client_takes_is_not_sent() {
        let mut out = Vec::new();
        let payload = vec![0; MAX_ANSWER_BYTES + 1];
        assert!(append(&mut out, FrameKind::Words, &payload).is_err());
        assert!(out.is_empty());
    }

    fn kind() -> impl Strategy<Value = FrameKind> {
        prop::sample::select(vec![
            FrameKind::Message,
            FrameKind::Words,
            FrameKind::LastWords,
        ])
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_whatever_the_pieces(
            sent in prop::collection::vec((kind(), prop::collection::vec(any::<u8>(), 0..40)), 0..8),
            piece in 1usize..50)
        {
            let mut out = Vec::new();
            for (kind, payload) in &sent {
                append(&mut out, *kind, payload).unwrap();
            }
            let mut frames = FrameBuffer::new(40);
            let mut received = Vec::new();
            for bytes in out.chunks(piece) {
                frames.extend(bytes);
                while let Some(frame) = frames.take().unwrap() {
                    received.push((frame.kind, frame.payload));
                }
                prop_assert!(frames.pending() < HEADER_BYTES + 40);
            }
            prop_assert_eq!(received, sent);
            prop_assert_eq!(frames.pending(), 0);
        }
    }
}
