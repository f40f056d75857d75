//! Super blocks, inodes, directory entries, mounts, open files.

use std::collections::HashMap;

use oprofile_wire::layout::Field;

use super::{ObjectKind, SyntheticGuest};

/// Device number of the root file system, as Linux writes major 8, minor 1.
const ROOT_DEVICE: u32 = 8 << 20 | 1;

/// The file system that is there from the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    super_block: u64,
    root: u64,
    mount: u64,
    /// Directories by parent and name.
    directories: HashMap<(u64, Vec<u8>), u64>,
}

impl SyntheticGuest {
    pub(super) fn make_root_directory(&mut self) {
        self.tree.super_block = self.super_block(ROOT_DEVICE);
        self.tree.root = self.dentry(None, b"/");
        self.tree.mount = self.mount(self.tree.root, None);
    }

    /// The root of the directory tree.
    #[must_use]
    pub const fn root_dentry(&self) -> u64 {
        self.tree.root
    }

    /// The mount of the root; nothing of it is in a layout without mounts.
    #[must_use]
    pub const fn root_mount(&self) -> u64 {
        self.tree.mount
    }

    /// A super block.
    pub fn super_block(&mut self, device: u32) -> u64 {
        let super_block = self.object_of(ObjectKind::SuperBlock);
        self.set(super_block, Field::SuperBlockDevice, device.into());
        super_block
    }

    /// An inode.
    pub fn inode(&mut self, super_block: u64, number: u64, generation: u32) -> u64 {
        let inode = self.object_of(ObjectKind::Inode);
        self.set(inode, Field::InodeNumber, number);
        self.set(inode, Field::InodeGeneration, generation.into());
        self.set(inode, Field::InodeSuperBlock, super_block);
        inode
    }

    /// A directory entry with an inode of the root file system; its own parent without one.
    pub fn dentry(&mut self, parent: Option<u64>, name: &[u8]) -> u64 {
        let inode = self.inode(self.tree.super_block, self.next_inode, 0);
        self.next_inode += 1;
        let dentry = self.object_of(ObjectKind::Dentry);
        self.set_name(dentry, name);
        self.set(dentry, Field::DentryParent, parent.unwrap_or(dentry));
        self.set(dentry, Field::DentryInode, inode);
        self.set(dentry, Field::DentryHashLink, dentry);
        dentry
    }

    /// Gives a directory entry another name. Its sequence number goes up by 2, as with every rename.
    pub fn set_name(&mut self, dentry: u64, name: &[u8]) {
        let bytes = self.name(name);
        self.set(dentry, Field::DentryName, bytes);
        self.set(dentry, Field::DentryNameLength, name.len() as u64);
        let sequence = self.get(dentry, Field::DentrySequence);
        self.set(dentry, Field::DentrySequence, sequence.wrapping_add(2));
    }

    /// Takes a directory entry out of its directory.
    pub fn mark_deleted(&self, dentry: u64) {
        self.set(dentry, Field::DentryHashLink, 0);
    }

    /// A mount that shows the tree below `root`, on this directory entry of that mount; on itself without one.
    pub fn mount(&mut self, root: u64, on: Option<(u64, u64)>) -> u64 {
        let mount = self.object_of(ObjectKind::Mount);
        let (parent, point) = on.unwrap_or((mount, root));
        self.set(mount, Field::MountParent, parent);
        self.set(mount, Field::MountPoint, point);
        self.set(self.visible(mount), Field::VfsMountRoot, root);
        mount
    }

    /// The visible part of a mount.
    fn visible(&self, mount: u64) -> u64 {
        mount + self.offset(Field::MountVisible)
    }

    /// An open file of the root file system.
    pub fn file(&mut self, dentry: u64) -> u64 {
        self.file_on(self.tree.mount, dentry)
    }

    /// A file that was opened through `mount`.
    pub fn file_on(&mut self, mount: u64, dentry: u64) -> u64 {
        let file = self.object_of(ObjectKind::File);
        self.set(file, Field::FileDentry, dentry);
        self.set(file, Field::FileInode, self.get(dentry, Field::DentryInode));
        self.set(file, Field::FileMount, self.visible(mount));
        file
    }

    /// A new file in the root directory.
    pub fn file_named(&mut self, name: &[u8]) -> u64 {
        let dentry = self.dentry(Some(self.tree.root), name);
        self.file(dentry)
    }

    /// A new file at an absolute path, with the directories on the way; these are made once.
    pub fn file_at(&mut self, path: &[u8]) -> u64 {
        let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
        let [b"", directories @ .., name] = &names[..] else {
            panic!("{path:?} is not absolute");
        };
        let mut parent = self.tree.root;
        for directory in directories {
            let key = (parent, directory.to_vec());
            parent = match self.tree.directories.get(&key) {
                Some(&known) => known,
                None => {
                    let made = self.dentry(Some(parent), directory);
                    self.tree.directories.insert(key, made);
                    made
                }
            };
        }
        let dentry = self.dentry(Some(parent), name);
        self.file(dentry)
    }
}
