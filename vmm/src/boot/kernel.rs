//! The kernel file: what is checked before anything is set up for it.

use std::borrow::Cow;
use std::ops::Range;

use object::LittleEndian;
use object::elf::{self, FileHeader64, NoteType, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::bzimage::{self, BzImage};
use super::entry::Entry;
use crate::memory::LOW_END;

/// Note type of the 32-bit PVH entry (Xen's `elfnote.h`); the note's name is "Xen".
const XEN_ELFNOTE_PHYS32_ENTRY: NoteType = NoteType(18);

/// Why a kernel cannot be booted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KernelError {
    /// Neither of the two kinds.
    #[error("It is neither a Linux kernel image (vmlinuz, bzImage) nor an ELF file (vmlinux)")]
    UnknownKind,
    /// An ELF file for another machine.
    #[error("It is an ELF file, but not a 64-bit x86 executable")]
    Machine,
    /// Headers or segments reach beyond the end of the file.
    #[error("It is truncated: {0} reaches beyond the end of the file; copy or build it again")]
    Truncated(&'static str),
    /// An ELF file with no way in.
    #[error(
        "It has no PVH entry note (CONFIG_PVH=y brings one), and its 64-bit entry {0:#x} is not in a segment with code"
    )]
    NoEntry(u64),
    /// A kernel image that must be entered in 16- or 32-bit mode.
    #[error(
        "It has no 64-bit entry (boot protocol {}.{}); a 64-bit Linux of 3.8 or later is needed",
        version >> 8, version & 0xff
    )]
    No64BitEntry {
        /// Its boot protocol: major and minor number, a byte each.
        version: u16,
    },
    /// Nothing would be loaded.
    #[error("It has no loadable segment")]
    Empty,
    /// A segment's place is impossible.
    #[error("A segment loads at {0:#x}, below 1 MiB or beyond 64 bits")]
    Address(u64),
    /// Two segments would lie at the same place.
    #[error("Two of its segments overlap at {0:#x}; it is damaged, copy or build it again")]
    Overlap(u64),
    /// A segment contradicts itself.
    #[error(
        "The segment at {0:#x} has more bytes in the file than in memory; it is damaged, copy or build it again"
    )]
    SegmentSize(u64),
    /// The PVH note leads nowhere.
    #[error("Its PVH entry {0:#x} is in no segment; it is damaged, copy or build it again")]
    PvhEntry(u32),
}

/// A kernel that has been checked.
#[derive(Clone, Debug)]
pub struct KernelImage {
    bytes: Cow<'static, [u8]>,
    kind: KernelKind,
    segments: Vec<Segment>,
    end: u64,
}

/// Bytes of the file that are loaded together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    /// GPAs that it occupies; behind its bytes they are zero.
    memory: Range<u64>,
    /// Where its bytes are in the file; no more than it has in memory.
    file: Range<usize>,
}

/// How a kernel is loaded and entered.
#[derive(Clone, Copy, Debug)]
pub enum KernelKind {
    /// An ELF file with a 32-bit PVH entry at this GPA.
    Pvh(u32),
    /// An ELF file that is entered at this GPA by Linux's 64-bit protocol.
    Elf64(u64),
    /// Linux's compressed image.
    BzImage(BzImage),
}

impl KernelImage {
    /// Checks the contents of a kernel file.
    ///
    /// # Errors
    /// When it is no bootable kernel.
    pub fn new(bytes: Cow<'static, [u8]>) -> Result<Self, KernelError> {
        let (kind, segments) = if bytes.starts_with(&elf::ELFMAG) {
            elf_kind(&bytes)?
        } else if bzimage::is_bzimage(&bytes) {
            let image = BzImage::parse(&bytes)?;
            let code = Segment {
                memory: image.load..image.end,
                file: image.code..bytes.len(),
            };
            (KernelKind::BzImage(image), vec![code])
        } else {
            return Err(KernelError::UnknownKind);
        };
        let end = segments.last().map_or(0, |segment| segment.memory.end);
        Ok(Self {
            bytes,
            kind,
            segments,
            end,
        })
    }

    /// Writes it into guest memory, which is zero where it goes.
    ///
    /// # Errors
    /// When `memory` ends below [`end`](Self::end).
    pub fn load(&self, memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
        self.segments.iter().try_for_each(|segment| {
            let bytes = self.bytes.get(segment.file.clone()).unwrap_or_default();
            memory.write_slice(bytes, GuestAddress(segment.memory.start))
        })
    }

    /// How it is loaded.
    pub const fn kind(&self) -> &KernelKind {
        &self.kind
    }

    /// Where and how it is entered.
    pub const fn entry(&self) -> Entry {
        match &self.kind {
            KernelKind::Pvh(entry) => Entry::Pvh(*entry),
            KernelKind::Elf64(entry) => Entry::Linux(*entry),
            KernelKind::BzImage(image) => Entry::Linux(image.entry()),
        }
    }

    /// GPA behind the last byte that the kernel occupies, its bss included.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Highest GPA behind an initrd that it can use.
    pub fn initrd_limit(&self) -> u64 {
        match &self.kind {
            KernelKind::BzImage(image) => u64::from(image.header.initrd_addr_max).saturating_add(1),
            KernelKind::Pvh(_) | KernelKind::Elf64(_) => u64::MAX,
        }
    }
}

fn elf_kind(data: &[u8]) -> Result<(KernelKind, Vec<Segment>), KernelError> {
    if data.len() < size_of::<FileHeader64<LittleEndian>>() {
        return Err(KernelError::Truncated("the ELF header"));
    }
    let header = FileHeader64::<LittleEndian>::parse(data).map_err(|_| KernelError::Machine)?;
    let endian = header.endian().map_err(|_| KernelError::Machine)?;
    if header.e_machine.get(endian) != elf::EM_X86_64 {
        return Err(KernelError::Machine);
    }
    let segments = header
        .program_headers(endian, data)
        .map_err(|_| KernelError::Truncated("the program header table"))?;
    let loaded = loaded(segments, data)?;
    let kind = match pvh_entry(segments, data)? {
        Some(entry)
            if loaded
                .iter()
                .any(|segment| segment.memory.contains(&entry.into())) =>
        {
            KernelKind::Pvh(entry)
        }
        Some(entry) => return Err(KernelError::PvhEntry(entry)),
        None => KernelKind::Elf64(elf_entry(header.e_entry.get(endian), segments)?),
    };
    Ok((kind, loaded))
}

/// Linux has the physical address of its entry in the header.
fn elf_entry(entry: u64, segments: &[ProgramHeader64<LittleEndian>]) -> Result<u64, KernelError> {
    segments
        .iter()
        .any(|segment| {
            let start = segment.p_paddr(LittleEndian);
            segment.p_type(LittleEndian) == elf::PT_LOAD
                && segment.p_flags(LittleEndian).contains(elf::PF_X)
                && (start..start.saturating_add(segment.p_filesz(LittleEndian))).contains(&entry)
        })
        .then_some(entry)
        .ok_or(KernelError::NoEntry(entry))
}

fn pvh_entry(
    segments: &[ProgramHeader64<LittleEndian>],
    data: &[u8],
) -> Result<Option<u32>, KernelError> {
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
                return Ok(Some(u32::from_le_bytes(*entry)));
            }
        }
    }
    Ok(None)
}

/// The segments that are loaded, ascending and apart.
fn loaded(
    segments: &[ProgramHeader64<LittleEndian>],
    data: &[u8],
) -> Result<Vec<Segment>, KernelError> {
    let mut loaded: Vec<Segment> = Vec::new();
    for segment in segments {
        if segment.p_type(LittleEndian) != elf::PT_LOAD {
            continue;
        }
        let (offset, size) = segment.file_range(LittleEndian);
        let file = match size {
            0 => Some(0..0),
            _ => range_in(data, offset, size),
        };
        let file = file.ok_or(KernelError::Truncated("a segment"))?;
        let start = segment.p_paddr(LittleEndian);
        let bytes = segment.p_memsz(LittleEndian);
        if size > bytes {
            return Err(KernelError::SegmentSize(start));
        }
        if bytes == 0 {
            continue;
        }
        let end = start
            .checked_add(bytes)
            .filter(|_| start >= LOW_END)
            .ok_or(KernelError::Address(start))?;
        loaded.push(Segment {
            memory: start..end,
            file,
        });
    }
    if loaded.is_empty() {
        return Err(KernelError::Empty);
    }
    loaded.sort_unstable_by_key(|segment| segment.memory.start);
    let overlap = |pair: &&[Segment]| pair[0].memory.end > pair[1].memory.start;
    match loaded.windows(2).find(overlap) {
        Some(pair) => Err(KernelError::Overlap(pair[1].memory.start)),
        None => Ok(loaded),
    }
}

/// Such a part of `data`, if it has it.
fn range_in(data: &[u8], offset: u64, size: u64) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    (end <= data.len()).then_some(start..end)
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
        assert_eq!(image.entry(), Entry::Pvh(u32::try_from(LOAD).unwrap()));
        assert_eq!(image.end(), LOAD + 10);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert_eq!(refused(b"#!/bin/sh\n".to_vec()), KernelError::UnknownKind);
        assert_eq!(refused(Vec::new()), KernelError::UnknownKind);
    }

    #[test]
    fn linux_image_is_entered_by_its_64_bit_entry() {
        let image = KernelImage::new(bzimage::tests::image(0x1000).into()).unwrap();
        assert_eq!(image.entry(), Entry::Linux(0x10_0200));
        assert_eq!(image.end(), 0x10_8000);
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
    fn elf_file_without_a_pvh_note_is_entered_where_its_header_says_if_code_is_there() {
        let mut file = kernel(&[0xf4; 10], false);
        let mut enter = |entry: u64| {
            file[24..32].copy_from_slice(&entry.to_le_bytes());
            KernelImage::new(file.clone().into())
        };
        assert_eq!(enter(LOAD + 3).unwrap().entry(), Entry::Linux(LOAD + 3));
        for outside in [0, LOAD - 1, LOAD + 10, u64::MAX] {
            assert_eq!(enter(outside).unwrap_err(), KernelError::NoEntry(outside));
        }
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

    /// A kernel of ten bytes, whose second segment is the note's, loaded too: so many bytes in file and memory, there.
    fn two_segments(start: u64, file_size: u64, memory_size: u64) -> Vec<u8> {
        let mut file = kernel(&[0xf4; 10], false);
        let segment = 64;
        file[segment] = 1;
        for (field, value) in [(24, start), (32, file_size), (40, memory_size)] {
            let at = segment + field;
            file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        file[24..32].copy_from_slice(&LOAD.to_le_bytes());
        file
    }

    #[test]
    fn segments_that_overlap_are_refused() {
        let loads = |start, size| KernelImage::new(two_segments(start, 1, size).into());
        assert_eq!(loads(LOAD + 10, 5).unwrap().end(), LOAD + 15);
        assert_eq!(
            loads(LOAD + 9, 5).unwrap_err(),
            KernelError::Overlap(LOAD + 9)
        );
        assert_eq!(loads(LOAD, 1).unwrap_err(), KernelError::Overlap(LOAD));
    }

    #[test]
    fn segment_with_more_bytes_in_the_file_than_in_memory_is_refused() {
        let start = LOAD + 0x1000;
        for (file_size, memory_size) in [(5, 4), (1, 0)] {
            assert_eq!(
                refused(two_segments(start, file_size, memory_size)),
                KernelError::SegmentSize(start)
            );
        }
    }

    #[test]
    fn pvh_entry_outside_all_segments_is_refused() {
        let mut file = kernel(&[0xf4; 10], true);
        let entry = file.len() - 10 - 8;
        file[entry..entry + 8].copy_from_slice(&(LOAD + 10).to_le_bytes());
        assert_eq!(refused(file), KernelError::PvhEntry(0x10_000a));
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
