//! A shared library as linkers make them: symbols, a build id, and debug information if it shall have some.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use object::write::elf::{FileHeader, SectionHeader, Sym, Writer};
use object::{Endianness, elf};
use oprofile_workload::random::Random;

use super::debug_info;
use super::names::{self, Language};
use crate::jobs::Failure;

/// Functions in it: as many as Python's library has.
pub const FUNCTIONS: usize = 5_400;

const _: () = assert!(FUNCTIONS <= names::MOST);

/// Functions of one source file.
pub const FUNCTIONS_OF_SOURCE: usize = 36;

/// Offset of the code in the file, and its address: they differ, as in every library that a linker has moved.
const CODE_OFFSET: u64 = 0x1000;
const CODE_ADDRESS: u64 = 0x4_1000;

/// Code of a function ends at a multiple of this.
const ALIGNMENT: u64 = 16;

/// Longest function, in units of [`ALIGNMENT`].
const LONGEST: u64 = 50;

/// Pages that hold nothing become holes in the file.
const PAGE: usize = 4096;

/// A function of the library.
#[derive(Clone, Debug)]
pub struct Function {
    /// As in the symbol table.
    pub name: String,
    /// Its first address.
    pub address: u64,
    /// Bytes up to the next one.
    pub size: u64,
}

/// The library.
#[derive(Debug)]
pub struct Library {
    /// By address, without gaps.
    pub functions: Vec<Function>,
    bytes: Vec<u8>,
    /// Where the build id lies in the file.
    build_id: usize,
}

/// The address of a file offset in the code.
pub const fn address(offset: u64) -> u64 {
    offset - CODE_OFFSET + CODE_ADDRESS
}

impl Library {
    /// The library in this language. All languages have the same code.
    ///
    /// # Errors
    /// When the crates that encode it refuse.
    pub fn new(language: Language, with_debug_info: bool) -> Result<Self, Failure> {
        let mut random = Random::new(1);
        let mut at = CODE_ADDRESS;
        let functions: Vec<Function> = (0..FUNCTIONS)
            .map(|number| {
                let size = ALIGNMENT * (1 + random.below(LONGEST));
                let address = at;
                at += size;
                Function {
                    name: names::name(language, number),
                    address,
                    size,
                }
            })
            .collect();
        let debug = if with_debug_info {
            debug_info::sections(&functions)?
        } else {
            Vec::new()
        };
        let (bytes, build_id) = encode(&functions, at - CODE_ADDRESS, &debug)?;
        Ok(Self {
            functions,
            bytes,
            build_id,
        })
    }

    /// File offsets of the code.
    pub fn code(&self) -> std::ops::Range<u64> {
        let end = self
            .functions
            .last()
            .map_or(CODE_ADDRESS, |last| last.address + last.size);
        CODE_OFFSET..end - CODE_ADDRESS + CODE_OFFSET
    }

    /// The function at an offset of [`Library::code`].
    pub fn function_at(&self, offset: u64) -> usize {
        let address = address(offset);
        self.functions
            .partition_point(|function| function.address <= address)
            .saturating_sub(1)
    }

    /// Writes a copy with a build id of its own.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write(&mut self, path: &Path, copy: u64) -> io::Result<()> {
        self.bytes[self.build_id..self.build_id + 8].copy_from_slice(&copy.to_le_bytes());
        let file = File::create(path)?;
        file.set_len(self.bytes.len() as u64)?;
        for (index, page) in self.bytes.chunks(PAGE).enumerate() {
            if page.iter().any(|byte| *byte != 0) {
                file.write_all_at(page, (index * PAGE) as u64)?;
            }
        }
        file.set_modified(super::session::mtime())
    }
}

/// The file, and where its build id lies.
fn encode(
    functions: &[Function],
    code_size: u64,
    debug: &[(&'static str, Vec<u8>)],
) -> Result<(Vec<u8>, usize), Failure> {
    let mut note = Vec::new();
    for word in [4_u32, 20, 3] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"GNU\0");
    let id_in_note = note.len();
    note.extend_from_slice(&[0xab; 20]);

    let sources: Vec<String> = (0..functions.len().div_ceil(FUNCTIONS_OF_SOURCE))
        .map(debug_info::source)
        .collect();
    let mut bytes = Vec::new();
    let mut writer = Writer::new(Endianness::Little, true, &mut bytes);
    writer.reserve_file_header();
    writer.reserve_null_section_index();
    let note_name = writer.add_section_name(b".note.gnu.build-id");
    writer.reserve_section_index();
    let text_name = writer.add_section_name(b".text");
    let text = writer.reserve_section_index();
    let debug_names: Vec<_> = debug
        .iter()
        .map(|(name, _)| {
            writer.reserve_section_index();
            writer.add_section_name(name.as_bytes())
        })
        .collect();
    writer.reserve_symtab_section_index();
    writer.reserve_strtab_section_index();
    writer.reserve_shstrtab_section_index();
    let note_offset = writer.reserve(note.len() as u64, 4);
    writer.reserve_until(CODE_OFFSET);
    writer.reserve(code_size, 1);
    let debug_offsets: Vec<u64> = debug
        .iter()
        .map(|(_, data)| writer.reserve(data.len() as u64, 1))
        .collect();

    // Local functions behind the name of their source file, then the global ones.
    writer.reserve_null_symbol_index();
    let mut symbols = Vec::new();
    let is_global = |number: usize| number % 5 < 2;
    for (source, (name, group)) in sources
        .iter()
        .zip(functions.chunks(FUNCTIONS_OF_SOURCE))
        .enumerate()
    {
        writer.reserve_symbol_index(None);
        symbols.push((writer.add_string(name.as_bytes()), None, elf::STB_LOCAL));
        for (index, function) in group.iter().enumerate() {
            if !is_global(source * FUNCTIONS_OF_SOURCE + index) {
                writer.reserve_symbol_index(Some(text));
                let name = writer.add_string(function.name.as_bytes());
                symbols.push((name, Some(function), elf::STB_LOCAL));
            }
        }
    }
    let locals = u32::try_from(symbols.len())? + 1;
    for (number, function) in functions.iter().enumerate() {
        if is_global(number) {
            writer.reserve_symbol_index(Some(text));
            let name = writer.add_string(function.name.as_bytes());
            symbols.push((name, Some(function), elf::STB_GLOBAL));
        }
    }
    writer.reserve_symtab();
    writer.reserve_strtab()?;
    writer.reserve_shstrtab()?;
    writer.reserve_section_headers();

    writer.write_file_header(&FileHeader {
        os_abi: elf::ELFOSABI_SYSV,
        abi_version: 0,
        e_type: elf::ET_DYN,
        e_machine: elf::EM_X86_64,
        e_entry: 0,
        e_flags: elf::FileFlags(0),
    })?;
    writer.write_align(4);
    writer.write(&note);
    writer.pad_until(CODE_OFFSET + code_size);
    for (_, data) in debug {
        writer.write(data);
    }
    writer.write_null_symbol();
    for (name, function, binding) in symbols {
        let st_name = writer.string_offset(Some(name));
        let kind = match function {
            Some(_) => elf::STT_FUNC,
            None => elf::STT_FILE,
        };
        writer.write_symbol(&Sym {
            section: function.map(|_| text.0),
            st_name,
            st_info: elf::SymbolInfo::new(binding, kind),
            st_other: elf::SymbolOther(0),
            st_shndx: match function {
                Some(_) => elf::SymbolSection(0),
                None => elf::SHN_ABS,
            },
            st_value: function.map_or(0, |function| function.address),
            st_size: function.map_or(0, |function| function.size),
        });
    }
    writer.write_strtab();
    writer.write_shstrtab();

    writer.write_null_section_header();
    let plain = |sh_name, sh_type, sh_offset, sh_size| SectionHeader {
        sh_name,
        sh_type,
        sh_flags: elf::SectionFlags(0),
        sh_addr: 0,
        sh_offset,
        sh_size,
        sh_link: 0,
        sh_info: 0,
        sh_addralign: 4,
        sh_entsize: 0,
    };
    let name = writer.section_name_offset(Some(note_name));
    writer.write_section_header(&SectionHeader {
        sh_flags: elf::SHF_ALLOC,
        sh_addr: note_offset,
        ..plain(name, elf::SHT_NOTE, note_offset, note.len() as u64)
    });
    let name = writer.section_name_offset(Some(text_name));
    writer.write_section_header(&SectionHeader {
        sh_flags: elf::SHF_ALLOC | elf::SHF_EXECINSTR,
        sh_addr: CODE_ADDRESS,
        sh_addralign: ALIGNMENT,
        ..plain(name, elf::SHT_PROGBITS, CODE_OFFSET, code_size)
    });
    for (((_, data), name), offset) in debug.iter().zip(debug_names).zip(debug_offsets) {
        let name = writer.section_name_offset(Some(name));
        writer.write_section_header(&SectionHeader {
            sh_addralign: 1,
            ..plain(name, elf::SHT_PROGBITS, offset, data.len() as u64)
        });
    }
    writer.write_symtab_section_header(locals);
    writer.write_strtab_section_header();
    writer.write_shstrtab_section_header();
    Ok((bytes, usize::try_from(note_offset)? + id_in_note))
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

    #[test]
    fn library_has_its_functions_where_it_says() {
        let library = Library::new(Language::C, true).unwrap();
        let file = object::File::parse(&library.bytes[..]).unwrap();
        let text = file.section_by_name(".text").unwrap();
        let (offset, size) = text.file_range().unwrap();
        assert_eq!(offset..offset + size, library.code());
        assert_eq!(address(offset), text.address());
        let functions = file
            .symbols()
            .filter(|symbol| symbol.kind() == object::SymbolKind::Text);
        assert_eq!(functions.count(), FUNCTIONS);
        assert_eq!(
            file.build_id().unwrap(),
            library.bytes.get(library.build_id..library.build_id + 20)
        );
        let last = library.code().end - 1;
        assert_eq!(library.function_at(last), FUNCTIONS - 1);
        assert_eq!(library.function_at(library.code().start), 0);
    }

    #[test]
    fn debug_information_names_the_functions() {
        let mut library = Library::new(Language::C, true).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        library.write(file.path(), 7).unwrap();
        let loader = addr2line::Loader::new(file.path()).unwrap();
        for function in library.functions.iter().step_by(500) {
            let mut frames = loader.find_frames(function.address + 1).unwrap();
            let frame = frames.next().unwrap().unwrap();
            let name = frame.function.unwrap();
            assert_eq!(name.raw_name().unwrap(), function.name);
            assert!(frame.location.unwrap().line.is_some());
            assert_eq!(
                loader.find_symbol(function.address + 1),
                Some(&function.name[..])
            );
        }
    }
}
