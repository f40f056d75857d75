//! The hash of an event stream, the same for every way to number files.

use oprofile_device::event_buffer::record::{
    COOKIE_SWITCH, CPU_SWITCH, CTX_SWITCH, CTX_TGID, ESCAPE, NO_COOKIE,
};
use thiserror::Error;

/// Where the hash starts.
const SEED: u64 = 1_469_598_103_934_665_603;
/// FNV's prime; the hash takes whole words instead of bytes.
const PRIME: u64 = 1_099_511_628_211;
/// Words of the longest record: escape, code, pid, cookie.
const MAX_RECORD: usize = 4;

/// A stream is not the one that the original writes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "Event stream of {name} has {words} words with hash {hash:016x}, not {expected_words} with {expected_hash:016x}"
)]
pub struct WrongStream {
    /// The workload.
    pub name: &'static str,
    /// Words of the stream.
    pub words: u64,
    /// Its hash.
    pub hash: u64,
    /// Words of the original's.
    pub expected_words: u64,
    /// Its hash.
    pub expected_hash: u64,
}

/// Hashes a stream word by word, its cookies replaced by indices of files (0 also for none).
///
/// The original gives all anonymous memory one cookie. A stream that tells regions apart has more cookie switches; one
/// that changes nothing once its cookie has been replaced is left out.
#[derive(Clone, Debug)]
pub struct StreamHash {
    hash: u64,
    words: u64,
    record: [u64; MAX_RECORD],
    filled: usize,
    /// File of the last switch, none for memory without one; outside, none since a sync began.
    last_file: Option<Option<u64>>,
}

impl Default for StreamHash {
    fn default() -> Self {
        Self {
            hash: SEED,
            words: 0,
            record: [0; MAX_RECORD],
            filled: 0,
            last_file: None,
        }
    }
}

impl StreamHash {
    /// Takes the next words of the stream, which may end anywhere in a record. `index` tells the file that
    /// a cookie stands for, none for memory without one.
    pub fn add(&mut self, words: &[u64], mut index: impl FnMut(u64) -> Option<u64>) {
        for &word in words {
            self.record[self.filled] = word;
            self.filled += 1;
            if self.filled == self.record_words() {
                self.end_record(&mut index);
            }
        }
    }

    /// Words of the record that has begun, as far as its first words tell.
    const fn record_words(&self) -> usize {
        match self.record {
            [ESCAPE, ..] if self.filled == 1 => 2,
            [ESCAPE, CTX_SWITCH, ..] => 4,
            [ESCAPE, CPU_SWITCH | COOKIE_SWITCH | CTX_TGID, ..] => 3,
            // Codes without words, and an address with its event.
            _ => 2,
        }
    }

    fn end_record(&mut self, index: &mut impl FnMut(u64) -> Option<u64>) {
        let count = self.filled;
        self.filled = 0;
        match &mut self.record[..count] {
            [ESCAPE, CPU_SWITCH, _] => self.last_file = None,
            [ESCAPE, CTX_SWITCH, _, cookie] => *cookie = index(*cookie).unwrap_or(NO_COOKIE),
            [ESCAPE, COOKIE_SWITCH, cookie] => {
                let file = index(*cookie);
                if self.last_file == Some(file) {
                    return;
                }
                self.last_file = Some(file);
                *cookie = file.unwrap_or(NO_COOKIE);
            }
            _ => {}
        }
        for &word in &self.record[..count] {
            self.hash = (self.hash ^ word).wrapping_mul(PRIME);
        }
        self.words += count as u64;
    }

    /// The hash of all whole records so far.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// Words of all whole records so far, less those left out.
    #[must_use]
    pub const fn words(&self) -> u64 {
        self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cookies 0 and 5 upwards stand for no file.
    const fn index(cookie: u64) -> Option<u64> {
        match cookie {
            1..5 => Some(cookie - 1),
            _ => None,
        }
    }

    fn hash(words: &[u64]) -> (u64, u64) {
        let mut stream = StreamHash::default();
        stream.add(words, index);
        (stream.words(), stream.hash())
    }

    #[test]
    fn a_word_that_equals_a_code_is_no_record() {
        let mut expected = StreamHash::default();
        expected.add(&[COOKIE_SWITCH, 0, ESCAPE, CTX_SWITCH, ESCAPE, 0], |_| None);
        assert_eq!(
            hash(&[COOKIE_SWITCH, 0, ESCAPE, CTX_SWITCH, ESCAPE, 7]),
            (expected.words(), expected.hash())
        );
    }

    #[test]
    fn records_may_be_cut_by_reads() {
        let words = [ESCAPE, CTX_SWITCH, 9, 2, ESCAPE, CTX_TGID, 9, 0x10, 0];
        let mut stream = StreamHash::default();
        for word in words {
            stream.add(&[word], index);
        }
        assert_eq!((stream.words(), stream.hash()), hash(&words));
    }

    #[test]
    fn switches_between_regions_without_a_file_are_one() {
        let told_apart = [
            ESCAPE,
            COOKIE_SWITCH,
            7,
            1,
            0,
            ESCAPE,
            COOKIE_SWITCH,
            8,
            2,
            0,
        ];
        let merged = [ESCAPE, COOKIE_SWITCH, 0, 1, 0, 2, 0];
        assert_eq!(hash(&told_apart), hash(&merged));
        // File 0 is a file, and a new sync switches again.
        let first_file = [
            ESCAPE,
            COOKIE_SWITCH,
            7,
            1,
            0,
            ESCAPE,
            COOKIE_SWITCH,
            1,
            2,
            0,
        ];
        assert_eq!(hash(&first_file).0, 10);
        let next_sync = [
            ESCAPE,
            COOKIE_SWITCH,
            7,
            ESCAPE,
            CPU_SWITCH,
            0,
            ESCAPE,
            COOKIE_SWITCH,
            8,
        ];
        assert_eq!(hash(&next_sync).0, 9);
    }
}
