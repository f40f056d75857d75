//! Files of the guest and their cookies.
//!
//! Neither a file's address nor its directory entry's says which file it is: the guest reuses both. So what a cookie was given for
//! is looked at again each time that a mapping of it is: which mount, entry and inode, under which name. The rest of the path, which
//! changes when a directory is renamed, is read anew now and then.

use std::collections::HashMap;

use vm_memory::GuestMemoryBackend;

use super::path::{self, Identity};
use super::walker::{Stop, Walker};
use crate::cookies::Cookies;
use crate::event_buffer::record::NO_COOKIE;

/// Most files that are remembered; libraries and programs of a busy machine are some thousand.
const MAX_FILES: usize = 16_384;

/// Syncs after which a path is read anew: some seconds.
const REREAD: u32 = 64;

/// A file that has been read.
#[derive(Clone, Copy, Debug)]
struct Known {
    identity: Identity,
    /// [`NO_COOKIE`] when it stands for memory without a file.
    cookie: u64,
    /// Number of the sync that used it last.
    used: u32,
    /// Number of the sync that read its path.
    read: u32,
}

/// Files by their address.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    known: HashMap<u64, Known>,
}

impl Files {
    /// The cookie of the file at `pointer` if it has been read lately and is still the one it was. [`NO_COOKIE`] when it only stands for
    /// memory that processes share: each has a region there.
    pub fn known<M: GuestMemoryBackend>(
        &mut self,
        walker: &mut Walker<'_, M>,
        sync: u32,
        pointer: u64,
    ) -> Result<Option<u64>, Stop> {
        let Some(known) = self.known.get_mut(&pointer) else {
            return Ok(None);
        };
        let is_fresh = sync.wrapping_sub(known.read) < REREAD;
        if !is_fresh || !known.identity.is_of(walker, pointer)? {
            return Ok(None);
        }
        known.used = sync;
        Ok(Some(known.cookie))
    }

    /// The same in sync number `sync`, by reading it if need be.
    pub fn cookie<M: GuestMemoryBackend>(
        &mut self,
        walker: &mut Walker<'_, M>,
        cookies: &mut Cookies,
        sync: u32,
        pointer: u64,
    ) -> Result<u64, Stop> {
        if let Some(cookie) = self.known(walker, sync, pointer)? {
            return Ok(cookie);
        }
        let identity = path::identity(walker, pointer)?;
        let facts = path::read_file(walker, pointer)?;
        if path::identity(walker, pointer)? != identity {
            return Err(Stop::Changed);
        }
        let cookie = match facts.is_memory {
            true => NO_COOKIE,
            false => cookies.file(facts.key, facts.deleted),
        };
        self.make_room(sync);
        let known = Known {
            identity,
            cookie,
            used: sync,
            read: sync,
        };
        self.known.insert(pointer, known);
        Ok(cookie)
    }

    /// Forgets the files that this sync has not used when there are too many, and all of them when that is not enough.
    fn make_room(&mut self, sync: u32) {
        if self.known.len() < MAX_FILES {
            return;
        }
        self.known.retain(|_, known| known.used == sync);
        if self.known.len() > MAX_FILES / 2 {
            self.known.clear();
        }
    }
}
