//! The functions of a vDSO, the library that a Linux kernel maps into each process, from an image of it in memory.
//!
//! It lies in no file. What its dynamic linking tables say is enough: they name what it exports. The image is the guest's, so
//! nothing in it is trusted, and parts may be missing (zero): pages that nobody has touched are not in memory.

use crate::guest::{Symbol, SymbolKind};

/// What a region with a vDSO is called, as in `/proc/PID/maps`.
pub const NAME: &str = "[vdso]";

/// Most program headers that are looked at; there are four.
const MAX_SEGMENTS: usize = 64;
/// Most entries of the dynamic section that are looked at; there are some 15.
const MAX_ENTRIES: usize = 128;
/// Most symbols; there are some 15.
const MAX_SYMBOLS: usize = 256;
/// Longest name of a symbol in bytes.
const MAX_NAME: usize = 256;

/// Types of segments.
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
/// Tags of the dynamic section.
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
/// Bytes of a program header, of an entry of the dynamic section, of a symbol.
const SEGMENT_BYTES: usize = 56;
const ENTRY_BYTES: usize = 16;
const SYMBOL_BYTES: usize = 24;
/// Type of a symbol that is a function, and the first section index that is none.
const STT_FUNC: u8 = 2;
const SHN_LORESERVE: u16 = 0xff00;

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What the dynamic section leads to, as offsets in the image.
#[derive(Default)]
struct Tables {
    symbols: Option<usize>,
    strings: Option<usize>,
    string_bytes: usize,
    hash: Option<usize>,
}

impl Tables {
    fn of(image: &[u8]) -> Option<Self> {
        if !image.starts_with(b"\x7fELF\x02\x01\x01") {
            return None;
        }
        let segments = usize::try_from(long(image, 32)?).ok()?;
        if usize::from(half(image, 54)?) != SEGMENT_BYTES {
            return None;
        }
        let count = usize::from(half(image, 56)?).min(MAX_SEGMENTS);
        let segments = image.get(segments..)?.chunks_exact(SEGMENT_BYTES);
        let (mut base, mut dynamic) = (None, None);
        for segment in segments.take(count) {
            match word(segment, 0)? {
                PT_LOAD if base.is_none() => {
                    base = long(segment, 16)?.checked_sub(long(segment, 8)?);
                }
                PT_DYNAMIC => dynamic = long(segment, 16),
                _ => {}
            }
        }
        let base = base?;
        let place = |address: u64| usize::try_from(address.checked_sub(base)?).ok();
        let entries = image.get(place(dynamic?)?..)?.chunks_exact(ENTRY_BYTES);
        let mut tables = Self::default();
        for entry in entries.take(MAX_ENTRIES) {
            let value = long(entry, 8)?;
            match long(entry, 0)? {
                0 => break,
                DT_HASH => tables.hash = place(value),
                DT_STRTAB => tables.strings = place(value),
                DT_SYMTAB => tables.symbols = place(value),
                DT_STRSZ => tables.string_bytes = usize::try_from(value).ok()?,
                _ => {}
            }
        }
        Some(tables)
    }

    /// Number of symbols: the hash table has a chain for each; without one, the strings commonly follow.
    fn count(&self, image: &[u8]) -> Option<usize> {
        let count = match self.hash {
            Some(hash) => word(image, hash.checked_add(4)?)? as usize,
            None => self.strings?.checked_sub(self.symbols?)? / SYMBOL_BYTES,
        };
        Some(count.min(MAX_SYMBOLS))
    }
}

/// The functions that the vDSO exports whose image this is, mapped at `start`; none when it is no such image. Of several names of one
/// function the one of the kernel, `__vdso_…`, is taken.
pub fn symbols(image: &[u8], start: u64) -> Vec<Symbol> {
    exported(image, start).unwrap_or_default()
}

fn exported(image: &[u8], start: u64) -> Option<Vec<Symbol>> {
    let tables = Tables::of(image)?;
    let count = tables.count(image)?;
    let strings = image.get(tables.strings?..)?;
    let strings = &strings[..strings.len().min(tables.string_bytes)];
    let table = image.get(tables.symbols?..)?.chunks_exact(SYMBOL_BYTES);
    let mut symbols: Vec<Symbol> = Vec::new();
    for entry in table.take(count) {
        let (name, section) = (word(entry, 0)? as usize, half(entry, 6)?);
        if entry[4] & 0xf != STT_FUNC || section == 0 || section >= SHN_LORESERVE {
            continue;
        }
        let name = strings.get(name..).unwrap_or_default();
        let name = &name[..name.len().min(MAX_NAME)];
        let Some(end) = name
            .iter()
            .position(|byte| *byte == 0)
            .filter(|end| *end > 0)
        else {
            continue;
        };
        let symbol = Symbol {
            address: start.wrapping_add(long(entry, 8)?),
            size: long(entry, 16)?,
            kind: SymbolKind::Function,
            name: name[..end].to_vec(),
        };
        let same = |known: &&mut Symbol| known.address == symbol.address;
        match symbols.iter_mut().find(same) {
            Some(known) if symbol.name.starts_with(b"__vdso_") => *known = symbol,
            Some(_) => {}
            None => symbols.push(symbol),
        }
    }
    Some(symbols)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt as _;

    /// The vDSO of this very process, and where it is.
    fn own() -> (u64, Vec<u8>) {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| line.ends_with(NAME)).unwrap();
        let range = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] = [range.0, range.1].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut image = vec![0; usize::try_from(end - start).unwrap()];
        let memory = File::open("/proc/self/mem").unwrap();
        memory.read_exact_at(&mut image, start).unwrap();
        (start, image)
    }

    #[test]
    fn functions_of_this_machines_vdso_are_found() {
        let (start, image) = own();
        let found = symbols(&image, start);
        let end = start + image.len() as u64;
        for name in ["__vdso_clock_gettime", "__vdso_gettimeofday"] {
            let symbol = found.iter().find(|symbol| symbol.name == name.as_bytes());
            let symbol = symbol.unwrap_or_else(|| panic!("no {name}: {found:?}"));
            assert!((start..end).contains(&symbol.address) && symbol.size > 0);
        }
        // Each function once.
        for (index, symbol) in found.iter().enumerate() {
            assert!(
                found[..index]
                    .iter()
                    .all(|other| other.address != symbol.address)
            );
        }
        // Its first page tells, whatever of the rest is in memory.
        let mut first = image.clone();
        first[4096.min(image.len())..].fill(0);
        assert_eq!(symbols(&first, start), found);
    }

    #[test]
    fn what_is_no_vdso_has_no_functions() {
        for image in [&b""[..], b"\x7fELF", &[0; 8192], &[0xff; 8192]] {
            assert!(symbols(image, 0).is_empty());
        }
    }

    proptest! {
        #[test]
        fn a_damaged_image_is_read_or_refused(
            damage in prop::collection::vec((0usize..4096, any::<u8>()), 1..40),
            cut in 0usize..8192,
        ) {
            let (start, mut image) = own();
            for (at, byte) in damage {
                image[at] = byte;
            }
            image.truncate(cut);
            prop_assert!(symbols(&image, start).len() <= MAX_SYMBOLS);
        }
    }
}
