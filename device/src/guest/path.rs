//! Files: what they are, and their paths.

use vm_memory::GuestMemoryBackend;

use super::walker::{Copied, Stop, Walker};
use crate::cookies::FileKey;
use crate::fault::Fault;

/// Longest name of a directory entry (Linux's `NAME_MAX`).
const MAX_NAME: usize = 255;

/// Longest path (Linux's `PATH_MAX`).
const MAX_PATH: usize = 4_096;

/// What a file is called that is in no directory and has no name: not absolute, so no file of the guest has this path.
const NO_NAME: &[u8] = b"[no name]";

/// What Linux calls files of its own making that stand for memory without a file: shared between processes (mm/shmem.c, with a slash
/// that no other file has in its name), and of huge pages (fs/hugetlbfs).
const MEMORY_NAMES: [&[u8]; 2] = [b"dev/zero", b"anon_hugepage"];

/// Most steps, over names and mounts together, from a file up to the root.
const MAX_STEPS: usize = 256;

/// A file as the guest has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileFacts {
    pub key: FileKey,
    pub deleted: bool,
    /// It stands for memory that its processes mapped without a file.
    pub is_memory: bool,
}

/// A copy of a directory entry. That it was whole shows when its sequence number is looked at again.
struct Dentry {
    parent: u64,
    inode: u64,
    /// Not in its directory any more; false when the layout does not tell.
    is_unlinked: bool,
    /// Changes with each rename; `None` when the layout does not tell.
    sequence: Option<u32>,
    name: [u8; MAX_NAME],
    name_length: usize,
}

impl Dentry {
    fn name(&self) -> &[u8] {
        self.name.get(..self.name_length).unwrap_or_default()
    }

    /// Copies the entry at `pointer` and its name.
    fn read<M: GuestMemoryBackend>(walker: &mut Walker<'_, M>, pointer: u64) -> Result<Self, Stop> {
        let layout = walker.layout.dentry;
        let mut copied = Copied::EMPTY;
        walker.window(pointer, layout.window, Fault::BadPath, &mut copied)?;
        let sequence = layout.sequence.map(|offset| copied.u32(offset));
        if sequence.is_some_and(|sequence| sequence % 2 != 0) {
            return Err(Stop::Changed);
        }
        let mut dentry = Self {
            parent: copied.u64(layout.parent),
            inode: layout.inode.map_or(0, |offset| copied.u64(offset)),
            is_unlinked: layout
                .hash_link
                .is_some_and(|offset| copied.u64(offset) == 0),
            sequence,
            name: [0; MAX_NAME],
            name_length: copied.u32(layout.name_length) as usize,
        };
        let bad = Stop::Bad(Fault::BadPath, pointer);
        let name = dentry.name.get_mut(..dentry.name_length).ok_or(bad)?;
        if !name.is_empty() {
            walker.bytes(copied.u64(layout.name), name, Fault::BadPath)?;
        }
        Ok(dentry)
    }
}

/// The directory entries of a path with their sequence numbers. When all of them are still the same at the end, the path is
/// one that the file had, and not the beginning of one and the end of another.
struct Visited {
    entries: [(u64, u32); MAX_STEPS],
    count: usize,
}

impl Visited {
    const fn new() -> Self {
        Self {
            entries: [(0, 0); MAX_STEPS],
            count: 0,
        }
    }

    /// Remembers an entry; `None` when there were too many.
    fn add(&mut self, pointer: u64, dentry: &Dentry) -> Option<()> {
        if let Some(sequence) = dentry.sequence {
            *self.entries.get_mut(self.count)? = (pointer, sequence);
            self.count += 1;
        }
        Some(())
    }

    fn check<M: GuestMemoryBackend>(&self, walker: &mut Walker<'_, M>) -> Result<(), Stop> {
        let layout = walker.layout.dentry;
        let Some(offset) = layout.sequence else {
            return Ok(());
        };
        for &(pointer, sequence) in self.entries.iter().take(self.count) {
            // In a window of at most 256 bytes, within the largest offset.
            let offset = u64::from(layout.window.start) + offset as u64;
            let word = pointer.wrapping_add(offset);
            if walker.u32(word, 0, Fault::BadPath)? != sequence {
                return Err(Stop::Changed);
            }
        }
        Ok(())
    }
}

/// A path that is built from its end.
struct PathBuilder {
    bytes: [u8; MAX_PATH],
    start: usize,
}

impl PathBuilder {
    const fn new() -> Self {
        Self {
            bytes: [0; MAX_PATH],
            start: MAX_PATH,
        }
    }

    /// Puts `part` in front; `None` when the path would become too long.
    fn prepend(&mut self, part: &[u8]) -> Option<()> {
        let start = self.start.checked_sub(part.len())?;
        self.bytes.get_mut(start..self.start)?.copy_from_slice(part);
        self.start = start;
        Some(())
    }

    const fn is_empty(&self) -> bool {
        self.start == MAX_PATH
    }

    /// The path; of nothing it is the root.
    fn finish(&self, is_detached: bool) -> Path {
        let bytes = match self.bytes.get(self.start..).unwrap_or_default() {
            b"" if is_detached => NO_NAME.to_vec(),
            b"" => b"/".to_vec(),
            bytes => bytes.to_vec(),
        };
        Path { bytes, is_detached }
    }
}

/// Where a step up from a directory entry leads.
enum Up {
    /// To this entry, on the same mount.
    Parent(u64),
    /// To this entry on that mount: what was left is the root of a mount and gives no name.
    Mounted { dentry: u64, mount: u64 },
    /// Nowhere: the path is absolute.
    Root,
    /// Nowhere, though it is no mount's root: a file in no directory (memfd, shared memory), or one that the mount does not
    /// show.
    Detached,
}

fn up<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    pointer: u64,
    dentry: &Dentry,
    mount: u64,
) -> Result<Up, Stop> {
    let is_top = dentry.parent == pointer;
    let Some(layout) = walker.layout.mount else {
        // Without mounts the one tree ends at the entry that is its own parent.
        return Ok(if is_top {
            Up::Root
        } else {
            Up::Parent(dentry.parent)
        });
    };
    let visible = mount
        .checked_add(u64::from(layout.visible))
        .ok_or(Stop::Bad(Fault::BadPath, mount))?;
    if walker.u64(visible, layout.root, Fault::BadPath)? == pointer {
        let parent = walker.u64(mount, layout.parent, Fault::BadPath)?;
        if parent == mount {
            return Ok(Up::Root);
        }
        let dentry = walker.u64(mount, layout.point, Fault::BadPath)?;
        let mount = parent;
        return Ok(Up::Mounted { dentry, mount });
    }
    Ok(if is_top {
        Up::Detached
    } else {
        Up::Parent(dentry.parent)
    })
}

/// The directory entry that the user of `file` opened, and the mount that it was opened through (0 without mounts), from the
/// pointer to its visible part.
fn opened<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    file: u64,
) -> Result<(u64, u64), Stop> {
    let (layout, mount) = (walker.layout.file, walker.layout.mount);
    let mut places = (layout.dentry, mount.map_or(0, |layout| layout.of_file));
    if let Some(backing) = layout.backing
        && walker.u32(file, backing.mode, Fault::BadPath)? & backing.mask != 0
    {
        places = (backing.dentry, backing.mount);
    }
    let dentry = walker.u64(file, places.0, Fault::BadPath)?;
    let Some(layout) = mount else {
        return Ok((dentry, 0));
    };
    let visible = walker.u64(file, places.1, Fault::BadPath)?;
    let mount = visible
        .checked_sub(u64::from(layout.visible))
        .ok_or(Stop::Bad(Fault::BadPath, file))?;
    Ok((dentry, mount))
}

/// A path, and how it begins.
struct Path {
    bytes: Vec<u8>,
    is_detached: bool,
}

/// Follows the entry `leaf` up to the root.
fn path<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    leaf: (u64, &Dentry),
    mount: u64,
) -> Result<Path, Stop> {
    let too_long = Stop::Bad(Fault::BadPath, leaf.0);
    let mut path = PathBuilder::new();
    let mut visited = Visited::new();
    let (mut pointer, mut mount) = (leaf.0, mount);
    let mut current = None;
    for _ in 0..MAX_STEPS {
        let dentry = current.as_ref().unwrap_or(leaf.1);
        visited.add(pointer, dentry).ok_or(too_long)?;
        match up(walker, pointer, dentry, mount)? {
            Up::Parent(parent) => {
                path.prepend(dentry.name()).ok_or(too_long)?;
                path.prepend(b"/").ok_or(too_long)?;
                pointer = parent;
            }
            Up::Mounted {
                dentry,
                mount: parent,
            } => {
                pointer = dentry;
                mount = parent;
            }
            Up::Root => {
                visited.check(walker)?;
                return Ok(path.finish(false));
            }
            Up::Detached => {
                // A file system's own root is called "/", which is there already when names follow.
                if path.is_empty() || dentry.name() != b"/" {
                    path.prepend(dentry.name()).ok_or(too_long)?;
                }
                visited.check(walker)?;
                return Ok(path.finish(true));
            }
        }
        current = Some(Dentry::read(walker, pointer)?);
    }
    Err(too_long)
}

/// Reads what `file` is: its identity and path.
pub(super) fn read_file<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    file: u64,
) -> Result<FileFacts, Stop> {
    let layout = walker.layout;
    let (dentry_pointer, mount) = opened(walker, file)?;
    let dentry = Dentry::read(walker, dentry_pointer)?;
    let inode = match layout.file.inode {
        Some(offset) => walker.u64(file, offset, Fault::BadPath)?,
        None => dentry.inode,
    };
    let mut key = FileKey {
        mount,
        dentry: dentry_pointer,
        inode_pointer: inode,
        inode: 0,
        generation: 0,
        device: 0,
        path: Vec::new(),
    };
    if inode != 0 {
        if let Some(offset) = layout.inode.number {
            key.inode = walker.u64(inode, offset, Fault::BadPath)?;
        }
        if let Some(offset) = layout.inode.generation {
            key.generation = walker.u32(inode, offset, Fault::BadPath)?;
        }
        if let Some((super_block, device)) = layout.inode.device {
            let super_block = walker.u64(inode, super_block, Fault::BadPath)?;
            key.device = walker.u32(super_block, device, Fault::BadPath)?;
        }
    }
    let path = path(walker, (dentry_pointer, &dentry), mount)?;
    key.path = path.bytes;
    // A root is never hashed, yet not deleted; Linux calls a file that never was in a directory deleted, too.
    let is_top = dentry.parent == dentry_pointer;
    let deleted = if is_top {
        path.is_detached
    } else {
        dentry.is_unlinked
    };
    // The file's memory may have become another file's meanwhile.
    if opened(walker, file)? != (dentry_pointer, mount) {
        return Err(Stop::Changed);
    }
    let is_memory = is_top && path.is_detached && MEMORY_NAMES.contains(&dentry.name());
    Ok(FileFacts {
        key,
        deleted,
        is_memory,
    })
}

/// What tells whether a file is still the one it was, without its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    mount: u64,
    dentry: u64,
    parent: u64,
    name: u64,
    name_length: u32,
    is_unlinked: bool,
    sequence: u32,
    inode: u64,
    number: u64,
    generation: u32,
}

impl Identity {
    /// Whether `file` is still what this was read of. Every read is of a place that is known beforehand, so that a processor makes
    /// them at once, where [`identity`] has to follow one pointer after the other.
    pub fn is_of<M: GuestMemoryBackend>(
        &self,
        walker: &mut Walker<'_, M>,
        file: u64,
    ) -> Result<bool, Stop> {
        let layout = walker.layout.file;
        if opened(walker, file)? != (self.dentry, self.mount) {
            return Ok(false);
        }
        if let Some(offset) = layout.inode
            && walker.u64(file, offset, Fault::BadPath)? != self.inode
        {
            return Ok(false);
        }
        let layout = walker.layout.inode;
        if self.inode != 0 {
            if let Some(offset) = layout.number
                && walker.u64(self.inode, offset, Fault::BadPath)? != self.number
            {
                return Ok(false);
            }
            if let Some(offset) = layout.generation
                && walker.u32(self.inode, offset, Fault::BadPath)? != self.generation
            {
                return Ok(false);
            }
        }
        self.has_dentry(walker)
    }

    fn has_dentry<M: GuestMemoryBackend>(&self, walker: &mut Walker<'_, M>) -> Result<bool, Stop> {
        let mut copied = Copied::EMPTY;
        let window = walker.layout.dentry.window;
        walker.window(self.dentry, window, Fault::BadPath, &mut copied)?;
        let layout = &walker.layout.dentry;
        let unlinked = |offset| copied.u64(offset) == 0;
        let same_inode = walker.layout.file.inode.is_some()
            || layout.inode.map_or(0, |offset| copied.u64(offset)) == self.inode;
        Ok(same_inode
            && copied.u64(layout.parent) == self.parent
            && copied.u64(layout.name) == self.name
            && copied.u32(layout.name_length) == self.name_length
            && layout.hash_link.is_some_and(unlinked) == self.is_unlinked
            && layout.sequence.map_or(0, |offset| copied.u32(offset)) == self.sequence)
    }
}

/// Reads what `file` is, as far as that takes few reads.
pub(super) fn identity<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    file: u64,
) -> Result<Identity, Stop> {
    let layout = walker.layout;
    let (dentry, mount) = opened(walker, file)?;
    let mut copied = Copied::EMPTY;
    walker.window(dentry, layout.dentry.window, Fault::BadPath, &mut copied)?;
    let inode = match layout.file.inode {
        Some(offset) => walker.u64(file, offset, Fault::BadPath)?,
        None => layout.dentry.inode.map_or(0, |offset| copied.u64(offset)),
    };
    let mut identity = Identity {
        mount,
        dentry,
        parent: copied.u64(layout.dentry.parent),
        name: copied.u64(layout.dentry.name),
        name_length: copied.u32(layout.dentry.name_length),
        is_unlinked: layout
            .dentry
            .hash_link
            .is_some_and(|offset| copied.u64(offset) == 0),
        sequence: layout
            .dentry
            .sequence
            .map_or(0, |offset| copied.u32(offset)),
        inode,
        number: 0,
        generation: 0,
    };
    if inode != 0 {
        if let Some(offset) = layout.inode.number {
            identity.number = walker.u64(inode, offset, Fault::BadPath)?;
        }
        if let Some(offset) = layout.inode.generation {
            identity.generation = walker.u32(inode, offset, Fault::BadPath)?;
        }
    }
    Ok(identity)
}

#[cfg(test)]
mod tests;
