//! Reads what a loader needs of a shared object (ELF64, little endian, x86-64): its loadable segments and dynamic
//! symbols. An object that asks for more (relocations, zero-filled data) is refused.

use core::fmt;

const ELF_MAGIC: &[u8] = b"\x7fELF\x02\x01\x01";
const TYPE_DYN: u16 = 3;
const MACHINE_X86_64: u16 = 62;

const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const PROGRAM_HEADER_BYTES: u64 = 56;

const FLAG_EXECUTE: u32 = 1;
const FLAG_WRITE: u32 = 2;

const DYNAMIC_ENTRY_BYTES: u64 = 16;
const TAG_PLT_RELOCATIONS_BYTES: u64 = 2;
const TAG_HASH: u64 = 4;
const TAG_STRINGS: u64 = 5;
const TAG_SYMBOLS: u64 = 6;
const TAG_RELA_BYTES: u64 = 8;
const TAG_REL_BYTES: u64 = 18;

const SYMBOL_BYTES: u64 = 24;
const SYMBOL_FUNCTION: u8 = 2;

/// Most loadable segments of an object: headers, text, data and one to spare.
pub const MAX_SEGMENTS: usize = 4;

/// Why an object cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not an ELF64 shared object for x86-64.
    NotAnObject,
    /// A header, table or name lies outside the file.
    Truncated,
    /// It has more than [`MAX_SEGMENTS`] segments, or none.
    Segments,
    /// It needs relocations or memory beyond its file.
    NeedsLinker,
    /// It has no dynamic symbol table with a hash.
    NoSymbols,
    /// It has no such function.
    NoFunction(&'static str),
    /// The kernel mapped it elsewhere than asked.
    Elsewhere,
    /// A system call failed.
    Call(crate::Errno),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("not a shared object"),
            Self::Truncated => f.write_str("truncated"),
            Self::Segments => f.write_str("too many segments, or none"),
            Self::NeedsLinker => f.write_str("needs relocations or zero-filled memory"),
            Self::NoSymbols => f.write_str("no dynamic symbols"),
            Self::NoFunction(name) => write!(f, "no function {name}"),
            Self::Elsewhere => f.write_str("address taken"),
            Self::Call(errno) => write!(f, "error {}", errno.0),
        }
    }
}

/// A loadable segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Address in the object, relative to its base.
    pub address: u64,
    /// Offset in the file, congruent to the address modulo the page size.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
    /// To be executed.
    pub execute: bool,
    /// To be written.
    pub write: bool,
}

/// A shared object's file.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    file: &'a [u8],
    segments: [Segment; MAX_SEGMENTS],
    count: usize,
    symbols: u64,
    symbol_count: u64,
    strings: u64,
}

impl<'a> Object<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn parse(file: &'a [u8]) -> Result<Self, Error> {
        if !file.starts_with(ELF_MAGIC) {
            return Err(Error::NotAnObject);
        }
        if read_u16(file, 16)? != TYPE_DYN || read_u16(file, 18)? != MACHINE_X86_64 {
            return Err(Error::NotAnObject);
        }
        let mut object = Self {
            file,
            segments: [Segment::default(); MAX_SEGMENTS],
            count: 0,
            symbols: 0,
            symbol_count: 0,
            strings: 0,
        };
        let table = read_u64(file, 32)?;
        let mut dynamic = None;
        for index in 0..u64::from(read_u16(file, 56)?) {
            let header = at(table, index, PROGRAM_HEADER_BYTES)?;
            match read_u32(file, header)? {
                SEGMENT_LOAD => object.add_segment(header)?,
                SEGMENT_DYNAMIC => dynamic = Some(header),
                _ => {}
            }
        }
        if object.count == 0 {
            return Err(Error::Segments);
        }
        object.read_dynamic(dynamic.ok_or(Error::NoSymbols)?)?;
        Ok(object)
    }

    fn add_segment(&mut self, header: u64) -> Result<(), Error> {
        let flags = read_u32(self.file, add(header, 4)?)?;
        let segment = Segment {
            offset: read_u64(self.file, add(header, 8)?)?,
            address: read_u64(self.file, add(header, 16)?)?,
            bytes: read_u64(self.file, add(header, 32)?)?,
            execute: flags & FLAG_EXECUTE != 0,
            write: flags & FLAG_WRITE != 0,
        };
        if read_u64(self.file, add(header, 40)?)? != segment.bytes {
            return Err(Error::NeedsLinker);
        }
        if segment.bytes == 0 {
            return Ok(());
        }
        if add(segment.offset, segment.bytes)? > self.file.len() as u64 {
            return Err(Error::Truncated);
        }
        if add(segment.address, segment.bytes).is_err()
            || segment.offset % crate::sys::PAGE != segment.address % crate::sys::PAGE
        {
            return Err(Error::Segments);
        }
        *self.segments.get_mut(self.count).ok_or(Error::Segments)? = segment;
        self.count += 1;
        Ok(())
    }

    fn read_dynamic(&mut self, header: u64) -> Result<(), Error> {
        let start = read_u64(self.file, add(header, 8)?)?;
        let entries = read_u64(self.file, add(header, 32)?)? / DYNAMIC_ENTRY_BYTES;
        let (mut hash, mut symbols, mut strings) = (None, None, None);
        for index in 0..entries {
            let entry = at(start, index, DYNAMIC_ENTRY_BYTES)?;
            let value = read_u64(self.file, add(entry, 8)?)?;
            match read_u64(self.file, entry)? {
                TAG_HASH => hash = Some(value),
                TAG_SYMBOLS => symbols = Some(value),
                TAG_STRINGS => strings = Some(value),
                TAG_RELA_BYTES | TAG_REL_BYTES | TAG_PLT_RELOCATIONS_BYTES if value != 0 => {
                    return Err(Error::NeedsLinker);
                }
                _ => {}
            }
        }
        let (Some(hash), Some(symbols), Some(strings)) = (hash, symbols, strings) else {
            return Err(Error::NoSymbols);
        };
        self.symbols = self.offset_of(symbols)?;
        self.strings = self.offset_of(strings)?;
        // A System V hash table states its buckets and then its chain entries, one a symbol.
        self.symbol_count = u64::from(read_u32(self.file, add(self.offset_of(hash)?, 4)?)?);
        Ok(())
    }

    /// File offset of an address in a segment.
    fn offset_of(&self, address: u64) -> Result<u64, Error> {
        self.segments()
            .iter()
            .find_map(|segment| {
                let inside = address.checked_sub(segment.address)?;
                (inside < segment.bytes).then_some(segment.offset + inside)
            })
            .ok_or(Error::Truncated)
    }

    /// The loadable segments.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..self.count]
    }

    /// Address of a function relative to the object's base.
    ///
    /// # Errors
    /// When it has none of that name in an executable segment.
    pub fn function(&self, name: &'static str) -> Result<u64, Error> {
        for index in 0..self.symbol_count {
            let symbol = at(self.symbols, index, SYMBOL_BYTES)?;
            let info = read_array::<1>(self.file, add(symbol, 4)?)?[0];
            let address = read_u64(self.file, add(symbol, 8)?)?;
            if info & 0xf == SYMBOL_FUNCTION
                && self.is_named(symbol, name)?
                && self.is_executable(address)
            {
                return Ok(address);
            }
        }
        Err(Error::NoFunction(name))
    }

    fn is_named(&self, symbol: u64, name: &str) -> Result<bool, Error> {
        let start = add(self.strings, u64::from(read_u32(self.file, symbol)?))?;
        let start = usize::try_from(start).map_err(|_| Error::Truncated)?;
        let rest = self.file.get(start..).ok_or(Error::Truncated)?;
        Ok(rest
            .strip_prefix(name.as_bytes())
            .is_some_and(|behind| behind.first() == Some(&0)))
    }

    fn is_executable(&self, address: u64) -> bool {
        self.segments().iter().any(|segment| {
            segment.execute
                && address
                    .checked_sub(segment.address)
                    .is_some_and(|inside| inside < segment.bytes)
        })
    }
}

fn add(a: u64, b: u64) -> Result<u64, Error> {
    a.checked_add(b).ok_or(Error::Truncated)
}

fn at(table: u64, index: u64, bytes: u64) -> Result<u64, Error> {
    index
        .checked_mul(bytes)
        .and_then(|offset| offset.checked_add(table))
        .ok_or(Error::Truncated)
}

fn read_array<const N: usize>(file: &[u8], offset: u64) -> Result<[u8; N], Error> {
    usize::try_from(offset)
        .ok()
        .and_then(|offset| file.get(offset..)?.first_chunk())
        .copied()
        .ok_or(Error::Truncated)
}

fn read_u16(file: &[u8], offset: u64) -> Result<u16, Error> {
    read_array(file, offset).map(u16::from_le_bytes)
}

fn read_u32(file: &[u8], offset: u64) -> Result<u32, Error> {
    read_array(file, offset).map(u32::from_le_bytes)
}

fn read_u64(file: &[u8], offset: u64) -> Result<u64, Error> {
    read_array(file, offset).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    const TEXT_PAGE: u64 = 1;
    const TEXT_ADDRESS: u64 = 0x3000;

    fn put(file: &mut [u8], offset: usize, bytes: &[u8]) {
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn program_header(file: &mut [u8], index: usize, kind: u32, flags: u32, fields: [u64; 4]) {
        let [offset, address, file_bytes, memory_bytes] = fields;
        let base = 64 + index * 56;
        put(file, base, &kind.to_le_bytes());
        put(file, base + 4, &flags.to_le_bytes());
        put(file, base + 8, &offset.to_le_bytes());
        put(file, base + 16, &address.to_le_bytes());
        put(file, base + 32, &file_bytes.to_le_bytes());
        put(file, base + 40, &memory_bytes.to_le_bytes());
    }

    /// Headers and tables on page 0, text on page 1 at address 0x3000, functions `work` and `work_more` in it.
    fn small_object() -> Vec<u8> {
        let mut file = vec![0; 0x2000];
        put(&mut file, 0, ELF_MAGIC);
        put(&mut file, 16, &TYPE_DYN.to_le_bytes());
        put(&mut file, 18, &MACHINE_X86_64.to_le_bytes());
        put(&mut file, 32, &64_u64.to_le_bytes());
        put(&mut file, 56, &3_u16.to_le_bytes());
        program_header(&mut file, 0, SEGMENT_LOAD, 4, [0, 0, 0x1000, 0x1000]);
        let text = [TEXT_PAGE * 4096, TEXT_ADDRESS, 0x100, 0x100];
        program_header(&mut file, 1, SEGMENT_LOAD, 5, text);
        program_header(&mut file, 2, SEGMENT_DYNAMIC, 4, [0x200, 0x200, 64, 64]);
        let dynamic = [
            TAG_HASH,
            0x300,
            TAG_SYMBOLS,
            0x400,
            TAG_STRINGS,
            0x500,
            0,
            0,
        ];
        for (index, word) in dynamic.iter().enumerate() {
            put(&mut file, 0x200 + index * 8, &word.to_le_bytes());
        }
        put(&mut file, 0x304, &3_u32.to_le_bytes());
        put(&mut file, 0x500, b"\0work_more\0work\0");
        for (index, name, address) in [(1, 1_u32, 0x3010_u64), (2, 11, 0x3040)] {
            let symbol = 0x400 + index * 24;
            put(&mut file, symbol, &name.to_le_bytes());
            put(&mut file, symbol + 4, &[0x10 | SYMBOL_FUNCTION]);
            put(&mut file, symbol + 8, &address.to_le_bytes());
        }
        file
    }

    #[test]
    fn segments_keep_their_file_offsets() {
        let file = small_object();
        let object = Object::parse(&file).unwrap();
        let [headers, text] = object.segments() else {
            panic!("two segments");
        };
        assert!(!headers.execute && !headers.write);
        assert!(text.execute);
        assert_eq!((text.address, text.offset), (TEXT_ADDRESS, 0x1000));
    }

    #[test]
    fn functions_are_found_by_their_whole_name() {
        let file = small_object();
        let object = Object::parse(&file).unwrap();
        assert_eq!(object.function("work"), Ok(0x3040));
        assert_eq!(object.function("work_more"), Ok(0x3010));
        assert_eq!(object.function("wor"), Err(Error::NoFunction("wor")));
    }

    #[test]
    fn symbol_outside_text_is_no_function() {
        let mut file = small_object();
        put(&mut file, 0x400 + 2 * 24 + 8, &0x800_u64.to_le_bytes());
        let object = Object::parse(&file).unwrap();
        assert_eq!(object.function("work"), Err(Error::NoFunction("work")));
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(Object::parse(b"#!/bin/sh").unwrap_err(), Error::NotAnObject);
        let mut executable = small_object();
        put(&mut executable, 16, &2_u16.to_le_bytes());
        assert_eq!(Object::parse(&executable).unwrap_err(), Error::NotAnObject);
    }

    #[test]
    fn relocations_are_refused() {
        let mut file = small_object();
        put(&mut file, 0x230, &TAG_RELA_BYTES.to_le_bytes());
        put(&mut file, 0x238, &24_u64.to_le_bytes());
        assert_eq!(Object::parse(&file).unwrap_err(), Error::NeedsLinker);
    }

    #[test]
    fn memory_beyond_the_file_is_refused() {
        let mut file = small_object();
        let text = [0x1000, TEXT_ADDRESS, 0x100, 0x200];
        program_header(&mut file, 1, SEGMENT_LOAD, 5, text);
        assert_eq!(Object::parse(&file).unwrap_err(), Error::NeedsLinker);
    }

    proptest! {
        #[test]
        fn every_truncation_is_refused(keep in 0_usize..0x1100) {
            prop_assert!(Object::parse(&small_object()[..keep]).is_err());
        }

        #[test]
        fn changed_bytes_are_read_or_refused(
            changes in prop::collection::vec((0_usize..0x600, any::<u8>()), 1..20)
        ) {
            let mut file = small_object();
            for (offset, byte) in changes {
                file[offset] = byte;
            }
            if let Ok(object) = Object::parse(&file)
                && let Ok(address) = object.function("work")
            {
                prop_assert!(object.is_executable(address));
            }
        }
    }
}
