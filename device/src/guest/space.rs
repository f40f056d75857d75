//! The kernel's address space: where its pointers lead.

use thiserror::Error;
use vm_memory::GuestMemoryBackend;

use super::memory::{MemoryError, Ram};
use super::paging::{Levels, PAGE_BYTES, WalkError};
use super::translator::Translator;

/// How often a linear map is looked for before every pointer is walked: each try costs a few walks.
const MAX_PROOFS: u32 = 16;

/// Alignment of a linear map that is derived and not told: Linux aligns it to 1 GiB also with KASLR.
const DERIVED_ALIGNMENT: u64 = 1 << 30;

/// What the driver tells of the kernel's address space; checked before it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// GPA of the kernel's top-level page table.
    pub root: u64,
    /// Levels of its page tables.
    pub levels: Levels,
    /// GVA of the linear map, or 0 when it was not told.
    pub linear_base: u64,
    /// GVA of the first byte of the kernel image.
    pub kernel_start: u64,
    /// GVA behind the last byte of the kernel image.
    pub kernel_end: u64,
    /// GVA behind the last byte of user space.
    pub user_end: u64,
}

/// Why a kernel object cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ObjectError {
    /// A pointer that no kernel object can have: null, in user space, or with wrapping fields.
    #[error("Pointer {0:#x} is not in the kernel's half")]
    NotKernel(u64),
    /// No translation.
    #[error("Pointer {pointer:#x} leads nowhere")]
    Walk {
        /// The pointer.
        pointer: u64,
        /// Why.
        source: WalkError,
    },
    /// Translated, but not RAM; or too much work.
    #[error("Object cannot be read")]
    Memory(#[from] MemoryError),
}

impl ObjectError {
    /// Whether the work budget ended the read.
    #[must_use]
    pub const fn is_over_budget(self) -> bool {
        matches!(
            self,
            Self::Memory(MemoryError::OverBudget)
                | Self::Walk {
                    source: WalkError::Memory(MemoryError::OverBudget),
                    ..
                }
        )
    }
}

/// The linear map, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Linear {
    /// Not proven; tries left.
    Unproven(u32),
    /// `gpa = gva - base` for all of `[base, base + bytes)`: proven by page walks at two points.
    Proven { base: u64, bytes: u64 },
}

/// Translates kernel pointers: by subtraction within the proven linear map, by page walk elsewhere.
#[derive(Clone, Debug)]
pub struct KernelSpace {
    description: Description,
    linear: Linear,
    translator: Translator,
}

impl KernelSpace {
    /// A space whose linear map is still to be proven.
    #[must_use]
    pub fn new(description: Description) -> Self {
        Self {
            description,
            linear: Linear::Unproven(MAX_PROOFS),
            translator: Translator::new(description.levels),
        }
    }

    /// What it was made of.
    #[must_use]
    pub const fn description(&self) -> &Description {
        &self.description
    }

    /// Forgets translations, for the kernel may change its tables between syncs. The linear map never changes.
    pub fn flush(&mut self) {
        self.translator.flush();
    }

    /// Base of the linear map once it is proven.
    #[must_use]
    pub const fn linear_base(&self) -> Option<u64> {
        match self.linear {
            Linear::Proven { base, .. } => Some(base),
            Linear::Unproven(_) => None,
        }
    }

    fn walk<M: GuestMemoryBackend>(
        &mut self,
        ram: &mut Ram<'_, M>,
        gva: u64,
    ) -> Result<u64, WalkError> {
        let root = self.description.root;
        Ok(self.translator.translate(ram, root, gva)?.gpa)
    }

    /// Tries to prove the linear map with `pointer`, a kernel object's, in case it lies in it.
    ///
    /// A base that the driver told is believed when the page tables translate two points of it, the root table's and
    /// that of `pointer`'s object, as the map says. One that is derived from `pointer` itself must also be aligned as Linux
    /// aligns it and hold for the last page of RAM: the kernel image is a linear map too, but a short one.
    pub fn prove_linear<M: GuestMemoryBackend>(&mut self, ram: &mut Ram<'_, M>, pointer: u64) {
        let Linear::Unproven(tries) = self.linear else {
            return;
        };
        let Some(tries) = tries.checked_sub(1) else {
            return;
        };
        self.linear = Linear::Unproven(tries);
        let Ok(gpa) = self.walk(ram, pointer) else {
            return;
        };
        let bytes = ram.end();
        let told = self.description.linear_base;
        let last_page = bytes.saturating_sub(1) & !(PAGE_BYTES - 1);
        let root = self.description.root & !(PAGE_BYTES - 1);
        let (base, points) = if told != 0 {
            (told, [root, gpa, gpa])
        } else {
            (pointer.wrapping_sub(gpa), [root, gpa, last_page])
        };
        let aligned = told != 0 || base.is_multiple_of(DERIVED_ALIGNMENT);
        let in_kernel_half = base >= self.description.user_end && base.checked_add(bytes).is_some();
        let mut holds = |gpa: u64| self.walk(ram, base.wrapping_add(gpa)) == Ok(gpa);
        if aligned && in_kernel_half && points.into_iter().all(&mut holds) {
            self.linear = Linear::Proven { base, bytes };
        }
    }

    /// GPA of `gva`, and how many bytes from there on lie together.
    #[inline]
    fn translate<M: GuestMemoryBackend>(
        &mut self,
        ram: &mut Ram<'_, M>,
        gva: u64,
    ) -> Result<(u64, u64), WalkError> {
        if let Linear::Proven { base, bytes } = self.linear {
            let gpa = gva.wrapping_sub(base);
            if gpa < bytes {
                return Ok((gpa, bytes - gpa));
            }
        }
        let found = self.translator.translate(ram, self.description.root, gva)?;
        Ok((found.gpa, found.bytes_left()))
    }

    /// GPA of kernel address `gva`.
    ///
    /// # Errors
    /// When it is not in the kernel's half, or has no translation.
    pub fn gpa<M: GuestMemoryBackend>(
        &mut self,
        ram: &mut Ram<'_, M>,
        gva: u64,
    ) -> Result<u64, ObjectError> {
        if gva < self.description.user_end {
            return Err(ObjectError::NotKernel(gva));
        }
        match self.translate(ram, gva) {
            Ok((gpa, _)) => Ok(gpa),
            Err(source) => Err(ObjectError::Walk {
                pointer: gva,
                source,
            }),
        }
    }

    /// Copies from kernel address `gva` on.
    ///
    /// # Errors
    /// When the range is not in the kernel's half, or a part of it has no translation or is not RAM.
    #[inline]
    pub fn read<M: GuestMemoryBackend>(
        &mut self,
        ram: &mut Ram<'_, M>,
        gva: u64,
        into: &mut [u8],
    ) -> Result<(), ObjectError> {
        let fits = gva.checked_add(into.len() as u64).is_some();
        if gva < self.description.user_end || !fits {
            return Err(ObjectError::NotKernel(gva));
        }
        let (mut at, mut into) = (gva, into);
        while !into.is_empty() {
            let (gpa, together) = self
                .translate(ram, at)
                .map_err(|source| ObjectError::Walk {
                    pointer: gva,
                    source,
                })?;
            let count = usize::try_from(together)
                .unwrap_or(usize::MAX)
                .min(into.len());
            let (part, rest) = into.split_at_mut(count);
            ram.read(gpa, part)?;
            into = rest;
            at += count as u64;
        }
        Ok(())
    }

    /// The little-endian word at `object + offset`.
    ///
    /// # Errors
    /// As [`KernelSpace::read`].
    #[inline]
    pub fn read_u64<M: GuestMemoryBackend>(
        &mut self,
        ram: &mut Ram<'_, M>,
        object: u64,
        offset: u32,
    ) -> Result<u64, ObjectError> {
        let (gva, place) = self.field::<M, 8>(ram, object, offset)?;
        if let Some(gpa) = place {
            return Ok(ram.read_u64(gpa)?);
        }
        let mut bytes = [0; 8];
        self.read(ram, gva, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The little-endian half word at `object + offset`.
    ///
    /// # Errors
    /// As [`KernelSpace::read`].
    #[inline]
    pub fn read_u32<M: GuestMemoryBackend>(
        &mut self,
        ram: &mut Ram<'_, M>,
        object: u64,
        offset: u32,
    ) -> Result<u32, ObjectError> {
        let (gva, place) = self.field::<M, 4>(ram, object, offset)?;
        if let Some(gpa) = place {
            return Ok(ram.read_u32(gpa)?);
        }
        let mut bytes = [0; 4];
        self.read(ram, gva, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// GVA of a field of `BYTES` bytes, and its GPA if it lies in one piece.
    #[inline]
    fn field<M: GuestMemoryBackend, const BYTES: u64>(
        &mut self,
        ram: &mut Ram<'_, M>,
        object: u64,
        offset: u32,
    ) -> Result<(u64, Option<u64>), ObjectError> {
        let gva = object
            .checked_add(u64::from(offset))
            .filter(|gva| gva.checked_add(BYTES).is_some())
            .ok_or(ObjectError::NotKernel(object))?;
        if object < self.description.user_end {
            return Err(ObjectError::NotKernel(object));
        }
        let (gpa, together) = self
            .translate(ram, gva)
            .map_err(|source| ObjectError::Walk {
                pointer: object,
                source,
            })?;
        Ok((gva, (together >= BYTES).then_some(gpa)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_utils::{
        COMPACT_LAYOUT, KERNEL_END, KERNEL_START, LINEAR_BASE, PageSize, SyntheticGuest, USER_END,
    };
    use vm_memory::{Bytes, GuestAddress};

    fn guest() -> SyntheticGuest {
        SyntheticGuest::new(Levels::Four, COMPACT_LAYOUT)
    }

    fn space(guest: &SyntheticGuest, linear_base: u64) -> KernelSpace {
        KernelSpace::new(Description {
            root: guest.root(),
            levels: guest.levels(),
            linear_base,
            kernel_start: KERNEL_START,
            kernel_end: KERNEL_END,
            user_end: USER_END,
        })
    }

    /// The base that is believed after looking at `pointer`.
    fn proven(guest: &SyntheticGuest, told: u64, pointer: u64) -> Option<u64> {
        let memory = guest.memory();
        let mut ram = Ram::new(&*memory, 1_000);
        let mut space = space(guest, told);
        space.prove_linear(&mut ram, pointer);
        space.linear_base()
    }

    #[test]
    fn a_told_base_is_believed_when_the_tables_agree() {
        let guest = guest();
        let task = guest.init_task();
        assert_eq!(proven(&guest, LINEAR_BASE, task), Some(LINEAR_BASE));
        assert_eq!(proven(&guest, LINEAR_BASE, KERNEL_START), Some(LINEAR_BASE));
    }

    #[test]
    fn a_told_base_that_the_tables_deny_is_not_believed() {
        let guest = guest();
        let task = guest.init_task();
        for base in [LINEAR_BASE + 0x1000, KERNEL_START, 0x1000, !0xfff] {
            assert_eq!(proven(&guest, base, task), None, "{base:#x}");
        }
        assert_eq!(proven(&guest, LINEAR_BASE, 0xffff_a000_0000_0000), None);
    }

    #[test]
    fn an_untold_base_is_learned_from_an_object_but_not_from_the_image() {
        let guest = guest();
        assert_eq!(proven(&guest, 0, guest.init_task()), Some(LINEAR_BASE));
        assert_eq!(proven(&guest, 0, KERNEL_START), None);
    }

    #[test]
    fn proofs_are_tried_a_bounded_number_of_times() {
        let guest = guest();
        let memory = guest.memory();
        let mut ram = Ram::new(&*memory, 10_000);
        let mut space = space(&guest, 0);
        for _ in 0..MAX_PROOFS {
            space.prove_linear(&mut ram, KERNEL_START);
        }
        let left = ram.work_left();
        space.prove_linear(&mut ram, guest.init_task());
        assert_eq!((space.linear_base(), ram.work_left()), (None, left));
    }

    #[test]
    fn objects_read_alike_by_subtraction_and_by_walk() {
        let mut guest = guest();
        let (low, high) = (guest.allocate(4096), guest.allocate(4096));
        // The other way round than in the linear map.
        guest.map(0xffff_c900_0000_0000, high, PageSize::Small);
        guest.map(0xffff_c900_0000_1000, low, PageSize::Small);
        let memory = guest.memory();
        let mut ram = Ram::new(&*memory, 10_000);
        memory
            .write_slice(b"1234", GuestAddress(high + 4092))
            .unwrap();
        memory.write_slice(b"5678", GuestAddress(low)).unwrap();
        let mut space = space(&guest, LINEAR_BASE);
        let word = u64::from_le_bytes(*b"12345678");
        let vmalloc = 0xffff_c900_0000_0ff0;
        assert_eq!(space.read_u64(&mut ram, vmalloc, 12), Ok(word));
        space.prove_linear(&mut ram, guest.init_task());
        assert_eq!(space.read_u64(&mut ram, vmalloc, 12), Ok(word));
        let linear = SyntheticGuest::linear(high);
        let half = u32::from_le_bytes(*b"1234");
        assert_eq!(space.read_u32(&mut ram, linear, 4092), Ok(half));
        // Again by the TLB: no walk, two reads.
        let left = ram.work_left();
        assert_eq!(space.read_u64(&mut ram, vmalloc, 12), Ok(word));
        assert_eq!(ram.work_left(), left - 2);
        space.flush();
        assert_eq!(space.read_u64(&mut ram, vmalloc, 12), Ok(word));
        // Four levels, and one entry more: the second page's table is the first one's.
        assert_eq!(ram.work_left(), left - 2 - 2 - 5);
    }

    #[test]
    fn pointers_that_no_kernel_object_has_are_refused() {
        let guest = guest();
        let memory = guest.memory();
        let mut ram = Ram::new(&*memory, 1_000);
        let mut space = space(&guest, LINEAR_BASE);
        for pointer in [0, 0x40_0000, USER_END - 1, u64::MAX, u64::MAX - 7] {
            let refused = space.read_u64(&mut ram, pointer, 8);
            assert_eq!(refused, Err(ObjectError::NotKernel(pointer)));
        }
    }
}
