//! The layout descriptor: where the host finds what it reads of our structures.

use core::mem::offset_of;

use oprofile_wire::layout::{Field, LayoutEntry};

use crate::fs::{Dentry, File, Inode, Mount, SuperBlock, VfsMount};
use crate::mm::space::Mm;
use crate::mm::vma::{EXEC, Vma};
use crate::task::{EXITING, KERNEL_THREAD, Task};

/// Every field and constant of this kernel.
pub fn entries() -> [LayoutEntry; 38] {
    use Field::{
        DentryHashLink, DentryInode, DentryName, DentryNameLength, DentryParent, DentrySequence,
        FileDentry, FileInode, FileMount, InodeGeneration, InodeNumber, InodeSuperBlock, MmExeFile,
        MmPageTable, MmSequence, MmVmaCount, MmVmaList, MountParent, MountPoint, MountVisible,
        PageShift, SuperBlockDevice, TaskComm, TaskFlagExiting, TaskFlagKernelThread, TaskFlags,
        TaskMm, TaskPid, TaskTgid, VfsMountRoot, VmaEnd, VmaFile, VmaFlagExec, VmaFlags, VmaMm,
        VmaNext, VmaPageOffset, VmaStart,
    };
    let field = |field, offset: usize, size| LayoutEntry::field(field, offset as u32, size);
    [
        field(TaskMm, offset_of!(Task, mm), 8),
        field(TaskPid, offset_of!(Task, pid), 4),
        field(TaskTgid, offset_of!(Task, tgid), 4),
        field(TaskFlags, offset_of!(Task, flags), 4),
        field(TaskComm, offset_of!(Task, comm), 16),
        LayoutEntry::constant(TaskFlagKernelThread, KERNEL_THREAD),
        LayoutEntry::constant(TaskFlagExiting, EXITING),
        field(MmPageTable, offset_of!(Mm, root), 8),
        field(MmExeFile, offset_of!(Mm, exe_file), 8),
        field(MmVmaCount, offset_of!(Mm, area_count), 4),
        field(MmVmaList, offset_of!(Mm, areas), 8),
        field(MmSequence, offset_of!(Mm, sequence), 4),
        field(VmaStart, offset_of!(Vma, start), 8),
        field(VmaEnd, offset_of!(Vma, end), 8),
        field(VmaFlags, offset_of!(Vma, flags), 8),
        field(VmaPageOffset, offset_of!(Vma, page_offset), 8),
        field(VmaFile, offset_of!(Vma, file), 8),
        field(VmaMm, offset_of!(Vma, mm), 8),
        field(VmaNext, offset_of!(Vma, next), 8),
        LayoutEntry::constant(VmaFlagExec, EXEC as u32),
        LayoutEntry::constant(PageShift, 12),
        field(FileMount, offset_of!(File, mount), 8),
        field(FileDentry, offset_of!(File, dentry), 8),
        field(FileInode, offset_of!(File, inode), 8),
        field(DentryParent, offset_of!(Dentry, parent), 8),
        field(DentryName, offset_of!(Dentry, name), 8),
        field(DentryNameLength, offset_of!(Dentry, name_length), 4),
        field(DentryInode, offset_of!(Dentry, inode), 8),
        field(DentryHashLink, offset_of!(Dentry, hash_link), 8),
        field(DentrySequence, offset_of!(Dentry, sequence), 4),
        field(MountParent, offset_of!(Mount, parent), 8),
        field(MountPoint, offset_of!(Mount, mount_point), 8),
        field(
            MountVisible,
            offset_of!(Mount, visible),
            size_of::<VfsMount>() as u16,
        ),
        field(VfsMountRoot, offset_of!(VfsMount, root), 8),
        field(InodeNumber, offset_of!(Inode, number), 8),
        field(InodeGeneration, offset_of!(Inode, generation), 4),
        field(InodeSuperBlock, offset_of!(Inode, super_block), 8),
        field(SuperBlockDevice, offset_of!(SuperBlock, device), 4),
    ]
}
