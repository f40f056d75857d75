//! Memory for kernel objects, and their fields.

use oprofile_wire::layout::{Field, LayoutEntry};
use vm_memory::{Bytes, GuestAddress};

use super::{LINEAR_BASE, SyntheticGuest};

/// Bytes that a kind of object takes from free RAM at once, as Linux's slabs of 8 pages.
const SLAB_BYTES: u64 = 32 * 1024;

/// Kinds of objects. Each has memory of its own, one object behind the other as in a kernel's slab caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A task.
    Task,
    /// An address space.
    Mm,
    /// A VMA.
    Vma,
    /// A node of a maple tree.
    MapleNode,
    /// An open file.
    File,
    /// A directory entry.
    Dentry,
    /// An inode.
    Inode,
    /// A mount.
    Mount,
    /// A super block.
    SuperBlock,
}

impl ObjectKind {
    const COUNT: usize = 9;

    /// Bytes from one to the next in Linux 6.1, about; larger when a layout has fields behind that.
    const fn bytes(self) -> u64 {
        match self {
            Self::Task => 9_792,
            Self::Mm => 1_088,
            Self::Vma => 152,
            Self::MapleNode => 256,
            Self::File => 256,
            Self::Dentry => 192,
            Self::Inode => 632,
            Self::Mount => 320,
            Self::SuperBlock => 2_048,
        }
    }

    /// Of what kind the object is that has `field`.
    const fn of(field: Field) -> Self {
        match field as u16 {
            ..16 => Self::Task,
            16..32 | 48..50 => Self::Mm,
            32..48 => Self::Vma,
            50..64 => Self::MapleNode,
            64..80 => Self::File,
            80..96 => Self::Dentry,
            96..112 => Self::Mount,
            112..115 => Self::Inode,
            115.. => Self::SuperBlock,
        }
    }
}

/// Offset and size of each field that a layout has; index is the field's id.
#[derive(Clone, Debug)]
pub(super) struct FieldTable {
    places: Vec<Option<(u64, u16)>>,
    /// Bytes of an object; index is its kind.
    bytes: [u64; ObjectKind::COUNT],
}

impl FieldTable {
    pub(super) fn new(layout: &[LayoutEntry]) -> Self {
        let mut places = vec![None; 256];
        for entry in layout {
            let id = usize::from(entry.field.get());
            if let Some(place) = places.get_mut(id) {
                *place = Some((u64::from(entry.offset.get()), entry.size.get()));
            }
        }
        let mut table = Self {
            places,
            bytes: [0; ObjectKind::COUNT],
        };
        for &field in Field::ALL {
            let Some((offset, size @ 1..)) = table.find(field) else {
                continue;
            };
            let kind = ObjectKind::of(field);
            // Fields of an embedded structure lie that much further on.
            let base = match field {
                Field::MapleRoot | Field::MapleFlags => table.offset(Field::MmMapleTree),
                Field::VfsMountRoot => table.offset(Field::MountVisible),
                Field::RbLeft | Field::RbRight => table.offset(Field::VmaRb),
                _ => 0,
            };
            let end = base + offset + u64::from(size);
            let bytes = &mut table.bytes[kind as usize];
            *bytes = (*bytes).max(kind.bytes()).max(end.next_multiple_of(8));
        }
        table
    }

    /// Offset and size; size 0 marks a constant.
    pub(super) fn find(&self, field: Field) -> Option<(u64, u16)> {
        self.places.get(field as usize).copied().flatten()
    }

    /// Offset or constant, 0 when the layout lacks it.
    fn offset(&self, field: Field) -> u64 {
        self.find(field).map_or(0, |(offset, _)| offset)
    }

    fn object_bytes(&self, kind: ObjectKind) -> u64 {
        self.bytes[kind as usize].max(kind.bytes())
    }
}

/// The memory of a kind of objects.
#[derive(Clone, Debug, Default)]
struct Slab {
    next: u64,
    end: u64,
    /// Given back; the last is given out first, as kernels do.
    free: Vec<u64>,
}

/// The memory of all kinds; index is the kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Slabs {
    slabs: [Slab; ObjectKind::COUNT],
    names: Slab,
}

impl SyntheticGuest {
    /// Reads the word at `gpa`.
    pub(super) fn read_word(&self, gpa: u64) -> u64 {
        u64::from_le(self.memory.read_obj(GuestAddress(gpa)).unwrap())
    }

    /// Writes the word at `gpa`.
    pub(super) fn write_word(&self, gpa: u64, word: u64) {
        self.memory
            .write_obj(word.to_le(), GuestAddress(gpa))
            .unwrap();
    }

    /// GVA in the linear map.
    #[must_use]
    pub const fn linear(gpa: u64) -> u64 {
        LINEAR_BASE + gpa
    }

    /// GPA of an object.
    #[must_use]
    pub const fn gpa(object: u64) -> GuestAddress {
        GuestAddress(object - LINEAR_BASE)
    }

    /// Reads the word at `gva` of the linear map.
    #[must_use]
    pub fn peek(&self, gva: u64) -> u64 {
        self.read_word(Self::gpa(gva).0)
    }

    /// Writes the word at `gva` of the linear map.
    pub fn poke(&self, gva: u64, word: u64) {
        self.write_word(Self::gpa(gva).0, word);
    }

    /// An object of any kind, zeroed, on pages of its own.
    pub fn object(&mut self) -> u64 {
        let bytes = self.fields.bytes.iter().copied().max().unwrap_or(0);
        Self::linear(self.allocate(bytes))
    }

    /// An object of `kind`, zeroed.
    pub fn object_of(&mut self, kind: ObjectKind) -> u64 {
        let bytes = self.fields.object_bytes(kind);
        let index = kind as usize;
        if let Some(object) = self.slabs.slabs[index].free.pop() {
            let zeros = vec![0; usize::try_from(bytes).unwrap()];
            self.memory.write_slice(&zeros, Self::gpa(object)).unwrap();
            return object;
        }
        let mut slab = std::mem::take(&mut self.slabs.slabs[index]);
        let object = self.carve(&mut slab, bytes);
        self.slabs.slabs[index] = slab;
        object
    }

    /// Gives an object back. The next one of its kind takes its memory; until then it keeps what it holds.
    pub fn free(&mut self, kind: ObjectKind, object: u64) {
        self.slabs.slabs[kind as usize].free.push(object);
    }

    fn carve(&mut self, slab: &mut Slab, bytes: u64) -> u64 {
        if slab.end - slab.next < bytes {
            let room = bytes.max(SLAB_BYTES).next_multiple_of(4096);
            slab.next = Self::linear(self.allocate(room));
            slab.end = slab.next + room;
        }
        let object = slab.next;
        slab.next += bytes;
        object
    }

    /// A copy of `name` in guest memory.
    pub(super) fn name(&mut self, name: &[u8]) -> u64 {
        let mut slab = std::mem::take(&mut self.slabs.names);
        let bytes = (name.len().max(1) as u64).next_multiple_of(8);
        let at = self.carve(&mut slab, bytes);
        self.slabs.names = slab;
        self.memory.write_slice(name, Self::gpa(at)).unwrap();
        at
    }

    /// Whether the layout has `field`.
    #[must_use]
    pub fn has(&self, field: Field) -> bool {
        self.fields.find(field).is_some()
    }

    /// Offset of `field` in its structure, or the value of a constant; 0 when the layout lacks it.
    #[must_use]
    pub fn offset(&self, field: Field) -> u64 {
        self.fields.offset(field)
    }

    /// Sets a field of an object, if the layout has it.
    pub fn set(&self, object: u64, field: Field, value: u64) {
        let Some((offset, size)) = self.fields.find(field) else {
            return;
        };
        let at = Self::gpa(object + offset);
        match size {
            8.. => self.memory.write_obj(value.to_le(), at).unwrap(),
            _ => self
                .memory
                .write_slice(&value.to_le_bytes()[..usize::from(size)], at)
                .unwrap(),
        }
    }

    /// A field of an object, 0 when the layout lacks it.
    #[must_use]
    pub fn get(&self, object: u64, field: Field) -> u64 {
        let Some((offset, size)) = self.fields.find(field) else {
            return 0;
        };
        let mut bytes = [0; 8];
        let part = &mut bytes[..usize::from(size.min(8))];
        self.memory
            .read_slice(part, Self::gpa(object + offset))
            .unwrap();
        u64::from_le_bytes(bytes)
    }
}
