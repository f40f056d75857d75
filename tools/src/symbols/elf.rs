//! What symbols need of one ELF file. The file is not trusted.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{FileHeader, SectionHeader as _, Sym as _};
use object::{Endianness, FileKind, ReadCache, ReadRef};

use super::SymbolError;

/// Largest symbol or string table that is read: 64 times what the largest binaries known have.
const MAX_TABLE: u64 = 1 << 30;
/// Largest section whose notes are read; a build-id takes 36 bytes. Sections may overlap, so that each of very many may be as
/// long as the file.
const MAX_NOTES: u64 = 1 << 16;
/// Longest name of a section that is kept; they may overlap, too. None that is looked for is longer.
const MAX_SECTION_NAME: usize = 256;
/// Longest name of a symbol in bytes; a longer one counts as none. Names may overlap, and each is looked through to its end.
const MAX_NAME: usize = 1 << 16;

/// The parts of an ELF file that symbols are made of.
#[derive(Debug, Default)]
pub(super) struct Binary {
    pub(super) sections: Vec<Section>,
    pub(super) symbols: Vec<RawSymbol>,
    /// The names of the symbols.
    pub(super) strings: Vec<u8>,
    /// Length of the file in bytes.
    pub(super) length: u64,
    pub(super) debug_link: Option<(Vec<u8>, u32)>,
    pub(super) build_id: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: Vec<u8>,
    pub(super) address: u64,
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) code: bool,
}

/// A symbol in a section with code.
#[derive(Debug, Clone)]
pub(super) struct RawSymbol {
    pub(super) address: u64,
    pub(super) size: u64,
    /// Index among the sections of the same file.
    pub(super) section: usize,
    /// In the strings of the same file; empty for a symbol without name.
    pub(super) name: Range<usize>,
    /// The name of the source file of a local function, empty when unknown.
    pub(super) file: Range<usize>,
    /// The lowest is shown when several symbols have one address.
    pub(super) rank: (u8, bool, bool),
}

impl Binary {
    pub(super) fn read(path: &Path) -> Result<Self, SymbolError> {
        Self::read_parts(path, true)
    }

    /// The build-id of the file at `path`; its symbols are not read.
    pub(super) fn read_build_id(path: &Path) -> Result<Option<Vec<u8>>, SymbolError> {
        Self::read_parts(path, false).map(|binary| binary.build_id)
    }

    fn read_parts(path: &Path, symbols: bool) -> Result<Self, SymbolError> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let cache = ReadCache::new(file);
        let read = match FileKind::parse(&cache)? {
            FileKind::Elf64 => Self::parse::<FileHeader64<Endianness>, _>,
            FileKind::Elf32 => Self::parse::<FileHeader32<Endianness>, _>,
            _ => return Err(SymbolError::OtherKind),
        };
        read(&cache, metadata.len(), symbols)
    }

    /// The name of a symbol of this file.
    pub(super) fn name(&self, symbol: &RawSymbol) -> &[u8] {
        self.strings.get(symbol.name.clone()).unwrap_or_default()
    }

    fn parse<'data, E: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(
        data: R,
        length: u64,
        symbols: bool,
    ) -> Result<Self, SymbolError> {
        let header = E::parse(data)?;
        let endian = header.endian()?;
        let table = header.sections(endian, data)?;
        let mut binary = Self {
            length,
            ..Self::default()
        };
        for section in table.iter() {
            let name = table.section_name(endian, section).unwrap_or_default();
            binary.sections.push(Section {
                name: name[..name.len().min(MAX_SECTION_NAME)].to_vec(),
                address: section.sh_addr(endian).into(),
                // Also of a section without bytes, as in a file that holds symbols only.
                offset: section.sh_offset(endian).into(),
                size: section.sh_size(endian).into(),
                code: section.sh_flags(endian).contains(elf::SHF_EXECINSTR),
            });
            if binary.build_id.is_none()
                && section.sh_size(endian).into() <= MAX_NOTES
                && let Ok(Some(notes)) = section.notes(endian, data)
            {
                binary.build_id = notes
                    .filter_map(Result::ok)
                    .find(|note| {
                        note.name() == elf::ELF_NOTE_GNU
                            && note.n_type(endian) == elf::NT_GNU_BUILD_ID
                    })
                    .map(|note| note.desc().to_vec());
            }
            if binary.debug_link.is_none()
                && binary
                    .sections
                    .last()
                    .is_some_and(|section| section.name == b".gnu_debuglink")
                && let Ok(bytes) = section.data(endian, data)
            {
                binary.debug_link = debug_link(bytes, endian);
            }
        }
        if let Some((_, section)) = table
            .enumerate()
            .find(|(_, section)| symbols && section.sh_type(endian) == elf::SHT_SYMTAB)
        {
            let strings = table.section(section.link(endian))?;
            for size in [
                section.sh_size(endian).into(),
                strings.sh_size(endian).into(),
            ] {
                if size > MAX_TABLE.min(length) {
                    return Err(SymbolError::TooLarge);
                }
            }
            binary.strings = strings.data(endian, data)?.to_vec();
            let symbols: &[E::Sym] = section.data_as_array(endian, data)?;
            binary.take_symbols::<E>(symbols, endian);
        }
        Ok(binary)
    }

    /// The string that begins at this offset; empty when it does not end.
    fn string(&self, start: u32) -> Range<usize> {
        let start = (start as usize).min(self.strings.len());
        let length = self.strings[start..]
            .iter()
            .take(MAX_NAME)
            .position(|byte| *byte == 0)
            .unwrap_or(0);
        start..start + length
    }

    fn take_symbols<E: FileHeader<Endian = Endianness>>(
        &mut self,
        symbols: &[E::Sym],
        endian: Endianness,
    ) {
        let mut file = 0..0;
        for raw in symbols {
            if raw.st_type() == elf::STT_FILE {
                file = self.string(raw.st_name(endian));
            }
            if matches!(
                raw.st_type(),
                elf::STT_SECTION | elf::STT_FILE | elf::STT_TLS
            ) {
                continue;
            }
            // An index beyond 16 bits is kept elsewhere; no binary has so many sections with code.
            let section = usize::from(raw.st_shndx(endian).0);
            if !self
                .sections
                .get(section)
                .is_some_and(|section| section.code)
            {
                continue;
            }
            let name = self.string(raw.st_name(endian));
            let binding = match raw.st_bind() {
                elf::STB_GLOBAL => 0,
                elf::STB_WEAK => 1,
                _ => 2,
            };
            let rank = (
                binding,
                self.strings
                    .get(name.clone())
                    .is_some_and(|name| name.starts_with(b"_")),
                raw.st_type() != elf::STT_FUNC,
            );
            self.symbols.push(RawSymbol {
                address: raw.st_value(endian).into(),
                size: raw.st_size(endian).into(),
                section,
                name,
                file: if binding == 2 && raw.st_type() == elf::STT_FUNC {
                    file.clone()
                } else {
                    0..0
                },
                rank,
            });
        }
    }
}

/// The content of `.gnu_debuglink`: a name that ends with 0, then at a multiple of four the checksum.
fn debug_link(bytes: &[u8], endian: Endianness) -> Option<(Vec<u8>, u32)> {
    use object::Endian as _;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let at = (end + 1).next_multiple_of(4);
    let checksum = bytes.get(at..at + 4)?.try_into().ok()?;
    Some((bytes[..end].to_vec(), endian.read_u32(checksum)))
}
