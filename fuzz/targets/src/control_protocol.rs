//! What a client of the control socket sends, and what a server's stream of words is read as: any bytes.

use oprofile_control::frame::{self, FrameBuffer, HEADER_BYTES, MAX_REQUEST_BYTES};
use oprofile_control::message::{Outcome, parse_request};
use oprofile_control::words::{self, FRAME_WORDS, ReadBuffer};

/// Runs the target. The first byte says in pieces of which size the rest arrives.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    let Some((&piece, bytes)) = data.split_first() else {
        return;
    };
    let piece = usize::from(piece).max(1);
    requests(bytes, piece);
    stream(bytes, piece);
}

/// Frames come out as they went in, until the first one that is none; each is a request or answered.
fn requests(whole: &[u8], piece: usize) {
    let mut frames = FrameBuffer::new(MAX_REQUEST_BYTES);
    let mut read = ReadBuffer::default();
    let mut again = Vec::new();
    for bytes in whole.chunks(piece) {
        frames.extend(bytes);
        loop {
            match frames.take() {
                Ok(Some(taken)) => {
                    frame::append(&mut again, taken.kind, &taken.payload).expect("it fits");
                    match parse_request(&taken.payload) {
                        Ok(request) => {
                            let written = serde_json::to_vec(&request).expect("JSON");
                            assert_eq!(parse_request(&written), Ok(request));
                        }
                        Err(answer) => assert!(matches!(answer.outcome, Outcome::Error(_))),
                    }
                    // Words or none: it only must not fail otherwise.
                    let _ = read.take_in(&taken);
                }
                Ok(None) => break,
                Err(_) => {
                    assert!(whole.starts_with(&again));
                    return;
                }
            }
        }
        assert!(frames.pending() < HEADER_BYTES + MAX_REQUEST_BYTES);
    }
    assert_eq!(again.len() + frames.pending(), whole.len());
    assert!(whole.starts_with(&again));
}

/// Words that are sent in frames are read as they were.
fn stream(bytes: &[u8], piece: usize) {
    let (first, _) = bytes.as_chunks::<8>();
    let mut sent: Vec<u64> = first.iter().map(|word| u64::from_le_bytes(*word)).collect();
    // Now and then more than one frame.
    if piece.is_multiple_of(64) && !sent.is_empty() {
        sent = sent
            .iter()
            .copied()
            .cycle()
            .take(FRAME_WORDS + piece)
            .collect();
    }
    let (mut out, mut done) = (Vec::new(), 0);
    loop {
        done += words::append(&mut out, &sent[done..]).expect("a frame fits");
        if done == sent.len() {
            break;
        }
    }
    let mut frames = FrameBuffer::new(frame::MAX_ANSWER_BYTES);
    let mut read = ReadBuffer::default();
    let mut received = None;
    for bytes in out.chunks(piece * 1024) {
        frames.extend(bytes);
        while let Some(taken) = frames.take().expect("a frame") {
            assert!(received.is_none(), "something follows the last frame");
            received = read.take_in(&taken).expect("words");
        }
    }
    assert_eq!(received, Some(sent));
}
