//! Layout descriptors: any bytes, and good ones that are changed; one that is believed must be harmless to walk by.

use std::num::NonZero;

use arbitrary::{Arbitrary, Unstructured};
use oprofile_device::guest::layout::{Layout, LayoutError};
use oprofile_device::sync::World;
use oprofile_device::test_utils::SyntheticGuest;
use oprofile_device::test_utils::fuzzing::{GuestWalk, WORK_PER_QUESTION};
use oprofile_wire::layout::{
    Descriptor, DescriptorError, DescriptorHeader, Field, LayoutEntry, MAX_ENTRIES, VmaStore,
};

use crate::layouts::{self, Kernel};
use crate::ram::{ACCESSES_PER_READ, WatchedRam};
use crate::scene::{Scene, ScenePlan, TEXT};

/// An id that no field has.
const UNKNOWN_FIELD: u16 = 0xfff0;

const KERNELS: [Kernel; 4] = [
    layouts::LIST,
    layouts::TINY,
    layouts::RB_TREE,
    layouts::MAPLE,
];

#[derive(Arbitrary, Debug)]
enum Input {
    Bytes(Vec<u8>),
    Edited {
        layout: u8,
        store: u8,
        edits: Vec<Edit>,
        scene: ScenePlan,
        addresses: Vec<u16>,
    },
}

#[derive(Arbitrary, Debug)]
enum Edit {
    Offset(u8, u32),
    Near(u8, u8),
    Size(u8, u16),
    Id(u8, u16),
    Remove(u8),
    Insert(u8, u8, u16, u32),
    Swap(u8, u8),
}

/// Runs the target.
///
/// # Panics
/// When it finds something.
pub fn run(data: &[u8]) {
    match Input::arbitrary_take_rest(Unstructured::new(data)) {
        Ok(Input::Bytes(bytes)) => drop(read(&bytes)),
        Ok(Input::Edited {
            layout,
            store,
            edits,
            scene,
            addresses,
        }) => {
            let kernel = KERNELS[usize::from(layout) % KERNELS.len()];
            let store = match store % 8 {
                1 => VmaStore::List,
                2 => VmaStore::RbTree,
                3 => VmaStore::Maple,
                _ => kernel.store,
            };
            let mut entries = kernel.layout.to_vec();
            for edit in edits.iter().take(64) {
                edit.apply(&mut entries);
            }
            let bytes = SyntheticGuest::descriptor(store, &entries);
            if read(&bytes).is_some() {
                walk(&bytes, &Scene::new(&scene, kernel), &addresses);
            }
        }
        Err(_) => {}
    }
}

impl Edit {
    fn apply(&self, entries: &mut Vec<LayoutEntry>) {
        // None is left of a descriptor from which everything was removed.
        let Some(count) = NonZero::new(entries.len()) else {
            return;
        };
        let at = |index: u8| usize::from(index) % count;
        match *self {
            Self::Offset(index, offset) => entries[at(index)].offset = offset.into(),
            Self::Near(index, offset) => entries[at(index)].offset = u32::from(offset).into(),
            Self::Size(index, size) => entries[at(index)].size = size.into(),
            Self::Id(index, id) => entries[at(index)].field = id.into(),
            Self::Swap(one, other) => entries.swap(at(one), at(other)),
            Self::Insert(index, field, size, offset) => {
                let field = Field::ALL[usize::from(field) % Field::ALL.len()];
                entries.insert(at(index), LayoutEntry::field(field, offset, size));
            }
            Self::Remove(index) => {
                entries.remove(at(index));
            }
        }
    }
}

/// Reads a descriptor; the layout, if it can be used.
fn read(bytes: &[u8]) -> Option<Layout> {
    let descriptor = match Descriptor::parse(bytes) {
        Ok(descriptor) => descriptor,
        Err(error) => {
            let short = size_of::<DescriptorHeader>() + MAX_ENTRIES * size_of::<LayoutEntry>();
            assert!(error != DescriptorError::Truncated || bytes.len() < short);
            return None;
        }
    };
    let entries = descriptor.entries;
    assert!(entries.len() <= MAX_ENTRIES);
    let again = SyntheticGuest::descriptor(descriptor.vma_store, entries);
    // The reserved field is not looked at.
    assert_eq!(again[..10], bytes[..10]);
    assert_eq!(again[12..], bytes[12..again.len()]);

    let layout = Layout::new(&descriptor);
    if let Err(error) = layout {
        assert!(Field::ALL.contains(&error.field()));
        if let LayoutError::Duplicate(field) = error {
            let same = |entry: &&LayoutEntry| entry.field.get() == field as u16;
            assert!(entries.iter().filter(same).count() > 1);
        }
    }
    // The order of entries means nothing, nor does one that is not known.
    let mut other: Vec<LayoutEntry> = entries.iter().rev().copied().collect();
    if other.len() < MAX_ENTRIES {
        let mut unknown = LayoutEntry::field(Field::TaskMm, u32::MAX, u16::MAX);
        unknown.field = UNKNOWN_FIELD.into();
        other.push(unknown);
    }
    let other = Layout::new(&Descriptor {
        vma_store: descriptor.vma_store,
        entries: &other,
    });
    assert_eq!(layout.ok(), other.ok());
    layout.ok()
}

/// Walks a guest by a layout that is not its own.
fn walk(layout: &[u8], scene: &Scene, addresses: &[u16]) {
    let ram = WatchedRam::new(&scene.guest.memory());
    let hello = scene.guest.hello();
    let Some(mut walk) = GuestWalk::new(&ram, &hello, layout) else {
        return;
    };
    let mut world = walk.sync(&ram);
    for process in &scene.processes {
        let Some(mm) = world.task(process.task).and_then(|task| task.mm) else {
            continue;
        };
        let _ = world.exe_cookie(mm);
        for &address in addresses.iter().take(32) {
            let gva = TEXT + u64::from(address) * 0x400;
            let (_, accesses) = ram.count(|| world.lookup(mm, gva));
            assert!(accesses <= ACCESSES_PER_READ * WORK_PER_QUESTION);
        }
    }
}
