//! Tasks.

use vm_memory::GuestMemoryBackend;

use super::walker::{Stop, Walker};
use crate::fault::Fault;

/// What a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskKind {
    /// A thread of a process.
    User,
    /// A kernel thread. An address space that it has is borrowed.
    KernelThread,
    /// A thread of a process on its way out. It may have given up its address space already.
    Exiting,
}

/// What is read of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskFields {
    pub pid: u32,
    pub tgid: u32,
    /// [`TaskKind::User`] when the layout does not tell.
    pub kind: TaskKind,
    /// The address space that it has, be it borrowed; 0 for none.
    pub mm: u64,
}

impl TaskFields {
    /// Its own address space; 0 for a kernel thread, even one that borrowed a user's, and past exit.
    pub const fn own_mm(&self) -> u64 {
        match self.kind {
            TaskKind::KernelThread => 0,
            TaskKind::User | TaskKind::Exiting => self.mm,
        }
    }
}

/// Reads the task at `pointer`.
pub(super) fn read<M: GuestMemoryBackend>(
    walker: &mut Walker<'_, M>,
    pointer: u64,
) -> Result<TaskFields, Stop> {
    let layout = walker.layout.task;
    let kind = match layout.flags {
        None => TaskKind::User,
        Some(flags) => {
            let set = walker.u32(pointer, flags.offset, Fault::BadTask)?;
            if set & flags.kernel_thread != 0 {
                TaskKind::KernelThread
            } else if set & flags.exiting != 0 {
                TaskKind::Exiting
            } else {
                TaskKind::User
            }
        }
    };
    Ok(TaskFields {
        pid: walker.u32(pointer, layout.pid, Fault::BadTask)?,
        tgid: walker.u32(pointer, layout.tgid, Fault::BadTask)?,
        kind,
        mm: mm(walker, pointer)?,
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
