//! Loading programs.

use alloc::sync::Arc;

use tiny_kernel::elf::{Elf, ElfError, Segment};

use crate::fs::File;
use crate::mm::space::Mm;
use crate::mm::vma::{EXEC, READ, WRITE};
use crate::mm::{PAGE, user_end};
use crate::syscall::Errno;

/// Bytes of a program's stack.
const STACK_BYTES: u64 = 128 * 1024;
/// Where a position-independent program goes.
const DYNAMIC_BASE: u64 = 0x5555_5555_0000;

/// A program that is ready to run.
pub struct Image {
    /// Its address space.
    pub mm: Arc<Mm>,
    /// First instruction.
    pub entry: u64,
    /// The address behind its stack.
    pub stack_top: u64,
}

impl From<ElfError> for Errno {
    fn from(_: ElfError) -> Self {
        Self::NOT_EXECUTABLE
    }
}

/// The last component of a path.
pub fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Makes an address space with the program at `path` and a stack.
///
/// # Errors
/// When there is no such file, it is no program for this machine, or memory is short.
pub fn load(path: &[u8]) -> Result<Image, Errno> {
    let file = File::open(path).ok_or(Errno::NOT_FOUND)?;
    let elf = Elf::parse(file.data())?;
    let bias = if elf.relocatable { DYNAMIC_BASE } else { 0 };
    let mm = Mm::new(file.clone())?;
    for segment in elf.segments()? {
        load_segment(&mm, &file, &segment?, bias)?;
    }
    if elf.relocatable {
        let mut result = Ok(());
        elf.relocations(bias, |address, value| {
            let at = bias.wrapping_add(address);
            result = result.and_then(|()| mm.write_forced(at, &value.to_le_bytes()));
        })?;
        result?;
    }
    let entry = bias.wrapping_add(elf.entry);
    // A return to user mode at an address that is not canonical would fault in the kernel.
    if entry >= user_end() {
        return Err(Errno::NOT_EXECUTABLE);
    }
    let stack = user_end() - STACK_BYTES;
    map_at(&mm, stack, STACK_BYTES, READ | WRITE, None)?;
    Ok(Image {
        mm,
        entry,
        stack_top: user_end(),
    })
}

/// Maps exactly there.
fn map_at(
    mm: &Mm,
    address: u64,
    length: u64,
    flags: u64,
    file: Option<(Arc<File>, u64)>,
) -> Result<(), Errno> {
    if mm.map(address, length, flags, file)? != address {
        return Err(Errno::NOT_EXECUTABLE);
    }
    Ok(())
}

fn load_segment(mm: &Mm, file: &Arc<File>, segment: &Segment, bias: u64) -> Result<(), Errno> {
    let mut flags = READ;
    if segment.flags & 1 != 0 {
        flags |= EXEC;
    }
    if segment.flags & 2 != 0 {
        flags |= WRITE;
    }
    let address = bias
        .checked_add(segment.address)
        .ok_or(Errno::NOT_EXECUTABLE)?;
    let in_page = address % PAGE;
    if segment.offset % PAGE != in_page {
        return Err(Errno::NOT_EXECUTABLE);
    }
    let start = address - in_page;
    let file_end = address
        .checked_add(segment.file_bytes)
        .ok_or(Errno::NOT_EXECUTABLE)?;
    let memory_end = address
        .checked_add(segment.memory_bytes)
        .ok_or(Errno::NOT_EXECUTABLE)?;
    let mut mapped = start;
    if segment.file_bytes > 0 {
        let pages = Some((file.clone(), segment.offset / PAGE));
        map_at(mm, start, file_end - start, flags, pages)?;
        mapped = file_end.next_multiple_of(PAGE);
        if flags & WRITE != 0 {
            // What follows the segment in the file is no part of it; it begins with zeros.
            let tail = (mapped - file_end) as usize;
            mm.write(file_end, &[0; PAGE as usize][..tail])?;
        }
    }
    if memory_end > mapped {
        map_at(mm, mapped, memory_end - mapped, flags, None)?;
    }
    Ok(())
}
