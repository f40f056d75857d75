//! The plain event buffer, after OProfile's (Linux 4.7).

use std::mem;

use thiserror::Error;

use super::record::{ESCAPE, MODULE_LOADED};

/// Bytes of a word as a reader counts them.
const WORD_BYTES: u64 = 8;

/// An event buffer that cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SizeError {
    /// The watershed leaves no room for words.
    #[error(
        "Event buffer watershed of {watershed} words must be below the buffer's size of {size} words"
    )]
    Watershed {
        /// Size asked for, in words.
        size: usize,
        /// Watershed asked for, in words.
        watershed: usize,
    },
    /// More than the host has memory for.
    #[error("No memory for an event buffer of {0} words")]
    Memory(usize),
    /// Words wait for a reader, and not all of them would fit.
    #[error("Event buffer of {size} words cannot take the {pending} words that wait to be read")]
    Pending {
        /// Size asked for, in words.
        size: usize,
        /// Words in the buffer.
        pending: usize,
    },
}

/// A circular range that does not lie in its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("Range {start}..{stop} does not lie in a ring of {max} words")]
pub struct RingRangeError {
    /// First index.
    pub start: usize,
    /// Index behind the last.
    pub stop: usize,
    /// Size of the ring.
    pub max: usize,
}

/// A read that the event buffer refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// Anything but the whole buffer was asked for.
    #[error("A read must ask for the whole event buffer, {expected} bytes, not {count}")]
    Count {
        /// Bytes asked for.
        count: u64,
        /// The buffer's size in bytes.
        expected: u64,
    },
    /// The event buffer cannot be read from its middle.
    #[error("The event buffer can only be read at offset 0, not {0}")]
    Offset(u64),
}

/// OProfile's rule for `read(2)` on its buffer file: only `count` = the whole buffer of `size` words, in bytes, at
/// offset 0. It is checked before any waiting.
///
/// # Errors
/// When the read is not of that kind; the file answers `EINVAL`.
pub fn check_read(size: usize, count: u64, offset: u64) -> Result<(), ReadError> {
    let expected = (size as u64).saturating_mul(WORD_BYTES);
    if count != expected {
        return Err(ReadError::Count { count, expected });
    }
    if offset != 0 {
        return Err(ReadError::Offset(offset));
    }
    Ok(())
}

/// A fixed array of words that is filled by syncs and emptied as a whole by reads.
///
/// When it is full, further words are dropped one by one and counted: a record may be cut anywhere, but only
/// the last one before a read. Without its array, before OProfile's open and after its close, it drops words uncounted;
/// whether it is ready lasts from one array to the next.
#[derive(Debug, Default)]
pub struct EventBuffer {
    /// All of the buffer's words, filled or not: adding never allocates.
    words: Box<[u64]>,
    /// How many are filled, from the first on.
    filled: usize,
    /// Fill at which the reader is woken.
    mark: usize,
    ready: bool,
    wakeups: u64,
    lost_words: u64,
}

/// An array of zeros, which holds every word from now on that it will ever hold.
fn zeroed(size: usize) -> Result<Box<[u64]>, SizeError> {
    let mut words = Vec::new();
    words
        .try_reserve_exact(size)
        .map_err(|_| SizeError::Memory(size))?;
    words.resize(size, 0);
    Ok(words.into_boxed_slice())
}

/// Fill at which the reader is woken.
fn mark(size: usize, watershed: usize) -> Result<usize, SizeError> {
    size.checked_sub(watershed)
        .filter(|&mark| mark != 0)
        .ok_or(SizeError::Watershed { size, watershed })
}

impl EventBuffer {
    /// An empty buffer of `size` words that wakes its reader when all but `watershed` words are filled.
    ///
    /// # Errors
    /// When `watershed` is not below `size`, or there is no memory.
    pub fn new(size: usize, watershed: usize) -> Result<Self, SizeError> {
        let mut buffer = Self::default();
        buffer.allocate(size, watershed)?;
        Ok(buffer)
    }

    /// Gives it an empty array of `size` words in place of the one it has, if any.
    ///
    /// # Errors
    /// When `watershed` is not below `size`, or there is no memory; nothing has changed then.
    pub fn allocate(&mut self, size: usize, watershed: usize) -> Result<(), SizeError> {
        let mark = mark(size, watershed)?;
        (self.words, self.filled, self.mark) = (zeroed(size)?, 0, mark);
        Ok(())
    }

    /// Takes its array away, and the words in it.
    pub fn free(&mut self) {
        (self.words, self.filled, self.mark) = (Box::default(), 0, 0);
    }

    /// Whether it has an array.
    #[must_use]
    pub const fn is_allocated(&self) -> bool {
        !self.words.is_empty()
    }

    /// Changes size and watershed and keeps the words that wait; it is ready when they reach the new mark.
    ///
    /// # Errors
    /// When `watershed` is not below `size`, not all waiting words fit, or there is no memory; nothing has changed then.
    pub fn resize(&mut self, size: usize, watershed: usize) -> Result<(), SizeError> {
        let mark = mark(size, watershed)?;
        let pending = self.filled;
        if size != self.words.len() {
            let mut words = zeroed(size)?;
            let kept = words
                .get_mut(..pending)
                .ok_or(SizeError::Pending { size, pending })?;
            kept.copy_from_slice(self.pending());
            self.words = words;
        }
        self.mark = mark;
        self.ready |= pending >= mark;
        Ok(())
    }

    /// Adds a word; false when the buffer was full and the word has been dropped and counted.
    #[inline]
    pub fn add(&mut self, word: u64) -> bool {
        self.add_all([word])
    }

    /// Adds `words` in order; false when not all of them fitted.
    #[inline]
    pub fn add_all<const N: usize>(&mut self, words: [u64; N]) -> bool {
        let before = self.filled;
        let room = self.words.get_mut(before..).unwrap_or_default();
        let Some(room) = room.first_chunk_mut::<N>() else {
            return self.add_last(&words);
        };
        // Not `*room = words`: the words, put together one by one and copied as a block, would have to pass through memory.
        for (place, word) in room.iter_mut().zip(words) {
            *place = word;
        }
        self.filled = before + N;
        self.wake_at_mark(before);
        true
    }

    /// Adds as many of `words` as there is room for; the others are dropped, and counted if there is an array.
    #[cold]
    fn add_last(&mut self, words: &[u64]) -> bool {
        if !self.is_allocated() {
            return false;
        }
        let before = self.filled;
        let room = self.words.get_mut(before..).unwrap_or_default();
        let fitting = room.len().min(words.len());
        room[..fitting].copy_from_slice(&words[..fitting]);
        self.filled = before + fitting;
        self.wake_at_mark(before);
        let lost = (words.len() - fitting) as u64;
        self.lost_words = self.lost_words.wrapping_add(lost);
        lost == 0
    }

    /// Wakes the reader when the buffer, filled up to `before` then, has been filled up to the mark or beyond.
    #[inline]
    fn wake_at_mark(&mut self, before: usize) {
        if before < self.mark && self.filled >= self.mark {
            self.wake();
        }
    }

    /// Adds the words of `ring` from index `start` up to and without `stop`, going on at 0 once the index has reached
    /// `max`. OProfile's `put_buff`, which would never end with `stop` at or above `max`.
    ///
    /// # Errors
    /// When `stop` is not below `max`, or an index not in the slice; nothing is added then.
    pub fn add_ring(
        &mut self,
        ring: &[u64],
        start: usize,
        stop: usize,
        max: usize,
    ) -> Result<(), RingRangeError> {
        let refused = RingRangeError { start, stop, max };
        if start == stop {
            return Ok(());
        }
        if stop >= max || max > ring.len() || start >= ring.len() {
            return Err(refused);
        }
        let (first, second) = if start < stop {
            (&ring[start..stop], &ring[..0])
        } else {
            // From `max` on only the first word is taken before the index wraps.
            (&ring[start..max.max(start + 1)], &ring[..stop])
        };
        for &word in first.iter().chain(second) {
            self.add(word);
        }
        Ok(())
    }

    /// Adds the record that tells of a kernel module that is about to run.
    pub fn module_loaded(&mut self) {
        self.add_all([ESCAPE, MODULE_LOADED]);
    }

    /// Makes the buffer readable now, even when it is empty.
    pub fn dump(&mut self) {
        self.wake();
    }

    fn wake(&mut self) {
        self.ready = true;
        self.wakeups = self.wakeups.wrapping_add(1);
    }

    /// Whether a read would return at once.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.ready
    }

    /// How often the reader was to be woken since this was asked last.
    pub const fn take_wakeups(&mut self) -> u64 {
        let wakeups = self.wakeups;
        self.wakeups = 0;
        wakeups
    }

    /// Appends everything that is in the buffer to `into`, possibly nothing, and returns the number of words. The
    /// buffer is empty and not ready then.
    pub fn take(&mut self, into: &mut Vec<u64>) -> usize {
        into.extend_from_slice(self.pending());
        self.ready = false;
        mem::take(&mut self.filled)
    }

    /// Drops the words that wait and is not ready any more: what OProfile does when the reader goes.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.ready = false;
    }

    /// The words that wait for the reader.
    #[must_use]
    pub fn pending(&self) -> &[u64] {
        self.words.get(..self.filled).unwrap_or_default()
    }

    /// Size in words, 0 without an array.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.words.len()
    }

    /// Words dropped because the buffer was full (OProfile's `event_lost_overflow`).
    #[must_use]
    pub const fn lost_words(&self) -> u64 {
        self.lost_words
    }

    /// Counts lost words from zero again.
    pub const fn reset_lost_words(&mut self) {
        self.lost_words = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(size: usize, watershed: usize, words: u64) -> EventBuffer {
        let mut buffer = EventBuffer::new(size, watershed).unwrap();
        for word in 0..words {
            buffer.add(word);
        }
        buffer
    }

    #[test]
    fn watershed_must_be_below_the_size() {
        let error = SizeError::Watershed {
            size: 8,
            watershed: 8,
        };
        assert_eq!(EventBuffer::new(8, 8).unwrap_err(), error);
        assert!(EventBuffer::new(8, 9).is_err());
        assert!(EventBuffer::new(0, 0).is_err());
        assert!(EventBuffer::new(8, 7).is_ok());
    }

    #[test]
    fn reader_is_woken_once_when_all_but_the_watershed_is_filled() {
        let mut buffer = filled(8, 3, 4);
        assert!(!buffer.is_ready());
        buffer.add(4);
        assert!(buffer.is_ready());
        assert_eq!(buffer.take_wakeups(), 1);
        buffer.add_all([5, 6, 7, 8]);
        assert_eq!(buffer.take_wakeups(), 0);
    }

    #[test]
    fn watershed_of_zero_wakes_only_when_full() {
        let mut buffer = filled(4, 0, 3);
        assert!(!buffer.is_ready());
        buffer.add(3);
        assert!(buffer.is_ready());
    }

    #[test]
    fn overflow_drops_and_counts_word_by_word() {
        let mut buffer = filled(4, 1, 3);
        assert!(!buffer.add_all([3, 4, 5]));
        assert_eq!(buffer.pending(), [0, 1, 2, 3]);
        assert_eq!(buffer.lost_words(), 2);
    }

    #[test]
    fn a_read_takes_everything_and_clears_ready() {
        let mut buffer = filled(4, 1, 4);
        let mut words = vec![99];
        assert_eq!(buffer.take(&mut words), 4);
        assert_eq!(words, [99, 0, 1, 2, 3]);
        assert!(!buffer.is_ready());
        assert!(buffer.add(7));
    }

    #[test]
    fn a_dump_makes_an_empty_buffer_ready() {
        let mut buffer = filled(4, 1, 0);
        buffer.dump();
        assert!(buffer.is_ready());
        assert_eq!(buffer.take_wakeups(), 1);
        assert_eq!(buffer.take(&mut Vec::new()), 0);
    }

    #[test]
    fn a_buffer_that_no_memory_can_hold_is_refused() {
        let refused = EventBuffer::new(usize::MAX, 1).unwrap_err();
        assert_eq!(refused, SizeError::Memory(usize::MAX));
    }

    #[test]
    fn without_an_array_words_are_dropped_uncounted_and_ready_lasts() {
        let mut buffer = EventBuffer::default();
        assert!(!buffer.add(1));
        buffer.dump();
        buffer.allocate(4, 1).unwrap();
        assert!(buffer.is_ready());
        buffer.add_all([1, 2]);
        buffer.free();
        assert!(!buffer.add(3));
        assert_eq!((buffer.pending().len(), buffer.lost_words()), (0, 0));
        buffer.clear();
        assert!(!buffer.is_ready());
    }

    #[test]
    fn a_resize_keeps_words_and_is_refused_when_they_do_not_fit() {
        let mut buffer = filled(8, 1, 5);
        assert!(!buffer.is_ready());
        let refused = SizeError::Pending {
            size: 4,
            pending: 5,
        };
        assert_eq!(buffer.resize(4, 1), Err(refused));
        buffer.resize(16, 12).unwrap();
        assert!(buffer.is_ready());
        assert_eq!(buffer.pending(), [0, 1, 2, 3, 4]);
        for word in 5..18 {
            buffer.add(word);
        }
        assert_eq!((buffer.pending().len(), buffer.lost_words()), (16, 2));
    }

    #[test]
    fn only_a_read_of_the_whole_buffer_at_its_start_is_accepted() {
        assert_eq!(check_read(16, 128, 0), Ok(()));
        assert_eq!(check_read(16, 128, 8), Err(ReadError::Offset(8)));
        let expected = 128;
        assert_eq!(
            check_read(16, 127, 0),
            Err(ReadError::Count {
                count: 127,
                expected
            })
        );
        assert_eq!(
            check_read(16, 16, 0),
            Err(ReadError::Count {
                count: 16,
                expected
            })
        );
    }

    #[test]
    fn a_range_outside_its_ring_adds_nothing() {
        let mut buffer = filled(16, 1, 0);
        let ring = [1, 2, 3, 4];
        for (start, stop, max) in [(0, 4, 4), (4, 0, 4), (0, 1, 5), (1, 0, 0)] {
            assert!(buffer.add_ring(&ring, start, stop, max).is_err());
        }
        assert!(buffer.pending().is_empty());
    }

    proptest! {
        #[test]
        fn a_ring_range_is_copied_in_its_order(
            ring in prop::collection::vec(any::<u64>(), 1..20), start: prop::sample::Index, count: prop::sample::Index)
        {
            let max = ring.len();
            let start = start.index(max);
            let count = count.index(max);
            let mut buffer = EventBuffer::new(64, 1).unwrap();
            buffer.add_ring(&ring, start, (start + count) % max, max).unwrap();
            let expected: Vec<_> = ring.iter().cycle().skip(start).take(count).copied().collect();
            prop_assert_eq!(buffer.pending(), expected);
        }

        #[test]
        fn every_word_is_read_or_counted(
            size in 1usize..40, chunks in prop::collection::vec(0u64..30, 0..20))
        {
            let mut buffer = EventBuffer::new(size, size - 1).unwrap();
            let (mut added, mut read) = (0, Vec::new());
            for chunk in chunks {
                for word in added..added + chunk {
                    buffer.add(word);
                }
                added += chunk;
                buffer.take(&mut read);
            }
            prop_assert_eq!(read.len() as u64 + buffer.lost_words(), added);
            prop_assert!(read.is_sorted());
        }
    }
}
