//! Memory that driver and device share.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

/// Alignment that [`DmaMemory`] keeps: the strictest part of a split virtqueue, its descriptor table
/// (virtio 1.2 §2.7), needs 16 bytes.
pub const DMA_ALIGNMENT: usize = 16;

/// A piece of memory that the device reads or writes by guest-physical address. Never given back.
#[derive(Debug)]
pub struct DmaMemory {
    words: NonNull<u64>,
    word_count: usize,
    gpa: u64,
}

// SAFETY: the memory is owned (see `new`) and nothing about it belongs to one vCPU.
unsafe impl Send for DmaMemory {}

impl DmaMemory {
    /// Takes `bytes` of memory at `start`, whose guest-physical address is `gpa`; `None` when either is not aligned to
    /// [`DMA_ALIGNMENT`]. A rest of less than 8 bytes is not used.
    ///
    /// # Safety
    /// The memory is initialised, contiguous in guest-physical memory, mapped readable and writable for as long as the
    /// kernel runs, and nothing but this value and the device uses it.
    #[must_use]
    pub unsafe fn new(start: NonNull<u8>, bytes: usize, gpa: u64) -> Option<Self> {
        let words = start.cast::<u64>();
        let aligned = start.as_ptr().addr().is_multiple_of(DMA_ALIGNMENT)
            && gpa.is_multiple_of(DMA_ALIGNMENT as u64);
        aligned.then_some(Self {
            words,
            word_count: bytes / size_of::<u64>(),
            gpa,
        })
    }

    /// Guest-physical address of the first byte.
    #[must_use]
    pub const fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Length.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.word_count * size_of::<u64>()
    }

    /// All words. To be used only while the device has no business there, or only reads.
    #[inline]
    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: `new` had the caller prove `word_count` aligned, initialised, owned words; `&mut self` makes
        // this the only reference, and the device does not write what the driver fills.
        unsafe { core::slice::from_raw_parts_mut(self.words.as_ptr(), self.word_count) }
    }

    /// Copies `bytes` to `offset`; false when they would not fit, and then nothing is written.
    pub(crate) fn write_at(&mut self, offset: usize, bytes: &[u8]) -> bool {
        use zerocopy::IntoBytes;
        let target = self.words_mut().as_mut_bytes();
        let end = offset.saturating_add(bytes.len());
        target
            .get_mut(offset..end)
            .map(|target| target.copy_from_slice(bytes))
            .is_some()
    }

    /// The 16-bit word at `offset`, which the device may write at any time.
    ///
    /// Ring offsets come from the ring's own geometry, so one outside is a bug of this crate: it panics.
    #[inline]
    pub(crate) fn u16_at(&self, offset: usize) -> &AtomicU16 {
        let at = self.checked(offset, size_of::<AtomicU16>());
        // SAFETY: `checked` keeps it inside and aligned; every access to ring memory is atomic, so a concurrent device is
        // no data race; the memory outlives `self`.
        unsafe { AtomicU16::from_ptr(at.cast()) }
    }

    /// The 32-bit word at `offset`; see [`Self::u16_at`].
    #[inline]
    pub(crate) fn u32_at(&self, offset: usize) -> &AtomicU32 {
        let at = self.checked(offset, size_of::<AtomicU32>());
        // SAFETY: as in `u16_at`.
        unsafe { AtomicU32::from_ptr(at.cast()) }
    }

    /// The 64-bit word at `offset`; see [`Self::u16_at`].
    #[inline]
    pub(crate) fn u64_at(&self, offset: usize) -> &AtomicU64 {
        let at = self.checked(offset, size_of::<AtomicU64>());
        // SAFETY: as in `u16_at`.
        unsafe { AtomicU64::from_ptr(at.cast()) }
    }

    /// Gives the memory up for good, to any number of vCPUs at once.
    pub(crate) fn share(self) -> SharedMemory {
        SharedMemory {
            words: self.words,
            word_count: self.word_count,
            gpa: self.gpa,
        }
    }

    #[inline]
    fn checked(&self, offset: usize, size: usize) -> *mut u8 {
        assert!(
            offset.is_multiple_of(size) && offset.saturating_add(size) <= self.bytes(),
            "offset outside shared memory"
        );
        // SAFETY: the assertion keeps `offset` inside the one allocation that `new` was given.
        unsafe { self.words.as_ptr().cast::<u8>().add(offset) }
    }
}

/// Memory that all vCPUs write, by atomic accesses alone, and the device reads. A copy is another handle of the same memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedMemory {
    words: NonNull<u64>,
    word_count: usize,
    gpa: u64,
}

// SAFETY: every access is atomic (see `u32_at`), and the memory lasts as `DmaMemory::new` was promised.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Guest-physical address of the first byte.
    pub(crate) const fn gpa(&self) -> u64 {
        self.gpa
    }

    /// The word at `index`; `None` when there is none.
    #[cfg(test)]
    pub(crate) fn word(&self, index: usize) -> Option<u64> {
        let halves = [self.half(index, 0)?, self.half(index, 4)?];
        let [low, high] =
            halves.map(|half| u64::from(half.load(core::sync::atomic::Ordering::Relaxed)));
        Some(high << 32 | low)
    }

    /// The 32-bit half of word `index` at `half`, 0 or 4 bytes into it; `None` when there is no such word.
    #[inline]
    pub(crate) fn half(&self, index: usize, half: usize) -> Option<&AtomicU32> {
        if index >= self.word_count || (half != 0 && half != size_of::<u32>()) {
            return None;
        }
        let at = self.words.as_ptr().cast::<u32>();
        // SAFETY: the check keeps it inside, and halves of words are aligned; every access to shared memory is atomic; the memory was
        // promised to `DmaMemory::new` for as long as the kernel runs.
        Some(unsafe { AtomicU32::from_ptr(at.add(2 * index + half / size_of::<u32>())) })
    }
}
