//! The world of a workload laid out in guest RAM.

use std::collections::HashMap;

use oprofile_device::CookieTarget;
use oprofile_device::test_utils::{SyntheticGuest, VmaSpec};

use crate::file::{Task, Workload};
use crate::loopback::{Loopback, Sampler};
use crate::{Sample, StreamHash};

/// Folder of the guest in which a workload's files are; their names are their indices.
const FOLDER: &str = "/files/";

/// A task in guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TaskInRam {
    pointer: u64,
    space: u64,
}

/// Where the tasks of a workload are in guest RAM.
#[derive(Clone, Debug)]
pub struct WorldInRam {
    tasks: Vec<TaskInRam>,
    /// File index by cookie, none for memory without a file; filled as cookies come.
    files: HashMap<u64, Option<u64>>,
}

impl WorldInRam {
    /// Lays out tasks, address spaces, mappings and files of `workload`.
    #[must_use]
    pub fn lay_out(guest: &mut SyntheticGuest, workload: &Workload) -> Self {
        let files: Vec<u64> = (0..workload.files)
            .map(|index| guest.file_at(format!("{FOLDER}{index}").as_bytes()))
            .collect();
        // No file has the index of anonymous memory.
        let file = |index: u64| {
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            files.get(index).copied().unwrap_or(0)
        };
        let mut tasks = Vec::new();
        for (index, task) in (0..).zip(&workload.tasks) {
            let vmas: Vec<VmaSpec> = task
                .vmas
                .iter()
                .map(|vma| VmaSpec {
                    start: vma.start,
                    end: vma.end,
                    page_offset: vma.page_offset,
                    file: file(vma.file),
                })
                .collect();
            let space = guest.mm(file(task.exe), &vmas);
            let pid = Task::pid(index);
            let pointer = guest.task(pid, pid, space);
            tasks.push(TaskInRam { pointer, space });
        }
        Self {
            tasks,
            files: HashMap::new(),
        }
    }

    /// Pointer of task number `index`; 0 when there is none.
    #[must_use]
    pub fn task_pointer(&self, index: u32) -> u64 {
        self.tasks
            .get(index as usize)
            .map_or(0, |task| task.pointer)
    }

    /// Lets a vCPU's agent take `samples`, and posts what it has written.
    pub fn sample(&self, vcpu: &mut Sampler<'_>, workload: &Workload, samples: &[Sample]) {
        for sample in samples {
            let Some(task) = self.tasks.get(sample.task as usize) else {
                continue;
            };
            let entry = oprofile_guest_agent::Sample {
                pc: sample.pc,
                is_kernel: sample.is_kernel,
                event: sample.event.into(),
                task: task.pointer,
            };
            vcpu.sample(&entry, task.space, workload.chain(sample));
        }
        vcpu.post();
    }

    /// Adds words of the device's event stream to `stream`, by the indices of the files that its cookies stand for.
    pub fn add(&mut self, stream: &mut StreamHash, words: &[u64], loopback: &Loopback) {
        stream.add(words, |cookie| {
            *self
                .files
                .entry(cookie)
                .or_insert_with(|| file_index(loopback, cookie))
        });
    }
}

fn file_index(loopback: &Loopback, cookie: u64) -> Option<u64> {
    match loopback.device().cookie(cookie)? {
        CookieTarget::File { path, .. } => {
            let path = String::from_utf8(path).ok()?;
            path.strip_prefix(FOLDER)?.parse().ok()
        }
        CookieTarget::Anonymous { .. } => None,
    }
}
