//! x86-64 page tables, walked from outside (Intel SDM volume 3, §4.5).

use thiserror::Error;
use vm_memory::GuestMemoryBackend;

use super::memory::{MemoryError, Ram};

/// Bits of an address below a 4 KiB page.
const PAGE_SHIFT: u32 = 12;
/// Bits of an address that select an entry of a table.
const INDEX_BITS: u32 = 9;
/// Bits 51:12 of an entry or of CR3: the address of a table or page.
const ADDRESS_MASK: u64 = 0x000f_ffff_ffff_f000;
/// The entry refers to something.
const PRESENT: u64 = 1 << 0;
/// At the second and third level: the entry maps a page of 2 MiB or 1 GiB.
const PAGE_SIZE: u64 = 1 << 7;
/// Highest level at which an entry may map a page (1 GiB).
const MAX_PAGE_LEVEL: u32 = 3;
/// Most levels of tables.
const MAX_LEVELS: usize = 5;

/// Number of levels of page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// 48-bit addresses.
    Four,
    /// 57-bit addresses (CR4.LA57).
    Five,
}

impl Levels {
    /// The mode with `levels` levels.
    #[must_use]
    pub const fn from_count(levels: u16) -> Option<Self> {
        match levels {
            4 => Some(Self::Four),
            5 => Some(Self::Five),
            _ => None,
        }
    }

    const fn count(self) -> u32 {
        match self {
            Self::Four => 4,
            Self::Five => 5,
        }
    }

    /// Whether all bits above those that are translated equal the highest of them.
    #[must_use]
    pub const fn is_canonical(self, gva: u64) -> bool {
        let unused = match self {
            Self::Four => 16,
            Self::Five => 7,
        };
        let extended = ((gva << unused).cast_signed() >> unused).cast_unsigned();
        extended == gva
    }
}

/// Why an address has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WalkError {
    /// The address is not canonical.
    #[error("GVA {0:#x} is not canonical")]
    NotCanonical(u64),
    /// An entry on the way is not present: not mapped, or not now.
    #[error("GVA {0:#x} is not mapped")]
    NotPresent(u64),
    /// A table refers to itself or to one above it.
    #[error("Page table at GPA {0:#x} refers back to itself")]
    Cycle(u64),
    /// A page-size bit where no page can be.
    #[error("Reserved bit in an entry of the page table at GPA {0:#x}")]
    Reserved(u64),
    /// A table or page cannot be read.
    #[error("Page table or page cannot be read")]
    Memory(#[from] MemoryError),
}

impl WalkError {
    /// Whether the tables themselves are wrong, not just without an entry for the address.
    #[must_use]
    pub const fn is_bad_table(self) -> bool {
        matches!(
            self,
            Self::Cycle(_) | Self::Reserved(_) | Self::Memory(MemoryError::OutOfRam { .. })
        )
    }
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Guest physical address.
    pub gpa: u64,
    /// Size of the page it lies in, in bytes.
    pub page_bytes: u64,
}

impl Translation {
    /// Bytes from the address to the end of its page.
    #[must_use]
    pub const fn bytes_left(self) -> u64 {
        self.page_bytes - (self.gpa & (self.page_bytes - 1))
    }
}

/// Translates `gva` by the tables at `root` (a GPA, or a CR3 with its flags).
///
/// Reads one entry a level. A table that is among its own ancestors ends the walk: nothing that is looked up here lies
/// behind a recursive entry.
///
/// # Errors
/// When there is no translation.
pub fn translate<M: GuestMemoryBackend>(
    ram: &mut Ram<'_, M>,
    levels: Levels,
    root: u64,
    gva: u64,
) -> Result<Translation, WalkError> {
    if !levels.is_canonical(gva) {
        return Err(WalkError::NotCanonical(gva));
    }
    let mut table = root & ADDRESS_MASK;
    let mut visited = [u64::MAX; MAX_LEVELS];
    for level in (1..=levels.count()).rev() {
        if visited.contains(&table) {
            return Err(WalkError::Cycle(table));
        }
        visited[level as usize - 1] = table;
        let shift = PAGE_SHIFT + INDEX_BITS * (level - 1);
        let index = (gva >> shift) & ((1 << INDEX_BITS) - 1);
        let entry = ram.read_u64(table + index * 8)?;
        if entry & PRESENT == 0 {
            return Err(WalkError::NotPresent(gva));
        }
        let is_large = level > 1 && entry & PAGE_SIZE != 0;
        if is_large && level > MAX_PAGE_LEVEL {
            return Err(WalkError::Reserved(table));
        }
        if level == 1 || is_large {
            let page_bytes = 1u64 << shift;
            // In an entry of a large page, address bits below the page size are flags.
            let page = entry & ADDRESS_MASK & !(page_bytes - 1);
            return Ok(Translation {
                gpa: page | (gva & (page_bytes - 1)),
                page_bytes,
            });
        }
        table = entry & ADDRESS_MASK;
    }
    // Level 1 returns; a walk without levels does not exist.
    Err(WalkError::NotPresent(gva))
}

/// Copies from `gva` on, page by page.
///
/// # Errors
/// When a page has no translation or is not RAM; `into` has any content then.
pub fn read<M: GuestMemoryBackend>(
    ram: &mut Ram<'_, M>,
    levels: Levels,
    root: u64,
    gva: u64,
    into: &mut [u8],
) -> Result<(), WalkError> {
    let (mut gva, mut into) = (gva, into);
    while !into.is_empty() {
        let found = translate(ram, levels, root, gva)?;
        let left = usize::try_from(found.bytes_left()).unwrap_or(usize::MAX);
        let count = left.min(into.len());
        let (part, rest) = into.split_at_mut(count);
        ram.read(found.gpa, part)?;
        into = rest;
        gva = gva.wrapping_add(count as u64);
    }
    Ok(())
}
