//! A guest with processes, and what it is spoiled with.
//!
//! A scene begins as what a real kernel would have in RAM, so that look-ups go all the way; what they must answer is known
//! then. Words that are written over it afterwards make it arbitrary.

use std::cell::RefCell;

use arbitrary::Arbitrary;
use oprofile_device::guest::paging::Levels;
use oprofile_device::test_utils::{
    GuestShape, LINEAR_BASE, MapleInner, MapleShape, SyntheticGuest, VmaSpec,
};
use oprofile_wire::layout::{Field, LayoutEntry};
use vm_memory::{Bytes, GuestAddress};

use crate::layouts::Kernel;
use crate::ram::Change;

/// Where the first mapping of each process may begin.
pub const TEXT: u64 = 0x40_0000;

const PAGE: u64 = 0x1000;

/// Most mappings that are planned one by one.
const MAX_PLANNED: usize = 24;

/// Most mappings in all.
const MAX_MAPPINGS: usize = 2_000;

/// Longest path (Linux's `PATH_MAX`).
const MAX_PATH: usize = 4_096;

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
    page_offset: PageOffset,
    /// One of the files, or none.
    file: Option<u8>,
}

#[derive(Arbitrary, Debug)]
enum PageOffset {
    Usual(u16),
    /// So many pages before the offset that has too many bits.
    Last(u8),
    Raw(u64),
}

impl PageOffset {
    fn pages(&self) -> u64 {
        match *self {
            Self::Usual(pages) => pages.into(),
            Self::Last(pages) => (u64::MAX >> 12) - u64::from(pages),
            Self::Raw(pages) => pages,
        }
    }
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
    maple: u8,
    files: Vec<FilePlan>,
    processes: [ProcessPlan; 2],
}

/// A file that was made.
#[derive(Debug)]
pub struct File {
    /// Pointer.
    pub pointer: u64,
    /// Its path as the device must find it.
    pub path: Vec<u8>,
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
    /// GVAs of all objects that were made for it.
    objects: Vec<u64>,
    /// GPAs of the first byte that was given out, and behind the last.
    used: (u64, u64),
}

thread_local! {
    /// Guests without processes that were made before: copying one is a tenth of the work.
    static BARE: RefCell<Vec<(Kernel, SyntheticGuest)>> = const { RefCell::new(Vec::new()) };
}

/// A guest without processes.
fn bare_guest(kernel: Kernel, levels: Levels, maple: MapleShape) -> SyntheticGuest {
    BARE.with_borrow_mut(|made| {
        let same = |(made, guest): &&(Kernel, SyntheticGuest)| {
            *made == kernel && guest.levels() == levels && guest.shape().maple == maple
        };
        if let Some((_, guest)) = made.iter().find(same) {
            return guest.duplicate();
        }
        let guest = SyntheticGuest::with_shape(GuestShape {
            levels,
            layout: kernel.layout.to_vec(),
            store: kernel.store,
            maple,
            ..GuestShape::default()
        });
        let copy = guest.duplicate();
        made.push((kernel, guest));
        copy
    })
}

impl Scene {
    /// Has the driver promise to count changes, in scenes with an odd number of files. It counts none, but its words are overwritten
    /// like everything else.
    pub fn keep_change_words(&mut self) {
        if self.files.len() % 2 == 1 {
            self.guest.keep_change_words();
            self.used.1 = self.guest.allocate(0);
        }
    }

    /// Makes what is planned in a guest with this kernel.
    #[must_use]
    pub fn new(plan: &ScenePlan, kernel: Kernel) -> Self {
        let levels = match plan.five_levels {
            true => Levels::Five,
            false => Levels::Four,
        };
        let maple = match plan.maple % 4 {
            1 => MapleShape {
                leaf_slots: 3,
                children: 3,
                inner: MapleInner::AllocationRange,
            },
            2 => MapleShape {
                leaf_slots: 16,
                children: 16,
                inner: MapleInner::Range,
            },
            _ => MapleShape::default(),
        };
        let guest = bare_guest(kernel, levels, maple);
        let end = LINEAR_BASE.wrapping_add(guest.root());
        let mut scene = Self {
            processes: Vec::new(),
            files: Vec::new(),
            objects: vec![
                guest.root_dentry(),
                guest.root_mount(),
                guest.init_task(),
                end,
            ],
            used: (guest.root(), 0),
            guest,
        };
        for file in plan.files.iter().take(4) {
            scene.file(file);
        }
        for (pid, process) in (1..).zip(&plan.processes) {
            scene.process(process, pid * 10);
        }
        scene.used.1 = scene.guest.allocate(0);
        scene
    }

    fn file(&mut self, plan: &FilePlan) {
        let has_mounts = self.guest.has(Field::MountVisible);
        let (mut dentry, mut mount) = (self.guest.root_dentry(), self.guest.root_mount());
        let mut path = Vec::new();
        let mut is_top = true;
        for (index, component) in plan.components.iter().take(MAX_COMPONENTS).enumerate() {
            let name = match component.len() {
                0 => b"x",
                length => &component[..length.min(255)],
            };
            if path.len() + 1 + name.len() > MAX_PATH {
                break;
            }
            dentry = self.guest.dentry(Some(dentry), name);
            is_top = false;
            self.objects.push(dentry);
            path.push(b'/');
            path.extend_from_slice(name);
            if has_mounts && plan.mounted_at.map(usize::from) == Some(index) {
                let top = self.guest.dentry(None, b"/");
                mount = self.guest.mount(top, Some((mount, dentry)));
                dentry = top;
                is_top = true;
                self.objects.extend([top, mount]);
            }
        }
        // Without mounts, an entry that is its own parent is the root.
        let is_detached = plan.detached && has_mounts;
        if is_detached {
            dentry = self.guest.dentry(None, b"memfd");
            is_top = true;
            path = b"memfd".to_vec();
            self.objects.push(dentry);
        } else if path.is_empty() {
            path = b"/".to_vec();
        }
        if plan.unlinked {
            self.guest.mark_deleted(dentry);
        }
        let pointer = self.guest.file_on(mount, dentry);
        self.objects.push(pointer);
        self.files.push(File {
            pointer,
            path,
            deleted: if is_top { is_detached } else { plan.unlinked },
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
                page_offset: mapping.page_offset.pages(),
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
        let mm = self.guest.mm(exe, &[]);
        let vmas = self.guest.set_vmas(mm, &mappings);
        let task = self.guest.task(pid, pid, mm);
        self.objects.extend([task, mm]);
        self.objects.extend(vmas);
        self.processes.push(Process {
            task,
            pid,
            mm,
            mappings,
            exe,
        });
    }

    /// GPA of an object of the scene, by number; of the last ones with high numbers.
    fn object(&self, index: u8) -> u64 {
        let index = usize::from(index) % self.objects.len();
        self.objects[index] - LINEAR_BASE
    }

    /// GPA of a word among those that were given out: nodes of trees and names are there as well.
    fn used(&self, word: u32) -> u64 {
        let (start, end) = self.used;
        start + u64::from(word) * 8 % (end - start)
    }

    fn layout(&self) -> &[LayoutEntry] {
        &self.guest.shape().layout
    }
}

/// Where a word is.
#[derive(Arbitrary, Debug)]
enum Place {
    /// A field of an object.
    Field(u8, u8),
    /// Any word of an object.
    Word(u8, u8),
    /// Any word that was given out.
    Used(u32),
    /// Anywhere in the first 16 MiB, page tables included.
    Gpa(u32),
}

/// What goes there.
#[derive(Arbitrary, Debug)]
enum Value {
    /// A pointer to an object, or shortly behind.
    Pointer(u8, u8),
    /// What stands somewhere else, with these bits changed: a pointer with its tags, for instance.
    Copy(Place, u8),
    /// What stands there, with these bits changed.
    Flip(u16, u8),
    Small(u16),
    /// An address in or near the processes' mappings.
    User(u16),
    /// Present, with these flags, to where something was given out.
    TableEntry(u32, u8),
    Raw(u64),
}

/// A word that is written over the scene.
#[derive(Arbitrary, Debug)]
pub struct Patch {
    place: Place,
    value: Value,
}

impl Place {
    /// Its GPA, and whether it has 4 bytes instead of 8.
    fn find(&self, scene: &Scene) -> (u64, bool) {
        match *self {
            Self::Field(object, field) => {
                let entry = &scene.layout()[usize::from(field) % scene.layout().len()];
                let gpa = scene.object(object) + u64::from(entry.offset.get());
                (gpa, entry.size.get() == 4)
            }
            Self::Word(object, word) => (scene.object(object) + u64::from(word) * 8, false),
            Self::Used(word) => (scene.used(word), false),
            Self::Gpa(gpa) => ((u64::from(gpa) % (16 << 20)) & !7, false),
        }
    }
}

impl Patch {
    /// The change that it is in `scene`, after that many accesses.
    #[must_use]
    pub fn change(&self, scene: &Scene, after: u64) -> Change {
        let memory = scene.guest.memory();
        let read = |gpa| memory.read_obj(GuestAddress(gpa)).map_or(0, u64::from_le);
        let (gpa, is_half) = self.place.find(scene);
        let word = match &self.value {
            Value::Pointer(object, behind) => {
                LINEAR_BASE + scene.object(*object) + u64::from(*behind)
            }
            Value::Copy(place, bits) => read(place.find(scene).0) ^ u64::from(*bits),
            Value::Flip(bits, shift) => read(gpa) ^ (u64::from(*bits) << (shift % 49)),
            Value::Small(number) => u64::from(*number),
            Value::User(page) => TEXT - 4 * PAGE + u64::from(*page) * (PAGE / 4),
            Value::TableEntry(word, flags) => {
                (scene.used(*word) & !(PAGE - 1)) | u64::from(*flags) | 1
            }
            Value::Raw(word) => *word,
        };
        // A field of 4 bytes leaves its neighbour alone.
        let word = match is_half {
            true => word & 0xffff_ffff | read(gpa) & !0xffff_ffff,
            false => word,
        };
        Change { after, gpa, word }
    }

    /// Makes the change now.
    pub fn apply(&self, scene: &Scene) {
        let Change { gpa, word, .. } = self.change(scene, 0);
        let memory = scene.guest.memory();
        // Outside RAM there is nothing to change.
        let _ = memory.write_obj(word.to_le(), GuestAddress(gpa));
    }
}
