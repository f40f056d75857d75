//! The tree of names.

use alloc::boxed::Box;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use tiny_kernel::cpio::Archive;

use crate::fs::{Dentry, HashLink, Inode, Mount, SuperBlock, VfsMount};

/// A reference to an entry, or none; entries live for ever.
pub type Link = AtomicPtr<Dentry>;

static LINKED: HashLink = HashLink(());
static ROOT: AtomicPtr<Mount> = AtomicPtr::new(ptr::null_mut());
/// Device number: major 0, minor 21, as an anonymous device has.
static SUPER_BLOCK: SuperBlock = SuperBlock {
    reserved: 0,
    device: 21,
};

fn follow(link: &Link) -> Option<&'static Dentry> {
    // SAFETY: links are null or lead to leaked entries.
    unsafe { link.load(Ordering::Acquire).as_ref() }
}

fn new_dentry(name: &'static [u8], parent: Option<&Dentry>, inode: Inode) -> &'static Dentry {
    let dentry = Box::leak(Box::new(Dentry {
        name_length: name.len() as u32,
        sequence: AtomicU32::new(0),
        first_child: Link::default(),
        next_sibling: Link::default(),
        inode: Box::leak(Box::new(inode)),
        name: name.as_ptr(),
        hash_link: &raw const LINKED,
        parent: Link::default(),
    }));
    let this = &raw mut *dentry;
    match parent {
        None => dentry.parent.store(this, Ordering::Relaxed),
        Some(parent) => {
            dentry
                .parent
                .store(ptr::from_ref(parent).cast_mut(), Ordering::Relaxed);
            let sibling = parent.first_child.load(Ordering::Relaxed);
            dentry.next_sibling.store(sibling, Ordering::Relaxed);
            parent.first_child.store(this, Ordering::Release);
        }
    }
    dentry
}

fn directory(number: u64) -> Inode {
    Inode {
        data: &[],
        generation: 1,
        directory: true,
        super_block: &SUPER_BLOCK,
        number,
    }
}

fn child(parent: &Dentry, name: &[u8]) -> Option<&'static Dentry> {
    core::iter::successors(follow(&parent.first_child), |dentry| {
        follow(&dentry.next_sibling)
    })
    .find(|dentry| dentry.name() == name)
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
}

/// Makes the tree from an archive. Directories that the archive does not name are made too.
pub fn init(initrd: &'static [u8]) {
    /// Numbers of made-up directories, above any that an archive holds.
    const FIRST_OWN_NUMBER: u64 = 1 << 32;
    let root = new_dentry(b"/", None, directory(FIRST_OWN_NUMBER));
    let mount = Box::leak(Box::new(Mount {
        mount_point: root,
        parent: ptr::null(),
        reserved: [0; 3],
        visible: VfsMount {
            super_block: &SUPER_BLOCK,
            root,
        },
    }));
    mount.parent = &raw const *mount;
    ROOT.store(mount, Ordering::Release);

    let mut own_number = FIRST_OWN_NUMBER;
    let mut files = 0;
    for entry in Archive::new(initrd) {
        let mut parent = root;
        let mut names = components(entry.path).peekable();
        while let Some(name) = names.next() {
            if let Some(found) = child(parent, name) {
                parent = found;
                continue;
            }
            let inode = if names.peek().is_some() || entry.is_directory() {
                own_number += 1;
                directory(own_number)
            } else {
                files += 1;
                Inode {
                    data: entry.data,
                    directory: false,
                    ..directory(u64::from(entry.inode))
                }
            };
            parent = new_dentry(name, Some(parent), inode);
        }
    }
    crate::log!("initrd: {files} files, {} bytes", initrd.len());
}

/// Finds an absolute path.
pub fn lookup(path: &[u8]) -> Option<(&'static Dentry, &'static Mount)> {
    // SAFETY: null or the leaked mount.
    let mount = unsafe { ROOT.load(Ordering::Acquire).as_ref() }?;
    let found = components(path).try_fold(mount.visible.root, child)?;
    Some((found, mount))
}
