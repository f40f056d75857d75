//! Build-ids: which build of a file it is, whatever path leads to it.

use std::fmt;
use std::str::FromStr;

use object::read::elf::{FileHeader, ProgramHeader as _};
use object::{Endianness, FileKind, elf};

/// Longest build-id in bytes; linkers commonly make 20.
pub const MAX_BUILD_ID: usize = 64;
/// Most program headers that are looked at; linkers make 10 to 15.
const MAX_SEGMENTS: usize = 64;
/// Longest segment whose notes are looked at.
const MAX_NOTES: u64 = 1 << 16;

/// A build-id: 1 to [`MAX_BUILD_ID`] bytes. Written as hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildId(Vec<u8>);

/// It is not 1 to [`MAX_BUILD_ID`] bytes in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Not a build-id: 1 to {MAX_BUILD_ID} bytes, two hexadecimal digits each")]
pub struct NotABuildId;

impl BuildId {
    /// The build-id of these bytes, unless there are none or too many.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (1..=MAX_BUILD_ID)
            .contains(&bytes.len())
            .then(|| Self(bytes.to_vec()))
    }

    /// The build-id of the ELF file with these contents, which are not trusted. `None` when it is none or has none.
    pub fn of_elf(contents: &[u8]) -> Option<Self> {
        match FileKind::parse(contents).ok()? {
            FileKind::Elf64 => in_segments::<elf::FileHeader64<Endianness>>(contents),
            FileKind::Elf32 => in_segments::<elf::FileHeader32<Endianness>>(contents),
            _ => None,
        }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn in_segments<E: FileHeader<Endian = Endianness>>(contents: &[u8]) -> Option<BuildId> {
    let header = E::parse(contents).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, contents).ok()?;
    segments.iter().take(MAX_SEGMENTS).find_map(|segment| {
        if segment.p_filesz(endian).into() > MAX_NOTES {
            return None;
        }
        let mut notes = segment.notes(endian, contents).ok()??;
        while let Ok(Some(note)) = notes.next() {
            if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
                return BuildId::new(note.desc());
            }
        }
        None
    })
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BuildId {
    type Err = NotABuildId;

    fn from_str(text: &str) -> Result<Self, NotABuildId> {
        let digits = text.as_bytes();
        let (pairs, rest) = digits.as_chunks::<2>();
        if !rest.is_empty() || !(1..=MAX_BUILD_ID).contains(&pairs.len()) {
            return Err(NotABuildId);
        }
        let digit = |byte: u8| {
            let digit = char::from(byte).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let byte = |&[high, low]: &[u8; 2]| Some(digit(high)? << 4 | digit(low)?);
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        bytes.map(Self).ok_or(NotABuildId)
    }
}

/// What is known of the build of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Build {
    /// Nothing.
    #[default]
    Unknown,
    /// It has no build-id.
    WithoutId,
    /// Its build-id.
    Id(BuildId),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_build_id_is_read_from_this_very_program() {
        // The linker puts one in; rustc asks for it on Linux.
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let id = BuildId::of_elf(&program).expect("a build-id");
        assert_eq!(id.as_bytes().len(), 20);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn what_is_no_build_id_is_refused() {
        for text in ["", "a", "xy", "0g", "+1", &"00".repeat(65)] {
            assert_eq!(text.parse::<BuildId>(), Err(NotABuildId), "{text}");
        }
        assert_eq!(BuildId::new(&[]), None);
        assert_eq!(BuildId::of_elf(b"#!/bin/sh"), None);
    }

    proptest! {
        #[test]
        fn build_ids_round_trip(bytes in prop::collection::vec(any::<u8>(), 1..=MAX_BUILD_ID)) {
            let id = BuildId::new(&bytes).unwrap();
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn any_file_is_read_or_refused(damage in prop::collection::vec((0usize..4096, any::<u8>()), 1..20)) {
            let mut program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
            program.truncate(1 << 16);
            for (at, byte) in damage {
                program[at] = byte;
            }
            let _ = BuildId::of_elf(&program);
        }
    }
}
