//! What a scenario needs of its guest.

use std::fmt::Debug;

use oprofile_device::control_files::CookieFile;
use oprofile_device::sync::World;

use crate::ScenarioError;
use crate::model::Vma;

/// A scenario's guest: what operations change in it, and what the pipeline sees of it. Ids and cookies are the scenario's.
pub trait Guest: Debug {
    /// The world for the time of one sync.
    fn world(&mut self) -> impl World;

    /// Whether there is such a task.
    fn check_task(&self, task: u64) -> Result<(), ScenarioError>;

    /// Gives `task` another address space, or none.
    fn set_mm(&mut self, task: u64, mm: Option<u64>) -> Result<(), ScenarioError>;

    /// Makes a kernel thread of `task`, or a user's of a kernel thread.
    fn set_kthread(&mut self, task: u64, kthread: bool) -> Result<(), ScenarioError>;

    /// Gives `task` other ids.
    fn set_ids(&mut self, task: u64, pid: u32, tgid: u32) -> Result<(), ScenarioError>;

    /// Gives `mm` another main program, or none.
    fn set_exe(&mut self, mm: u64, file: Option<usize>) -> Result<(), ScenarioError>;

    /// Replaces all mappings of `mm`.
    fn set_vmas(&mut self, mm: u64, vmas: Vec<Vma>) -> Result<(), ScenarioError>;

    /// Unlinks `file`, which keeps its cookie.
    fn mark_deleted(&mut self, file: usize) -> Result<(), ScenarioError>;

    /// Whether `task` must be followed by a sync when it unmaps memory at `address`.
    fn unmap_needs_sync(&mut self, task: u64, address: u64) -> Result<bool, ScenarioError>;

    /// Files get cookies from now on.
    fn register_cookies(&mut self);

    /// Forgets every cookie.
    fn forget_cookies(&mut self);

    /// Cookies that live, ascending; `None` when none can.
    fn cookies(&self) -> Option<Vec<u64>>;

    /// The file that `cookie` stands for.
    fn cookie_file(&self, cookie: u64) -> Option<CookieFile>;

    /// What it answered otherwise than the scenario's world has it, in words.
    fn contradictions(&self) -> &[String] {
        &[]
    }
}
