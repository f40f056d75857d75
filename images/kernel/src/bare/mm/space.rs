//! Address spaces.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

use crate::agent;
use crate::fs::File;
use crate::mm::paging::{PRIVATE, PageTable, WRITABLE};
use crate::mm::vma::{EXEC, Vma};
use crate::mm::{PAGE, frames, page_cache, physical_to_virtual, tlb, user_end};
use crate::sync::Mutex;
use crate::syscall::Errno;

/// Where the search for a free range begins: high, out of the way of programs that choose addresses themselves.
const SEARCH_START: u64 = 0x7e00_0000_0000;
/// Lowest address that can be mapped: a null pointer with an offset stays a fault.
const LOWEST: u64 = 0x1_0000;
/// Most areas of an address space; a walker from outside may rely on it.
const MAX_AREAS: u32 = 4096;

/// An address space. The host reads the list of areas: it is sorted by address, and `sequence` is odd while it is being changed.
#[repr(C)]
pub struct Mm {
    /// Processors that have its page tables loaded, one bit each.
    pub active_on: AtomicU64,
    /// Number of areas.
    pub area_count: AtomicU32,
    /// Changes whenever the list does.
    pub sequence: AtomicU32,
    /// Main program; holds one strong count. Set before the first task uses the space.
    pub exe_file: *const File,
    /// GVA of the top-level page table.
    pub root: u64,
    /// First area.
    pub areas: AtomicPtr<Vma>,
    lock: Mutex<()>,
    table: PageTable,
}

// SAFETY: the raw pointers are counted references; the list is changed under the lock only.
unsafe impl Send for Mm {}
// SAFETY: as above.
unsafe impl Sync for Mm {}

impl Mm {
    /// An empty address space for the program `exe`.
    ///
    /// # Errors
    /// When no memory is left.
    pub fn new(exe: Arc<File>) -> Result<Arc<Self>, Errno> {
        let table =
            PageTable::for_process(&mut frames::allocate_zeroed).map_err(|_| Errno::NO_MEMORY)?;
        Ok(Arc::new(Self {
            active_on: AtomicU64::new(0),
            area_count: AtomicU32::new(0),
            sequence: AtomicU32::new(0),
            exe_file: Arc::into_raw(exe),
            root: physical_to_virtual(table.root()),
            areas: AtomicPtr::new(ptr::null_mut()),
            lock: Mutex::new(()),
            table,
        }))
    }

    /// Physical address of its page table.
    pub fn table_root(&self) -> u64 {
        self.table.root()
    }

    /// Maps `length` bytes at `hint` when that range is free, else where there is room; filled at once, from the file's page
    /// `file.1` on, or with zeros. Code that is not writable is shared with all who map it, everything else copied.
    ///
    /// # Errors
    /// When the length makes no sense, or there is no room or memory.
    pub fn map(
        &self,
        hint: u64,
        length: u64,
        flags: u64,
        file: Option<(Arc<File>, u64)>,
    ) -> Result<u64, Errno> {
        let length = length
            .checked_next_multiple_of(PAGE)
            .filter(|length| (1..user_end()).contains(length))
            .ok_or(Errno::INVALID)?;
        // An offset beyond any file would overflow in bytes.
        if file
            .as_ref()
            .is_some_and(|(_, page)| *page > u64::MAX >> 16)
        {
            return Err(Errno::INVALID);
        }
        let _lock = self.lock.lock();
        // Every page is filled now, so what cannot fit is not begun.
        let fits = length / PAGE <= frames::available() as u64;
        if !fits || self.area_count.load(Ordering::Relaxed) >= MAX_AREAS {
            return Err(Errno::NO_MEMORY);
        }
        let start = if hint.is_multiple_of(PAGE) && self.is_free(hint, length) {
            hint
        } else {
            self.find_room(length).ok_or(Errno::NO_MEMORY)?
        };
        let area = Vma::new(self, start, start + length, flags, file);
        if let Err(error) = self.fill(&area) {
            self.discard(area.start, area.end);
            return Err(error);
        }
        self.change(|| self.link(area));
        Ok(start)
    }

    fn fill(&self, area: &Vma) -> Result<(), Errno> {
        for address in (area.start..area.end).step_by(PAGE as usize) {
            let (frame, flags) = match area.shared_page(address) {
                Some((inode, page)) => (page_cache::page(inode, page), area.page_flags()),
                None => (
                    frames::allocate_holding(area.contents(address)),
                    area.page_flags() | PRIVATE,
                ),
            };
            let frame = frame.ok_or(Errno::NO_MEMORY)?;
            let source = &mut frames::allocate_zeroed;
            if self.table.map(address, frame, PAGE, flags, source).is_err() {
                if flags & PRIVATE != 0 {
                    // SAFETY: the frame did not get mapped.
                    unsafe { frames::free(frame) };
                }
                return Err(Errno::NO_MEMORY);
            }
        }
        Ok(())
    }

    /// Unmaps every page in a range and frees it, if it is its own, when no processor can reach it any more.
    fn discard(&self, start: u64, end: u64) {
        /// Pages that one flush covers.
        const BATCH: usize = 256;
        let mut pages = (start..end).step_by(PAGE as usize).peekable();
        let mut gone = Vec::with_capacity(BATCH);
        while pages.peek().is_some() {
            gone.extend(
                pages
                    .by_ref()
                    .take(BATCH)
                    .filter_map(|page| self.table.unmap(page)),
            );
            // The entries must be gone before the bit set is read: a processor that sets its bit later walks the tables later.
            fence(Ordering::SeqCst);
            tlb::flush(self.active_on.load(Ordering::SeqCst));
            for frame in gone.drain(..) {
                // SAFETY: unmapped just now, forgotten by every processor, and private to this address space.
                unsafe { frames::free(frame) };
            }
        }
    }

    /// Unmaps a range of pages; areas that reach out of it keep the rest.
    ///
    /// # Errors
    /// When the range is no range of user pages.
    pub fn unmap(&self, start: u64, length: u64) -> Result<(), Errno> {
        let end = length
            .checked_next_multiple_of(PAGE)
            .and_then(|length| start.checked_add(length))
            .filter(|end| start.is_multiple_of(PAGE) && start < *end && *end <= user_end())
            .ok_or(Errno::INVALID)?;
        let _lock = self.lock.lock();
        let hit: Vec<(u64, u64, bool)> = self
            .iter()
            .filter(|area| area.start < end && start < area.end)
            .map(|area| (area.start, area.end, area.flags & EXEC != 0))
            .collect();
        // Samples of code that is about to go must be resolved while it is still there.
        let is_code = hit.iter().any(|(.., code)| *code);
        if is_code {
            agent::before_unmap(self);
        }
        for (area_start, area_end, _) in hit {
            let (from, to) = (area_start.max(start), area_end.min(end));
            self.change(|| self.cut(area_start, from, to));
            self.discard(from, to);
        }
        if is_code {
            agent::after_unmap(self);
        }
        Ok(())
    }

    /// Takes `from..to` out of the area that starts at `start`.
    fn cut(&self, start: u64, from: u64, to: u64) {
        let Some(area) = self.unlink(start) else {
            return;
        };
        if area.start < from {
            self.link(area.part(area.start, from));
        }
        if to < area.end {
            self.link(area.part(to, area.end));
        }
    }

    /// Runs `work`, which changes the list, between two steps of the sequence.
    fn change(&self, work: impl FnOnce()) {
        self.sequence.fetch_add(1, Ordering::SeqCst);
        work();
        self.sequence.fetch_add(1, Ordering::SeqCst);
    }

    /// The areas by address; the lock is held.
    fn iter(&self) -> impl Iterator<Item = &Vma> {
        // SAFETY: linked areas live until they are unlinked, which needs the lock that the caller holds.
        let first = unsafe { self.areas.load(Ordering::Relaxed).as_ref() };
        core::iter::successors(first, |area| area.next())
    }

    fn link(&self, area: Box<Vma>) {
        let mut link = &self.areas;
        // SAFETY: links lead to linked areas; the lock is held.
        while let Some(next) = unsafe { link.load(Ordering::Relaxed).as_ref() } {
            if next.start > area.start {
                break;
            }
            link = &next.next;
        }
        area.next
            .store(link.load(Ordering::Relaxed), Ordering::Relaxed);
        link.store(Box::into_raw(area), Ordering::Release);
        self.area_count.fetch_add(1, Ordering::Relaxed);
    }

    fn unlink(&self, start: u64) -> Option<Box<Vma>> {
        let mut link = &self.areas;
        // SAFETY: as in `link`.
        while let Some(area) = unsafe { link.load(Ordering::Relaxed).as_ref() } {
            if area.start == start {
                let area = link.load(Ordering::Relaxed);
                link.store(
                    // SAFETY: `area` is the one just looked at.
                    unsafe { (*area).next.load(Ordering::Relaxed) },
                    Ordering::Release,
                );
                self.area_count.fetch_sub(1, Ordering::Relaxed);
                // SAFETY: it came from `Box::into_raw` in `link`, and nothing links to it any more.
                return Some(unsafe { Box::from_raw(area) });
            }
            link = &area.next;
        }
        None
    }

    fn is_free(&self, start: u64, length: u64) -> bool {
        let Some(end) = start.checked_add(length) else {
            return false;
        };
        start >= LOWEST
            && end <= user_end()
            && self
                .iter()
                .all(|area| end <= area.start || area.end <= start)
    }

    fn find_room(&self, length: u64) -> Option<u64> {
        let mut start = SEARCH_START;
        for area in self.iter() {
            if area.end > start {
                if area.start >= start && area.start - start >= length {
                    return Some(start);
                }
                start = area.end;
            }
        }
        self.is_free(start, length).then_some(start)
    }

    /// Calls `work` with each piece of kernel-visible memory behind the user range `address..address + length`.
    ///
    /// # Errors
    /// When part of the range is not mapped for user mode with `flags`; pieces before it have been worked on.
    fn for_each_page(
        &self,
        address: u64,
        length: usize,
        flags: u64,
        mut work: impl FnMut(*mut u8, usize),
    ) -> Result<(), Errno> {
        let end = address
            .checked_add(length as u64)
            .filter(|end| *end <= user_end())
            .ok_or(Errno::FAULT)?;
        let _lock = self.lock.lock();
        let mut at = address;
        while at < end {
            let page = at & !(PAGE - 1);
            let piece = (end - at).min(page + PAGE - at);
            let frame = self.table.user_page(page, flags).ok_or(Errno::FAULT)?;
            work(
                physical_to_virtual(frame + (at - page)) as *mut u8,
                piece as usize,
            );
            at += piece;
        }
        Ok(())
    }

    /// Copies from user memory.
    ///
    /// # Errors
    /// When part of it is not readable for user mode.
    pub fn read(&self, address: u64, target: &mut [u8]) -> Result<(), Errno> {
        let mut done = 0;
        self.for_each_page(address, target.len(), 0, |memory, length| {
            // SAFETY: a user page, mapped while the lock is held; user mode may write to it meanwhile, so nothing is assumed
            // of its content. The pieces add up to the target's length.
            unsafe {
                ptr::copy_nonoverlapping(memory, target.as_mut_ptr().add(done), length);
            }
            done += length;
        })
    }

    /// Copies to user memory.
    ///
    /// # Errors
    /// When part of it is not writable for user mode.
    pub fn write(&self, address: u64, source: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        self.for_each_page(address, source.len(), WRITABLE, |memory, length| {
            // SAFETY: as in `read`, the other way round.
            unsafe { ptr::copy_nonoverlapping(source.as_ptr().add(done), memory, length) };
            done += length;
        })
    }

    /// Copies to user memory that need not be writable for user mode: for the loader.
    ///
    /// # Errors
    /// When part of it is not mapped, or shared with others.
    pub fn write_forced(&self, address: u64, source: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        self.for_each_page(address, source.len(), PRIVATE, |memory, length| {
            // SAFETY: as in `write`.
            unsafe { ptr::copy_nonoverlapping(source.as_ptr().add(done), memory, length) };
            done += length;
        })
    }

    /// Two words of user memory at `address`, for an interrupt handler: takes no lock, touches nothing that could fault. They
    /// may be anything when another thread unmaps them this very moment.
    pub fn two_words(&self, address: u64) -> Option<[u64; 2]> {
        if !address.is_multiple_of(8) || address.checked_add(16)? > user_end() {
            return None;
        }
        let mut words = [0; 2];
        for (at, word) in (address..).step_by(8).zip(&mut words) {
            let frame = self.table.user_page(at & !(PAGE - 1), 0)?;
            let memory = physical_to_virtual(frame + at % PAGE) as *const u64;
            // SAFETY: an aligned word of RAM in the linear map.
            *word = unsafe { memory.read_volatile() };
        }
        Some(words)
    }
}

impl Drop for Mm {
    /// The last task is gone and has loaded other page tables.
    fn drop(&mut self) {
        agent::before_teardown(self);
        while let Some(area) = NonNull::new(self.areas.load(Ordering::Relaxed)) {
            // SAFETY: linked, and nobody else is left to unlink it.
            let start = unsafe { area.as_ref() }.start;
            let Some(area) = self.unlink(start) else {
                break;
            };
            for address in (area.start..area.end).step_by(PAGE as usize) {
                if let Some(frame) = self.table.unmap(address) {
                    // SAFETY: private to this address space, which no processor uses any more.
                    unsafe { frames::free(frame) };
                }
            }
        }
        // SAFETY: as above; the frames came from `frames`.
        unsafe { self.table.free(&mut |frame| frames::free(frame)) };
        // SAFETY: gives back the count that `new` took.
        drop(unsafe { Arc::from_raw(self.exe_file) });
    }
}
