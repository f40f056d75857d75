//! Source files and lines, read only when they are asked for.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use gimli::{EndianArcSlice, RunTimeEndian};
use object::{Object as _, ObjectSection as _, ReadCache};

/// Largest debug section that is read: four times what the largest browsers have.
const MAX_SECTION: u64 = 4 << 30;

type Reader = EndianArcSlice<RunTimeEndian>;

/// A place in the source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceLine {
    /// Path of the source file as the compiler recorded it.
    pub file: Arc<str>,
    /// From 1; 0 when unknown.
    pub line: u32,
}

/// The line table of a binary.
pub struct Lines {
    context: addr2line::Context<Reader>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

impl Lines {
    /// Reads the debug information of the file at `path`. `None` when it has none that can be used.
    pub fn load(path: &Path) -> Option<Self> {
        let cache = ReadCache::new(File::open(path).ok()?);
        let file = object::File::parse(&cache).ok()?;
        file.section_by_name(".debug_line")
            .or_else(|| file.section_by_name(".zdebug_line"))?;
        let endian = if file.is_little_endian() {
            RunTimeEndian::Little
        } else {
            RunTimeEndian::Big
        };
        let relocate = file.kind() == object::ObjectKind::Relocatable;
        let load = |id: gimli::SectionId| -> Result<Reader, gimli::Error> {
            let data = file
                .section_by_name(id.name())
                .and_then(|section| {
                    // By the size that it claims once it is inflated.
                    let data = section.compressed_data().ok()?;
                    if data.uncompressed_size > MAX_SECTION {
                        return None;
                    }
                    let data = data.decompress().ok()?.into_owned();
                    Some(if relocate {
                        relocated(&file, &section, data)
                    } else {
                        data
                    })
                })
                .unwrap_or_default();
            Ok(EndianArcSlice::new(Arc::from(data), endian))
        };
        let dwarf = gimli::Dwarf::load(load).ok()?;
        let context = addr2line::Context::from_dwarf(dwarf).ok()?;
        Some(Self { context })
    }

    /// The line of the instruction at `address`.
    pub fn find(&self, address: u64) -> Option<SourceLine> {
        let location = self.context.find_location(address).ok()??;
        Some(SourceLine {
            file: Arc::from(location.file?),
            line: location.line.unwrap_or(0),
        })
    }
}

/// All sections of a module start at 0. Code that is not in `.text` is moved out of the way, so that addresses mean `.text`
/// only.
fn code_base<'data>(
    file: &impl object::Object<'data>,
    symbol: &impl object::ObjectSymbol<'data>,
) -> u64 {
    let section = symbol
        .section_index()
        .and_then(|index| Some((index, file.section_by_index(index).ok()?)));
    match section {
        Some((index, section))
            if section.kind() == object::SectionKind::Text && section.name() != Ok(".text") =>
        {
            (index.0 as u64) << 40
        }
        _ => 0,
    }
}

/// Applies the relocations of a module's debug section.
fn relocated<'data, S: object::ObjectSection<'data>>(
    file: &impl object::Object<'data>,
    section: &S,
    mut data: Vec<u8>,
) -> Vec<u8> {
    use object::{ObjectSymbol as _, RelocationTarget};
    for (offset, relocation) in section.relocations() {
        let RelocationTarget::Symbol(symbol) = relocation.target() else {
            continue;
        };
        let Ok(symbol) = file.symbol_by_index(symbol) else {
            continue;
        };
        let value = symbol
            .address()
            .wrapping_add_signed(relocation.addend())
            .wrapping_add(code_base(file, &symbol))
            .to_le_bytes();
        let size = usize::from(relocation.size() / 8).min(8);
        let Ok(offset) = usize::try_from(offset) else {
            continue;
        };
        if let Some(field) = offset
            .checked_add(size)
            .and_then(|end| data.get_mut(offset..end))
        {
            if file.is_little_endian() {
                field.copy_from_slice(&value[..size]);
            } else {
                let mut value = value;
                value.reverse();
                field.copy_from_slice(&value[8 - size..]);
            }
        }
    }
    data
}

/// The last component of a source path.
pub fn short_file(file: &str) -> Cow<'_, str> {
    Cow::Borrowed(file.rsplit('/').next().unwrap_or(file))
}
