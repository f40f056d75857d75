//! The layout descriptor, typed: what it must have is there, and every field is as large as what is read of it.
//!
//! | module | what it does |
//! |---|---|
//! | `fields` | entries by field, each checked by itself; windows of a structure |
//! | `store` | lists and trees of VMAs |

mod fields;
mod store;

use oprofile_wire::layout::{Descriptor, Field};
use thiserror::Error;

use fields::{Fields, Kind};

pub(super) use fields::InWindow;
pub use fields::Window;
pub use store::{ListLayout, MapleLayout, NodeLayout, RbChild, RbTreeLayout, StoreLayout};

/// Bytes that are copied of a VMA, dentry or maple node at once, from its first field of interest to behind its last.
/// Linux's VMA and dentry have 152 to 200 bytes.
pub const WINDOW_BYTES: usize = 256;

/// Bytes of a maple node, and its alignment: the low bits of a pointer to one tell its kind.
pub(super) const NODE_BYTES: u32 = 256;

/// Largest page shift: 2^30 is the largest page of x86-64.
const MAX_PAGE_SHIFT: u32 = 30;

/// Page shift when the descriptor has none.
const DEFAULT_PAGE_SHIFT: u32 = 12;

/// Why a descriptor cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// A field that the device needs is missing.
    #[error("Layout field {0:?} is missing")]
    Missing(Field),
    /// A field is there twice.
    #[error("Layout field {0:?} is there twice")]
    Duplicate(Field),
    /// A field has another size than what is read of it.
    #[error("Layout field {0:?} has {1} bytes")]
    Size(Field, u16),
    /// An offset or constant out of range.
    #[error("Layout field {0:?} has the value {1}, out of range")]
    Range(Field, u32),
    /// Fields of one structure that are read at once lie too far apart.
    #[error("Layout field {0:?} lies more than {WINDOW_BYTES} bytes from others of its structure")]
    TooFarApart(Field),
}

impl LayoutError {
    /// The field that is at fault.
    #[must_use]
    pub const fn field(self) -> Field {
        match self {
            Self::Missing(field)
            | Self::Duplicate(field)
            | Self::Size(field, _)
            | Self::Range(field, _)
            | Self::TooFarApart(field) => field,
        }
    }
}

/// A task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskLayout {
    pub(super) mm: u32,
    pub(super) pid: u32,
    pub(super) tgid: u32,
    pub(super) flags: Option<TaskFlags>,
}

/// A task's flags, and the masks of those of interest; 0 when not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskFlags {
    pub(super) offset: u32,
    pub(super) kernel_thread: u32,
    pub(super) exiting: u32,
}

/// A field of 4 or 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counter {
    pub(super) offset: u32,
    pub(super) is_wide: bool,
}

/// An address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmLayout {
    pub(super) store: StoreLayout,
    /// Pointer to the top-level page table.
    pub(super) page_table: Option<u32>,
    pub(super) exe_file: Option<u32>,
    pub(super) vma_count: Option<u32>,
    pub(super) sequence: Option<Counter>,
    pub(super) generation: Option<Counter>,
}

impl MmLayout {
    /// Whether something in the address space tells that VMAs were taken out.
    pub(super) const fn has_counter(&self) -> bool {
        self.sequence.is_some() || self.generation.is_some()
    }
}

/// A VMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmaLayout {
    pub(super) window: Window,
    pub(super) start: InWindow,
    pub(super) end: InWindow,
    pub(super) page_offset: InWindow,
    pub(super) file: InWindow,
    pub(super) mm: InWindow,
    pub(super) flags: Option<InWindow>,
    /// Mask in the flags that marks executable memory; 0 when not told.
    pub(super) executable: u64,
    pub(super) page_shift: u32,
}

impl VmaLayout {
    /// What is copied of a VMA, whatever the store.
    const FIELDS: &[(Field, Kind)] = &[
        (Field::VmaStart, Kind::Word),
        (Field::VmaEnd, Kind::Word),
        (Field::VmaPageOffset, Kind::Word),
        (Field::VmaFile, Kind::Word),
        (Field::VmaMm, Kind::Word),
        (Field::VmaFlags, Kind::Word),
    ];
}

/// An open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLayout {
    pub(super) dentry: u32,
    pub(super) inode: Option<u32>,
    pub(super) backing: Option<BackingLayout>,
}

/// What a file of a layer below keeps of the file that its user opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackingLayout {
    pub(super) mode: u32,
    /// Mask in the mode that marks such a file.
    pub(super) mask: u32,
    pub(super) mount: u32,
    pub(super) dentry: u32,
}

/// A directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DentryLayout {
    pub(super) window: Window,
    pub(super) parent: InWindow,
    pub(super) name: InWindow,
    pub(super) name_length: InWindow,
    pub(super) inode: Option<InWindow>,
    pub(super) hash_link: Option<InWindow>,
    pub(super) sequence: Option<InWindow>,
}

/// Mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountLayout {
    /// In a file.
    pub(super) of_file: u32,
    pub(super) parent: u32,
    pub(super) point: u32,
    pub(super) visible: u32,
    /// In the visible part.
    pub(super) root: u32,
}

/// An inode; each field by itself may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeLayout {
    pub(super) number: Option<u32>,
    pub(super) generation: Option<u32>,
    /// Super block, and the device number in it.
    pub(super) device: Option<(u32, u32)>,
}

/// Where the guest kernel keeps what is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub(super) task: TaskLayout,
    pub(super) mm: MmLayout,
    pub(super) vma: VmaLayout,
    pub(super) file: FileLayout,
    pub(super) dentry: DentryLayout,
    pub(super) mount: Option<MountLayout>,
    pub(super) inode: InodeLayout,
}

impl Layout {
    /// Types and checks a descriptor.
    ///
    /// # Errors
    /// The first field that is missing, out of range or of the wrong size, or the VMA store if it cannot be walked.
    pub fn new(descriptor: &Descriptor<'_>) -> Result<Self, LayoutError> {
        let fields = Fields::new(descriptor.entries);
        let task = Self::task(&fields)?;
        let mut window = fields.window(VmaLayout::FIELDS)?;
        let store = StoreLayout::new(descriptor.vma_store, &fields, &mut window)?;
        Ok(Self {
            task,
            mm: Self::mm(&fields, store)?,
            vma: Self::vma(&fields, window)?,
            file: FileLayout {
                dentry: fields.need(Field::FileDentry, Kind::Word)?,
                inode: fields.get(Field::FileInode, Kind::Word)?,
                backing: Self::backing(&fields)?,
            },
            dentry: Self::dentry(&fields)?,
            mount: Self::mount(&fields)?,
            inode: Self::inode(&fields)?,
        })
    }

    fn task(fields: &Fields<'_>) -> Result<TaskLayout, LayoutError> {
        let kernel_thread = fields.get(Field::TaskFlagKernelThread, Kind::Constant)?;
        let exiting = fields.get(Field::TaskFlagExiting, Kind::Constant)?;
        Ok(TaskLayout {
            mm: fields.need(Field::TaskMm, Kind::Word)?,
            pid: fields.need(Field::TaskPid, Kind::Half)?,
            tgid: fields.need(Field::TaskTgid, Kind::Half)?,
            flags: match kernel_thread.or(exiting) {
                Some(_) => Some(TaskFlags {
                    offset: fields.need(Field::TaskFlags, Kind::Half)?,
                    kernel_thread: kernel_thread.unwrap_or(0),
                    exiting: exiting.unwrap_or(0),
                }),
                None => None,
            },
        })
    }

    fn mm(fields: &Fields<'_>, store: StoreLayout) -> Result<MmLayout, LayoutError> {
        let counter = |field| -> Result<Option<Counter>, LayoutError> {
            let told = fields.get_sized(field, Kind::Either)?;
            Ok(told.map(|(offset, size)| Counter {
                offset,
                is_wide: size == 8,
            }))
        };
        Ok(MmLayout {
            store,
            page_table: fields.get(Field::MmPageTable, Kind::Word)?,
            exe_file: fields.get(Field::MmExeFile, Kind::Word)?,
            vma_count: fields.get(Field::MmVmaCount, Kind::Half)?,
            sequence: counter(Field::MmSequence)?,
            generation: counter(Field::MmGeneration)?,
        })
    }

    fn vma(fields: &Fields<'_>, window: Window) -> Result<VmaLayout, LayoutError> {
        let need = |field| -> Result<InWindow, LayoutError> {
            Ok(window.place(fields.need(field, Kind::Word)?))
        };
        let page_shift = fields
            .get(Field::PageShift, Kind::Constant)?
            .unwrap_or(DEFAULT_PAGE_SHIFT);
        if page_shift > MAX_PAGE_SHIFT {
            return Err(LayoutError::Range(Field::PageShift, page_shift));
        }
        let flags = fields.get(Field::VmaFlags, Kind::Word)?;
        let executable = fields.get(Field::VmaFlagExec, Kind::Constant)?;
        Ok(VmaLayout {
            window,
            start: need(Field::VmaStart)?,
            end: need(Field::VmaEnd)?,
            page_offset: need(Field::VmaPageOffset)?,
            file: need(Field::VmaFile)?,
            mm: need(Field::VmaMm)?,
            flags: flags.map(|offset| window.place(offset)),
            executable: executable.map_or(0, u64::from),
            page_shift,
        })
    }

    fn dentry(fields: &Fields<'_>) -> Result<DentryLayout, LayoutError> {
        const WINDOW: [(Field, Kind); 6] = [
            (Field::DentryParent, Kind::Word),
            (Field::DentryName, Kind::Word),
            (Field::DentryNameLength, Kind::Half),
            (Field::DentryInode, Kind::Word),
            (Field::DentryHashLink, Kind::Word),
            (Field::DentrySequence, Kind::Half),
        ];
        let window = fields.window(&WINDOW)?;
        let place = |offset: u32| window.place(offset);
        let get = |field, kind| -> Result<Option<InWindow>, LayoutError> {
            Ok(fields.get(field, kind)?.map(place))
        };
        Ok(DentryLayout {
            window,
            parent: place(fields.need(Field::DentryParent, Kind::Word)?),
            name: place(fields.need(Field::DentryName, Kind::Word)?),
            name_length: place(fields.need(Field::DentryNameLength, Kind::Half)?),
            inode: get(Field::DentryInode, Kind::Word)?,
            hash_link: get(Field::DentryHashLink, Kind::Word)?,
            sequence: get(Field::DentrySequence, Kind::Half)?,
        })
    }

    /// Files of layers come with all of their fields or not at all.
    fn backing(fields: &Fields<'_>) -> Result<Option<BackingLayout>, LayoutError> {
        let Some(mask) = fields.get(Field::FileModeBacking, Kind::Constant)? else {
            return Ok(None);
        };
        Ok(Some(BackingLayout {
            mode: fields.need(Field::FileMode, Kind::Half)?,
            mask,
            mount: fields.need(Field::FileBackingMount, Kind::Word)?,
            dentry: fields.need(Field::FileBackingDentry, Kind::Word)?,
        }))
    }

    /// Mounts come with all of their fields or not at all.
    fn mount(fields: &Fields<'_>) -> Result<Option<MountLayout>, LayoutError> {
        const MOUNT: [Field; 5] = [
            Field::FileMount,
            Field::MountParent,
            Field::MountPoint,
            Field::MountVisible,
            Field::VfsMountRoot,
        ];
        let mut any = false;
        for field in MOUNT {
            any |= fields.find(field)?.is_some();
        }
        if !any {
            return Ok(None);
        }
        Ok(Some(MountLayout {
            of_file: fields.need(Field::FileMount, Kind::Word)?,
            parent: fields.need(Field::MountParent, Kind::Word)?,
            point: fields.need(Field::MountPoint, Kind::Word)?,
            visible: fields.need(Field::MountVisible, Kind::Embedded)?,
            root: fields.need(Field::VfsMountRoot, Kind::Word)?,
        }))
    }

    fn inode(fields: &Fields<'_>) -> Result<InodeLayout, LayoutError> {
        let super_block = fields.get(Field::InodeSuperBlock, Kind::Word)?;
        let device = fields.get(Field::SuperBlockDevice, Kind::Half)?;
        Ok(InodeLayout {
            number: fields.get(Field::InodeNumber, Kind::Word)?,
            generation: fields.get(Field::InodeGeneration, Kind::Half)?,
            device: super_block.zip(device),
        })
    }
}

#[cfg(test)]
mod tests;
