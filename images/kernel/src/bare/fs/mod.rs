//! Files: a tree of directory entries made from the initrd, all of it read-only and there for ever; open files come and go.

mod tree;

use alloc::sync::Arc;
use core::ptr;
use core::sync::atomic::AtomicU32;

pub use tree::{init, lookup};

/// Name of a directory entry's place in its parent's list. Linked entries refer to it; the host takes null for "unlinked".
#[repr(C)]
pub struct HashLink(());

/// A file system instance.
#[repr(C)]
pub struct SuperBlock {
    reserved: u64,
    /// Device number.
    pub device: u32,
}

/// A file's identity and content.
#[repr(C)]
pub struct Inode {
    data: &'static [u8],
    /// Counts the uses of the number: always 1, files are never deleted.
    pub generation: u32,
    /// Directory.
    pub directory: bool,
    /// The file system.
    pub super_block: &'static SuperBlock,
    /// Number, unique within the file system.
    pub number: u64,
}

/// A name in a directory. The children hang on a list.
#[repr(C)]
pub struct Dentry {
    /// Bytes of the name.
    pub name_length: u32,
    /// Odd while it is being renamed: always 0.
    pub sequence: AtomicU32,
    first_child: tree::Link,
    next_sibling: tree::Link,
    /// The file.
    pub inode: &'static Inode,
    /// First byte of the name.
    pub name: *const u8,
    /// Not null while the entry is linked.
    pub hash_link: *const HashLink,
    /// The directory; itself at the top.
    pub parent: tree::Link,
}

// SAFETY: the name points to bytes that live for ever and are never written; `hash_link` is only compared.
unsafe impl Send for Dentry {}
// SAFETY: as above; links are atomic.
unsafe impl Sync for Dentry {}

/// The part of a mount that files refer to.
#[repr(C)]
pub struct VfsMount {
    /// The file system.
    pub super_block: &'static SuperBlock,
    /// Top of the mounted tree.
    pub root: &'static Dentry,
}

/// A mount: the initrd's is the only one, so it is mounted on itself.
#[repr(C)]
pub struct Mount {
    /// Where it is mounted.
    pub mount_point: &'static Dentry,
    /// What it is mounted on.
    pub parent: *const Mount,
    reserved: [u64; 3],
    /// What files see of it.
    pub visible: VfsMount,
}

// SAFETY: immutable once it is published, and the parent lives for ever.
unsafe impl Send for Mount {}
// SAFETY: as above.
unsafe impl Sync for Mount {}

/// An open file.
#[repr(C)]
pub struct File {
    reserved: u64,
    /// The file.
    pub inode: &'static Inode,
    /// The name that it was opened by.
    pub dentry: &'static Dentry,
    reserved2: u32,
    /// The mount that it was opened through.
    pub mount: &'static VfsMount,
}

impl Inode {
    /// Its content.
    pub fn data(&self) -> &'static [u8] {
        self.data
    }
}

impl File {
    /// Opens the regular file at an absolute path.
    pub fn open(path: &[u8]) -> Option<Arc<Self>> {
        let (dentry, mount) = lookup(path)?;
        if dentry.inode.directory {
            return None;
        }
        Some(Arc::new(Self {
            reserved: 0,
            inode: dentry.inode,
            dentry,
            reserved2: 0,
            mount: &mount.visible,
        }))
    }

    /// Its content.
    pub fn data(&self) -> &'static [u8] {
        self.inode.data()
    }
}

impl Dentry {
    /// The name's bytes.
    pub fn name(&self) -> &[u8] {
        // SAFETY: pointer and length came from a slice that lives for ever.
        unsafe { &*ptr::slice_from_raw_parts(self.name, self.name_length as usize) }
    }
}
