//! Kernels and page tables that scenarios are laid out for.

use std::fmt;

use oprofile_device::guest::paging::Levels;
use oprofile_device::test_utils::{
    GuestShape, LINUX_4_19_LAYOUT, LINUX_6_1_LAYOUT, PageSize, TINY_LAYOUT,
};
use oprofile_wire::layout::{LayoutEntry, VmaStore};

/// RAM of a guest in bytes, where its pages are not larger.
pub const RAM_BYTES: usize = 32 << 20;

/// A kernel: its name, how it keeps VMAs, its layout.
type Kernel = (&'static str, VmaStore, &'static [LayoutEntry]);

const KERNELS: [Kernel; 4] = [
    ("Linux 6.1, maple tree", VmaStore::Maple, LINUX_6_1_LAYOUT),
    (
        "Linux 4.19, red-black tree",
        VmaStore::RbTree,
        LINUX_4_19_LAYOUT,
    ),
    ("Linux 4.19, list", VmaStore::List, LINUX_4_19_LAYOUT),
    ("tiny kernel, list", VmaStore::List, TINY_LAYOUT),
];

const LEVELS: [Levels; 2] = [Levels::Four, Levels::Five];

const PAGES: [PageSize; 3] = [PageSize::Small, PageSize::Large, PageSize::Huge];

/// A kernel, levels of page tables, and pages of its linear map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamShape {
    kernel: Kernel,
    levels: Levels,
    pages: PageSize,
}

impl RamShape {
    /// Every combination.
    pub fn all() -> impl Iterator<Item = Self> {
        KERNELS.into_iter().flat_map(|kernel| {
            LEVELS.into_iter().flat_map(move |levels| {
                PAGES.into_iter().map(move |pages| Self {
                    kernel,
                    levels,
                    pages,
                })
            })
        })
    }

    /// What the builder needs to know.
    pub fn guest(self) -> GuestShape {
        let (_, store, layout) = self.kernel;
        GuestShape {
            levels: self.levels,
            layout: layout.to_vec(),
            store,
            ram_bytes: self.pages.bytes().max(RAM_BYTES as u64),
            linear_pages: self.pages,
            ..GuestShape::default()
        }
    }
}

impl fmt::Display for RamShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let levels = match self.levels {
            Levels::Four => 4,
            Levels::Five => 5,
        };
        let pages = match self.pages {
            PageSize::Small => "4 KiB",
            PageSize::Large => "2 MiB",
            PageSize::Huge => "1 GiB",
        };
        write!(f, "{}, {levels} levels, {pages} pages", self.kernel.0)
    }
}
