//! An ELF file that holds a `.text` section without bytes and the symbols in it.
//!
//! It stands in for a kernel image that only exists in the guest: enough for report tools to name functions.

use object::elf;
use object::write::elf::{FileHeader, SectionHeader, Sym, Writer};
use object::{Endianness, write};

use crate::guest::{KernelImage, Symbol, SymbolKind};

/// File offset of `.text` in the files made here: the key of an address is `address - start + TEXT_OFFSET`.
pub const TEXT_OFFSET: u64 = 0x1000;

/// The ELF file for `image`.
///
/// Symbols outside the image and symbols without a name are left out; a name ends at its first NUL. If any is left, the
/// image is bounded by `_text` and `_etext` as linkers do it: report tools give code to the symbol before it, and the
/// last symbol otherwise ends with the file, which here is shorter than the code it stands for.
///
/// Fails only when the symbol names exceed the 4 GiB that an ELF string table can address.
pub fn encode(image: &KernelImage) -> Result<Vec<u8>, write::Error> {
    let mut symbols: Vec<_> = image
        .symbols
        .iter()
        .filter(|symbol| (image.start..image.end).contains(&symbol.address))
        .map(|symbol| (symbol, until_nul(&symbol.name)))
        .filter(|(_, name)| !name.is_empty())
        .collect();
    symbols.sort_by_key(|(symbol, _)| symbol.address);
    let bound = |address| Symbol {
        address,
        size: 0,
        kind: SymbolKind::Function,
        name: Vec::new(),
    };
    let (first, last) = (bound(image.start), bound(image.end));
    if let Some((symbol, _)) = symbols.first() {
        if symbol.address != image.start {
            symbols.insert(0, (&first, b"_text"));
        }
        symbols.push((&last, b"_etext"));
    }

    let mut bytes = Vec::new();
    let mut writer = Writer::new(Endianness::Little, true, &mut bytes);
    writer.reserve_file_header();
    writer.reserve_null_section_index();
    let text_name = writer.add_section_name(b".text");
    let text = writer.reserve_section_index();
    writer.reserve_symtab_section_index();
    writer.reserve_strtab_section_index();
    writer.reserve_shstrtab_section_index();
    writer.reserve_null_symbol_index();
    let names: Vec<_> = symbols
        .iter()
        .map(|(_, name)| {
            writer.reserve_symbol_index(Some(text));
            writer.add_string(name)
        })
        .collect();
    writer.reserve_symtab();
    writer.reserve_strtab()?;
    writer.reserve_shstrtab()?;
    writer.reserve_section_headers();

    writer.write_file_header(&FileHeader {
        os_abi: elf::ELFOSABI_SYSV,
        abi_version: 0,
        e_type: elf::ET_EXEC,
        e_machine: elf::EM_X86_64,
        e_entry: 0,
        e_flags: elf::FileFlags(0),
    })?;
    writer.write_null_symbol();
    for ((symbol, _), name) in symbols.iter().zip(&names) {
        let kind = match symbol.kind {
            SymbolKind::Function => elf::STT_FUNC,
            SymbolKind::Object => elf::STT_OBJECT,
        };
        let st_name = writer.string_offset(Some(*name));
        writer.write_symbol(&Sym {
            section: Some(text.0),
            st_name,
            st_info: elf::SymbolInfo::new(elf::STB_GLOBAL, kind),
            st_other: elf::SymbolOther(0),
            st_shndx: elf::SymbolSection(0),
            st_value: symbol.address,
            st_size: symbol.size.min(image.end - symbol.address),
        });
    }
    writer.write_strtab();
    writer.write_shstrtab();
    writer.write_null_section_header();
    let sh_name = writer.section_name_offset(Some(text_name));
    writer.write_section_header(&SectionHeader {
        sh_name,
        sh_type: elf::SHT_NOBITS,
        sh_flags: elf::SHF_ALLOC | elf::SHF_EXECINSTR,
        sh_addr: image.start,
        sh_offset: TEXT_OFFSET,
        sh_size: image.end.saturating_sub(image.start),
        sh_link: 0,
        sh_info: 0,
        sh_addralign: 1,
        sh_entsize: 0,
    });
    // All symbols but the null symbol are global.
    writer.write_symtab_section_header(1);
    writer.write_strtab_section_header();
    writer.write_shstrtab_section_header();
    Ok(bytes)
}

fn until_nul(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::ImageKind;
    use object::read::elf::{ElfFile64, SectionHeader as _};
    use object::{Object, ObjectSection, ObjectSymbol};

    fn symbol(address: u64, size: u64, name: &[u8]) -> Symbol {
        Symbol {
            address,
            size,
            kind: SymbolKind::Function,
            name: name.to_vec(),
        }
    }

    fn image(symbols: Vec<Symbol>) -> KernelImage {
        KernelImage {
            name: b"k".to_vec(),
            kind: ImageKind::Kernel,
            start: 0xffff_8000_0010_0000,
            end: 0xffff_8000_0020_0000,
            symbols,
        }
    }

    #[test]
    fn text_has_no_bytes_and_a_place_in_the_file() {
        let bytes = encode(&image(vec![])).unwrap();
        let file = ElfFile64::<Endianness>::parse(&bytes[..]).unwrap();
        let text = file.section_by_name(".text").unwrap();
        assert_eq!(
            (text.address(), text.size()),
            (0xffff_8000_0010_0000, 0x10_0000)
        );
        assert_eq!(
            text.elf_section_header().sh_offset(Endianness::Little),
            TEXT_OFFSET
        );
        assert!(text.data().unwrap().is_empty());
        assert!(bytes.len() < 1024);
    }

    #[test]
    fn symbols_are_kept_and_impossible_ones_left_out() {
        let bytes = encode(&image(vec![
            symbol(0xffff_8000_0010_0040, u64::MAX, b"late"),
            symbol(0xffff_8000_0010_0000, 0x40, b"early\0junk"),
            symbol(0xffff_8000_0010_0000, 0x40, b"\xff\xfe"),
            symbol(0xffff_8000_0020_0000, 1, b"behind"),
            symbol(0, 1, b"before"),
            symbol(0xffff_8000_0010_0080, 1, b"\0"),
        ]))
        .unwrap();
        let file = ElfFile64::<Endianness>::parse(&bytes[..]).unwrap();
        let found: Vec<_> = file
            .symbols()
            .map(|s| (s.name_bytes().unwrap().to_vec(), s.address(), s.size()))
            .collect();
        assert_eq!(
            found,
            [
                (b"early".to_vec(), 0xffff_8000_0010_0000, 0x40),
                (b"\xff\xfe".to_vec(), 0xffff_8000_0010_0000, 0x40),
                (b"late".to_vec(), 0xffff_8000_0010_0040, 0xf_ffc0),
                (b"_etext".to_vec(), 0xffff_8000_0020_0000, 0),
            ]
        );
    }

    #[test]
    fn code_before_the_first_symbol_has_a_name() {
        let bytes = encode(&image(vec![symbol(0xffff_8000_0010_0040, 1, b"f")])).unwrap();
        let file = ElfFile64::<Endianness>::parse(&bytes[..]).unwrap();
        let names: Vec<_> = file
            .symbols()
            .map(|s| s.name().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["_text", "f", "_etext"]);
    }
}
