//! Layouts that scenes are made by, one for each way to keep mappings, and one with mounts.

use oprofile_device::test_utils::COMPACT_LAYOUT;
use oprofile_wire::layout::{Field, LayoutEntry};

/// A sorted list, a sequence number of 8 bytes, no mounts.
pub const LIST: &[LayoutEntry] = COMPACT_LAYOUT;

/// A sorted list, mounts, inodes with their devices, a sequence number of 4 bytes.
pub const MOUNTS: &[LayoutEntry] = &[
    LayoutEntry::field(Field::TaskMm, 0, 8),
    LayoutEntry::field(Field::TaskPid, 8, 4),
    LayoutEntry::field(Field::TaskTgid, 12, 4),
    LayoutEntry::field(Field::MmExeFile, 0, 8),
    LayoutEntry::field(Field::MmVmaList, 8, 8),
    LayoutEntry::field(Field::MmSequence, 16, 4),
    LayoutEntry::field(Field::VmaStart, 0, 8),
    LayoutEntry::field(Field::VmaEnd, 8, 8),
    LayoutEntry::field(Field::VmaNext, 16, 8),
    LayoutEntry::field(Field::VmaMm, 24, 8),
    LayoutEntry::field(Field::VmaPageOffset, 32, 8),
    LayoutEntry::field(Field::VmaFile, 40, 8),
    LayoutEntry::field(Field::FileMount, 0, 8),
    LayoutEntry::field(Field::FileDentry, 8, 8),
    LayoutEntry::field(Field::DentryParent, 0, 8),
    LayoutEntry::field(Field::DentryName, 8, 8),
    LayoutEntry::field(Field::DentryNameLength, 16, 4),
    LayoutEntry::field(Field::DentrySequence, 20, 4),
    LayoutEntry::field(Field::DentryInode, 24, 8),
    LayoutEntry::field(Field::DentryHashLink, 32, 8),
    LayoutEntry::field(Field::MountParent, 0, 8),
    LayoutEntry::field(Field::MountPoint, 8, 8),
    LayoutEntry::field(Field::MountVisible, 32, 24),
    LayoutEntry::field(Field::VfsMountRoot, 0, 8),
    LayoutEntry::field(Field::InodeNumber, 0, 8),
    LayoutEntry::field(Field::InodeGeneration, 8, 4),
    LayoutEntry::field(Field::InodeSuperBlock, 16, 8),
    LayoutEntry::field(Field::SuperBlockDevice, 4, 4),
];
