//! Tasks and address spaces.

use oprofile_wire::layout::Field;

use super::{ObjectKind, SyntheticGuest, VmaSpec};

impl SyntheticGuest {
    /// A task; `mm` may be 0.
    pub fn task(&mut self, pid: u32, tgid: u32, mm: u64) -> u64 {
        let task = self.object_of(ObjectKind::Task);
        self.set_task_ids(task, pid, tgid);
        self.set_task_mm(task, mm);
        task
    }

    /// Gives a task other ids.
    pub fn set_task_ids(&self, task: u64, pid: u32, tgid: u32) {
        self.set(task, Field::TaskPid, pid.into());
        self.set(task, Field::TaskTgid, tgid.into());
    }

    /// Gives a task another address space, or 0 for none.
    pub fn set_task_mm(&self, task: u64, mm: u64) {
        self.set(task, Field::TaskMm, mm);
    }

    /// Sets or clears the flag of a task that `mask` stands for, [`Field::TaskFlagKernelThread`] or
    /// [`Field::TaskFlagExiting`].
    pub fn set_task_flag(&self, task: u64, mask: Field, is_set: bool) {
        let mask = self.offset(mask);
        let flags = self.get(task, Field::TaskFlags);
        let flags = if is_set { flags | mask } else { flags & !mask };
        self.set(task, Field::TaskFlags, flags);
    }

    /// An address space with these mappings, ascending. All share the kernel's page tables, in which [`SyntheticGuest::map`] puts
    /// what is in memory of them.
    pub fn mm(&mut self, exe_file: u64, vmas: &[VmaSpec]) -> u64 {
        let mm = self.object_of(ObjectKind::Mm);
        self.set(mm, Field::MmPageTable, Self::linear(self.root()));
        self.set_exe(mm, exe_file);
        self.set_vmas(mm, vmas);
        mm
    }

    /// Gives an address space another main program, or 0 for none.
    pub fn set_exe(&self, mm: u64, file: u64) {
        self.set(mm, Field::MmExeFile, file);
    }
}
