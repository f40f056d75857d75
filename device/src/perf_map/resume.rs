//! Reading a file on from where reading ended, if it is still the one that was read.
//!
//! Most compilers append to their map. Some write it anew, a Java server with each `jcmd PID Compiler.perfmap`: what was read last
//! is read again, and compared.

use super::{PerfMap, Reader, Taking};

/// Bytes that are read again: a line or two, with addresses that hardly another file has at the same place.
const MAX_SEAM: usize = 64;

/// The file is another one than what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rewritten;

/// A [`Reader`] that reads a file several times.
#[derive(Debug, Default)]
pub(super) struct Resumable {
    reader: Reader,
    /// The last bytes that were read, at most [`MAX_SEAM`].
    seam: Vec<u8>,
    /// Those of them that this time is still to show.
    unseen: usize,
}

impl Resumable {
    /// Begins to read once more; from which offset on.
    pub fn begin(&mut self) -> u64 {
        self.unseen = self.seam.len();
        self.offset()
    }

    /// Where the next piece begins.
    pub const fn offset(&self) -> u64 {
        // What is unseen has been read.
        self.reader.offset() - self.unseen as u64
    }

    /// Whether nothing has been read.
    pub const fn is_at_start(&self) -> bool {
        self.reader.offset() == 0
    }

    /// The part of the next piece of text that has not been read. `is_last`: the file ends with it.
    pub fn compare<'t>(&mut self, text: &'t [u8], is_last: bool) -> Result<&'t [u8], Rewritten> {
        let (again, new) = text.split_at(text.len().min(self.unseen));
        let expected = &self.seam[self.seam.len() - self.unseen..];
        if !expected.starts_with(again) || is_last && again.len() < self.unseen {
            return Err(Rewritten);
        }
        self.unseen -= again.len();
        Ok(new)
    }

    /// Takes what [`Resumable::compare`] left of a piece, as [`Reader::read`].
    pub fn read(&mut self, new: &[u8], map: &mut PerfMap, room: usize) -> Taking {
        self.seam
            .extend_from_slice(&new[new.len().saturating_sub(MAX_SEAM)..]);
        self.seam.drain(..self.seam.len().saturating_sub(MAX_SEAM));
        self.reader.read(new, map, room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a file once more, in pieces of `piece` bytes; from which offset on, and what came of it.
    fn read(
        file: &[u8],
        piece: usize,
        text: &mut Resumable,
        map: &mut PerfMap,
    ) -> (usize, Result<(), Rewritten>) {
        let start = usize::try_from(text.begin()).unwrap();
        let rest = file.get(start..).unwrap_or_default();
        let mut read = |piece: &[u8], is_last| {
            let new = text.compare(piece, is_last)?;
            text.read(new, map, 1 << 20);
            Ok(())
        };
        let mut pieces = rest.chunks(piece);
        let read = pieces.try_for_each(|piece| read(piece, false));
        (start, read.and_then(|()| text.compare(b"", true).map(drop)))
    }

    const FILE: &[u8] =
        b"1000 10 first\n2000 10 second\n3000 10 third\n4000 10 fourth\n5000 10 fifth\n";

    #[test]
    fn what_is_appended_is_read_once() {
        let (mut text, mut map) = (Resumable::default(), PerfMap::new(1));
        for end in [0, 1, 20, 30, 64, FILE.len(), FILE.len()] {
            let (start, read) = read(&FILE[..end], 7, &mut text, &mut map);
            assert_eq!(read, Ok(()), "{end}");
            assert!(start <= end);
        }
        assert_eq!(map.len(), 5);
        assert_eq!(text.begin(), (FILE.len() - MAX_SEAM) as u64);
    }

    #[test]
    fn a_file_that_was_written_anew_is_known_by_its_other_text_or_by_its_end() {
        let known = || {
            let (mut text, mut map) = (Resumable::default(), PerfMap::new(1));
            assert_eq!(read(FILE, 99, &mut text, &mut map), (0, Ok(())));
            (text, map)
        };
        let other = FILE.to_ascii_uppercase();
        let longer = [b"0500 10 zeroth\n", FILE].concat();
        for file in [&FILE[..FILE.len() - 1], &FILE[..5], b"", &other, &longer] {
            for piece in [1, 10, 99] {
                let (mut text, mut map) = known();
                let (_, read) = read(file, piece, &mut text, &mut map);
                assert_eq!(read, Err(Rewritten), "{file:?}");
                assert_eq!(map.len(), 5);
            }
        }
    }

    proptest! {
        #[test]
        fn reading_in_turns_is_reading_once(
            file in prop::collection::vec(prop::sample::select(&b"01 f\n"[..]), 0..300),
            ends in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            piece in 1usize..100,
        ) {
            let mut ends: Vec<_> = ends.iter().map(|end| end.index(file.len() + 1)).collect();
            ends.push(file.len());
            ends.sort_unstable();
            let (mut text, mut map) = (Resumable::default(), PerfMap::new(1));
            for end in ends {
                prop_assert_eq!(read(&file[..end], piece, &mut text, &mut map).1, Ok(()));
            }
            let mut whole = PerfMap::new(1);
            Reader::default().read(&file, &mut whole, 1 << 20);
            prop_assert_eq!(map.functions, whole.functions);
            prop_assert_eq!(map.names, whole.names);
        }
    }
}
