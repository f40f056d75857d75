//! The build-id of an ELF file, read from where a process has the file mapped.
//!
//! A linker puts a hash of what it linked into a note (`NT_GNU_BUILD_ID`), near the start of the file. It says which build a
//! file is, whatever path leads to it. What is read is the guest's: each count and length is bounded before it is used.

use std::fmt;

/// Longest build-id in bytes: that of SHA-512. Linkers commonly make 20 (SHA-1), 16 or 8.
pub const MAX_BUILD_ID_BYTES: usize = 64;

/// Most program headers that are looked at; linkers make 10 to 15.
const MAX_PROGRAM_HEADERS: usize = 64;

/// Most note segments that are looked at; linkers make two or three.
const MAX_NOTE_SEGMENTS: usize = 8;

/// Most bytes of a note segment that are looked at. A build-id takes 36, and what comes before it as much again.
const MAX_NOTE_BYTES: usize = 2_048;

/// Bytes of an ELF header of 64 bits; one of 32 bits has 52.
const HEADER_BYTES: usize = 64;

/// Bytes of a program header of 64 and of 32 bits.
const PROGRAM_HEADER_BYTES: usize = 56;
const PROGRAM_HEADER_BYTES_32: usize = 32;

/// Type of a program header that describes notes.
const PT_NOTE: u32 = 4;

/// Type and owner of the note that holds a build-id.
const NT_GNU_BUILD_ID: u32 = 3;
const OWNER: &[u8] = b"GNU\0";

/// A build-id: 1 to [`MAX_BUILD_ID_BYTES`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BuildId {
    /// Zero behind the build-id.
    bytes: [u8; MAX_BUILD_ID_BYTES],
    length: u8,
}

impl BuildId {
    /// The build-id of these bytes, unless there are none or too many.
    #[must_use]
    pub fn new(id: &[u8]) -> Option<Self> {
        let length = u8::try_from(id.len()).ok().filter(|&length| length > 0)?;
        let mut bytes = [0; MAX_BUILD_ID_BYTES];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        Some(Self { bytes, length })
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let length = usize::from(self.length);
        self.bytes.get(..length).unwrap_or(&self.bytes)
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The first bytes of a file, as far as they are mapped.
pub trait Image {
    /// Why bytes cannot be read.
    type Error;

    /// Bytes that are mapped, from the start of the file.
    fn bytes(&self) -> u64;

    /// Copies from `offset` on. The range lies within [`Image::bytes`].
    ///
    /// # Errors
    /// When a part of it cannot be read; `into` has any content then.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), Self::Error>;
}

/// Reads `into.len()` bytes at `offset`; false when they are not all in the image.
fn read<I: Image>(image: &mut I, offset: u64, into: &mut [u8]) -> Result<bool, I::Error> {
    let end = offset.checked_add(into.len() as u64);
    if end.is_none_or(|end| end > image.bytes()) {
        return Ok(false);
    }
    image.read(offset, into)?;
    Ok(true)
}

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..)?.first_chunk()?;
    Some(usize::from(u16::from_le_bytes(*field)))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// An address or offset: 8 bytes, or 4 in a file of 32 bits.
fn address(bytes: &[u8], is_wide: bool, at: usize) -> Option<u64> {
    match is_wide {
        true => Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)),
        false => word(bytes, at).map(u64::from),
    }
}

/// Where the program headers are.
struct ProgramHeaders {
    is_wide: bool,
    offset: u64,
    count: usize,
}

impl ProgramHeaders {
    /// Reads the header of a little-endian ELF file; `None` for anything else, also one without program headers.
    fn of(header: &[u8]) -> Option<Self> {
        let is_wide = match header.get(..7)? {
            [0x7f, b'E', b'L', b'F', 1, 1, 1] => false,
            [0x7f, b'E', b'L', b'F', 2, 1, 1] => true,
            _ => return None,
        };
        let (offset, size, count) = if is_wide { (32, 54, 56) } else { (28, 42, 44) };
        let headers = Self {
            is_wide,
            offset: address(header, is_wide, offset)?,
            count: half(header, count)?.min(MAX_PROGRAM_HEADERS),
        };
        (half(header, size)? == headers.size() && headers.offset != 0).then_some(headers)
    }

    const fn size(&self) -> usize {
        match self.is_wide {
            true => PROGRAM_HEADER_BYTES,
            false => PROGRAM_HEADER_BYTES_32,
        }
    }
}

/// Where notes are.
struct Notes {
    offset: u64,
    bytes: u64,
    alignment: usize,
}

impl Notes {
    /// What a program header says of notes, `None` when it is about something else.
    fn of(header: &[u8], is_wide: bool) -> Option<Self> {
        if word(header, 0)? != PT_NOTE {
            return None;
        }
        let (offset, bytes, alignment) = if is_wide { (8, 32, 48) } else { (4, 16, 28) };
        Some(Self {
            offset: address(header, is_wide, offset)?,
            bytes: address(header, is_wide, bytes)?,
            alignment: match address(header, is_wide, alignment)? {
                0..=4 => 4,
                8 => 8,
                _ => return None,
            },
        })
    }
}

/// The build-id among `notes`, each of whose parts begins at a multiple of `alignment`.
fn among(notes: &[u8], alignment: usize) -> Option<BuildId> {
    let mut at: usize = 0;
    loop {
        let name_bytes = word(notes, at)? as usize;
        let bytes = word(notes, at.checked_add(4)?)? as usize;
        let kind = word(notes, at.checked_add(8)?)?;
        let name = at.checked_add(12)?;
        let name_end = name.checked_add(name_bytes)?;
        let start = name_end.checked_next_multiple_of(alignment)?;
        let end = start.checked_add(bytes)?;
        if kind == NT_GNU_BUILD_ID && notes.get(name..name_end) == Some(OWNER) {
            return BuildId::new(notes.get(start..end)?);
        }
        // Further on by 12 bytes at least, so this ends.
        at = end.checked_next_multiple_of(alignment)?;
    }
}

/// The build-id of the ELF file that `image` is the start of. `None` when it is none, or has none that is mapped there.
///
/// # Errors
/// When a part of the image that may have told cannot be read.
pub fn find<I: Image>(image: &mut I) -> Result<Option<BuildId>, I::Error> {
    let mut header = [0; HEADER_BYTES];
    if !read(image, 0, &mut header)? {
        return Ok(None);
    }
    let Some(headers) = ProgramHeaders::of(&header) else {
        return Ok(None);
    };
    let mut table = [0; MAX_PROGRAM_HEADERS * PROGRAM_HEADER_BYTES];
    let table = &mut table[..headers.count * headers.size()];
    if !read(image, headers.offset, table)? {
        return Ok(None);
    }
    let segments = table
        .chunks_exact(headers.size())
        .filter_map(|header| Notes::of(header, headers.is_wide))
        .take(MAX_NOTE_SEGMENTS);
    for segment in segments {
        let mut notes = [0; MAX_NOTE_BYTES];
        let bytes = usize::try_from(segment.bytes).unwrap_or(usize::MAX);
        let notes = &mut notes[..bytes.min(MAX_NOTE_BYTES)];
        if read(image, segment.offset, notes)?
            && let Some(found) = among(notes, segment.alignment)
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_utils::elf_with_build_id;
    use proptest::prelude::*;

    /// A file of which everything is mapped, except where a read fails.
    struct Bytes<'a> {
        bytes: &'a [u8],
        absent: Option<std::ops::Range<u64>>,
        reads: usize,
    }

    impl<'a> Bytes<'a> {
        const fn new(bytes: &'a [u8]) -> Self {
            Self {
                bytes,
                absent: None,
                reads: 0,
            }
        }
    }

    impl Image for Bytes<'_> {
        type Error = u64;

        fn bytes(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), u64> {
            self.reads += 1;
            let end = offset + into.len() as u64;
            if let Some(absent) = &self.absent
                && offset < absent.end
                && absent.start < end
            {
                return Err(offset);
            }
            let start = usize::try_from(offset).unwrap();
            into.copy_from_slice(&self.bytes[start..start + into.len()]);
            Ok(())
        }
    }

    fn found(bytes: &[u8]) -> Option<BuildId> {
        find(&mut Bytes::new(bytes)).unwrap()
    }

    fn id(bytes: &[u8]) -> Option<BuildId> {
        BuildId::new(bytes)
    }

    #[test]
    fn a_build_id_has_1_to_64_bytes() {
        assert_eq!(id(b""), None);
        assert_eq!(id(&[1; 65]), None);
        for length in [1, 20, 64] {
            let bytes = vec![0xab; length];
            let made = id(&bytes).unwrap();
            assert_eq!(made.as_bytes(), bytes);
            assert_eq!(made.to_string(), "ab".repeat(length));
        }
        assert_ne!(id(&[1]), id(&[1, 0]));
    }

    #[test]
    fn the_build_id_is_found_in_files_of_both_classes() {
        for is_wide in [true, false] {
            let file = elf_with_build_id(is_wide, 4, &[7; 20]);
            assert_eq!(found(&file), id(&[7; 20]), "{is_wide}");
        }
        // As in a segment that begins with the property of a processor.
        let file = elf_with_build_id(true, 8, &[9; 16]);
        assert_eq!(found(&file), id(&[9; 16]));
    }

    #[test]
    fn what_is_no_elf_file_or_of_another_byte_order_has_none() {
        let mut file = elf_with_build_id(true, 4, &[7; 20]);
        file[5] = 2;
        assert_eq!(found(&file), None);
        assert_eq!(found(b"#!/bin/sh\n"), None);
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn a_page_that_cannot_be_read_is_told() {
        let file = elf_with_build_id(true, 4, &[7; 20]);
        for absent in [0..1, 64..65, file.len() as u64 - 1..file.len() as u64] {
            let mut image = Bytes::new(&file);
            image.absent = Some(absent.clone());
            assert!(find(&mut image).is_err(), "{absent:?}");
        }
    }

    #[test]
    fn counts_and_lengths_that_lie_cost_a_bounded_number_of_reads() {
        let mut file = elf_with_build_id(true, 4, &[7; 20]);
        // As many program headers as can be said, all of notes; the last of those that fit into the file tells.
        file[56..58].copy_from_slice(&u16::MAX.to_le_bytes());
        let note = file[120..176].to_vec();
        file.truncate(64);
        for _ in 0..200 {
            file.extend_from_slice(&note);
        }
        let mut image = Bytes::new(&file);
        let _ = find(&mut image);
        assert!(image.reads <= 2 + MAX_NOTE_SEGMENTS);
        let mut endless = elf_with_build_id(true, 4, &[7; 20]);
        endless[120 + 32..120 + 40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(found(&endless), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = found(&bytes);
        }

        #[test]
        fn any_notes_end(bytes in prop::collection::vec(prop_oneof![Just(0), Just(0xff), any::<u8>()], 0..256), wide in any::<bool>()) {
            let _ = among(&bytes, if wide { 8 } else { 4 });
        }

        #[test]
        fn a_damaged_file_costs_a_bounded_number_of_reads(
            is_wide in any::<bool>(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        ) {
            let mut file = elf_with_build_id(is_wide, 4, &[7; 20]);
            for (index, byte) in damage {
                let at = index.index(file.len());
                file[at] = byte;
            }
            let mut image = Bytes::new(&file);
            let _ = find(&mut image);
            prop_assert!(image.reads <= 2 + MAX_NOTE_SEGMENTS);
        }

        #[test]
        fn any_build_id_comes_back(bytes in prop::collection::vec(any::<u8>(), 1..=64), is_wide in any::<bool>()) {
            prop_assert_eq!(found(&elf_with_build_id(is_wide, 4, &bytes)), id(&bytes));
        }
    }
}
