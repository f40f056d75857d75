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
    /// Of no task.
    pub const NONE: Self = Self {
        pid: 0,
        tgid: 0,
        kind: TaskKind::User,
        mm: 0,
    };

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::view::GuestView;
    use crate::test_utils::{GuestShape, LINUX_6_1_LAYOUT, SyntheticGuest};
    use oprofile_wire::layout::{Field, LayoutEntry, VmaStore};

    fn guest(layout: &[LayoutEntry]) -> SyntheticGuest {
        SyntheticGuest::with_shape(GuestShape {
            layout: layout.to_vec(),
            store: VmaStore::Maple,
            ..GuestShape::default()
        })
    }

    fn fields(guest: &SyntheticGuest, task: u64) -> TaskFields {
        read(&mut GuestView::new(guest).walker(), task).unwrap()
    }

    #[test]
    fn flags_tell_kernel_threads_and_those_on_their_way_out() {
        use Field::{TaskFlagExiting, TaskFlagKernelThread};
        let mut guest = guest(LINUX_6_1_LAYOUT);
        let mm = guest.mm(0, &[]);
        let task = guest.task(12, 7, mm);
        // Flags that are nobody's business.
        guest.set(task, Field::TaskFlags, 0x0040_0100);
        let user = TaskFields {
            pid: 12,
            tgid: 7,
            kind: TaskKind::User,
            mm,
        };
        assert_eq!(fields(&guest, task), user);
        guest.set_task_flag(task, TaskFlagExiting, true);
        let exiting = fields(&guest, task);
        assert_eq!((exiting.kind, exiting.own_mm()), (TaskKind::Exiting, mm));
        guest.set_task_mm(task, 0);
        assert_eq!(fields(&guest, task).own_mm(), 0);
        guest.set_task_flag(task, TaskFlagExiting, false);
        guest.set_task_flag(task, TaskFlagKernelThread, true);
        guest.set_task_mm(task, mm);
        let borrower = fields(&guest, task);
        assert_eq!(borrower.kind, TaskKind::KernelThread);
        assert_eq!((borrower.mm, borrower.own_mm()), (mm, 0));
    }

    #[test]
    fn without_masks_every_task_is_a_users() {
        let without = LINUX_6_1_LAYOUT
            .iter()
            .filter(|entry| entry.size.get() != 0 || entry.field.get() == Field::PageShift as u16);
        let mut guest = guest(&without.copied().collect::<Vec<_>>());
        let task = guest.task(1, 1, 0);
        guest.set(task, Field::TaskFlags, u32::MAX.into());
        assert_eq!(fields(&guest, task).kind, TaskKind::User);
    }
}
