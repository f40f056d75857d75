//! Paths and identities, in directory trees of every shape.

use oprofile_wire::layout::{Field, LayoutEntry, VmaStore};
use proptest::prelude::*;

use super::*;
use crate::guest::view::GuestView;
use crate::test_utils::{
    COMPACT_LAYOUT, GuestShape, LINUX_4_19_LAYOUT, LINUX_6_1_LAYOUT, SyntheticGuest, TINY_LAYOUT,
};

fn linux() -> SyntheticGuest {
    SyntheticGuest::with_shape(GuestShape {
        layout: LINUX_6_1_LAYOUT.to_vec(),
        store: VmaStore::Maple,
        ..GuestShape::default()
    })
}

fn facts(guest: &SyntheticGuest, file: u64) -> Result<FileFacts, Stop> {
    read_file(&mut GuestView::new(guest).walker(), file)
}

/// Path and mark of a file that can be read.
fn path_of(guest: &SyntheticGuest, file: u64) -> (Vec<u8>, bool) {
    let facts = facts(guest, file).unwrap();
    (facts.key.path, facts.deleted)
}

/// A directory `name` in `parent` with a file system of its own mounted on it: that one's root, and the mount.
fn mounted(guest: &mut SyntheticGuest, on: (u64, u64), name: &[u8]) -> (u64, u64) {
    let (mount, parent) = on;
    let point = guest.dentry(Some(parent), name);
    let root = guest.dentry(None, b"/");
    (root, guest.mount(root, Some((mount, point))))
}

#[test]
fn a_file_is_called_by_its_path_in_every_layout() {
    for (store, layout) in [
        (VmaStore::List, COMPACT_LAYOUT),
        (VmaStore::List, TINY_LAYOUT),
        (VmaStore::RbTree, LINUX_4_19_LAYOUT),
        (VmaStore::Maple, LINUX_6_1_LAYOUT),
    ] {
        let mut guest = SyntheticGuest::with_shape(GuestShape {
            store,
            layout: layout.to_vec(),
            ..GuestShape::default()
        });
        let file = guest.file_at(b"/usr/lib/x86_64-linux-gnu/libc.so.6");
        let other = guest.file_at(b"/usr/lib/os-release");
        let (path, deleted) = path_of(&guest, file);
        assert_eq!(path, b"/usr/lib/x86_64-linux-gnu/libc.so.6");
        assert!(!deleted);
        assert_eq!(path_of(&guest, other).0, b"/usr/lib/os-release");
        let root = guest.file(guest.root_dentry());
        assert_eq!(path_of(&guest, root), (b"/".to_vec(), false));
    }
}

#[test]
fn what_tells_a_file_from_others_is_read() {
    let mut guest = linux();
    let super_block = guest.super_block(0x0080_0007);
    let inode = guest.inode(super_block, 1 << 40, 99);
    let dentry = guest.dentry(Some(guest.root_dentry()), b"prog");
    guest.set(dentry, Field::DentryInode, inode);
    let file = guest.file(dentry);
    let expected = FileKey {
        mount: guest.root_mount(),
        dentry,
        inode_pointer: inode,
        inode: 1 << 40,
        generation: 99,
        device: 0x0080_0007,
        path: b"/prog".to_vec(),
    };
    assert_eq!(facts(&guest, file).unwrap().key, expected);
    // A file of an overlay has another inode than its directory entry.
    let lower = guest.inode(super_block, 5, 0);
    guest.set(file, Field::FileInode, lower);
    let key = facts(&guest, file).unwrap().key;
    assert_eq!((key.inode_pointer, key.inode), (lower, 5));
    // One without an inode is told by the rest.
    guest.set(file, Field::FileInode, 0);
    let key = facts(&guest, file).unwrap().key;
    assert_eq!((key.inode_pointer, key.inode, key.device), (0, 0, 0));
}

#[test]
fn a_file_of_a_layer_is_called_by_the_path_that_its_user_opened() {
    const BACKING: u32 = 1 << 24;
    let mut layout = LINUX_6_1_LAYOUT.to_vec();
    layout.extend([
        LayoutEntry::field(Field::FileMode, 40, 4),
        LayoutEntry::constant(Field::FileModeBacking, BACKING),
        LayoutEntry::field(Field::FileBackingMount, 48, 8),
        LayoutEntry::field(Field::FileBackingDentry, 56, 8),
    ]);
    let mut guest = SyntheticGuest::with_shape(GuestShape {
        layout,
        store: VmaStore::Maple,
        ..GuestShape::default()
    });
    // The layer is mounted nowhere that can be named.
    let layer_root = guest.dentry(None, b"/");
    let layer = guest.mount(layer_root, None);
    let inside = guest.dentry(Some(layer_root), b"prog");
    let file = guest.file_on(layer, inside);
    let opened = guest.file_at(b"/merged/prog");
    let (mount, dentry) = (
        guest.get(opened, Field::FileMount),
        guest.get(opened, Field::FileDentry),
    );
    guest.set(file, Field::FileBackingMount, mount);
    guest.set(file, Field::FileBackingDentry, dentry);
    assert_eq!(path_of(&guest, file).0, b"/prog");
    guest.set(file, Field::FileMode, u64::from(BACKING) | 1);
    assert_eq!(path_of(&guest, file).0, b"/merged/prog");
    let mut view = GuestView::new(&guest);
    let mut walker = view.walker();
    let found = identity(&mut walker, file).unwrap();
    assert!(found.is_of(&mut walker, file).unwrap());
}

#[test]
fn only_what_was_in_a_directory_can_be_deleted() {
    let mut guest = linux();
    let directory = guest.dentry(Some(guest.root_dentry()), b"tmp");
    let dentry = guest.dentry(Some(directory), b"gone");
    let file = guest.file(dentry);
    guest.mark_deleted(dentry);
    assert_eq!(path_of(&guest, file), (b"/tmp/gone".to_vec(), true));
    // Roots are in no directory, so they are never hashed.
    let top = (guest.root_mount(), guest.root_dentry());
    let (root, mount) = mounted(&mut guest, top, b"mnt");
    guest.mark_deleted(root);
    guest.mark_deleted(guest.root_dentry());
    let mounted = guest.file_on(mount, root);
    assert_eq!(path_of(&guest, mounted), (b"/mnt".to_vec(), false));
    let top = guest.file(guest.root_dentry());
    assert_eq!(path_of(&guest, top), (b"/".to_vec(), false));
    // A deleted file that is mounted by itself.
    let point = guest.dentry(Some(directory), b"point");
    let bind = guest.mount(dentry, Some((guest.root_mount(), point)));
    let bound = guest.file_on(bind, dentry);
    assert_eq!(path_of(&guest, bound), (b"/tmp/point".to_vec(), true));
}

#[test]
fn a_file_in_no_directory_has_its_own_name_and_counts_as_deleted() {
    let mut guest = linux();
    // Such files are on a mount that is not in the tree.
    let root = guest.dentry(None, b"/");
    let internal = guest.mount(root, None);
    for name in [&b"memfd:jit code"[..], b"SYSV00000000", b"dev/zero"] {
        let dentry = guest.dentry(None, name);
        let file = guest.file_on(internal, dentry);
        assert_eq!(path_of(&guest, file), (name.to_vec(), true));
    }
    let nameless = guest.dentry(None, b"");
    let file = guest.file_on(internal, nameless);
    assert_eq!(path_of(&guest, file), (b"[no name]".to_vec(), true));
    // What a mount does not show ends at its file system's root.
    let outside = guest.dentry(Some(root), b"outside");
    let shown = guest.dentry(Some(root), b"shown");
    let bind = guest.mount(shown, None);
    let file = guest.file_on(bind, outside);
    assert_eq!(path_of(&guest, file), (b"/outside".to_vec(), false));
}

#[test]
fn a_bind_mount_shows_a_directory_at_another_place() {
    let mut guest = linux();
    let top = (guest.root_mount(), guest.root_dentry());
    let (data_root, data) = mounted(&mut guest, top, b"data");
    let shared = guest.dentry(Some(data_root), b"shared");
    let prog = guest.dentry(Some(shared), b"prog");
    let point = guest.dentry(Some(guest.root_dentry()), b"app");
    let bind = guest.mount(shared, Some((guest.root_mount(), point)));
    let (there, here) = (guest.file_on(data, prog), guest.file_on(bind, prog));
    assert_eq!(path_of(&guest, there).0, b"/data/shared/prog");
    assert_eq!(path_of(&guest, here).0, b"/app/prog");
    // The same file by two names: two cookies.
    let keys = [there, here].map(|file| facts(&guest, file).unwrap().key);
    assert_ne!(keys[0], keys[1]);
    assert_eq!(keys[0].inode_pointer, keys[1].inode_pointer);
}

#[test]
fn mounts_on_mounts_end_after_256_steps() {
    // A step up from each root to its mount point, and one from there to its parent.
    for (depth, whole) in [(1, true), (60, true), (127, true), (128, false)] {
        let mut guest = linux();
        let mut on = (guest.root_mount(), guest.root_dentry());
        let mut path = Vec::new();
        for level in 0..depth {
            let name = format!("m{level}").into_bytes();
            let (root, mount) = mounted(&mut guest, on, &name);
            on = (mount, root);
            path.extend([b"/", &name[..]].concat());
        }
        let dentry = guest.dentry(Some(on.1), b"f");
        path.extend(b"/f");
        let file = guest.file_on(on.0, dentry);
        let found = facts(&guest, file).map(|facts| facts.key.path);
        match whole {
            true => assert_eq!(found, Ok(path)),
            false => assert_eq!(found, Err(Stop::Bad(Fault::BadPath, dentry))),
        }
    }
}

#[test]
fn mounts_that_lead_back_into_themselves_end() {
    let mut guest = linux();
    let top = (guest.root_mount(), guest.root_dentry());
    let (root, mount) = mounted(&mut guest, top, b"mnt");
    let dentry = guest.dentry(Some(root), b"f");
    let file = guest.file_on(mount, dentry);
    let bad = Err(Stop::Bad(Fault::BadPath, dentry));
    // Mounted on itself, by way of another.
    let point = guest.dentry(Some(root), b"point");
    guest.set(guest.root_mount(), Field::MountParent, mount);
    guest.set(guest.root_mount(), Field::MountPoint, point);
    assert_eq!(facts(&guest, file), bad);
    // Mounted on its own root, without a name in between.
    guest.set(guest.root_mount(), Field::MountPoint, root);
    guest.set(mount, Field::MountPoint, guest.root_dentry());
    assert_eq!(facts(&guest, file), bad);
}

#[test]
fn wild_pointers_on_the_way_end_with_a_fault() {
    type Spoil = fn(&SyntheticGuest, u64, u64, u64);
    let spoils: [Spoil; 9] = [
        |guest, file, _, wild| guest.set(file, Field::FileDentry, wild),
        |guest, file, _, wild| guest.set(file, Field::FileMount, wild),
        |guest, file, _, wild| guest.set(file, Field::FileInode, wild),
        |guest, _, dentry, wild| guest.set(dentry, Field::DentryParent, wild),
        |guest, _, dentry, wild| guest.set(dentry, Field::DentryName, wild),
        |guest, _, dentry, _| guest.set(dentry, Field::DentryNameLength, 256),
        |guest, _, dentry, _| guest.set(dentry, Field::DentryNameLength, u32::MAX.into()),
        |guest, file, _, wild| {
            let inode = guest.get(file, Field::FileInode);
            guest.set(inode, Field::InodeSuperBlock, wild);
        },
        |guest, _, dentry, wild| {
            let parent = guest.get(dentry, Field::DentryParent);
            guest.set(parent, Field::DentryParent, wild);
        },
    ];
    for wild in [4, 0x1000, 0xffff_a000_0000_0000, u64::MAX - 3] {
        for (index, spoil) in spoils.iter().enumerate() {
            let mut guest = linux();
            let directory = guest.dentry(Some(guest.root_dentry()), b"d");
            let dentry = guest.dentry(Some(directory), b"f");
            let file = guest.file(dentry);
            spoil(&guest, file, dentry, wild);
            let found = facts(&guest, file);
            assert!(
                matches!(found, Err(Stop::Bad(Fault::BadPath, _))),
                "{index} with {wild:#x}: {found:?}"
            );
        }
    }
}

#[test]
fn a_rename_under_way_is_waited_for() {
    let mut guest = linux();
    let directory = guest.dentry(Some(guest.root_dentry()), b"d");
    let dentry = guest.dentry(Some(directory), b"f");
    let file = guest.file(dentry);
    for entry in [dentry, directory, guest.root_dentry()] {
        let sequence = guest.get(entry, Field::DentrySequence);
        guest.set(entry, Field::DentrySequence, sequence + 1);
        assert_eq!(facts(&guest, file), Err(Stop::Changed));
        guest.set(entry, Field::DentrySequence, sequence + 2);
        assert_eq!(path_of(&guest, file).0, b"/d/f");
    }
}

#[test]
fn a_rename_after_an_entry_was_read_shows_at_the_end() {
    let mut guest = linux();
    let dentry = guest.dentry(Some(guest.root_dentry()), b"f");
    let mut view = GuestView::new(&guest);
    let mut visited = Visited::new();
    for entry in [dentry, guest.root_dentry()] {
        let read = Dentry::read(&mut view.walker(), entry).unwrap();
        visited.add(entry, &read).unwrap();
    }
    assert_eq!(visited.check(&mut view.walker()), Ok(()));
    guest.set_name(guest.root_dentry(), b"other");
    assert_eq!(visited.check(&mut view.walker()), Err(Stop::Changed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn names_of_any_bytes_and_length_make_a_path_of_up_to_4096_bytes(
        names in prop::collection::vec(
            prop_oneof![
                4 => prop::collection::vec(any::<u8>(), 0..60),
                1 => prop::collection::vec(any::<u8>(), 255..256),
            ], 1..40),
        mounts in prop::collection::vec(any::<bool>(), 40))
    {
        let mut guest = linux();
        let mut on = (guest.root_mount(), guest.root_dentry());
        let mut expected = Vec::new();
        for (name, mount) in names.iter().zip(mounts) {
            let (mounted_on, parent) = on;
            on = if mount {
                let (root, mount) = mounted(&mut guest, (mounted_on, parent), name);
                (mount, root)
            } else {
                (mounted_on, guest.dentry(Some(parent), name))
            };
            expected.push(b'/');
            expected.extend(name);
        }
        let file = guest.file_on(on.0, on.1);
        let found = facts(&guest, file).map(|facts| facts.key.path);
        if expected.len() <= 4_096 {
            prop_assert_eq!(found, Ok(expected));
        } else {
            prop_assert_eq!(found, Err(Stop::Bad(Fault::BadPath, on.1)));
        }
    }
}
