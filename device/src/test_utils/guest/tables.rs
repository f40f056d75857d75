//! Page tables.

use super::{FIRST_FREE, IMAGE_GPA, KERNEL_END, KERNEL_START, LINEAR_BASE, SyntheticGuest};
use crate::guest::paging::Levels;

const PAGE_BYTES: u64 = 4096;
/// Entries of a table.
const ENTRIES: u64 = 512;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS_MASK: u64 = 0x000f_ffff_ffff_f000;

/// Size of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
    /// 1 GiB.
    Huge,
}

impl PageSize {
    /// Level of the entry that maps such a page.
    const fn level(self) -> u32 {
        match self {
            Self::Small => 1,
            Self::Large => 2,
            Self::Huge => 3,
        }
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        PAGE_BYTES << (9 * (self.level() - 1))
    }

    /// The entry that maps the page at `gpa`.
    const fn entry(self, gpa: u64) -> u64 {
        match self {
            Self::Small => gpa | PRESENT,
            Self::Large | Self::Huge => gpa | PRESENT | LARGE,
        }
    }
}

impl SyntheticGuest {
    /// Page-aligned RAM that nobody used before, so zeroed.
    pub fn allocate(&mut self, bytes: u64) -> u64 {
        let gpa = self.next_free;
        self.next_free += bytes.next_multiple_of(PAGE_BYTES);
        assert!(
            self.next_free <= self.shape.ram_bytes,
            "guest RAM is used up"
        );
        gpa
    }

    /// RAM that has been given out, in bytes.
    #[must_use]
    pub const fn used_bytes(&self) -> u64 {
        self.next_free - FIRST_FREE
    }

    /// Maps a page.
    pub fn map(&mut self, gva: u64, gpa: u64, size: PageSize) {
        self.set_entry(gva, size.level(), size.entry(gpa));
    }

    /// Writes the page-table entry of `gva` at `level` (1 is a page's), making the tables above it.
    pub fn set_entry(&mut self, gva: u64, level: u32, entry: u64) {
        let at = self.entry_of(gva, level);
        self.write_word(at, entry);
    }

    /// GPA of the page-table entry of `gva` at `level`, making the tables above it.
    fn entry_of(&mut self, gva: u64, level: u32) -> u64 {
        let top = match self.shape.levels {
            Levels::Four => 4,
            Levels::Five => 5,
        };
        let mut table = self.root;
        for above in (level + 1..=top).rev() {
            let at = Self::entry_at(table, gva, above);
            let mut next = self.read_word(at);
            if next & PRESENT == 0 {
                next = self.allocate(PAGE_BYTES) | PRESENT;
                self.write_word(at, next);
            }
            table = next & ADDRESS_MASK;
        }
        Self::entry_at(table, gva, level)
    }

    const fn entry_at(table: u64, gva: u64, level: u32) -> u64 {
        table + Self::index(gva, level) * 8
    }

    const fn index(gva: u64, level: u32) -> u64 {
        (gva >> (12 + 9 * (level - 1))) & (ENTRIES - 1)
    }

    /// Maps `bytes` from `gva` on to those from `gpa` on.
    fn map_range(&mut self, gva: u64, gpa: u64, bytes: u64, size: PageSize) {
        assert!(
            bytes.is_multiple_of(size.bytes()),
            "{bytes} bytes are not whole pages"
        );
        let mut at = 0;
        for offset in (0..bytes).step_by(usize::try_from(size.bytes()).unwrap()) {
            let gva = gva + offset;
            // Entries of one table lie together.
            at = match Self::index(gva, size.level()) {
                index if index == 0 || offset == 0 => self.entry_of(gva, size.level()),
                _ => at + 8,
            };
            self.write_word(at, size.entry(gpa + offset));
        }
    }

    /// Makes the linear map and that of the kernel image.
    pub(super) fn make_tables(&mut self) {
        self.root = self.allocate(PAGE_BYTES);
        let (bytes, pages) = (self.shape.ram_bytes, self.shape.linear_pages);
        self.map_range(LINEAR_BASE, 0, bytes, pages);
        let image = KERNEL_END - KERNEL_START;
        self.map_range(KERNEL_START, IMAGE_GPA, image, PageSize::Small);
    }
}
