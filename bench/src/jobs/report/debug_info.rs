//! DWARF 5 for a library's functions: units, functions with parameters, a line for every few bytes.

use gimli::write::{
    Address, AttributeValue, Dwarf, EndianVec, LineProgram, LineString, Sections, Unit,
};
use gimli::{Encoding, Format, LineEncoding, LittleEndian};

use super::library::{FUNCTIONS_OF_SOURCE, Function};
use crate::jobs::Failure;

/// Where the library was built.
const DIRECTORY: &str = "/build/library";

/// Parameters and variables of a function.
const VARIABLES: [&str; 6] = ["self", "args", "kwargs", "result", "index", "size"];

/// Bytes of a function that belong to one line.
const LINE_BYTES: u64 = 16;

/// Lines that a function takes in its source file.
const LINES: u64 = 60;

/// Path of a source file.
pub fn source(number: usize) -> String {
    format!("Objects/source{number:03}.c")
}

/// Names and contents of the debug sections.
pub fn sections(functions: &[Function]) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
    let encoding = Encoding {
        format: Format::Dwarf32,
        version: 5,
        address_size: 8,
    };
    let mut dwarf = Dwarf::new();
    for (number, group) in functions.chunks(FUNCTIONS_OF_SOURCE).enumerate() {
        unit(&mut dwarf, encoding, &source(number), group);
    }
    let mut sections = Sections::new(EndianVec::new(LittleEndian));
    dwarf.write(&mut sections)?;
    let mut found = Vec::new();
    sections.for_each(|id, data| {
        if !data.slice().is_empty() {
            found.push((id.name(), data.slice().to_vec()));
        }
        Ok::<(), gimli::write::Error>(())
    })?;
    Ok(found)
}

/// Adds a source file and its functions, which follow one another.
fn unit(dwarf: &mut Dwarf, encoding: Encoding, source: &str, functions: &[Function]) {
    let (Some(first), Some(last)) = (functions.first(), functions.last()) else {
        return;
    };
    let end = last.address + last.size;
    let mut lines = LineProgram::new(
        encoding,
        LineEncoding::default(),
        LineString::String(DIRECTORY.into()),
        None,
        LineString::String(source.into()),
        None,
    );
    let directory = lines.default_directory();
    let file = lines.add_file(LineString::String(source.into()), directory, None);
    lines.begin_sequence(Some(Address::Constant(first.address)));
    for (function, number) in functions.iter().zip(0..) {
        for step in 0..function.size / LINE_BYTES {
            let row = lines.row();
            row.address_offset = function.address - first.address + step * LINE_BYTES;
            row.file = file;
            row.line = 1 + number * LINES + step % LINES;
            lines.generate_row();
        }
    }
    lines.end_sequence(end - first.address);

    let unit = dwarf.units.add(Unit::new(encoding, lines));
    let Dwarf { units, strings, .. } = dwarf;
    let unit = units.get_mut(unit);
    let root = unit.root();
    let entry = unit.get_mut(root);
    entry.set(
        gimli::DW_AT_name,
        AttributeValue::StringRef(strings.add(source)),
    );
    entry.set(
        gimli::DW_AT_comp_dir,
        AttributeValue::StringRef(strings.add(DIRECTORY)),
    );
    set_range(entry, first.address, end);
    for (function, number) in functions.iter().zip(0..) {
        let id = unit.add(root, gimli::DW_TAG_subprogram);
        let entry = unit.get_mut(id);
        entry.set(
            gimli::DW_AT_name,
            AttributeValue::StringRef(strings.add(&function.name[..])),
        );
        entry.set(
            gimli::DW_AT_decl_line,
            AttributeValue::Udata(1 + number * LINES),
        );
        set_range(entry, function.address, function.address + function.size);
        for name in VARIABLES {
            let variable = unit.add(id, gimli::DW_TAG_formal_parameter);
            unit.get_mut(variable).set(
                gimli::DW_AT_name,
                AttributeValue::StringRef(strings.add(name)),
            );
        }
    }
}

fn set_range(entry: &mut gimli::write::DebuggingInformationEntry, start: u64, end: u64) {
    entry.set(
        gimli::DW_AT_low_pc,
        AttributeValue::Address(Address::Constant(start)),
    );
    entry.set(gimli::DW_AT_high_pc, AttributeValue::Udata(end - start));
}
