//! Words of the event buffer in frames.

use crate::frame::{self, Frame, FrameError, FrameKind};

/// Words of one frame: 64 KiB, so that a server never holds more of a reader's bytes than that.
pub const FRAME_WORDS: usize = 8 * 1024;

/// Most words of one read: the largest event buffer of a device.
pub const MAX_READ_WORDS: usize = 128 * 1024 * 1024;

/// Appends the next frame of a read whose words from the next one on are `words`; returns how many it took. A read without
/// words is a frame as well.
///
/// # Errors
/// Never: a frame holds [`FRAME_WORDS`].
pub fn append(out: &mut Vec<u8>, words: &[u64]) -> Result<usize, FrameError> {
    let count = words.len().min(FRAME_WORDS);
    let kind = match words.len() > FRAME_WORDS {
        true => FrameKind::Words,
        false => FrameKind::LastWords,
    };
    let payload: Vec<u8> = words
        .iter()
        .take(count)
        .flat_map(|word| word.to_le_bytes())
        .collect();
    frame::append(out, kind, &payload)?;
    Ok(count)
}

/// A read that is put together out of its frames.
#[derive(Clone, Debug, Default)]
pub struct ReadBuffer {
    words: Vec<u64>,
}

impl ReadBuffer {
    /// Takes in a frame of words; the read's words when it was the last one. A message is nobody's words: none.
    ///
    /// # Errors
    /// When the payload is no words, or the read longer than [`MAX_READ_WORDS`].
    pub fn take_in(&mut self, frame: &Frame) -> Result<Option<Vec<u64>>, FrameError> {
        if frame.kind == FrameKind::Message {
            return Ok(None);
        }
        let (words, rest) = frame.payload.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(FrameError::PartOfWord(frame.payload.len()));
        }
        if self.words.len() + words.len() > MAX_READ_WORDS {
            return Err(FrameError::Length {
                length: (self.words.len() + words.len()).saturating_mul(8),
                limit: MAX_READ_WORDS * 8,
            });
        }
        let words = words.iter().map(|word| u64::from_le_bytes(*word));
        self.words.extend(words);
        let last = frame.kind == FrameKind::LastWords;
        Ok(last.then(|| std::mem::take(&mut self.words)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameBuffer, MAX_ANSWER_BYTES};

    fn round_trip(words: &[u64]) -> (Vec<u64>, usize) {
        let (mut out, mut sent, mut frames) = (Vec::new(), 0, 0);
        loop {
            sent += append(&mut out, &words[sent..]).unwrap();
            frames += 1;
            if sent == words.len() {
                break;
            }
        }
        let mut buffer = FrameBuffer::new(MAX_ANSWER_BYTES);
        buffer.extend(&out);
        let mut read = ReadBuffer::default();
        for _ in 1..frames {
            let frame = buffer.take().unwrap().unwrap();
            assert_eq!(frame.kind, FrameKind::Words);
            assert_eq!(read.take_in(&frame), Ok(None));
        }
        let frame = buffer.take().unwrap().unwrap();
        let words = read.take_in(&frame).unwrap().unwrap();
        assert_eq!(buffer.pending(), 0);
        (words, frames)
    }

    #[test]
    fn a_read_is_put_together_again_at_every_edge() {
        for (count, frames) in [
            (0, 1),
            (1, 1),
            (FRAME_WORDS, 1),
            (FRAME_WORDS + 1, 2),
            (3 * FRAME_WORDS, 3),
        ] {
            let words: Vec<u64> = (0..count as u64).map(|word| word << 40 | 7).collect();
            assert_eq!(round_trip(&words), (words.clone(), frames), "{count}");
        }
    }

    #[test]
    fn part_of_a_word_is_refused() {
        let frame = Frame {
            kind: FrameKind::Words,
            payload: vec![0; 12],
        };
        let refused = ReadBuffer::default().take_in(&frame);
        assert_eq!(refused, Err(FrameError::PartOfWord(12)));
    }

    #[test]
    fn a_message_between_words_is_none_of_them() {
        let mut read = ReadBuffer::default();
        let frame = |kind, payload: &[u8]| Frame {
            kind,
            payload: payload.to_vec(),
        };
        let first = frame(FrameKind::Words, &[1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read.take_in(&first), Ok(None));
        assert_eq!(read.take_in(&frame(FrameKind::Message, b"{}")), Ok(None));
        let last = frame(FrameKind::LastWords, &[]);
        assert_eq!(read.take_in(&last), Ok(Some(vec![1])));
    }
}
