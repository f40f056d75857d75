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
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let cache = ReadCache::new(file);
        match FileKind::parse(&cache)? {
            FileKind::Elf64 => Self::parse::<FileHeader64<Endianness>, _>(&cache, length),
            FileKind::Elf32 => Self::parse::<FileHeader32<Endianness>, _>(&cache, length),
            _ => Err(SymbolError::OtherKind),
        }
    }

    /// The name of a symbol of this file.
    pub(super) fn name(&self, symbol: &RawSymbol) -> &[u8] {
        self.strings.get(symbol.name.clone()).unwrap_or_default()
    }

    fn parse<'data, E: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(
        data: R,
        length: u64,
    ) -> Result<Self, SymbolError> {
        let header = E::parse(data)?;
        let endian = header.endian()?;
        let table = header.sections(endian, data)?;
        let mut binary = Self {
            length,
            ..Self::default()
        };
        for section in table.iter() {
            binary.sections.push(Section {
                name: table
                    .section_name(endian, section)
                    .unwrap_or_default()
                    .to_vec(),
                address: section.sh_addr(endian).into(),
                // Also of a section without bytes, as in a file that holds symbols only.
                offset: section.sh_offset(endian).into(),
                size: section.sh_size(endian).into(),
                code: section.sh_flags(endian).contains(elf::SHF_EXECINSTR),
            });
            if binary.build_id.is_none()
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
        if let Some((index, section)) = table
            .enumerate()
            .find(|(_, section)| section.sh_type(endian) == elf::SHT_SYMTAB)
        {
            let _ = index;
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
