//! Guest RAM with page tables and kernel objects, laid out by any descriptor that keeps VMAs in a list.

use std::sync::Arc;

use oprofile_wire::PROTOCOL_VERSION;
use oprofile_wire::config::capability;
use oprofile_wire::control::{Hello, RequestHeader, kind};
use oprofile_wire::layout::{Descriptor, Field, LayoutEntry, VmaStore};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

use crate::guest::paging::Levels;

/// GVA of the linear map.
pub const LINEAR_BASE: u64 = 0xffff_9000_4000_0000;
/// GVA of the kernel image.
pub const KERNEL_START: u64 = 0xffff_ffff_8000_0000;
/// GVA behind the kernel image.
pub const KERNEL_END: u64 = KERNEL_START + 0x10_0000;
/// GVA behind user space.
pub const USER_END: u64 = 0x0000_8000_0000_0000;

/// RAM of a guest in bytes.
const RAM_BYTES: u64 = 16 * 1024 * 1024;
/// GPA at which the kernel image lies.
const IMAGE_GPA: u64 = 0x10_0000;
/// First GPA that is given out.
const FIRST_FREE: u64 = 0x20_0000;
const PAGE_BYTES: u64 = 4096;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS_MASK: u64 = 0x000f_ffff_ffff_f000;

/// A layout that is nobody's: no mounts, every optional field, and structures of which no field is at Linux's place.
pub const COMPACT_LAYOUT: &[LayoutEntry] = &[
    LayoutEntry::field(Field::TaskMm, 24, 8),
    LayoutEntry::field(Field::TaskPid, 8, 4),
    LayoutEntry::field(Field::TaskTgid, 12, 4),
    LayoutEntry::field(Field::TaskFlags, 36, 4),
    LayoutEntry::constant(Field::TaskFlagKernelThread, 2),
    LayoutEntry::field(Field::MmExeFile, 8, 8),
    LayoutEntry::field(Field::MmVmaCount, 16, 4),
    LayoutEntry::field(Field::MmVmaList, 32, 8),
    LayoutEntry::field(Field::MmSequence, 40, 8),
    LayoutEntry::field(Field::VmaStart, 48, 8),
    LayoutEntry::field(Field::VmaEnd, 40, 8),
    LayoutEntry::field(Field::VmaPageOffset, 32, 8),
    LayoutEntry::field(Field::VmaFile, 24, 8),
    LayoutEntry::field(Field::VmaMm, 16, 8),
    LayoutEntry::field(Field::VmaNext, 8, 8),
    LayoutEntry::constant(Field::PageShift, 12),
    LayoutEntry::field(Field::FileDentry, 40, 8),
    LayoutEntry::field(Field::FileInode, 8, 8),
    LayoutEntry::field(Field::DentryParent, 56, 8),
    LayoutEntry::field(Field::DentryName, 8, 8),
    LayoutEntry::field(Field::DentryNameLength, 20, 4),
    LayoutEntry::field(Field::DentryInode, 24, 8),
    LayoutEntry::field(Field::DentryHashLink, 32, 8),
    LayoutEntry::field(Field::DentrySequence, 16, 4),
    LayoutEntry::field(Field::InodeNumber, 16, 8),
    LayoutEntry::field(Field::InodeGeneration, 8, 4),
];

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
}

/// A mapping to be made.
#[derive(Clone, Copy, Debug)]
pub struct VmaSpec {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// Offset in the file in pages.
    pub page_offset: u64,
    /// The file, or 0.
    pub file: u64,
}

/// A guest's RAM and what its kernel keeps there. Objects are named by their GVA in the linear map.
#[derive(Debug)]
pub struct SyntheticGuest {
    memory: Arc<GuestMemoryMmap>,
    levels: Levels,
    root: u64,
    next_free: u64,
    layout: Vec<LayoutEntry>,
    init_task: u64,
    next_inode: u64,
}

impl Default for SyntheticGuest {
    fn default() -> Self {
        Self::new(Levels::Four, COMPACT_LAYOUT)
    }
}

impl SyntheticGuest {
    /// A guest with a linear map, a kernel image, and an initial task without an address space.
    #[must_use]
    pub fn new(levels: Levels, layout: &[LayoutEntry]) -> Self {
        let bytes = usize::try_from(RAM_BYTES).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes)]).unwrap();
        let mut guest = Self {
            memory: Arc::new(memory),
            levels,
            root: 0,
            next_free: FIRST_FREE,
            layout: layout.to_vec(),
            init_task: 0,
            next_inode: 1,
        };
        guest.root = guest.allocate(PAGE_BYTES);
        for gpa in (0..RAM_BYTES).step_by(0x20_0000) {
            guest.map(LINEAR_BASE + gpa, gpa, PageSize::Large);
        }
        for offset in (0..KERNEL_END - KERNEL_START).step_by(0x1000) {
            guest.map(KERNEL_START + offset, IMAGE_GPA + offset, PageSize::Small);
        }
        guest.init_task = guest.task(0, 0, 0);
        guest
    }

    /// Its RAM.
    #[must_use]
    pub fn memory(&self) -> Arc<GuestMemoryMmap> {
        Arc::clone(&self.memory)
    }

    /// GPA of its top-level page table.
    #[must_use]
    pub const fn root(&self) -> u64 {
        self.root
    }

    /// Levels of its page tables.
    #[must_use]
    pub const fn levels(&self) -> Levels {
        self.levels
    }

    /// The initial task.
    #[must_use]
    pub const fn init_task(&self) -> u64 {
        self.init_task
    }

    /// Bytes of its RAM.
    #[must_use]
    pub const fn ram_bytes(&self) -> u64 {
        RAM_BYTES
    }

    /// Page-aligned zeroed RAM.
    pub fn allocate(&mut self, bytes: u64) -> u64 {
        let gpa = self.next_free;
        self.next_free += bytes.next_multiple_of(PAGE_BYTES);
        assert!(self.next_free <= RAM_BYTES, "guest RAM is used up");
        gpa
    }

    /// Maps a page.
    pub fn map(&mut self, gva: u64, gpa: u64, size: PageSize) {
        let large = if size == PageSize::Small { 0 } else { LARGE };
        self.set_entry(gva, size.level(), gpa | PRESENT | large);
    }

    /// Writes the page-table entry of `gva` at `level` (1 is a page's), making the tables above it.
    pub fn set_entry(&mut self, gva: u64, level: u32, entry: u64) {
        let top = match self.levels {
            Levels::Four => 4,
            Levels::Five => 5,
        };
        let mut table = self.root;
        for above in (level + 1..=top).rev() {
            let at = Self::entry_at(table, gva, above);
            let mut next = self.read(at);
            if next & PRESENT == 0 {
                next = self.allocate(PAGE_BYTES) | PRESENT;
                self.write(at, next);
            }
            table = next & ADDRESS_MASK;
        }
        self.write(Self::entry_at(table, gva, level), entry);
    }

    const fn entry_at(table: u64, gva: u64, level: u32) -> u64 {
        table + ((gva >> (12 + 9 * (level - 1))) & 0x1ff) * 8
    }

    fn read(&self, gpa: u64) -> u64 {
        u64::from_le(self.memory.read_obj(GuestAddress(gpa)).unwrap())
    }

    fn write(&self, gpa: u64, word: u64) {
        self.memory
            .write_obj(word.to_le(), GuestAddress(gpa))
            .unwrap();
    }

    /// GVA in the linear map.
    #[must_use]
    pub const fn linear(gpa: u64) -> u64 {
        LINEAR_BASE + gpa
    }

    /// An object of any kind, zeroed.
    pub fn object(&mut self) -> u64 {
        let end = |entry: &LayoutEntry| entry.offset.get() + u32::from(entry.size.get());
        let fields = self.layout.iter().filter(|entry| entry.size.get() != 0);
        let bytes = fields.map(end).max().unwrap_or(0);
        Self::linear(self.allocate(u64::from(bytes)))
    }

    /// Sets a field of an object, if the layout has it.
    pub fn set(&self, object: u64, field: Field, value: u64) {
        let find = |entry: &&LayoutEntry| entry.field.get() == field as u16;
        let Some(entry) = self.layout.iter().find(find) else {
            return;
        };
        let at = GuestAddress(object - LINEAR_BASE + u64::from(entry.offset.get()));
        let size = usize::from(entry.size.get());
        self.memory
            .write_slice(&value.to_le_bytes()[..size.min(8)], at)
            .unwrap();
    }

    /// A task; `mm` may be 0.
    pub fn task(&mut self, pid: u32, tgid: u32, mm: u64) -> u64 {
        let task = self.object();
        self.set(task, Field::TaskPid, pid.into());
        self.set(task, Field::TaskTgid, tgid.into());
        self.set(task, Field::TaskMm, mm);
        task
    }

    /// An address space with these mappings, ascending.
    pub fn mm(&mut self, exe_file: u64, vmas: &[VmaSpec]) -> u64 {
        let mm = self.object();
        self.set(mm, Field::MmExeFile, exe_file);
        self.set_vmas(mm, vmas);
        mm
    }

    /// Gives `mm` other mappings, in new structures, and returns these. The sequence number is left alone.
    pub fn set_vmas(&mut self, mm: u64, vmas: &[VmaSpec]) -> Vec<u64> {
        let made: Vec<u64> = vmas.iter().map(|_| self.object()).collect();
        for (index, (vma, spec)) in made.iter().zip(vmas).enumerate() {
            self.set(*vma, Field::VmaStart, spec.start);
            self.set(*vma, Field::VmaEnd, spec.end);
            self.set(*vma, Field::VmaPageOffset, spec.page_offset);
            self.set(*vma, Field::VmaFile, spec.file);
            self.set(*vma, Field::VmaMm, mm);
            let next = made.get(index + 1).copied().unwrap_or(0);
            self.set(*vma, Field::VmaNext, next);
        }
        self.set(mm, Field::MmVmaList, made.first().copied().unwrap_or(0));
        self.set(mm, Field::MmVmaCount, made.len() as u64);
        made
    }

    /// A directory entry with an inode; its own parent without one.
    pub fn dentry(&mut self, parent: Option<u64>, name: &[u8]) -> u64 {
        let dentry = self.object();
        let bytes = self.allocate(name.len().max(1) as u64);
        self.memory.write_slice(name, GuestAddress(bytes)).unwrap();
        let inode = self.object();
        self.set(inode, Field::InodeNumber, self.next_inode);
        self.next_inode += 1;
        self.set(dentry, Field::DentryParent, parent.unwrap_or(dentry));
        self.set(dentry, Field::DentryName, Self::linear(bytes));
        self.set(dentry, Field::DentryNameLength, name.len() as u64);
        self.set(dentry, Field::DentryInode, inode);
        self.set(dentry, Field::DentryHashLink, dentry);
        dentry
    }

    /// An open file.
    pub fn file(&mut self, dentry: u64) -> u64 {
        let file = self.object();
        self.set(file, Field::FileDentry, dentry);
        file
    }

    /// A file in the root directory of a tree of its own.
    pub fn file_named(&mut self, name: &[u8]) -> u64 {
        let root = self.dentry(None, b"/");
        let dentry = self.dentry(Some(root), name);
        self.file(dentry)
    }

    /// The driver's introduction: what is true of this guest.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            capabilities: capability::ALL.into(),
            page_table_root: self.root.into(),
            linear_map_base: LINEAR_BASE.into(),
            kernel_start: KERNEL_START.into(),
            kernel_end: KERNEL_END.into(),
            user_end: USER_END.into(),
            init_task: self.init_task.into(),
            page_table_levels: match self.levels {
                Levels::Four => 4.into(),
                Levels::Five => 5.into(),
            },
            cpus: 1.into(),
            release_bytes: 4.into(),
            reserved: 0.into(),
            layout_bytes: u32::try_from(self.layout_bytes(VmaStore::List).len())
                .unwrap()
                .into(),
            reserved2: 0.into(),
        }
    }

    /// The layout descriptor.
    #[must_use]
    pub fn layout_bytes(&self, store: VmaStore) -> Vec<u8> {
        Self::descriptor(store, &self.layout)
    }

    /// A layout descriptor of any entries.
    #[must_use]
    pub fn descriptor(store: VmaStore, entries: &[LayoutEntry]) -> Vec<u8> {
        let header = Descriptor::header(store, u16::try_from(entries.len()).unwrap());
        [header.as_bytes(), entries.as_bytes()].concat()
    }

    /// A hello request of these parts; the release is "test".
    #[must_use]
    pub fn hello_request(hello: &Hello, layout: &[u8]) -> Vec<u8> {
        let payload = [hello.as_bytes(), b"test", layout].concat();
        Self::request(kind::HELLO, 0, &payload)
    }

    /// A request.
    #[must_use]
    pub fn request(kind: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
        let header = RequestHeader {
            kind: kind.into(),
            version: PROTOCOL_VERSION.into(),
            flags: flags.into(),
            payload_bytes: u32::try_from(payload.len()).unwrap().into(),
            reserved: 0.into(),
        };
        [header.as_bytes(), payload].concat()
    }
}
