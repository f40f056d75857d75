//! The world of a workload on the host's side: sorted arrays, searched by halving.

use oprofile_device::event_buffer::record::NO_COOKIE;
use oprofile_device::sync::{Lookup, World};

use crate::file::{ANONYMOUS, Task, Workload};

/// Pointer of the first task; a place where Linux has such structures.
const FIRST_TASK: u64 = 0xffff_8880_0100_0000;
/// Bytes from task to task, about those of Linux's `task_struct`.
const TASK_BYTES: u64 = 0x2640;
/// What is added to a file's index to make its cookie: 0 is "no cookie".
const FIRST_COOKIE: u64 = 1;
const PAGE_SHIFT: u32 = 12;

/// What a mapping stands for.
#[derive(Clone, Copy, Debug)]
struct Target {
    start: u64,
    /// What is added to an address, wrapping, to make the offset.
    bias: u64,
    cookie: u64,
}

/// Address space of a task.
#[derive(Clone, Debug)]
struct Mm {
    exe_cookie: u64,
    /// Ends of the mappings, ascending.
    ends: Vec<u64>,
    /// The mappings in the same order.
    targets: Vec<Target>,
}

/// Tasks and mappings of a workload. A task's address space is named by the task's index.
#[derive(Clone, Debug)]
pub struct ScriptedWorld {
    mms: Vec<Mm>,
}

impl ScriptedWorld {
    /// The world of `workload`.
    #[must_use]
    pub fn new(workload: &Workload) -> Self {
        Self {
            mms: workload.tasks.iter().map(Mm::new).collect(),
        }
    }

    /// The pointer that stands for task number `index`.
    #[must_use]
    pub const fn task_pointer(index: u32) -> u64 {
        FIRST_TASK + TASK_BYTES * index as u64
    }

    /// The index of the file that `cookie` stands for.
    #[must_use]
    pub const fn file_index(cookie: u64) -> Option<u64> {
        cookie.checked_sub(FIRST_COOKIE)
    }
}

impl Mm {
    fn new(task: &Task) -> Self {
        let target = |vma: &crate::Vma| match vma.file {
            ANONYMOUS => Target {
                start: vma.start,
                bias: 0,
                cookie: NO_COOKIE,
            },
            file => Target {
                start: vma.start,
                bias: (vma.page_offset << PAGE_SHIFT).wrapping_sub(vma.start),
                cookie: file + FIRST_COOKIE,
            },
        };
        Self {
            exe_cookie: task.exe + FIRST_COOKIE,
            ends: task.vmas.iter().map(|vma| vma.end).collect(),
            targets: task.vmas.iter().map(target).collect(),
        }
    }
}

impl World for ScriptedWorld {
    type Mm = u32;

    #[inline]
    fn task(&mut self, pointer: u64) -> Option<oprofile_device::sync::Task<u32>> {
        let index = u32::try_from(pointer.checked_sub(FIRST_TASK)? / TASK_BYTES).ok()?;
        let pid = Task::pid(index);
        Some(oprofile_device::sync::Task {
            pid,
            tgid: pid,
            mm: Some(index),
        })
    }

    #[inline]
    fn exe_cookie(&mut self, mm: u32) -> u64 {
        self.mms
            .get(mm as usize)
            .map_or(NO_COOKIE, |mm| mm.exe_cookie)
    }

    #[inline]
    fn lookup(&mut self, mm: u32, address: u64) -> Lookup {
        let Some(mm) = self.mms.get(mm as usize) else {
            return Lookup::Unmapped;
        };
        let at = mm.ends.partition_point(|&end| end <= address);
        match mm.targets.get(at) {
            Some(target) if target.start <= address => {
                let (cookie, offset) = (target.cookie, address.wrapping_add(target.bias));
                match cookie {
                    NO_COOKIE => Lookup::Anonymous { cookie, offset },
                    _ => Lookup::File { cookie, offset },
                }
            }
            _ => Lookup::Unmapped,
        }
    }
}
