//! The file that the guest's real code works on: a log in made-up English, made here instead of kept as a binary.

use std::fmt::Write;

/// Bytes of the file.
const CORPUS_BYTES: usize = 512 * 1024;

const SUBJECTS: &[&str] = &[
    "the scheduler",
    "a reader",
    "the journal",
    "a worker",
    "the cache",
    "one client",
    "the index",
    "a packet",
    "the mirror",
    "a timer",
];
const VERBS: &[&str] = &[
    "waits for",
    "retries",
    "drops",
    "merges",
    "flushes",
    "splits",
    "counts",
    "forgets",
    "checks",
    "moves",
];
const OBJECTS: &[&str] = &[
    "a page",
    "the lease",
    "its lock",
    "the last batch",
    "an old key",
    "every record",
    "a shard",
    "the queue",
    "its neighbour",
    "a checksum",
];

/// The text: as compressible as logs are, without being the same line again and again.
pub fn text() -> Vec<u8> {
    let mut state = 0x0bad_5eed_u64;
    // A linear congruential generator (Knuth's MMIX constants), of which the upper bits are good.
    let mut next = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let upper = usize::try_from(state >> 40).unwrap_or(0);
        upper % below
    };
    let mut text = String::with_capacity(CORPUS_BYTES + 128);
    let mut line = 0_u64;
    while text.len() < CORPUS_BYTES {
        line += 1;
        let (subject, verb) = (SUBJECTS[next(SUBJECTS.len())], VERBS[next(VERBS.len())]);
        let object = OBJECTS[next(OBJECTS.len())];
        let (id, took) = (next(1 << 24), next(100_000));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{line:07} {subject} {verb} {object}: id={id:06x} took={took}us"
        );
    }
    let mut bytes = text.into_bytes();
    bytes.truncate(CORPUS_BYTES);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_the_same_each_time() {
        assert_eq!(text(), text());
        assert_eq!(text().len(), CORPUS_BYTES);
    }

    #[test]
    fn lines_differ() {
        let text = text();
        let mut lines: Vec<_> = text.split(|byte| *byte == b'\n').collect();
        let count = lines.len();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), count);
    }
}
