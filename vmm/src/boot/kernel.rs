//! The kernel file: what is checked before anything is set up for it.

use std::borrow::Cow;

use object::LittleEndian;
use object::elf::{self, FileHeader64, NoteType, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use thiserror::Error;

use crate::memory::LOW_END;

/// Note type of the 32-bit PVH entry (Xen's `elfnote.h`); the note's name is "Xen".
const XEN_ELFNOTE_PHYS32_ENTRY: NoteType = NoteType(18);

/// Why a kernel cannot be booted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KernelError {
    /// No ELF file at all.
    #[error("It is no ELF file; give an uncompressed kernel (vmlinux, not bzImage)")]
    NotElf,
    /// An ELF file for another machine.
    #[error("It is an ELF file, but not a 64-bit x86 executable")]
    Machine,
    /// Headers or segments reach beyond the end of the file.
    #[error("It is truncated: {0} reaches beyond the end of the file; copy or build it again")]
    Truncated(&'static str),
    /// There is no PVH entry point.
    #[error("It has no PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY); build it with CONFIG_PVH=y")]
    NoPvhNote,
    /// Nothing would be loaded.
    #[error("It has no loadable segment")]
    Empty,
    /// A segment's place is impossible.
    #[error("A segment loads at {0:#x}, below 1 MiB or beyond 64 bits")]
    Address(u64),
}

/// A kernel that has been checked.
#[derive(Clone, Debug)]
pub struct KernelImage {
    bytes: Cow<'static, [u8]>,
    entry: u32,
    end: u64,
}

impl KernelImage {
    /// Checks the contents of a kernel file.
    ///
    /// # Errors
    /// When it is no bootable kernel.
    pub fn new(bytes: Cow<'static, [u8]>) -> Result<Self, KernelError> {
        if !bytes.starts_with(&elf::ELFMAG) {
            return Err(KernelError::NotElf);
        }
        let header_size = size_of::<FileHeader64<LittleEndian>>();
        if bytes.len() < header_size {
            return Err(KernelError::Truncated("the ELF header"));
        }
        let data: &[u8] = &bytes;
        let header = FileHeader64::<LittleEndian>::parse(data).map_err(|_| KernelError::Machine)?;
        let endian = header.endian().map_err(|_| KernelError::Machine)?;
        if header.e_machine.get(endian) != elf::EM_X86_64 {
            return Err(KernelError::Machine);
        }
        let segments = header
            .program_headers(endian, data)
            .map_err(|_| KernelError::Truncated("the program header table"))?;
        let (entry, end) = (pvh_entry(segments, data)?, loaded_end(segments, data)?);
        Ok(Self { bytes, entry, end })
    }

    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Physical address of the PVH entry.
    pub const fn entry(&self) -> u32 {
        self.entry
    }

    /// Physical address behind the last byte that the kernel occupies, its bss included.
    pub const fn end(&self) -> u64 {
        self.end
    }
}

fn pvh_entry(segments: &[ProgramHeader64<LittleEndian>], data: &[u8]) -> Result<u32, KernelError> {
    for segment in segments {
        let truncated = |_| KernelError::Truncated("the note segment");
        let Some(mut notes) = segment.notes(LittleEndian, data).map_err(truncated)? else {
            continue;
        };
        while let Some(note) = notes.next().map_err(truncated)? {
            let (kind, name) = (note.n_type(LittleEndian), note.name());
            if kind != XEN_ELFNOTE_PHYS32_ENTRY || name != b"Xen" {
                continue;
            }
            // Four bytes suffice for a 32-bit address; Linux writes eight.
            if let Some(entry) = note.desc().first_chunk() {
                return Ok(u32::from_le_bytes(*entry));
            }
        }
    }
    Err(KernelError::NoPvhNote)
}

fn loaded_end(segments: &[ProgramHeader64<LittleEndian>], data: &[u8]) -> Result<u64, KernelError> {
    let mut end = 0;
    for segment in segments {
        let memory_size = segment.p_memsz(LittleEndian);
        if segment.p_type(LittleEndian) != elf::PT_LOAD || memory_size == 0 {
            continue;
        }
        segment
            .data(LittleEndian, data)
            .map_err(|()| KernelError::Truncated("a segment"))?;
        let address = segment.p_paddr(LittleEndian);
        let bytes = memory_size.max(segment.p_filesz(LittleEndian));
        let segment_end = address
            .checked_add(bytes)
            .filter(|_| address >= LOW_END)
            .ok_or(KernelError::Address(address))?;
        end = end.max(segment_end);
    }
    if end == 0 {
        return Err(KernelError::Empty);
    }
    Ok(end)
}

#[cfg(test)]
#[path = "../../tests/support/elf.rs"]
mod elf_file;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) use super::elf_file::{LOAD, kernel};

    fn refused(bytes: Vec<u8>) -> KernelError {
        KernelImage::new(bytes.into()).unwrap_err()
    }

    #[test]
    fn entry_and_end_are_found() {
        let image = KernelImage::new(kernel(&[0xf4; 10], true).into()).unwrap();
        assert_eq!(u64::from(image.entry()), LOAD);
        assert_eq!(image.end(), LOAD + 10);
    }

    #[test]
    fn what_is_no_elf_file_is_refused() {
        assert_eq!(refused(b"#!/bin/sh\n".to_vec()), KernelError::NotElf);
        assert_eq!(refused(Vec::new()), KernelError::NotElf);
    }

    #[test]
    fn every_truncation_is_told() {
        let whole = kernel(&[0xf4; 10], true);
        for length in 4..whole.len() {
            let error = refused(whole[..length].to_vec());
            assert!(
                matches!(error, KernelError::Truncated(_)),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn another_machines_elf_file_is_refused() {
        let mut arm = kernel(&[0], true);
        arm[18] = 183;
        assert_eq!(refused(arm), KernelError::Machine);
        let mut elf32 = kernel(&[0], true);
        elf32[4] = 1;
        assert_eq!(refused(elf32), KernelError::Machine);
    }

    #[test]
    fn a_kernel_without_a_pvh_note_is_refused() {
        assert_eq!(refused(kernel(&[0], false)), KernelError::NoPvhNote);
    }

    #[test]
    fn a_kernel_that_loads_over_the_boot_structures_is_refused() {
        let mut low = kernel(&[0], true);
        let paddr = 64 + 56 + 24;
        low[paddr..paddr + 8].copy_from_slice(&0x1000_u64.to_le_bytes());
        assert_eq!(refused(low.clone()), KernelError::Address(0x1000));
        low[paddr..paddr + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(refused(low), KernelError::Address(u64::MAX));
    }

    #[test]
    fn a_kernel_with_nothing_to_load_is_refused() {
        assert_eq!(refused(kernel(&[], true)), KernelError::Empty);
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_read_or_refused(
            damage in prop::collection::vec((0_usize..220, any::<u8>()), 1..8)
        ) {
            let mut file = kernel(&[0xf4; 16], true);
            for (index, byte) in damage {
                let index = index % file.len();
                file[index] = byte;
            }
            if let Ok(image) = KernelImage::new(file.into()) {
                prop_assert!(image.end() > LOW_END);
            }
        }
    }
}
