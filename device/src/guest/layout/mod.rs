//! The layout descriptor, typed: what it must have is there, and every field is as large as what is read of it.

use oprofile_wire::layout::{Descriptor, Field, LayoutEntry, MAX_OFFSET, VmaStore};
use thiserror::Error;

/// Bytes that are copied of a VMA or dentry at once, from its first field of interest to behind its last. Linux's have
/// 152 to 200 bytes.
pub const WINDOW_BYTES: usize = 256;

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
    /// A way to keep VMAs that this device cannot walk.
    #[error("VMAs kept as {1:?} cannot be walked; use a sorted list")]
    UnsupportedStore(Field, VmaStore),
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
            | Self::TooFarApart(field)
            | Self::UnsupportedStore(field, _) => field,
        }
    }
}

/// A task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskLayout {
    pub(super) mm: u32,
    pub(super) pid: u32,
    pub(super) tgid: u32,
    /// Flags, and the mask that marks a kernel thread.
    pub(super) flags: Option<(u32, u32)>,
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
    pub(super) list: u32,
    pub(super) exe_file: Option<u32>,
    pub(super) vma_count: Option<u32>,
    pub(super) sequence: Option<Counter>,
}

/// The part of a structure that is copied at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Offset of its first byte.
    pub(super) start: u32,
    /// At most [`WINDOW_BYTES`].
    pub(super) bytes: usize,
}

/// A field within a [`Window`]: bytes from its start.
pub(super) type InWindow = usize;

/// A VMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmaLayout {
    pub(super) window: Window,
    pub(super) start: InWindow,
    pub(super) end: InWindow,
    pub(super) page_offset: InWindow,
    pub(super) file: InWindow,
    pub(super) mm: InWindow,
    pub(super) next: InWindow,
    pub(super) page_shift: u32,
}

/// An open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLayout {
    pub(super) dentry: u32,
    pub(super) inode: Option<u32>,
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

/// What a field is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// 8 bytes.
    Word,
    /// 4 bytes.
    Half,
    /// 4 or 8 bytes.
    Either,
    /// Not read as such; only its offset counts.
    Embedded,
    /// No field: its value is in the descriptor.
    Constant,
}

/// The entries of a descriptor by field, each checked by itself.
struct Fields<'a> {
    entries: &'a [LayoutEntry],
}

impl Fields<'_> {
    fn find(&self, field: Field) -> Result<Option<&LayoutEntry>, LayoutError> {
        let mut found = self
            .entries
            .iter()
            .filter(|entry| entry.field.get() == field as u16);
        let first = found.next();
        if found.next().is_some() {
            return Err(LayoutError::Duplicate(field));
        }
        Ok(first)
    }

    /// Offset or constant of `field`.
    fn get(&self, field: Field, kind: Kind) -> Result<Option<u32>, LayoutError> {
        let Some(entry) = self.find(field)? else {
            return Ok(None);
        };
        let (size, offset) = (entry.size.get(), entry.offset.get());
        let fits = match kind {
            Kind::Word => size == 8,
            Kind::Half => size == 4,
            Kind::Either => size == 4 || size == 8,
            Kind::Embedded => size != 0,
            Kind::Constant => size == 0,
        };
        if !fits {
            return Err(LayoutError::Size(field, size));
        }
        if kind != Kind::Constant && offset.saturating_add(u32::from(size)) > MAX_OFFSET {
            return Err(LayoutError::Range(field, offset));
        }
        Ok(Some(offset))
    }

    fn need(&self, field: Field, kind: Kind) -> Result<u32, LayoutError> {
        self.get(field, kind)?.ok_or(LayoutError::Missing(field))
    }

    /// The window that holds those of `fields` that are there.
    fn window(&self, fields: &[(Field, Kind)]) -> Result<Window, LayoutError> {
        let (mut start, mut end) = (u32::MAX, 0);
        for &(field, kind) in fields {
            let Some(offset) = self.get(field, kind)? else {
                continue;
            };
            start = start.min(offset);
            end = end.max(offset + if kind == Kind::Half { 4 } else { 8 });
            if (end - start) as usize > WINDOW_BYTES {
                return Err(LayoutError::TooFarApart(field));
            }
        }
        let bytes = end.saturating_sub(start) as usize;
        Ok(Window { start, bytes })
    }
}

impl Layout {
    /// Types and checks a descriptor.
    ///
    /// # Errors
    /// The first field that is missing, out of range or of the wrong size, or the VMA store if it cannot be walked.
    pub fn new(descriptor: &Descriptor<'_>) -> Result<Self, LayoutError> {
        match descriptor.vma_store {
            VmaStore::List => {}
            store @ VmaStore::RbTree => {
                return Err(LayoutError::UnsupportedStore(Field::MmVmaRoot, store));
            }
            store @ VmaStore::Maple => {
                return Err(LayoutError::UnsupportedStore(Field::MmMapleTree, store));
            }
        }
        let fields = Fields {
            entries: descriptor.entries,
        };
        Ok(Self {
            task: Self::task(&fields)?,
            mm: Self::mm(&fields)?,
            vma: Self::vma(&fields)?,
            file: FileLayout {
                dentry: fields.need(Field::FileDentry, Kind::Word)?,
                inode: fields.get(Field::FileInode, Kind::Word)?,
            },
            dentry: Self::dentry(&fields)?,
            mount: Self::mount(&fields)?,
            inode: Self::inode(&fields)?,
        })
    }

    fn task(fields: &Fields<'_>) -> Result<TaskLayout, LayoutError> {
        let mask = fields.get(Field::TaskFlagKernelThread, Kind::Constant)?;
        Ok(TaskLayout {
            mm: fields.need(Field::TaskMm, Kind::Word)?,
            pid: fields.need(Field::TaskPid, Kind::Half)?,
            tgid: fields.need(Field::TaskTgid, Kind::Half)?,
            flags: match mask {
                Some(mask) => Some((fields.need(Field::TaskFlags, Kind::Half)?, mask)),
                None => None,
            },
        })
    }

    fn mm(fields: &Fields<'_>) -> Result<MmLayout, LayoutError> {
        let sequence = match fields.get(Field::MmSequence, Kind::Either)? {
            Some(offset) => {
                let entry = fields.find(Field::MmSequence)?;
                let is_wide = entry.is_some_and(|entry| entry.size.get() == 8);
                Some(Counter { offset, is_wide })
            }
            None => None,
        };
        Ok(MmLayout {
            list: fields.need(Field::MmVmaList, Kind::Word)?,
            exe_file: fields.get(Field::MmExeFile, Kind::Word)?,
            vma_count: fields.get(Field::MmVmaCount, Kind::Half)?,
            sequence,
        })
    }

    fn vma(fields: &Fields<'_>) -> Result<VmaLayout, LayoutError> {
        const WINDOW: [(Field, Kind); 6] = [
            (Field::VmaStart, Kind::Word),
            (Field::VmaEnd, Kind::Word),
            (Field::VmaPageOffset, Kind::Word),
            (Field::VmaFile, Kind::Word),
            (Field::VmaMm, Kind::Word),
            (Field::VmaNext, Kind::Word),
        ];
        let window = fields.window(&WINDOW)?;
        let need = |field| -> Result<InWindow, LayoutError> {
            Ok((fields.need(field, Kind::Word)? - window.start) as usize)
        };
        let page_shift = fields
            .get(Field::PageShift, Kind::Constant)?
            .unwrap_or(DEFAULT_PAGE_SHIFT);
        if page_shift > MAX_PAGE_SHIFT {
            return Err(LayoutError::Range(Field::PageShift, page_shift));
        }
        Ok(VmaLayout {
            window,
            start: need(Field::VmaStart)?,
            end: need(Field::VmaEnd)?,
            page_offset: need(Field::VmaPageOffset)?,
            file: need(Field::VmaFile)?,
            mm: need(Field::VmaMm)?,
            next: need(Field::VmaNext)?,
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
        let place = |offset: u32| (offset - window.start) as usize;
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
