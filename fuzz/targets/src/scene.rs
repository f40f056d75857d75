//! A guest with processes, and what it is spoiled with.
//!
//! A scene begins as what a real kernel would have in RAM, so that look-ups go all the way; what they must answer is known
//! then. Words that are written over it afterwards make it arbitrary.

use std::cell::RefCell;

use arbitrary::Arbitrary;
use oprofile_device::guest::paging::Levels;
use oprofile_device::test_utils::{LINEAR_BASE, SyntheticGuest, VmaSpec};
use oprofile_wire::layout::{Field, LayoutEntry};
use vm_memory::{Bytes, GuestAddress};

use crate::ram::Change;

/// Where the first mapping of each process may begin.
pub const TEXT: u64 = 0x40_0000;

const PAGE: u64 = 0x1000;

/// Most mappings that are planned one by one.
const MAX_PLANNED: usize = 24;

/// Most mappings in all; each takes a page of guest RAM, of which there are 16 MiB.
const MAX_MAPPINGS: usize = 700;

/// Most components of a path.
const MAX_COMPONENTS: usize = 20;

/// A file to be made.
#[derive(Arbitrary, Debug)]
pub struct FilePlan {
    /// From the root down; an empty name is made one letter long.
    components: Vec<Vec<u8>>,
    /// Beyond this component lies another file system, if there are mounts.
    mounted_at: Option<u8>,
    unlinked: bool,
    /// In no directory, as a memfd is.
    detached: bool,
}

/// A mapping to be made, behind the one before.
#[derive(Arbitrary, Debug)]
pub struct MappingPlan {
    gap: u8,
    pages: u8,
    page_offset: u64,
    /// One of the files, or none.
    file: Option<u8>,
}

/// A process to be made.
#[derive(Arbitrary, Debug, Default)]
pub struct ProcessPlan {
    mappings: Vec<MappingPlan>,
    /// Anonymous mappings of a page each behind those: long lists and deep trees.
    more: u16,
    exe: Option<u8>,
}

/// A guest to be made.
#[derive(Arbitrary, Debug, Default)]
pub struct ScenePlan {
    five_levels: bool,
    files: Vec<FilePlan>,
    processes: [ProcessPlan; 2],
}

/// A file that was made.
#[derive(Debug)]
pub struct File {
    /// Pointer.
    pub pointer: u64,
    /// Its path as the device must find it, `None` when it is too long to be found.
    pub path: Option<Vec<u8>>,
    /// Whether it must be found deleted.
    pub deleted: bool,
}

/// A process that was made.
#[derive(Debug)]
pub struct Process {
    /// Pointer to its task.
    pub task: u64,
    /// Its id, both thread's and group's.
    pub pid: u32,
    /// Pointer to its address space.
    pub mm: u64,
    /// Its mappings, ascending.
    pub mappings: Vec<VmaSpec>,
    /// The file of its main program, or 0.
    pub exe: u64,
}

/// A guest with processes.
#[derive(Debug)]
pub struct Scene {
    /// The guest.
    pub guest: SyntheticGuest,
    /// Its processes.
    pub processes: Vec<Process>,
    /// Its files.
    pub files: Vec<File>,
    layout: &'static [LayoutEntry],
    /// GPA of the first object, and behind the last; each object begins a page.
    objects: (u64, u64),
}

fn offset_of(layout: &[LayoutEntry], field: Field) -> Option<u64> {
    let entry = layout
        .iter()
        .find(|entry| entry.field.get() == field as u16)?;
    Some(entry.offset.get().into())
}

thread_local! {
    /// Guests without processes that were made before, by levels and layout: copying one is a tenth of the work.
    static BARE: RefCell<Vec<(Levels, &'static [LayoutEntry], SyntheticGuest)>> =
        const { RefCell::new(Vec::new()) };
}

fn bare_guest(five_levels: bool, layout: &'static [LayoutEntry]) -> SyntheticGuest {
    let levels = match five_levels {
        true => Levels::Five,
        false => Levels::Four,
    };
    BARE.with_borrow_mut(|made| {
        let same = |(made_levels, made_layout, _): &&(Levels, &[LayoutEntry], _)| {
            *made_levels == levels && std::ptr::eq(*made_layout, layout)
        };
        if let Some((.., guest)) = made.iter().find(same) {
            return guest.duplicate();
        }
        let guest = SyntheticGuest::new(levels, layout);
        let copy = guest.duplicate();
        made.push((levels, layout, guest));
        copy
    })
}

impl Scene {
    /// Makes what is planned, by this layout.
    #[must_use]
    pub fn new(plan: &ScenePlan, layout: &'static [LayoutEntry]) -> Self {
        let mut guest = bare_guest(plan.five_levels, layout);
        let start = guest.allocate(0);
        let mut scene = Self {
            guest,
            processes: Vec::new(),
            files: Vec::new(),
            layout,
            objects: (start, start),
        };
        let root = scene.dentry(None, b"/");
        let mount = scene.mount(root, None);
        for file in plan.files.iter().take(4) {
            scene.file(file, root, mount);
        }
        for (pid, process) in (1..).zip(&plan.processes) {
            scene.process(process, pid * 10);
        }
        scene.objects.1 = scene.guest.allocate(0);
        scene
    }

    /// The guest's layout.
    #[must_use]
    pub const fn layout(&self) -> &'static [LayoutEntry] {
        self.layout
    }

    /// A directory entry whose inode has a super block.
    fn dentry(&mut self, parent: Option<u64>, name: &[u8]) -> u64 {
        let dentry = self.guest.dentry(parent, name);
        if offset_of(self.layout, Field::InodeSuperBlock).is_some()
            && let Some(offset) = offset_of(self.layout, Field::DentryInode)
        {
            let gpa = GuestAddress(dentry - LINEAR_BASE + offset);
            let inode = self.guest.memory().read_obj(gpa).map_or(0, u64::from_le);
            let super_block = self.guest.object();
            self.guest.set(inode, Field::InodeSuperBlock, super_block);
        }
        dentry
    }

    /// A mount whose root is `root`, on another one's directory; 0 when the layout has none.
    fn mount(&mut self, root: u64, on: Option<(u64, u64)>) -> u64 {
        let Some(visible) = offset_of(self.layout, Field::MountVisible) else {
            return 0;
        };
        let mount = self.guest.object();
        let (parent, point) = on.unwrap_or((mount, root));
        self.guest.set(mount, Field::MountParent, parent);
        self.guest.set(mount, Field::MountPoint, point);
        self.guest.set(mount + visible, Field::VfsMountRoot, root);
        mount
    }

    fn file(&mut self, plan: &FilePlan, root: u64, root_mount: u64) {
        let (mut dentry, mut mount) = (root, root_mount);
        let mut path = Vec::new();
        let mut steps = 1;
        for (index, component) in plan.components.iter().take(MAX_COMPONENTS).enumerate() {
            let name = match component.len() {
                0 => b"x",
                length => &component[..length.min(255)],
            };
            dentry = self.dentry(Some(dentry), name);
            path.push(b'/');
            path.extend_from_slice(name);
            steps += 1;
            let is_mount = plan.mounted_at.map(usize::from) == Some(index);
            if mount != 0 && is_mount {
                let top = self.dentry(None, b"/");
                mount = self.mount(top, Some((mount, dentry)));
                dentry = top;
                steps += 1;
            }
        }
        let mut is_unlinked = plan.unlinked;
        // Without mounts, an entry that is its own parent is the root.
        if plan.detached && root_mount != 0 {
            dentry = self.dentry(None, b"memfd");
            path = b"memfd".to_vec();
            is_unlinked = true;
            steps = 1;
        } else if path.is_empty() {
            path = b"/".to_vec();
            is_unlinked = false;
        }
        if is_unlinked {
            self.guest.set(dentry, Field::DentryHashLink, 0);
        }
        let pointer = self.guest.file(dentry);
        if let Some(visible) = offset_of(self.layout, Field::MountVisible) {
            self.guest.set(pointer, Field::FileMount, mount + visible);
        }
        self.files.push(File {
            pointer,
            path: (path.len() <= 4_096 && steps <= 256).then_some(path),
            deleted: is_unlinked && offset_of(self.layout, Field::DentryHashLink).is_some(),
        });
    }

    fn pick_file(&self, index: Option<u8>) -> u64 {
        match index {
            Some(index) if !self.files.is_empty() => {
                self.files[usize::from(index) % self.files.len()].pointer
            }
            _ => 0,
        }
    }

    fn process(&mut self, plan: &ProcessPlan, pid: u32) {
        let mut mappings = Vec::new();
        let mut end = TEXT;
        for mapping in plan.mappings.iter().take(MAX_PLANNED) {
            let start = end + u64::from(mapping.gap) * PAGE;
            end = start + (u64::from(mapping.pages) + 1) * PAGE;
            mappings.push(VmaSpec {
                start,
                end,
                page_offset: mapping.page_offset,
                file: self.pick_file(mapping.file),
            });
        }
        // Rarely many: they take long to make.
        let more = if plan.more.is_multiple_of(32) {
            plan.more
        } else {
            0
        };
        for _ in 0..usize::from(more / 32) % (MAX_MAPPINGS - MAX_PLANNED) {
            let start = end;
            end += PAGE;
            mappings.push(VmaSpec {
                start,
                end,
                page_offset: 0,
                file: 0,
            });
        }
        let exe = self.pick_file(plan.exe);
        let mm = self.guest.mm(exe, &mappings);
        let task = self.guest.task(pid, pid, mm);
        self.processes.push(Process {
            task,
            pid,
            mm,
            mappings,
            exe,
        });
    }

    /// GPA of an object of the scene, by number.
    fn object(&self, index: u16) -> u64 {
        let (first, end) = self.objects;
        first + u64::from(index) % ((end - first) / PAGE) * PAGE
    }
}

/// Where a word goes.
#[derive(Arbitrary, Debug)]
enum Place {
    /// A field of an object.
    Field(u16, u8),
    /// Any word of an object.
    Word(u16, u8),
    /// Anywhere in the first 16 MiB, page tables included.
    Gpa(u32),
}

/// What goes there.
#[derive(Arbitrary, Debug)]
enum Value {
    /// A pointer to an object, or shortly behind.
    Pointer(u16, u8),
    /// What stands somewhere else, with these bits changed: a pointer with its tags, for instance.
    Copy(u16, u8, u8),
    Small(u16),
    /// An address in or near the processes' mappings.
    User(u16),
    /// Present, with these flags, to an object or a page.
    TableEntry(u16, u8),
    Raw(u64),
}

/// A word that is written over the scene.
#[derive(Arbitrary, Debug)]
pub struct Patch {
    place: Place,
    value: Value,
}

impl Patch {
    /// The change that it is in `scene`, after that many accesses.
    #[must_use]
    pub fn change(&self, scene: &Scene, after: u64) -> Change {
        let memory = scene.guest.memory();
        let read = |gpa| memory.read_obj(GuestAddress(gpa)).map_or(0, u64::from_le);
        let gpa = match self.place {
            Place::Field(object, field) => {
                let entry = &scene.layout[usize::from(field) % scene.layout.len()];
                scene.object(object) + u64::from(entry.offset.get())
            }
            Place::Word(object, word) => scene.object(object) + u64::from(word) * 8,
            Place::Gpa(gpa) => (u64::from(gpa) % (16 << 20)) & !7,
        };
        let word = match self.value {
            Value::Pointer(object, behind) => {
                LINEAR_BASE + scene.object(object) + u64::from(behind)
            }
            Value::Copy(object, word, bits) => {
                read(scene.object(object) + u64::from(word) * 8) ^ u64::from(bits)
            }
            Value::Small(number) => number.into(),
            Value::User(page) => TEXT.wrapping_sub(4 * PAGE) + u64::from(page) * (PAGE / 4),
            Value::TableEntry(object, flags) => scene.object(object) | u64::from(flags) | 1,
            Value::Raw(word) => word,
        };
        // A field of 4 bytes leaves its neighbour alone.
        let is_half = match self.place {
            Place::Field(_, field) => {
                scene.layout[usize::from(field) % scene.layout.len()]
                    .size
                    .get()
                    == 4
            }
            _ => false,
        };
        let word = match is_half {
            true => word & 0xffff_ffff | read(gpa) & !0xffff_ffff,
            false => word,
        };
        Change { after, gpa, word }
    }

    /// Makes the change now.
    pub fn apply(&self, scene: &Scene) {
        let Change { gpa, word, .. } = self.change(scene, 0);
        // Outside RAM there is nothing to change.
        let _ = scene
            .guest
            .memory()
            .write_obj(word.to_le(), GuestAddress(gpa));
    }
}
