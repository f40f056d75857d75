//! Tasks.

use vm_memory::GuestMemoryBackend;

use super::walker::{Stop, Walker};
use crate::fault::Fault;

/// What is read of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskFields {
    pub pid: u32,
    pub tgid: u32,
    /// Its own address space; 0 for a kernel thread, even one that borrowed a user's, and past exit.
    pub mm: u64,
}

/// Reads the task at `pointer`.
pub(super) fn read<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    pointer: u64,
) -> Result<TaskFields, Stop> {
    let layout = walker.layout.task;
    let is_kernel_thread = match layout.flags {
        Some((flags, mask)) => walker.u32(pointer, flags, Fault::BadTask)? & mask != 0,
        None => false,
    };
    Ok(TaskFields {
        pid: walker.u32(pointer, layout.pid, Fault::BadTask)?,
        tgid: walker.u32(pointer, layout.tgid, Fault::BadTask)?,
        mm: match is_kernel_thread {
            true => 0,
            false => mm(walker, pointer)?,
        },
    })
}

/// The address space that the task at `pointer` has now. Exit and exec replace it before they tear the old one
/// down, so reading it again after a look-up tells whether the look-up can be believed.
#[inline]
pub(super) fn mm<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    pointer: u64,
) -> Result<u64, Stop> {
    walker.u64(pointer, walker.layout.task.mm, Fault::BadTask)
}
