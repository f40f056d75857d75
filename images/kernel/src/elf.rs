//! Reading ELF64 files for x86-64: programs (`PT_LOAD`), modules (relocations and symbols). Nothing in a file is trusted
//! further than the bounds of its bytes.

use core::ops::Range;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_RELA: u32 = 4;
const SHT_DYNSYM: u32 = 11;
const STT_FUNC: u8 = 2;
const SHN_UNDEF: u16 = 0;

/// Most program headers that are looked at; linkers write about ten.
pub const MAX_SEGMENTS: u16 = 64;
/// Most section headers that are looked at; linkers write a few dozen.
pub const MAX_SECTIONS: u16 = 1024;

/// Why a file is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// No ELF64 little-endian file for x86-64, or neither executable nor shared object.
    NotForUs,
    /// A header or what it points to lies outside the file, or a length overflows.
    OutOfBounds,
    /// More headers than are looked at.
    TooMany,
    /// A relocation of a kind that is not handled, or of an undefined symbol.
    Relocation(u32),
}

/// A segment to load. Addresses are as linked: before any load bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file.
    pub offset: u64,
    /// First address.
    pub address: u64,
    /// Bytes from the file.
    pub file_bytes: u64,
    /// Bytes in memory, at least `file_bytes`.
    pub memory_bytes: u64,
    /// Bit 0 execute, bit 1 write, bit 2 read.
    pub flags: u32,
}

/// A defined function symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// Name as it stands in the file.
    pub name: &'a [u8],
    /// Address as linked.
    pub address: u64,
    /// Bytes; 0 when unknown.
    pub size: u64,
    /// Whether other files can see it.
    pub global: bool,
}

/// A checked file.
#[derive(Clone, Copy, Debug)]
pub struct Elf<'a> {
    bytes: &'a [u8],
    /// Entry address as linked.
    pub entry: u64,
    /// Whether it may be loaded anywhere (`ET_DYN`).
    pub relocatable: bool,
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, ElfError> {
    let field = bytes.get(at..).and_then(|b| b.first_chunk());
    field
        .map(|b| u16::from_le_bytes(*b))
        .ok_or(ElfError::OutOfBounds)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, ElfError> {
    let field = bytes.get(at..).and_then(|b| b.first_chunk());
    field
        .map(|b| u32::from_le_bytes(*b))
        .ok_or(ElfError::OutOfBounds)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, ElfError> {
    let field = bytes.get(at..).and_then(|b| b.first_chunk());
    field
        .map(|b| u64::from_le_bytes(*b))
        .ok_or(ElfError::OutOfBounds)
}

fn part(bytes: &[u8], offset: u64, length: u64) -> Result<&[u8], ElfError> {
    let end = offset.checked_add(length).ok_or(ElfError::OutOfBounds)?;
    bytes
        .get(offset as usize..end as usize)
        .ok_or(ElfError::OutOfBounds)
}

impl<'a> Elf<'a> {
    /// Checks the file header.
    ///
    /// # Errors
    /// When it is no ELF file for this machine.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ElfError> {
        // Class 2 (64-bit), data 1 (little endian), version 1.
        if !bytes.starts_with(b"\x7fELF\x02\x01\x01") {
            return Err(ElfError::NotForUs);
        }
        let kind = u16_at(bytes, 16)?;
        if u16_at(bytes, 18)? != EM_X86_64 || (kind != ET_EXEC && kind != ET_DYN) {
            return Err(ElfError::NotForUs);
        }
        if u16_at(bytes, 56)? > MAX_SEGMENTS || u16_at(bytes, 60)? > MAX_SECTIONS {
            return Err(ElfError::TooMany);
        }
        Ok(Self {
            bytes,
            entry: u64_at(bytes, 24)?,
            relocatable: kind == ET_DYN,
        })
    }

    fn headers(
        &self,
        table_at: usize,
        size_at: usize,
        minimum: usize,
    ) -> Result<impl Iterator<Item = &'a [u8]> + use<'a>, ElfError> {
        let bytes = self.bytes;
        let size = usize::from(u16_at(bytes, size_at)?);
        let count = usize::from(u16_at(bytes, size_at + 2)?);
        let offset = u64_at(bytes, table_at)?;
        if count > 0 && size < minimum {
            return Err(ElfError::OutOfBounds);
        }
        let table = part(bytes, offset, (size * count) as u64)?;
        Ok(table.chunks_exact(size.max(1)))
    }

    /// The segments to load.
    ///
    /// # Errors
    /// When the table, or a segment's bytes, lie outside the file.
    pub fn segments(
        &self,
    ) -> Result<impl Iterator<Item = Result<Segment, ElfError>> + use<'a>, ElfError> {
        let bytes = self.bytes;
        Ok(self.headers(32, 54, 56)?.filter_map(move |header| {
            match u32_at(header, 0) {
                Ok(PT_LOAD) => {}
                Ok(_) => return None,
                Err(error) => return Some(Err(error)),
            }
            let segment = || {
                let segment = Segment {
                    flags: u32_at(header, 4)?,
                    offset: u64_at(header, 8)?,
                    address: u64_at(header, 16)?,
                    file_bytes: u64_at(header, 32)?,
                    memory_bytes: u64_at(header, 40)?,
                };
                part(bytes, segment.offset, segment.file_bytes)?;
                let end = segment.address.checked_add(segment.memory_bytes);
                if end.is_none() || segment.memory_bytes < segment.file_bytes {
                    return Err(ElfError::OutOfBounds);
                }
                Ok(segment)
            };
            Some(segment())
        }))
    }

    /// Bytes of a segment that come from the file.
    ///
    /// # Errors
    /// When they lie outside the file.
    pub fn contents(&self, segment: &Segment) -> Result<&'a [u8], ElfError> {
        part(self.bytes, segment.offset, segment.file_bytes)
    }

    /// The addresses that the segments cover together.
    ///
    /// # Errors
    /// As [`Self::segments`].
    pub fn extent(&self) -> Result<Range<u64>, ElfError> {
        let (mut start, mut end) = (u64::MAX, 0);
        for segment in self.segments()? {
            let segment = segment?;
            start = start.min(segment.address);
            end = end.max(segment.address + segment.memory_bytes);
        }
        if start >= end {
            return Err(ElfError::OutOfBounds);
        }
        Ok(start..end)
    }

    /// Calls `found` with each defined function: those of `.symtab`, or of `.dynsym` when the file is stripped.
    ///
    /// # Errors
    /// When a table lies outside the file.
    pub fn functions(&self, mut found: impl FnMut(Function<'a>)) -> Result<(), ElfError> {
        let wanted = {
            let mut kinds = self.headers(40, 58, 64)?.map(|header| u32_at(header, 4));
            if kinds.any(|kind| kind == Ok(SHT_SYMTAB)) {
                SHT_SYMTAB
            } else {
                SHT_DYNSYM
            }
        };
        for header in self.headers(40, 58, 64)? {
            if u32_at(header, 4)? != wanted {
                continue;
            }
            let names = self.section(u32_at(header, 40)?)?;
            for symbol in self.section_bytes(header)?.chunks_exact(24) {
                let info = *symbol.get(4).ok_or(ElfError::OutOfBounds)?;
                if info & 0xf != STT_FUNC || u16_at(symbol, 6)? == SHN_UNDEF {
                    continue;
                }
                let name = names
                    .get(u32_at(symbol, 0)? as usize..)
                    .ok_or(ElfError::OutOfBounds)?;
                let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
                found(Function {
                    name: &name[..end],
                    address: u64_at(symbol, 8)?,
                    size: u64_at(symbol, 16)?,
                    global: info >> 4 != 0,
                });
            }
        }
        Ok(())
    }

    /// Calls `store` with (address as linked, value) for each relocation of a file that is loaded at its linked
    /// addresses plus `bias`.
    ///
    /// # Errors
    /// When a table lies outside the file, or a relocation needs something that is not here.
    pub fn relocations(&self, bias: u64, mut store: impl FnMut(u64, u64)) -> Result<(), ElfError> {
        const R_NONE: u32 = 0;
        const R_64: u32 = 1;
        const R_GLOB_DAT: u32 = 6;
        const R_JUMP_SLOT: u32 = 7;
        const R_RELATIVE: u32 = 8;
        for header in self.headers(40, 58, 64)? {
            if u32_at(header, 4)? != SHT_RELA {
                continue;
            }
            let symbols = self.section(u32_at(header, 40)?)?;
            for entry in self.section_bytes(header)?.chunks_exact(24) {
                let (address, info) = (u64_at(entry, 0)?, u64_at(entry, 8)?);
                let addend = u64_at(entry, 16)?;
                let kind = info as u32;
                let value = match kind {
                    R_NONE => continue,
                    R_RELATIVE => bias.wrapping_add(addend),
                    R_64 | R_GLOB_DAT | R_JUMP_SLOT => {
                        let symbol = part(symbols, (info >> 32) * 24, 24)?;
                        if u16_at(symbol, 6)? == SHN_UNDEF {
                            return Err(ElfError::Relocation(kind));
                        }
                        let addend = if kind == R_64 { addend } else { 0 };
                        bias.wrapping_add(u64_at(symbol, 8)?).wrapping_add(addend)
                    }
                    _ => return Err(ElfError::Relocation(kind)),
                };
                store(address, value);
            }
        }
        Ok(())
    }

    fn section(&self, index: u32) -> Result<&'a [u8], ElfError> {
        let header = self
            .headers(40, 58, 64)?
            .nth(index as usize)
            .ok_or(ElfError::OutOfBounds)?;
        self.section_bytes(header)
    }

    fn section_bytes(&self, header: &[u8]) -> Result<&'a [u8], ElfError> {
        part(self.bytes, u64_at(header, 24)?, u64_at(header, 32)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This very test program is an ELF file for the machine.
    fn own() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn segments_lie_inside_the_extent() {
        let bytes = own();
        let elf = Elf::parse(&bytes).unwrap();
        let extent = elf.extent().unwrap();
        let segments: Vec<_> = elf.segments().unwrap().map(Result::unwrap).collect();
        assert!(segments.iter().any(|segment| segment.flags & 1 != 0));
        for segment in segments {
            assert!(extent.contains(&segment.address));
            assert!(segment.address + segment.memory_bytes <= extent.end);
        }
    }

    #[test]
    fn functions_are_found_by_name() {
        let bytes = own();
        let elf = Elf::parse(&bytes).unwrap();
        let mut seen = false;
        elf.functions(|function| {
            seen |= function.name == b"main" && function.global && function.size > 0;
        })
        .unwrap();
        assert!(seen);
    }

    #[test]
    fn a_cut_or_foreign_file_is_refused() {
        let bytes = own();
        assert_eq!(Elf::parse(b"#!/bin/sh").unwrap_err(), ElfError::NotForUs);
        assert_eq!(Elf::parse(&bytes[..40]).unwrap_err(), ElfError::OutOfBounds);
        let cut = Elf::parse(&bytes[..4096]).unwrap();
        assert_eq!(cut.extent().unwrap_err(), ElfError::OutOfBounds);
        assert_eq!(cut.functions(|_| ()).unwrap_err(), ElfError::OutOfBounds);
    }

    #[test]
    fn lengths_that_overflow_are_refused() {
        let mut bytes = own();
        bytes[32..40].fill(0xff); // e_phoff
        let elf = Elf::parse(&bytes).unwrap();
        assert_eq!(elf.extent().unwrap_err(), ElfError::OutOfBounds);
    }
}
