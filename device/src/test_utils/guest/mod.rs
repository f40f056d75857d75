//! Guest RAM with page tables and kernel objects, laid out by any descriptor and VMA store.
//!
//! | module | what it lays out |
//! |---|---|
//! | `layouts` | descriptors to lay out by |
//! | `tables` | page tables, linear map |
//! | `objects` | memory for objects, their fields |
//! | `tasks` | tasks and address spaces |
//! | `vmas` | VMAs as a list and a red-black tree |
//! | `maple` | VMAs as a maple tree |
//! | `files` | super blocks, inodes, directory entries, mounts, files |
//! | `requests` | what the driver says of the guest |

mod files;
mod layouts;
mod maple;
mod objects;
mod requests;
mod tables;
mod tasks;
mod vmas;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use oprofile_wire::changes;
use oprofile_wire::layout::{LayoutEntry, VmaStore};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::guest::paging::Levels;

pub use layouts::{COMPACT_LAYOUT, LINUX_4_19_LAYOUT, LINUX_6_1_LAYOUT, TINY_LAYOUT};
pub use maple::{MapleInner, MapleShape};
pub use objects::ObjectKind;
pub use tables::PageSize;
pub use vmas::VmaSpec;

use files::Tree;
use objects::{FieldTable, Slabs};
use vmas::Store;

/// GVA of the linear map.
pub const LINEAR_BASE: u64 = 0xffff_9000_4000_0000;
/// GVA of the kernel image.
pub const KERNEL_START: u64 = 0xffff_ffff_8000_0000;
/// GVA behind the kernel image.
pub const KERNEL_END: u64 = KERNEL_START + 0x10_0000;
/// GVA behind user space.
pub const USER_END: u64 = 0x0000_8000_0000_0000;

/// RAM of a guest in bytes, unless its shape says otherwise.
const RAM_BYTES: u64 = 16 * 1024 * 1024;
/// GPA at which the kernel image lies.
const IMAGE_GPA: u64 = 0x10_0000;
/// First GPA that is given out.
const FIRST_FREE: u64 = 0x20_0000;

/// What kind of guest is laid out.
#[derive(Clone, Debug)]
pub struct GuestShape {
    /// Levels of its page tables.
    pub levels: Levels,
    /// Where its kernel keeps things.
    pub layout: Vec<LayoutEntry>,
    /// The store of VMAs that its driver tells of. Every store whose fields the layout has is filled.
    pub store: VmaStore,
    /// RAM from GPA 0 on: a multiple of `linear_pages`, at least 4 MiB. What is not touched costs nothing.
    pub ram_bytes: u64,
    /// Pages of the linear map.
    pub linear_pages: PageSize,
    /// How maple trees are built.
    pub maple: MapleShape,
}

impl Default for GuestShape {
    /// 4 levels, [`COMPACT_LAYOUT`], a list, 16 MiB in large pages.
    fn default() -> Self {
        Self {
            levels: Levels::Four,
            layout: COMPACT_LAYOUT.to_vec(),
            store: VmaStore::List,
            ram_bytes: RAM_BYTES,
            linear_pages: PageSize::Large,
            maple: MapleShape::default(),
        }
    }
}

/// A guest's RAM and what its kernel keeps there. Objects are named by their GVA in the linear map.
#[derive(Debug)]
pub struct SyntheticGuest {
    memory: Arc<GuestMemoryMmap>,
    shape: GuestShape,
    fields: FieldTable,
    root: u64,
    next_free: u64,
    slabs: Slabs,
    init_task: u64,
    next_inode: u64,
    tree: Tree,
    /// By address space.
    stores: HashMap<u64, Store>,
    /// GPA of the change words, where it keeps them.
    change_words: Option<u64>,
}

impl Default for SyntheticGuest {
    fn default() -> Self {
        Self::with_shape(GuestShape::default())
    }
}

impl SyntheticGuest {
    /// A guest with a linear map, a kernel image, and an initial task without an address space. It keeps VMAs in a list.
    #[must_use]
    pub fn new(levels: Levels, layout: &[LayoutEntry]) -> Self {
        Self::with_shape(GuestShape {
            levels,
            layout: layout.to_vec(),
            ..GuestShape::default()
        })
    }

    /// As [`SyntheticGuest::new`], of this shape.
    #[must_use]
    pub fn with_shape(shape: GuestShape) -> Self {
        let bytes = usize::try_from(shape.ram_bytes).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]).unwrap();
        let mut guest = Self {
            memory: Arc::new(memory),
            fields: FieldTable::new(&shape.layout),
            shape,
            root: 0,
            next_free: FIRST_FREE,
            slabs: Slabs::default(),
            init_task: 0,
            next_inode: 1,
            tree: Tree::default(),
            stores: HashMap::new(),
            change_words: None,
        };
        guest.make_tables();
        guest.make_root_directory();
        guest.init_task = guest.task(0, 0, 0);
        guest
    }

    /// A guest like this one, in RAM of its own: all that was given out is copied, nothing else. Much faster than making one,
    /// which counts where guests are made by the million.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let bytes = usize::try_from(self.shape.ram_bytes).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]).unwrap();
        let mut used = vec![0; usize::try_from(self.used_bytes()).unwrap()];
        let start = GuestAddress(FIRST_FREE);
        self.memory.read_slice(&mut used, start).unwrap();
        // Pages of zeros are there already, and cost the more.
        for (page, gpa) in used.chunks(4096).zip((FIRST_FREE..).step_by(4096)) {
            if page.iter().any(|&byte| byte != 0) {
                memory.write_slice(page, GuestAddress(gpa)).unwrap();
            }
        }
        Self {
            memory: Arc::new(memory),
            shape: self.shape.clone(),
            fields: self.fields.clone(),
            slabs: self.slabs.clone(),
            tree: self.tree.clone(),
            stores: self.stores.clone(),
            ..*self
        }
    }

    /// Has its driver keep change words and say so; from now on [`SyntheticGuest::count_change`] must tell what goes.
    pub fn keep_change_words(&mut self) {
        self.change_words = Some(self.allocate(changes::BYTES as u64));
    }

    /// Counts a change of the address space at `space` as [begun](changes::BEGUN) or [ended](changes::ENDED).
    ///
    /// # Panics
    /// When the guest keeps no change words.
    pub fn count_change(&self, space: u64, half: usize) {
        let words = self.change_words.unwrap();
        let offset = 8 * changes::index(space) + half;
        let gpa = GuestAddress(words + offset as u64);
        let count: u32 = self.memory.load(gpa, Ordering::SeqCst).unwrap();
        self.memory
            .store(count.wrapping_add(1), gpa, Ordering::SeqCst)
            .unwrap();
    }

    /// Its RAM.
    #[must_use]
    pub fn memory(&self) -> Arc<GuestMemoryMmap> {
        Arc::clone(&self.memory)
    }

    /// What kind of guest it is.
    #[must_use]
    pub const fn shape(&self) -> &GuestShape {
        &self.shape
    }

    /// GPA of its top-level page table.
    #[must_use]
    pub const fn root(&self) -> u64 {
        self.root
    }

    /// Levels of its page tables.
    #[must_use]
    pub const fn levels(&self) -> Levels {
        self.shape.levels
    }

    /// The store of VMAs that its driver tells of.
    #[must_use]
    pub const fn store(&self) -> VmaStore {
        self.shape.store
    }

    /// The initial task.
    #[must_use]
    pub const fn init_task(&self) -> u64 {
        self.init_task
    }

    /// Bytes of its RAM.
    #[must_use]
    pub const fn ram_bytes(&self) -> u64 {
        self.shape.ram_bytes
    }
}

#[cfg(test)]
mod tests;
