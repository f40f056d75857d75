//! Kernels that scenes are made by: one for each way to keep mappings.

use oprofile_device::test_utils::{
    COMPACT_LAYOUT, LINUX_4_19_LAYOUT, LINUX_6_1_LAYOUT, TINY_LAYOUT,
};
use oprofile_wire::layout::{LayoutEntry, VmaStore};

/// How a kernel keeps its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// How VMAs are kept.
    pub store: VmaStore,
    /// Where fields are.
    pub layout: &'static [LayoutEntry],
}

/// Sorted lists with a sequence number of 8 bytes; no mounts.
pub const LIST: Kernel = Kernel {
    store: VmaStore::List,
    layout: COMPACT_LAYOUT,
};

/// Sorted lists with a sequence number of 4 bytes; mounts.
pub const TINY: Kernel = Kernel {
    store: VmaStore::List,
    layout: TINY_LAYOUT,
};

/// Red-black trees, and a generation; mounts.
pub const RB_TREE: Kernel = Kernel {
    store: VmaStore::RbTree,
    layout: LINUX_4_19_LAYOUT,
};

/// Maple trees; mounts.
pub const MAPLE: Kernel = Kernel {
    store: VmaStore::Maple,
    layout: LINUX_6_1_LAYOUT,
};
