//! Sample buffers: what a vCPU queue carries.
//!
//! One descriptor chain is one buffer: a [`BufferHeader`], then entries as in OProfile's CPU buffer, in 64-bit words:
//!
//! * a sample or trace frame: `address, event`, the address not [`ESCAPE`];
//! * a note: `ESCAPE, flags | data words << 32, data…`. With [`note::USER_CTX_SWITCH`] the first data word is the task
//!   pointer; what remains is a data record (code, address, values…).
//!
//! The writer starts each buffer from an unknown state, so that a buffer can be understood without the one before.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First word of a buffer, "SAMP" in memory.
pub const MAGIC: u32 = u32::from_le_bytes(*b"SAMP");

/// Marks a note; no address is ever all ones.
pub const ESCAPE: u64 = u64::MAX;

/// Bytes of a word.
pub const WORD_BYTES: usize = 8;

/// Words of an entry without data.
pub const ENTRY_WORDS: usize = 2;

/// Most data words in a note. The largest that OProfile knows is a task pointer and an IBS op record (1 + 2 + 13).
pub const MAX_NOTE_DATA: usize = 64;

/// Smallest buffer: the header and a few entries.
pub const MIN_BUFFER_BYTES: usize = 256;

/// Largest buffer that a device takes: 65,000 samples, and small enough to be copied at once.
pub const MAX_BUFFER_BYTES: usize = 1024 * 1024;

/// Bits of a note.
pub mod note {
    /// The mode changed; [`IS_KERNEL`] says to which.
    pub const KERNEL_CTX_SWITCH: u64 = 1 << 0;
    /// The new mode is the kernel's.
    pub const IS_KERNEL: u64 = 1 << 1;
    /// A call chain begins: the next entry is the sample, those behind it are its callers.
    pub const TRACE_BEGIN: u64 = 1 << 2;
    /// The task changed; its pointer is the first data word.
    pub const USER_CTX_SWITCH: u64 = 1 << 3;
    /// A note of its own, not OProfile's: mappings of an address space are about to go (munmap). Its pointer is the one data
    /// word. What a device remembers of it is out of date.
    pub const SPACE_CHANGES: u64 = 1 << 4;
    /// A note of its own, not OProfile's: a task is about to give up an address space (exit, exec). Its pointer is the one
    /// data word. When it was the last one, what a device remembers of it serves samples that come late, and nothing else.
    pub const SPACE_RELEASED: u64 = 1 << 5;
}

/// Start of a sample buffer, 72 bytes. The counters are totals of this vCPU since the driver's start.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct BufferHeader {
    /// [`MAGIC`].
    pub magic: U32,
    /// [`crate::PROTOCOL_VERSION`].
    pub version: U16,
    /// Bytes of this header; entries begin there.
    pub header_bytes: U16,
    /// vCPU whose samples these are: the queue's.
    pub vcpu: U32,
    /// Bytes of entries behind the header, a multiple of 8.
    pub entry_bytes: U32,
    /// Counts the buffers of this vCPU from 0; a gap tells of buffers that never came.
    pub sequence: U64,
    /// Guest clock when the buffer was posted, in nanoseconds.
    pub clock_ns: U64,
    /// Samples taken, also those that were lost or invalid; frames do not count.
    pub received: U64,
    /// Samples lost because no buffer was free.
    pub lost: U64,
    /// Call chains cut short while they were written.
    pub aborted: U64,
    /// Samples whose address was [`ESCAPE`].
    pub invalid: U64,
    /// Samples in this buffer; frames and data records do not count.
    pub samples: U32,
    /// Zero.
    pub reserved: U32,
}

/// Second word of a note with `flags` and `data_words` words of data.
#[must_use]
pub const fn note_word(flags: u64, data_words: usize) -> u64 {
    (flags & 0xffff_ffff) | ((data_words as u64) << 32)
}

/// One entry of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Address, or [`ESCAPE`] for a note.
    pub eip: u64,
    /// Event of a sample (0 for a frame), or the flags of a note.
    pub event: u64,
    /// Data words of a note.
    pub data: &'a [u64],
}

/// Why the entries of a buffer cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryError {
    /// The words end inside an entry.
    Truncated,
    /// A note announces more than [`MAX_NOTE_DATA`] words.
    NoteTooLong,
}

/// Reads entries from the words of a buffer; ends after the first error.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    words: &'a [u64],
}

impl<'a> Entries<'a> {
    /// Reads `words`, which follow the header.
    #[must_use]
    pub const fn new(words: &'a [u64]) -> Self {
        Self { words }
    }

    /// Words that have not been read yet; none after an error.
    #[inline]
    #[must_use]
    pub const fn rest(&self) -> &'a [u64] {
        self.words
    }

    #[inline]
    fn next_entry(&mut self) -> Result<Entry<'a>, EntryError> {
        let [eip, second, rest @ ..] = self.words else {
            return Err(EntryError::Truncated);
        };
        if *eip != ESCAPE {
            self.words = rest;
            return Ok(Entry {
                eip: *eip,
                event: *second,
                data: &[],
            });
        }
        let count = usize::try_from(*second >> 32).map_err(|_| EntryError::NoteTooLong)?;
        if count > MAX_NOTE_DATA {
            return Err(EntryError::NoteTooLong);
        }
        let (data, rest) = rest.split_at_checked(count).ok_or(EntryError::Truncated)?;
        self.words = rest;
        Ok(Entry {
            eip: ESCAPE,
            event: *second & 0xffff_ffff,
            data,
        })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, EntryError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.words.is_empty() {
            return None;
        }
        let entry = self.next_entry();
        if entry.is_err() {
            self.words = &[];
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    #[test]
    fn layout_is_what_a_c_header_would_state() {
        assert_eq!(size_of::<BufferHeader>(), 72);
        assert_eq!(core::mem::offset_of!(BufferHeader, sequence), 16);
        assert_eq!(core::mem::offset_of!(BufferHeader, received), 32);
        assert_eq!(core::mem::offset_of!(BufferHeader, samples), 64);
    }

    fn push(words: &mut Vec<u64>, eip: u64, event: u64, data: &[u64]) {
        words.push(eip);
        if eip == ESCAPE {
            words.push(note_word(event, data.len()));
            words.extend_from_slice(data);
        } else {
            words.push(event);
        }
    }

    proptest! {
        #[test]
        fn entries_round_trip(
            list in prop::collection::vec(
                (any::<bool>(), 0..ESCAPE, any::<u64>(), prop::collection::vec(any::<u64>(), 0..=MAX_NOTE_DATA)),
                0..50,
            )
        ) {
            let mut words = Vec::new();
            let mut expected = Vec::new();
            for (is_note, eip, event, data) in &list {
                if *is_note {
                    push(&mut words, ESCAPE, *event, data);
                    expected.push(Entry { eip: ESCAPE, event: *event & 0xffff_ffff, data });
                } else {
                    push(&mut words, *eip, *event, &[]);
                    expected.push(Entry { eip: *eip, event: *event, data: &[] });
                }
            }
            let read: Result<Vec<_>, _> = Entries::new(&words).collect();
            prop_assert_eq!(read.unwrap(), expected);
        }

        #[test]
        fn any_words_end_without_reading_past_them(words in prop::collection::vec(
            prop_oneof![Just(ESCAPE), any::<u64>(), 0u64..(100 << 32)], 0..100))
        {
            let mut consumed = 0;
            for entry in Entries::new(&words).flatten() {
                consumed += ENTRY_WORDS + entry.data.len();
            }
            prop_assert!(consumed <= words.len());
        }
    }

    #[test]
    fn reading_stops_at_the_first_bad_note() {
        let words = [1, 0, ESCAPE, note_word(0, MAX_NOTE_DATA + 1), 2, 0];
        let read: Vec<_> = Entries::new(&words).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[1], Err(EntryError::NoteTooLong));
    }

    #[test]
    fn a_note_cut_in_its_data_is_truncated() {
        let words = [ESCAPE, note_word(note::USER_CTX_SWITCH, 1)];
        let read: Vec<_> = Entries::new(&words).collect();
        assert_eq!(read, [Err(EntryError::Truncated)]);
    }
}
