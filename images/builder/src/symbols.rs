//! The kernel's functions, as records of a symbols request.

use object::{Object, ObjectSymbol, SymbolKind};
use oprofile_wire::control::{MAX_NAME_BYTES, SymbolEntry};
use zerocopy::IntoBytes;

/// The function symbols of a kernel: [`SymbolEntry`] and name each, by address, one a place.
pub fn of_kernel(elf: &[u8]) -> Result<Vec<u8>, object::Error> {
    let file = object::File::parse(elf)?;
    let mut functions = Vec::new();
    for symbol in file.symbols() {
        if symbol.is_definition() && symbol.kind() == SymbolKind::Text {
            functions.push((symbol.address(), symbol.size(), symbol.name_bytes()?));
        }
    }
    // Of several names of one place the one with the largest extent counts, then the first in the alphabet.
    functions.sort_by(|a, b| (a.0, b.1, a.2).cmp(&(b.0, a.1, b.2)));
    functions.dedup_by_key(|function| function.0);

    let mut records = Vec::new();
    for (address, size, name) in functions {
        let name = &name[..name.len().min(MAX_NAME_BYTES)];
        let entry = SymbolEntry {
            address: address.into(),
            // A size that the record cannot say is one that it does not know.
            size: u32::try_from(size).unwrap_or(0).into(),
            reserved: 0.into(),
            name_bytes: u16::try_from(name.len()).unwrap_or(0).into(),
        };
        records.extend_from_slice(entry.as_bytes());
        records.extend_from_slice(name);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::write::{Object as Writer, StandardSection, Symbol, SymbolSection};
    use object::{Architecture, BinaryFormat, Endianness, SymbolFlags, SymbolScope};
    use oprofile_wire::Cursor;
    use oprofile_wire::control::take_named;

    fn elf(symbols: &[(&str, u64, u64, SymbolKind)]) -> Vec<u8> {
        let mut writer = Writer::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
        let text = writer.section_id(StandardSection::Text);
        writer.append_section_data(text, &[0xcc; 256], 16);
        for (name, value, size, kind) in symbols {
            writer.add_symbol(Symbol {
                name: name.as_bytes().to_vec(),
                value: *value,
                size: *size,
                kind: *kind,
                scope: SymbolScope::Linkage,
                weak: false,
                section: SymbolSection::Section(text),
                flags: SymbolFlags::None,
            });
        }
        writer.write().unwrap()
    }

    fn records(bytes: &[u8]) -> Vec<(u64, u32, String)> {
        let mut cursor = Cursor::new(bytes);
        let mut found = Vec::new();
        while !cursor.rest().is_empty() {
            let named = take_named::<SymbolEntry>(&mut cursor).unwrap();
            let name = String::from_utf8(named.name.to_vec()).unwrap();
            found.push((named.entry.address.get(), named.entry.size.get(), name));
        }
        found
    }

    #[test]
    fn functions_come_by_address_and_data_stays_away() {
        let elf = elf(&[
            ("second", 64, 32, SymbolKind::Text),
            ("table", 16, 8, SymbolKind::Data),
            ("first", 0, 16, SymbolKind::Text),
        ]);
        let found = records(&of_kernel(&elf).unwrap());
        let expected = [(0, 16, "first".to_owned()), (64, 32, "second".to_owned())];
        assert_eq!(found, expected);
    }

    #[test]
    fn one_name_a_place() {
        let elf = elf(&[
            ("zed", 0, 16, SymbolKind::Text),
            ("label", 0, 0, SymbolKind::Text),
            ("alias", 0, 16, SymbolKind::Text),
        ]);
        assert_eq!(
            records(&of_kernel(&elf).unwrap()),
            [(0, 16, "alias".to_owned())]
        );
    }

    #[test]
    fn long_names_are_cut() {
        let name = "x".repeat(MAX_NAME_BYTES + 1);
        let elf = elf(&[(&name, 0, 1, SymbolKind::Text)]);
        let found = records(&of_kernel(&elf).unwrap());
        assert_eq!(found[0].2.len(), MAX_NAME_BYTES);
    }

    #[test]
    fn a_file_that_is_no_elf_is_refused() {
        assert!(of_kernel(b"#!/bin/sh\n").is_err());
    }
}
