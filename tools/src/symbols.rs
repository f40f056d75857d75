//! The functions of a binary, by file offset.
//!
//! A symbol reaches up to the next one in its section, whatever size it claims; the last one of a section up to the
//! section's end, and the last of all up to the end of the file. Those are OProfile's rules: code between two symbols is
//! counted for the first.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use object::elf::{self, FileHeader32, FileHeader64};
use object::read::elf::{ElfFile, FileHeader, SectionHeader as _, Sym as _};
use object::{
    Endianness, FileKind, Object as _, ObjectSection as _, ObjectSymbol as _, ReadCache, ReadRef,
};

/// Largest debug file whose checksum is computed.
const MAX_DEBUG_FILE: u64 = 8 << 30;
/// Where distributions put debug files.
const DEBUG_DIRECTORY: &str = "/usr/lib/debug";

/// A symbol and the part of the file it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeSymbol {
    /// First file offset.
    pub start: u64,
    /// First file offset behind it.
    pub end: u64,
    /// Address in the binary.
    pub address: u64,
    /// Name in the symbol table.
    pub name: Vec<u8>,
}

/// The code symbols of a binary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SymbolTable {
    symbols: Vec<CodeSymbol>,
    /// File offset of `.text`; keys of files with `is_kernel` count from there.
    pub text_offset: u64,
}

/// Why a binary has no symbol table to offer.
#[derive(Debug, thiserror::Error)]
pub enum SymbolError {
    /// The file cannot be read.
    #[error("Cannot read the file")]
    Io(#[from] std::io::Error),
    /// It is no ELF file, or a damaged one.
    #[error("Not a usable ELF file")]
    Elf(#[from] object::read::Error),
    /// It is a file of another kind.
    #[error("Not an ELF file")]
    OtherKind,
}

impl SymbolTable {
    /// Reads the symbols of the binary at `path`, or of its separate debug file if it has none itself. The file is not
    /// trusted.
    pub fn load(path: &Path) -> Result<Self, SymbolError> {
        let binary = Binary::read(path)?;
        if !binary.symbols.is_empty() {
            return Ok(binary.table(&binary.symbols));
        }
        for candidate in binary.debug_files(path) {
            if let Some(expected) = candidate.checksum
                && checksum(&candidate.path) != Some(expected)
            {
                continue;
            }
            if let Ok(debug) = Binary::read(&candidate.path)
                && !debug.symbols.is_empty()
            {
                return Ok(binary.table(&debug.symbols));
            }
        }
        Ok(binary.table(&[]))
    }

    /// Whether nothing in the binary has a name.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// The symbol at a file offset, and its number.
    pub fn find(&self, offset: u64) -> Option<(usize, &CodeSymbol)> {
        let index = self
            .symbols
            .partition_point(|symbol| symbol.start <= offset)
            .checked_sub(1)?;
        let symbol = self.symbols.get(index)?;
        (offset < symbol.end).then_some((index, symbol))
    }

    /// A symbol by its number.
    pub fn get(&self, index: usize) -> Option<&CodeSymbol> {
        self.symbols.get(index)
    }
}

/// What is needed of one ELF file.
struct Binary {
    sections: Vec<Section>,
    symbols: Vec<RawSymbol>,
    length: u64,
    debug_link: Option<(Vec<u8>, u32)>,
    build_id: Option<Vec<u8>>,
}

struct Section {
    name: Vec<u8>,
    address: u64,
    offset: u64,
    size: u64,
    code: bool,
}

struct RawSymbol {
    address: u64,
    section: Vec<u8>,
    name: Vec<u8>,
    /// The lowest is shown when several symbols have one address.
    rank: (u8, bool, bool),
}

struct DebugFile {
    path: PathBuf,
    checksum: Option<u32>,
}

impl Binary {
    fn read(path: &Path) -> Result<Self, SymbolError> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let cache = ReadCache::new(file);
        match FileKind::parse(&cache)? {
            FileKind::Elf64 => Self::parse::<FileHeader64<Endianness>, _>(&cache, length),
            FileKind::Elf32 => Self::parse::<FileHeader32<Endianness>, _>(&cache, length),
            _ => Err(SymbolError::OtherKind),
        }
    }

    fn parse<'data, E: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(
        data: R,
        length: u64,
    ) -> Result<Self, SymbolError> {
        let file = ElfFile::<E, R>::parse(data)?;
        let endian = file.endian();
        let sections: Vec<Section> = file
            .sections()
            .map(|section| {
                let header = section.elf_section_header();
                Section {
                    name: section.name_bytes().unwrap_or_default().to_vec(),
                    address: section.address(),
                    // Also of a section without bytes, as in a file that holds symbols only.
                    offset: header.sh_offset(endian).into(),
                    size: section.size(),
                    code: header.sh_flags(endian).contains(elf::SHF_EXECINSTR),
                }
            })
            .collect();
        let mut symbols = Vec::new();
        for symbol in file.symbols() {
            let raw = symbol.elf_symbol();
            if matches!(
                raw.st_type(),
                elf::STT_SECTION | elf::STT_FILE | elf::STT_TLS
            ) {
                continue;
            }
            let Some(section) = symbol
                .section_index()
                .and_then(|index| file.section_by_index(index).ok())
            else {
                continue;
            };
            if !section
                .elf_section_header()
                .sh_flags(endian)
                .contains(elf::SHF_EXECINSTR)
            {
                continue;
            }
            let section = section.name_bytes().unwrap_or_default().to_vec();
            let mut name = symbol.name_bytes().unwrap_or_default().to_vec();
            if name.is_empty() {
                name = [b"anonymous symbol from section ", &section[..]].concat();
            }
            let binding = match raw.st_bind() {
                elf::STB_GLOBAL => 0,
                elf::STB_WEAK => 1,
                _ => 2,
            };
            let rank = (
                binding,
                name.starts_with(b"_"),
                raw.st_type() != elf::STT_FUNC,
            );
            symbols.push(RawSymbol {
                address: symbol.address(),
                section,
                name,
                rank,
            });
        }
        Ok(Self {
            sections,
            symbols,
            length,
            debug_link: file
                .gnu_debuglink()
                .ok()
                .flatten()
                .map(|(name, crc)| (name.to_vec(), crc)),
            build_id: file.build_id().ok().flatten().map(<[u8]>::to_vec),
        })
    }

    /// The table of `symbols`, which may be those of this file's debug file, by offsets in this file.
    fn table(&self, symbols: &[RawSymbol]) -> SymbolTable {
        let text = self
            .sections
            .iter()
            .find(|section| section.name == b".text");
        // By name, as a debug file need not number its sections like the binary. A file may have very many.
        let mut code: HashMap<&[u8], &Section> = HashMap::new();
        for section in self.sections.iter().filter(|section| section.code) {
            code.entry(&section.name).or_insert(section);
        }
        let mut placed: Vec<(u64, &Section, &RawSymbol)> = symbols
            .iter()
            .filter_map(|symbol| {
                let section = *code.get(&symbol.section[..])?;
                let offset = symbol
                    .address
                    .wrapping_sub(section.address)
                    .wrapping_add(section.offset);
                Some((offset, section, symbol))
            })
            .collect();
        placed.sort_by(|(a, _, x), (b, _, y)| (a, x.rank, &x.name).cmp(&(b, y.rank, &y.name)));
        placed.dedup_by_key(|(offset, ..)| *offset);
        let symbols = placed
            .iter()
            .enumerate()
            .map(|(index, (start, section, symbol))| {
                let section_end = section.offset.saturating_add(section.size);
                let end = match placed.get(index + 1) {
                    Some((next, next_section, _)) if std::ptr::eq(*section, *next_section) => *next,
                    Some(_) => section_end,
                    None => section_end.max(self.length),
                };
                CodeSymbol {
                    start: *start,
                    end,
                    address: symbol.address,
                    name: symbol.name.clone(),
                }
            })
            .collect();
        SymbolTable {
            symbols,
            text_offset: text.map_or(0, |text| text.offset),
        }
    }

    /// Where the debug file of this binary, which lies at `path`, may be.
    fn debug_files(&self, path: &Path) -> Vec<DebugFile> {
        let mut candidates = Vec::new();
        if let Some([first, rest @ ..]) = self.build_id.as_deref()
            && !rest.is_empty()
        {
            let hex = |bytes: &[u8]| {
                bytes
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>()
            };
            let name = format!(
                "{DEBUG_DIRECTORY}/.build-id/{}/{}.debug",
                hex(&[*first]),
                hex(rest)
            );
            candidates.push(DebugFile {
                path: PathBuf::from(name),
                checksum: None,
            });
        }
        if let (Some((name, crc)), Some(directory)) = (&self.debug_link, path.parent()) {
            let name = String::from_utf8_lossy(name);
            // A name only; a path would lead to files that the binary has no say in.
            if !name.contains('/') && !name.is_empty() {
                let absolute = directory.strip_prefix("/").unwrap_or(directory);
                for directory in [
                    directory.to_owned(),
                    directory.join(".debug"),
                    Path::new(DEBUG_DIRECTORY).join(absolute),
                ] {
                    candidates.push(DebugFile {
                        path: directory.join(&*name),
                        checksum: Some(*crc),
                    });
                }
            }
        }
        candidates
    }
}

/// The checksum that `.gnu_debuglink` holds.
fn checksum(path: &Path) -> Option<u32> {
    let mut file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > MAX_DEBUG_FILE {
        return None;
    }
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.finalize()),
            length => hasher.update(&buffer[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn section(name: &str, address: u64, offset: u64, size: u64) -> Section {
        Section {
            name: name.into(),
            address,
            offset,
            size,
            code: name != ".data",
        }
    }

    fn symbol(address: u64, section: &str, name: &str) -> RawSymbol {
        RawSymbol {
            address,
            section: section.into(),
            name: name.into(),
            rank: (0, name.starts_with('_'), false),
        }
    }

    fn binary() -> Binary {
        let sections = vec![
            section(".init", 0x40_1000, 0x1000, 0x20),
            section(".text", 0x40_1040, 0x1040, 0x100),
            section(".data", 0x40_2000, 0x2000, 0x100),
        ];
        Binary {
            sections,
            symbols: vec![],
            length: 0x3000,
            debug_link: None,
            build_id: None,
        }
    }

    fn name(table: &SymbolTable, offset: u64) -> Option<String> {
        table
            .find(offset)
            .map(|(_, symbol)| String::from_utf8(symbol.name.clone()).unwrap())
    }

    #[test]
    fn symbol_reaches_to_the_next_one_or_the_end_of_its_section() {
        let symbols = [
            symbol(0x40_1050, ".text", "second"),
            symbol(0x40_1040, ".text", "first"),
            symbol(0x40_1000, ".init", "start"),
        ];
        let table = binary().table(&symbols);
        for (offset, expected) in [
            (0xfff, None),
            (0x1000, Some("start")),
            (0x101f, Some("start")),
            (0x1020, None),
            (0x1040, Some("first")),
            (0x104f, Some("first")),
            (0x1050, Some("second")),
            // The last one ends with the file.
            (0x2fff, Some("second")),
            (0x3000, None),
        ] {
            assert_eq!(name(&table, offset).as_deref(), expected, "{offset:#x}");
        }
        assert_eq!(table.text_offset, 0x1040);
    }

    #[test]
    fn last_symbol_of_a_file_without_its_code_ends_with_its_section() {
        let binary = Binary {
            length: 0x200,
            ..binary()
        };
        let table = binary.table(&[symbol(0x40_1040, ".text", "f")]);
        assert_eq!(
            (name(&table, 0x113f).as_deref(), name(&table, 0x1140)),
            (Some("f"), None)
        );
    }

    #[test]
    fn best_name_of_an_address_is_shown() {
        let weak = RawSymbol {
            rank: (1, false, false),
            ..symbol(0x40_1040, ".text", "a_weak")
        };
        let symbols = [
            weak,
            symbol(0x40_1040, ".text", "_under"),
            symbol(0x40_1040, ".text", "plain"),
        ];
        assert_eq!(
            name(&binary().table(&symbols), 0x1040).as_deref(),
            Some("plain")
        );
    }

    #[test]
    fn symbols_without_code_are_left_out() {
        let table = binary().table(&[
            symbol(0x40_2000, ".data", "table"),
            symbol(1, ".gone", "other"),
        ]);
        assert!(table.is_empty());
    }

    #[test]
    fn names_of_debug_files_stay_beside_the_binary() {
        let binary = Binary {
            debug_link: Some((b"../../etc/passwd".to_vec(), 1)),
            build_id: Some(vec![0xab, 0xcd, 0xef]),
            ..binary()
        };
        let paths: Vec<_> = binary
            .debug_files(Path::new("/bin/a"))
            .into_iter()
            .map(|file| file.path)
            .collect();
        assert_eq!(paths, [Path::new("/usr/lib/debug/.build-id/ab/cdef.debug")]);
        let binary = Binary {
            debug_link: Some((b"a.debug".to_vec(), 1)),
            ..self::binary()
        };
        let paths: Vec<_> = binary
            .debug_files(Path::new("/bin/a"))
            .into_iter()
            .map(|file| file.path)
            .collect();
        assert_eq!(
            paths,
            [
                "/bin/a.debug",
                "/bin/.debug/a.debug",
                "/usr/lib/debug/bin/a.debug"
            ]
            .map(Path::new)
        );
    }

    proptest! {
        #[test]
        fn damaged_binary_is_read_or_refused(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
                                             length in any::<prop::sample::Index>(), cut in any::<bool>()) {
            let symbols = (0..20).map(|number| oprofile_session::Symbol {
                address: 0x1000 + number * 8,
                size: 8,
                kind: oprofile_session::SymbolKind::Function,
                name: format!("f{number}").into_bytes(),
            });
            let image = oprofile_session::KernelImage {
                name: b"k".to_vec(),
                kind: oprofile_session::ImageKind::Kernel,
                start: 0x1000,
                end: 0x2000,
                symbols: symbols.collect(),
            };
            let mut bytes = oprofile_session::symbol_elf::encode(&image).unwrap();
            for (index, value) in damage {
                let index = index.index(bytes.len());
                bytes[index] = value;
            }
            if cut {
                bytes.truncate(length.index(bytes.len()));
            }
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            if let Ok(table) = SymbolTable::load(file.path()) {
                let _ = table.find(0x1008);
            }
        }
    }
}
