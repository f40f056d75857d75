//! The guest's memory: from a task pointer and an address to a file and an offset.
//!
//! | module | what it does |
//! |---|---|
//! | [`memory`] | bounded copies out of RAM, within a budget of work |
//! | [`paging`] | x86-64 page tables |
//! | [`translator`] | addresses of any space, with a TLB: the public way to translate and read |
//! | [`space`] | kernel pointers: proven linear map, translation elsewhere |
//! | [`layout`] | the layout descriptor, typed and checked |
//! | [`build_id`] | the build-id of a file, from where it is mapped |
//! | `task`, `vma`, `path` | the objects: task → address space → VMA → file → path |
//! | `tables`, `files` | what is remembered of address spaces and files from sync to sync |
//! | `changes` | change words: what of that holds without another look |
//! | `budget` | how much work the guest's structures may cost |
//! | `world` | all of it as the pipeline's [`World`](crate::sync::World), with the rules for a guest that runs meanwhile |
//!
//! Everything that is read is the guest's and may be wrong: loops have bounds, lengths have caps, and a question that
//! cannot be answered within a few tries is *raced*.

pub mod build_id;
pub mod layout;
pub mod memory;
pub mod paging;
pub mod space;
pub mod translator;

mod budget;
mod changes;
mod files;
mod path;
mod tables;
mod task;
#[cfg(any(test, feature = "test-utils"))]
pub(crate) mod view;
mod vma;
mod walker;
mod world;

use thiserror::Error;
use vm_memory::GuestMemoryBackend;

pub(crate) use budget::Budget;
#[cfg(any(test, feature = "test-utils"))]
pub(crate) use budget::{PER_QUESTION, PER_TICK};
pub(crate) use changes::ChangeWords;
pub use tables::{MAX_REGIONS, MAX_TABLES};
pub use vma::MAX_VMAS;
pub(crate) use world::GuestWorld;

use layout::Layout;
use memory::Ram;
use space::{Description, KernelSpace};
use walker::Walker;
use world::Remembered;

/// Work to check a description with: a few page walks and a task.
const WORK_TO_CHECK: u32 = 1_024;

/// Why a kernel's description is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum DescriptionError {
    /// The image's range is empty, or not in the kernel's half.
    #[error("The kernel's image or user space has no sensible range")]
    Range,
    /// The root is not aligned or not in RAM, or does not map the kernel's image.
    #[error("The page table root does not map the kernel's image")]
    Root,
    /// The initial task cannot be read.
    #[error("The initial task cannot be read")]
    InitTask,
}

/// A guest whose hello has been accepted.
#[derive(Debug)]
pub(crate) struct Guest {
    space: KernelSpace,
    layout: Layout,
    remembered: Remembered,
    keeps_late: bool,
    change_words: Option<ChangeWords>,
}

impl Guest {
    /// Checks `description` against `memory`: its tables must map the first byte of the image, and the initial task, when
    /// there is one (not 0), must be readable through them. `keeps_late` says whether samples of a process that is gone are
    /// resolved by what is remembered of it.
    pub fn new<M: GuestMemoryBackend>(
        memory: &M,
        description: Description,
        layout: Layout,
        init_task: u64,
        keeps_late: bool,
    ) -> Result<Self, DescriptionError> {
        let Description {
            root,
            levels,
            kernel_start,
            kernel_end,
            user_end,
            ..
        } = description;
        if user_end == 0 || kernel_start < user_end || kernel_end <= kernel_start {
            return Err(DescriptionError::Range);
        }
        let mut space = KernelSpace::new(description);
        let mut ram = Ram::new(memory, WORK_TO_CHECK);
        let mapped = paging::translate(&mut ram, levels, root, kernel_start);
        if root & 0xfff != 0 || mapped.is_err() {
            return Err(DescriptionError::Root);
        }
        if init_task != 0 {
            space.prove_linear(&mut ram, init_task);
            let mut walker = Walker {
                ram,
                space: &mut space,
                layout,
            };
            task::read(&mut walker, init_task).map_err(|_| DescriptionError::InitTask)?;
        }
        Ok(Self {
            space,
            layout,
            remembered: Remembered::default(),
            keeps_late,
            change_words: None,
        })
    }

    /// Its driver promises to count changes of its address spaces.
    pub const fn count_changes(&mut self, words: ChangeWords) {
        self.change_words = Some(words);
    }

    /// Another period of [`SYNC_PERIOD`](crate::SYNC_PERIOD) begins.
    pub fn tick(&mut self) {
        self.remembered.budget.tick();
    }

    /// Goes on with what the guest before left of its budget: else a driver that says hello again would have another one.
    pub fn inherit(&mut self, budget: Budget) {
        self.remembered.budget = budget;
    }

    /// Ends it; what is left of its budget.
    pub fn into_budget(self) -> Budget {
        self.remembered.budget
    }
}
