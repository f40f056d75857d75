//! The layout descriptor: where the guest kernel keeps the fields that the host walks.
//!
//! Offsets come from the running kernel (`offsetof` in the driver), never from a table by version. A descriptor is a
//! [`DescriptorHeader`] and `count` [`LayoutEntry`] records, each a field's offset and size, or a constant.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::cursor::Cursor;

/// First word of a descriptor, "LAYO" in memory.
pub const MAGIC: u32 = u32::from_le_bytes(*b"LAYO");

/// Version of the descriptor's format.
pub const VERSION: u16 = 1;

/// Largest offset that a descriptor may name. Linux's largest structure of interest, `task_struct`, has about
/// 10 KiB; a bound of 64 KiB keeps `address + offset` arithmetic and reads small.
pub const MAX_OFFSET: u32 = 64 * 1024;

/// Most entries in a descriptor: room for several times today's fields.
pub const MAX_ENTRIES: usize = 256;

/// How an address space keeps its VMAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum VmaStore {
    /// A list sorted by address ([`Field::MmVmaList`], [`Field::VmaNext`]): Linux up to 6.0, and the tiny kernel.
    List = 1,
    /// A red-black tree ([`Field::MmVmaRoot`], [`Field::VmaRb`]): Linux 2.4 to 6.0.
    RbTree = 2,
    /// A maple tree ([`Field::MmMapleTree`]): Linux 6.1 and later.
    Maple = 3,
}

impl VmaStore {
    /// The store that `value` stands for.
    #[must_use]
    pub const fn from_u16(value: u16) -> Option<Self> {
        match value {
            1 => Some(Self::List),
            2 => Some(Self::RbTree),
            3 => Some(Self::Maple),
            _ => None,
        }
    }
}

macro_rules! fields {
    ($($(#[doc = $doc:literal])+ $name:ident = $id:literal,)+) => {
        /// What an entry describes. Offsets are from the start of the named structure, in bytes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Field {
            $($(#[doc = $doc])+ $name = $id,)+
        }

        impl Field {
            /// Every field of this version.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The field with this id.
            #[must_use]
            pub const fn from_u16(id: u16) -> Option<Self> {
                match id {
                    $($id => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

fields! {
    /// Task: pointer to its address space, null for a kernel thread or past exit.
    TaskMm = 1,
    /// Task: thread id, `u32`.
    TaskPid = 2,
    /// Task: process (thread group) id, `u32`.
    TaskTgid = 3,
    /// Task: flags, `u32`; see [`Field::TaskFlagKernelThread`].
    TaskFlags = 4,
    /// Task: name, up to 16 bytes, NUL-terminated when shorter.
    TaskComm = 5,
    /// Constant: bit mask in the task's flags that marks a kernel thread.
    TaskFlagKernelThread = 6,
    /// Constant: bit mask in the task's flags that marks an exiting task.
    TaskFlagExiting = 7,

    /// Address space: GVA of the top-level page table.
    MmPageTable = 16,
    /// Address space: pointer to the file of the main program, or null.
    MmExeFile = 17,
    /// Address space: number of VMAs, `u32`.
    MmVmaCount = 18,
    /// Address space: first VMA of the sorted list.
    MmVmaList = 19,
    /// Address space: root pointer of the red-black tree.
    MmVmaRoot = 20,
    /// Address space: the embedded maple tree.
    MmMapleTree = 21,
    /// Address space: `u32` or `u64` that changes whenever the VMAs do, odd while they are being changed.
    MmSequence = 22,
    /// Address space: `u32` or `u64` that changes after VMAs were taken out and before their memory is reused; odd or even
    /// means nothing (Linux 3.15 to 6.0: `vmacache_seqnum`; 6.4 to 6.13: `mm_lock_seq`).
    MmGeneration = 23,

    /// VMA: first address.
    VmaStart = 32,
    /// VMA: address behind the last.
    VmaEnd = 33,
    /// VMA: flags, `u64`; see [`Field::VmaFlagExec`].
    VmaFlags = 34,
    /// VMA: offset into the file in pages.
    VmaPageOffset = 35,
    /// VMA: pointer to the mapped file, null for an anonymous mapping.
    VmaFile = 36,
    /// VMA: back pointer to its address space.
    VmaMm = 37,
    /// VMA: next of the sorted list.
    VmaNext = 38,
    /// VMA: the embedded red-black node; pointers to a node lead here.
    VmaRb = 39,
    /// Constant: bit mask in the VMA's flags that marks executable memory.
    VmaFlagExec = 40,
    /// Constant: log2 of the unit of [`Field::VmaPageOffset`].
    PageShift = 41,
    /// Red-black node: pointer to the right child. Without it 8, as in every Linux.
    RbRight = 42,
    /// Red-black node: pointer to the left child. Without it 16, as in every Linux.
    RbLeft = 43,

    /// Maple tree: root word.
    MapleRoot = 48,
    /// Maple tree: flags, `u32`.
    MapleFlags = 49,
    /// Maple node of kind `leaf_64` or `range_64`: array of pivots, `u64` each. Without it 15 at 8 (64-bit Linux 6.1).
    MapleRangePivots = 50,
    /// The same node: array of slots, 8 bytes each, one more than pivots. Without it 16 at 128.
    MapleRangeSlots = 51,
    /// Maple node of kind `arange_64`: array of pivots. Without it 9 at 8.
    MapleArangePivots = 52,
    /// The same node: array of slots, one more than pivots. Without it 10 at 80.
    MapleArangeSlots = 53,
    /// Maple node of kind `dense`: array of slots. Without it 31 at 8.
    MapleDenseSlots = 54,

    /// File: pointer to the mount's visible part (`vfsmount`).
    FileMount = 64,
    /// File: pointer to the directory entry.
    FileDentry = 65,
    /// File: pointer to the inode.
    FileInode = 66,
    /// File: mode, `u32`; see [`Field::FileModeBacking`].
    FileMode = 67,
    /// Constant: bit mask in the mode that marks a file of a layer below, opened on behalf of another file system (overlayfs on
    /// Linux 6.7 and later): mount and directory entry are the layer's there.
    FileModeBacking = 68,
    /// Such a file: pointer to the visible part of the mount that its user opened it through.
    FileBackingMount = 69,
    /// Such a file: pointer to the directory entry that its user opened.
    FileBackingDentry = 70,

    /// Directory entry: pointer to its parent, itself at the top.
    DentryParent = 80,
    /// Directory entry: pointer to the name's bytes.
    DentryName = 81,
    /// Directory entry: length of the name, `u32`.
    DentryNameLength = 82,
    /// Directory entry: pointer to the inode.
    DentryInode = 83,
    /// Directory entry: the hash chain's back pointer, null when the entry is unlinked.
    DentryHashLink = 84,
    /// Directory entry: `u32` that changes with each rename, odd during one.
    DentrySequence = 85,

    /// Mount: pointer to the mount that it is mounted on, itself at the top.
    MountParent = 96,
    /// Mount: pointer to the directory entry that it is mounted on.
    MountPoint = 97,
    /// Mount: the embedded visible part (`vfsmount`).
    MountVisible = 98,
    /// Visible part of a mount: pointer to its root directory entry.
    VfsMountRoot = 99,

    /// Inode: number, `u64`.
    InodeNumber = 112,
    /// Inode: generation, `u32`.
    InodeGeneration = 113,
    /// Inode: pointer to the super block.
    InodeSuperBlock = 114,
    /// Super block: device number, `u32`.
    SuperBlockDevice = 115,
}

/// Start of a descriptor, 12 bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DescriptorHeader {
    /// [`MAGIC`].
    pub magic: U32,
    /// [`VERSION`].
    pub version: U16,
    /// A [`VmaStore`].
    pub vma_store: U16,
    /// Number of entries that follow.
    pub count: U16,
    /// Zero.
    pub reserved: U16,
}

/// One field or constant, 8 bytes. A device ignores ids that it does not know.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct LayoutEntry {
    /// A [`Field`].
    pub field: U16,
    /// Bytes of the field; 0 marks a constant.
    pub size: U16,
    /// Offset of the field, or the constant's value.
    pub offset: U32,
}

impl LayoutEntry {
    /// A field at `offset` of `size` bytes.
    #[must_use]
    pub const fn field(field: Field, offset: u32, size: u16) -> Self {
        Self {
            field: U16::new(field as u16),
            size: U16::new(size),
            offset: U32::new(offset),
        }
    }

    /// A constant.
    #[must_use]
    pub const fn constant(field: Field, value: u32) -> Self {
        Self::field(field, value, 0)
    }
}

/// A descriptor whose shape has been checked; what its offsets mean is for the device to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor<'a> {
    /// How VMAs are kept.
    pub vma_store: VmaStore,
    /// Fields and constants.
    pub entries: &'a [LayoutEntry],
}

/// Why bytes are no descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorError {
    /// Shorter than its header or entries say.
    Truncated,
    /// Wrong magic number.
    BadMagic,
    /// Another version.
    UnsupportedVersion(u16),
    /// No such VMA store.
    UnknownVmaStore(u16),
    /// More than [`MAX_ENTRIES`].
    TooManyEntries(u16),
}

impl<'a> Descriptor<'a> {
    /// Reads a descriptor; bytes behind it are ignored.
    ///
    /// # Errors
    /// When magic, version, store or lengths do not fit.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DescriptorError> {
        let mut cursor = Cursor::new(bytes);
        let header = cursor
            .take::<DescriptorHeader>()
            .ok_or(DescriptorError::Truncated)?;
        if header.magic.get() != MAGIC {
            return Err(DescriptorError::BadMagic);
        }
        if header.version.get() != VERSION {
            return Err(DescriptorError::UnsupportedVersion(header.version.get()));
        }
        let store = header.vma_store.get();
        let vma_store = VmaStore::from_u16(store).ok_or(DescriptorError::UnknownVmaStore(store))?;
        let count = header.count.get();
        if usize::from(count) > MAX_ENTRIES {
            return Err(DescriptorError::TooManyEntries(count));
        }
        let entries = cursor
            .take_slice(usize::from(count))
            .ok_or(DescriptorError::Truncated)?;
        Ok(Self { vma_store, entries })
    }

    /// The header that goes in front of `entries`.
    #[must_use]
    pub const fn header(vma_store: VmaStore, count: u16) -> DescriptorHeader {
        DescriptorHeader {
            magic: U32::new(MAGIC),
            version: U16::new(VERSION),
            vma_store: U16::new(vma_store as u16),
            count: U16::new(count),
            reserved: U16::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn encode(store: VmaStore, entries: &[LayoutEntry]) -> Vec<u8> {
        let count = u16::try_from(entries.len()).unwrap();
        let mut bytes = Vec::from(Descriptor::header(store, count).as_bytes());
        bytes.extend_from_slice(entries.as_bytes());
        bytes
    }

    #[test]
    fn layouts_are_what_a_c_header_would_state() {
        assert_eq!(size_of::<DescriptorHeader>(), 12);
        assert_eq!(size_of::<LayoutEntry>(), 8);
    }

    #[test]
    fn field_ids_round_trip_and_are_distinct() {
        for (index, field) in Field::ALL.iter().enumerate() {
            assert_eq!(Field::from_u16(*field as u16), Some(*field));
            assert!(!Field::ALL[..index].contains(field));
        }
        assert_eq!(Field::from_u16(0), None);
    }

    #[test]
    fn too_many_entries_are_refused() {
        let entries = [LayoutEntry::constant(Field::PageShift, 12); MAX_ENTRIES + 1];
        let bytes = encode(VmaStore::List, &entries);
        assert_eq!(
            Descriptor::parse(&bytes),
            Err(DescriptorError::TooManyEntries(257))
        );
    }

    proptest! {
        #[test]
        fn descriptor_round_trips(
            list in prop::collection::vec((0..Field::ALL.len(), any::<u32>(), any::<u16>()), 0..MAX_ENTRIES)
        ) {
            let entries: Vec<_> = list
                .iter()
                .map(|&(index, offset, size)| LayoutEntry::field(Field::ALL[index], offset, size))
                .collect();
            let bytes = encode(VmaStore::Maple, &entries);
            let parsed = Descriptor::parse(&bytes).unwrap();
            prop_assert_eq!(parsed.vma_store, VmaStore::Maple);
            prop_assert_eq!(parsed.entries, &entries[..]);
        }

        #[test]
        fn a_cut_descriptor_is_refused(cut in 0usize..28) {
            let entries = [LayoutEntry::field(Field::TaskMm, 8, 8), LayoutEntry::field(Field::TaskPid, 16, 4)];
            let bytes = encode(VmaStore::List, &entries);
            prop_assert_eq!(Descriptor::parse(&bytes[..cut]), Err(DescriptorError::Truncated));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Descriptor::parse(&bytes);
        }
    }
}
