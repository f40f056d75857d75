//! Tasks that a sync has read.

use super::super::task::TaskFields;

/// Slots of the memory of tasks that were read in a sync, a power of two: more tasks than a vCPU commonly switches between.
const READ_TASKS: usize = 128;

/// Tasks that were read in this sync. Reading one again would tell no more: its samples were taken before the sync began.
#[derive(Debug)]
pub(super) struct ReadTasks {
    /// Number of the sync, task, and what it said.
    slots: [(u32, u64, TaskFields); READ_TASKS],
}

impl Default for ReadTasks {
    fn default() -> Self {
        Self {
            slots: [(0, 0, TaskFields::NONE); READ_TASKS],
        }
    }
}

impl ReadTasks {
    fn slot(task: u64) -> usize {
        // Tasks are some KiB apart. Less than READ_TASKS, which fits.
        #[expect(clippy::cast_possible_truncation)]
        {
            ((task >> 6 ^ task >> 12) % READ_TASKS as u64) as usize
        }
    }

    /// What `task` said, if it has been read in sync number `sync`.
    #[inline]
    pub fn get(&self, sync: u32, task: u64) -> Option<TaskFields> {
        let (read, of, fields) = *self.slots.get(Self::slot(task))?;
        (read == sync && of == task).then_some(fields)
    }

    /// Remembers what `task` said in sync number `sync`.
    pub fn put(&mut self, sync: u32, task: u64, fields: TaskFields) {
        if let Some(slot) = self.slots.get_mut(Self::slot(task)) {
            *slot = (sync, task, fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_remembered_for_one_sync() {
        let mut read = ReadTasks::default();
        let fields = TaskFields {
            pid: 7,
            ..TaskFields::NONE
        };
        let (task, other) = (0xffff_8880_0001_0000, 0xffff_8880_0001_2000);
        read.put(3, task, fields);
        assert_eq!(read.get(3, task), Some(fields));
        assert_eq!(read.get(3, other), None);
        assert_eq!(read.get(4, task), None);
    }
}
