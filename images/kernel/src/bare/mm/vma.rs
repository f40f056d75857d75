//! Virtual memory areas.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::fs::{File, Inode};
use crate::mm::PAGE;
use crate::mm::paging::{NO_EXECUTE, USER, WRITABLE};
use crate::mm::space::Mm;

/// Pages are readable.
pub const READ: u64 = 1 << 9;
/// Pages are writable.
pub const WRITE: u64 = 1 << 10;
/// Pages hold code.
pub const EXEC: u64 = 1 << 13;

/// A stretch of an address space with one origin. The host reads these: everything but the link is constant from the
/// moment it is linked.
#[repr(C)]
pub struct Vma {
    /// Null for anonymous memory; else one strong count of it.
    pub file: *const File,
    /// [`READ`], [`WRITE`], [`EXEC`].
    pub flags: u64,
    /// The address space that it belongs to.
    pub mm: *const Mm,
    /// The next one by address.
    pub next: AtomicPtr<Vma>,
    /// Address behind the last.
    pub end: u64,
    /// Offset in the file, in pages.
    pub page_offset: u64,
    /// First address.
    pub start: u64,
}

impl Vma {
    /// An unlinked area.
    pub fn new(
        mm: *const Mm,
        start: u64,
        end: u64,
        flags: u64,
        file: Option<(Arc<File>, u64)>,
    ) -> Box<Self> {
        let (file, page_offset) = match file {
            Some((file, page_offset)) => (Arc::into_raw(file), page_offset),
            None => (ptr::null(), 0),
        };
        Box::new(Self {
            file,
            flags,
            mm,
            next: AtomicPtr::new(ptr::null_mut()),
            end,
            page_offset,
            start,
        })
    }

    /// The part of this area from `start` to `end`, unlinked.
    pub fn part(&self, start: u64, end: u64) -> Box<Self> {
        let file = (!self.file.is_null()).then(|| {
            // SAFETY: this area holds a strong count, which the new one gets a copy of.
            let file = unsafe {
                Arc::increment_strong_count(self.file);
                Arc::from_raw(self.file)
            };
            (file, self.page_offset + (start - self.start) / PAGE)
        });
        Self::new(self.mm, start, end, self.flags, file)
    }

    /// Flags for the page tables.
    pub fn page_flags(&self) -> u64 {
        let mut flags = crate::mm::paging::PRESENT | USER;
        if self.flags & WRITE != 0 {
            flags |= WRITABLE;
        }
        if self.flags & EXEC == 0 {
            flags |= NO_EXECUTE;
        }
        flags
    }

    /// What the page at `address` holds of the file; nothing for anonymous memory.
    pub fn contents(&self, address: u64) -> &[u8] {
        if self.file.is_null() {
            return &[];
        }
        // SAFETY: this area holds a strong count of the file.
        let data = unsafe { &*self.file }.data();
        let start = (self.page_offset * PAGE + (address - self.start)).min(data.len() as u64);
        let end = (start + PAGE).min(data.len() as u64);
        &data[start as usize..end as usize]
    }

    /// The file's page that the page at `address` is, when all who map it may share it: code that nobody writes to.
    pub fn shared_page(&self, address: u64) -> Option<(&'static Inode, u64)> {
        if self.flags & (EXEC | WRITE) != EXEC || self.contents(address).is_empty() {
            return None;
        }
        // SAFETY: not null, as there are contents; this area holds a strong count of the file.
        let inode = unsafe { &*self.file }.inode;
        Some((inode, self.page_offset + (address - self.start) / PAGE))
    }

    /// The next area.
    pub fn next(&self) -> Option<&Self> {
        // SAFETY: links lead to areas of the same address space, whose lock the caller holds to have a reference at all.
        unsafe { self.next.load(Ordering::Relaxed).as_ref() }
    }
}

impl Drop for Vma {
    fn drop(&mut self) {
        if !self.file.is_null() {
            // SAFETY: gives the area's own strong count back.
            drop(unsafe { Arc::from_raw(self.file) });
        }
    }
}
