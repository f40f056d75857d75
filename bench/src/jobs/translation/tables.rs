//! The page tables that everybody walks.

use std::sync::Arc;

use oprofile_device::guest::paging::Levels;
use oprofile_device::test_utils::{GuestShape, PageSize, SyntheticGuest};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::PAGE_BYTES;
use oprofile_workload::random::Random;

/// First of the addresses that are mapped: kernel space, in nobody's way.
const BASE: u64 = 0xffff_c900_0000_0000;

/// GPA of the first page that is mapped there; the tables lie below.
const FIRST_PAGE: u64 = 1 << 30;

/// 1 GiB of RAM, mapped page by page in random order.
pub struct Tables {
    guest: SyntheticGuest,
    /// Number of the physical page, by the number of the virtual one.
    pages: Vec<u64>,
    /// The part of RAM in which the tables lie, from GPA 0 on, in words.
    copy: Vec<u64>,
}

impl Tables {
    /// Pages that are mapped.
    pub const PAGES: u64 = (1 << 30) / PAGE_BYTES;

    /// Lays them out, 4 levels.
    pub fn new() -> Self {
        let mut guest = SyntheticGuest::with_shape(GuestShape {
            ram_bytes: FIRST_PAGE + Self::PAGES * PAGE_BYTES,
            ..GuestShape::default()
        });
        let mut pages: Vec<u64> = (0..Self::PAGES).collect();
        Random::new(3).shuffle(&mut pages);
        for (virtual_page, physical_page) in (0..).zip(&pages) {
            let gva = BASE + virtual_page * PAGE_BYTES;
            guest.map(
                gva,
                FIRST_PAGE + physical_page * PAGE_BYTES,
                PageSize::Small,
            );
        }
        // Everything that has been given out so far is tables and a few objects.
        let end = guest.allocate(PAGE_BYTES);
        let memory = guest.memory();
        let copy = (0..end)
            .step_by(8)
            .map(|gpa| {
                let word = memory.read_obj(GuestAddress(gpa));
                u64::from_le(word.expect("guest RAM begins at 0"))
            })
            .collect();
        Self { guest, pages, copy }
    }

    /// Address of virtual page number `page`.
    pub const fn page(&self, page: u64) -> u64 {
        BASE + page * PAGE_BYTES
    }

    /// Where `address` leads, as it was laid out.
    pub fn physical(&self, address: u64) -> u64 {
        let offset = address - BASE;
        let page = usize::try_from(offset / PAGE_BYTES).unwrap_or(usize::MAX);
        FIRST_PAGE + self.pages[page] * PAGE_BYTES + offset % PAGE_BYTES
    }

    /// GPA of the top-level table.
    pub const fn root(&self) -> u64 {
        self.guest.root()
    }

    /// Their levels.
    pub const fn levels(&self) -> Levels {
        self.guest.levels()
    }

    /// All of guest RAM.
    pub fn memory(&self) -> Arc<GuestMemoryMmap> {
        self.guest.memory()
    }

    /// The tables alone, for those who want plain memory; the index of a word is its GPA / 8.
    pub fn words(&self) -> &[u64] {
        &self.copy
    }
}
