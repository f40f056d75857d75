//! What every object walk needs: RAM, the kernel's address space, the layout; and why a walk stops.

use vm_memory::GuestMemoryBackend;

use super::layout::{Layout, WINDOW_BYTES, Window};
use super::memory::{MemoryError, Ram};
use super::space::{KernelSpace, ObjectError};
use crate::fault::Fault;

/// Why a walk ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Something changed while it was read: worth another try.
    Changed,
    /// The task has given up the address space: no try will find it again.
    Gone,
    /// Wrong, or changed in a way that looks wrong: worth another try, counted if that does not help. The pointer says where.
    Bad(Fault, u64),
}

/// Reads kernel objects.
#[derive(Debug)]
pub(super) struct Walker<'a, M: GuestMemoryBackend> {
    pub ram: Ram<'a, M>,
    pub space: &'a mut KernelSpace,
    pub layout: Layout,
}

/// Bytes of a structure that were copied at once. It is handed on by reference: moving it costs more than filling it.
pub(super) struct Copied {
    bytes: [u8; WINDOW_BYTES],
}

impl Copied {
    /// To be filled.
    pub const EMPTY: Self = Self {
        bytes: [0; WINDOW_BYTES],
    };

    /// The word at `offset` in the window; 0 outside of it, where no checked layout has a field.
    #[inline]
    pub fn u64(&self, offset: usize) -> u64 {
        self.field(offset).map_or(0, u64::from_le_bytes)
    }

    /// The half word at `offset` in the window; 0 outside of it.
    #[inline]
    pub fn u32(&self, offset: usize) -> u32 {
        self.field(offset).map_or(0, u32::from_le_bytes)
    }

    #[inline]
    fn field<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(offset..)?.first_chunk().copied()
    }
}

impl<M: GuestMemoryBackend> Walker<'_, M> {
    /// Reads a word; `fault` is what it is when it cannot be read.
    #[inline]
    pub fn u64(&mut self, object: u64, offset: u32, fault: Fault) -> Result<u64, Stop> {
        self.space
            .read_u64(&mut self.ram, object, offset)
            .map_err(|error| stop(error, fault, object))
    }

    /// Reads a half word; `fault` is what it is when it cannot be read.
    #[inline]
    pub fn u32(&mut self, object: u64, offset: u32, fault: Fault) -> Result<u32, Stop> {
        self.space
            .read_u32(&mut self.ram, object, offset)
            .map_err(|error| stop(error, fault, object))
    }

    /// GPA of what `pointer` leads to; `fault` is what it is when it leads nowhere.
    pub fn gpa(&mut self, pointer: u64, fault: Fault) -> Result<u64, Stop> {
        self.space
            .gpa(&mut self.ram, pointer)
            .map_err(|error| stop(error, fault, pointer))
    }

    /// Copies bytes; `fault` is what it is when they cannot be read.
    #[inline]
    pub fn bytes(&mut self, pointer: u64, into: &mut [u8], fault: Fault) -> Result<(), Stop> {
        self.space
            .read(&mut self.ram, pointer, into)
            .map_err(|error| stop(error, fault, pointer))
    }

    /// Copies the part of a structure that is of interest. What is behind it in `into` keeps what it held.
    #[inline]
    pub fn window(
        &mut self,
        object: u64,
        window: Window,
        fault: Fault,
        into: &mut Copied,
    ) -> Result<(), Stop> {
        let start = object
            .checked_add(u64::from(window.start))
            .ok_or(Stop::Bad(fault, object))?;
        let bytes = into.bytes.get_mut(..window.bytes);
        self.bytes(start, bytes.ok_or(Stop::Bad(fault, object))?, fault)
    }
}

fn stop(error: ObjectError, fault: Fault, object: u64) -> Stop {
    let fault = match error {
        _ if error.is_over_budget() => Fault::OverBudget,
        ObjectError::Walk { source, .. } if source.is_bad_table() => Fault::BadPageTable,
        ObjectError::Memory(MemoryError::OutOfRam { .. })
        | ObjectError::Walk { .. }
        | ObjectError::NotKernel(_)
        | ObjectError::Memory(MemoryError::OverBudget) => fault,
    };
    Stop::Bad(fault, object)
}
