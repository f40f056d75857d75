//! The functions of a binary, by file offset.
//!
//! A symbol reaches up to the next one in its section, whatever size it claims; the last one of a section up to the
//! section's end, and the last of all up to the end of the file. Those are OProfile's rules: code between two symbols is
//! counted for the first.

mod debug_file;
mod elf;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use elf::{Binary, RawSymbol, Section};

/// A symbol and the part of the file it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeSymbol {
    /// First position (see [`Positions`]).
    pub start: u64,
    /// First position behind it.
    pub end: u64,
    /// Address in the binary.
    pub address: u64,
    /// Bytes as the symbol table says; 0 when it does not.
    pub size: u64,
    /// Index of the section, for [`SymbolTable::section_name`].
    pub section: usize,
    name: Range<usize>,
    file: Range<usize>,
}

/// What the keys of sample files count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Positions {
    /// Bytes from the start of the file.
    #[default]
    FileOffset,
    /// Addresses, as in the symbol files of just-in-time compilers.
    Address,
}

/// The code symbols of a binary, sorted by their start. None overlaps another.
#[derive(Debug, Default)]
pub struct SymbolTable {
    symbols: Vec<CodeSymbol>,
    /// The names of all symbols.
    strings: Vec<u8>,
    sections: Vec<Section>,
    positions: Positions,
    /// File offset of `.text`; keys of files with `is_kernel` count from there.
    pub text_offset: u64,
    /// The build-id of the binary.
    pub build_id: Option<Vec<u8>>,
    /// The file that lines are to be looked up in: the separate debug file if the symbols are from there.
    pub debug_file: Option<PathBuf>,
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
    /// Its symbol table cannot be true.
    #[error("The symbol table is larger than the file")]
    TooLarge,
}

impl SymbolTable {
    /// Reads the symbols of the binary at `path`, or of its separate debug file if it has none itself. The file is not
    /// trusted. `prefix` is the root of the machine that the binary is from.
    pub fn load(
        path: &Path,
        prefix: Option<&Path>,
        positions: Positions,
    ) -> Result<Self, SymbolError> {
        let mut binary = Binary::read(path)?;
        if !binary.symbols.is_empty() {
            let own = Binary {
                symbols: std::mem::take(&mut binary.symbols),
                strings: std::mem::take(&mut binary.strings),
                ..Binary::default()
            };
            return Ok(table(binary, own, None, positions));
        }
        for candidate in debug_file::candidates(&binary, path, prefix) {
            if candidate.fits()
                && let Ok(debug) = Binary::read(&candidate.path)
                && !debug.symbols.is_empty()
            {
                return Ok(table(binary, debug, Some(candidate.path), positions));
            }
        }
        Ok(table(binary, Binary::default(), None, positions))
    }

    /// Whether nothing in the binary has a name.
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// All symbols, sorted by their start.
    pub fn symbols(&self) -> &[CodeSymbol] {
        &self.symbols
    }

    /// The symbol at a position, and its number.
    pub fn find(&self, position: u64) -> Option<(usize, &CodeSymbol)> {
        let index = self
            .symbols
            .partition_point(|symbol| symbol.start <= position)
            .checked_sub(1)?;
        let symbol = self.symbols.get(index)?;
        (position < symbol.end).then_some((index, symbol))
    }

    /// A symbol by its number.
    pub fn get(&self, index: usize) -> Option<&CodeSymbol> {
        self.symbols.get(index)
    }

    /// The name of a symbol as in the symbol table, empty if it has none.
    pub fn raw_name(&self, symbol: &CodeSymbol) -> &[u8] {
        self.strings.get(symbol.name.clone()).unwrap_or_default()
    }

    /// The source file that the symbol table names for a local symbol.
    pub fn source_file(&self, symbol: &CodeSymbol) -> Option<&[u8]> {
        self.strings
            .get(symbol.file.clone())
            .filter(|file| !file.is_empty())
    }

    /// The name of a symbol, or what OProfile calls one without.
    pub fn name(&self, symbol: &CodeSymbol) -> Cow<'_, [u8]> {
        match self.raw_name(symbol) {
            b"" => Cow::Owned(
                [
                    b"anonymous symbol from section ",
                    self.section_name(symbol.section),
                ]
                .concat(),
            ),
            name => Cow::Borrowed(name),
        }
    }

    /// The name of a section.
    pub fn section_name(&self, section: usize) -> &[u8] {
        self.sections
            .get(section)
            .map(|section| &section.name[..])
            .unwrap_or_default()
    }

    /// The address that a position has in the binary. A position outside all sections with code is its own address.
    pub fn address(&self, position: u64) -> u64 {
        if self.positions == Positions::Address {
            return position;
        }
        self.sections
            .iter()
            .find(|section| {
                section.code
                    && position >= section.offset
                    && position - section.offset < section.size
            })
            .map_or(position, |section| {
                section.address.wrapping_add(position - section.offset)
            })
    }

    /// The address of a position that is in `symbol`, also behind its section's end.
    pub fn address_in(&self, symbol: &CodeSymbol, position: u64) -> u64 {
        symbol
            .address
            .wrapping_add(position.wrapping_sub(symbol.start))
    }
}

/// The separate debug file of the binary at `path`, if it names one and that is there. `prefix` is the root of the machine
/// that the binary is from.
pub fn debug_file_of(path: &Path, prefix: Option<&Path>) -> Option<PathBuf> {
    let binary = Binary::read(path).ok()?;
    debug_file::candidates(&binary, path, prefix)
        .into_iter()
        .find(|candidate| candidate.fits())
        .map(|candidate| candidate.path)
}

/// The table of the symbols of `named`, which is `binary` itself or its debug file, by positions in `binary`.
fn table(
    binary: Binary,
    named: Binary,
    debug_file: Option<PathBuf>,
    positions: Positions,
) -> SymbolTable {
    let text_offset = binary
        .sections
        .iter()
        .find(|section| section.name == b".text")
        .map_or(0, |text| text.offset);
    // By name, as a debug file need not number its sections like the binary. A file may have very many.
    let mut by_name: HashMap<&[u8], usize> = HashMap::new();
    if debug_file.is_some() {
        for (index, section) in binary.sections.iter().enumerate() {
            if section.code {
                by_name.entry(&section.name).or_insert(index);
            }
        }
    }
    let section_of = |symbol: &RawSymbol| -> Option<usize> {
        if debug_file.is_none() {
            return Some(symbol.section);
        }
        let name = &named.sections.get(symbol.section)?.name;
        by_name.get(&name[..]).copied()
    };
    let mut placed: Vec<(u64, usize, &RawSymbol)> = named
        .symbols
        .iter()
        .filter_map(|symbol| {
            let index = section_of(symbol)?;
            let section = binary.sections.get(index)?;
            let start = match positions {
                Positions::FileOffset => symbol
                    .address
                    .wrapping_sub(section.address)
                    .wrapping_add(section.offset),
                Positions::Address => symbol.address,
            };
            Some((start, index, symbol))
        })
        .collect();
    placed.sort_unstable_by(|(a, _, x), (b, _, y)| {
        (a, x.rank)
            .cmp(&(b, y.rank))
            .then_with(|| named.name(x).cmp(named.name(y)))
    });
    placed.dedup_by_key(|(start, ..)| *start);
    let symbols = placed
        .iter()
        .enumerate()
        .filter_map(|(index, (start, section_index, symbol))| {
            let section = binary.sections.get(*section_index)?;
            let section_start = match positions {
                Positions::FileOffset => section.offset,
                Positions::Address => section.address,
            };
            let section_end = section_start.saturating_add(section.size);
            let end = match placed.get(index + 1) {
                Some((next, next_section, _)) if section_index == next_section => *next,
                // Sections may overlap in a damaged file.
                Some((next, ..)) => section_end.min(*next),
                None if positions == Positions::FileOffset => section_end.max(binary.length),
                None => section_end,
            };
            Some(CodeSymbol {
                start: *start,
                end,
                address: symbol.address,
                size: symbol.size,
                section: *section_index,
                name: symbol.name.clone(),
                file: symbol.file.clone(),
            })
        })
        .collect();
    SymbolTable {
        symbols,
        strings: named.strings,
        sections: binary.sections,
        positions,
        text_offset,
        build_id: binary.build_id,
        debug_file,
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

    fn binary() -> Binary {
        let sections = vec![
            section(".init", 0x40_1000, 0x1000, 0x20),
            section(".text", 0x40_1040, 0x1040, 0x100),
            section(".data", 0x40_2000, 0x2000, 0x100),
        ];
        Binary {
            sections,
            length: 0x3000,
            ..Binary::default()
        }
    }

    /// Symbols by address, section and name; the first letter of the binding decides the rank.
    fn make(
        binary: Binary,
        symbols: &[(u64, usize, &str, u8)],
        positions: Positions,
    ) -> SymbolTable {
        let mut named = Binary::default();
        for (address, section, name, binding) in symbols {
            let start = named.strings.len();
            named.strings.extend_from_slice(name.as_bytes());
            named.symbols.push(RawSymbol {
                address: *address,
                size: 0,
                section: *section,
                name: start..named.strings.len(),
                file: 0..0,
                rank: (*binding, name.starts_with('_'), false),
            });
        }
        table(binary, named, None, positions)
    }

    fn name(table: &SymbolTable, offset: u64) -> Option<String> {
        table
            .find(offset)
            .map(|(_, symbol)| String::from_utf8(table.name(symbol).into_owned()).unwrap())
    }

    #[test]
    fn symbol_reaches_to_the_next_one_or_the_end_of_its_section() {
        let symbols = [
            (0x40_1050, 1, "second", 0),
            (0x40_1040, 1, "first", 0),
            (0x40_1000, 0, "start", 0),
        ];
        let table = make(binary(), &symbols, Positions::FileOffset);
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
        assert_eq!(table.address(0x1044), 0x40_1044);
    }

    #[test]
    fn last_symbol_of_a_file_without_its_code_ends_with_its_section() {
        let binary = Binary {
            length: 0x200,
            ..binary()
        };
        let table = make(binary, &[(0x40_1040, 1, "f", 0)], Positions::FileOffset);
        assert_eq!(
            (name(&table, 0x113f).as_deref(), name(&table, 0x1140)),
            (Some("f"), None)
        );
    }

    #[test]
    fn best_name_of_an_address_is_shown() {
        let symbols = [
            (0x40_1040, 1, "a_weak", 1),
            (0x40_1040, 1, "_under", 0),
            (0x40_1040, 1, "plain", 0),
        ];
        let table = make(binary(), &symbols, Positions::FileOffset);
        assert_eq!(name(&table, 0x1040).as_deref(), Some("plain"));
    }

    #[test]
    fn symbols_of_compiled_code_are_found_by_address() {
        let table = make(binary(), &[(0x40_1048, 1, "", 0)], Positions::Address);
        assert_eq!(
            name(&table, 0x40_1050).as_deref(),
            Some("anonymous symbol from section .text")
        );
        assert_eq!(name(&table, 0x1050), None);
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
            if let Ok(table) = SymbolTable::load(file.path(), None, Positions::FileOffset) {
                let _ = table.find(0x1008);
                let _ = table.address(0x1008);
            }
        }
    }
}
