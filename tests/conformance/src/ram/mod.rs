//! The guest that a scenario describes, laid out in RAM and looked at as the device does.
//!
//! | module | what it does |
//! |---|---|
//! | `shape` | kernels and page tables to lay it out for |
//! | `fit` | what cannot be laid out |

mod fit;
mod shape;

use std::collections::BTreeMap;

use oprofile_device::CookieTarget;
use oprofile_device::control_files::CookieFile;
use oprofile_device::sync::{Lookup, Task, World, unmap_needs_sync};
use oprofile_device::test_utils::{GuestView, SyntheticGuest, ViewWorld, VmaSpec};
use oprofile_wire::layout::Field;

use crate::ScenarioError;
use crate::guest::Guest;
use crate::model::Vma;
use crate::world::ScriptedWorld;

pub use fit::misfit;
pub use shape::RamShape;

/// Where what a scenario names lies in RAM.
#[derive(Debug, Default)]
struct Places {
    tasks: BTreeMap<u64, u64>,
    mms: BTreeMap<u64, u64>,
    /// Open files; index is the scenario's.
    files: Vec<u64>,
    /// Index of a file by its inode number.
    inodes: BTreeMap<u64, usize>,
}

/// A scenario's guest in RAM. Its answers come from there; ids and cookies are translated.
#[derive(Debug)]
pub struct RamGuest {
    script: ScriptedWorld,
    ram: SyntheticGuest,
    view: GuestView,
    places: Places,
    contradictions: Vec<String>,
}

impl RamGuest {
    /// Lays out `script`, which must fit.
    pub fn new(script: ScriptedWorld, shape: RamShape) -> Self {
        let ram = SyntheticGuest::with_shape(shape.guest());
        let view = GuestView::new(&ram);
        let mut guest = Self {
            script,
            ram,
            view,
            places: Places::default(),
            contradictions: Vec::new(),
        };
        guest.place_files();
        let mms: Vec<u64> = guest.script.mms().keys().copied().collect();
        for mm in mms {
            let place = guest.ram.mm(0, &[]);
            guest.places.mms.insert(mm, place);
            guest.put_exe(mm);
            guest.put_vmas(mm);
        }
        let tasks: Vec<u64> = guest.script.tasks().keys().copied().collect();
        for task in tasks {
            let place = guest.ram.task(0, 0, 0);
            guest.places.tasks.insert(task, place);
            guest.put_task(task);
        }
        guest
    }

    /// Lets a test change RAM alone, by the places of its first task and file.
    #[cfg(test)]
    pub fn spoil(&mut self, change: impl FnOnce(&mut SyntheticGuest, u64, u64)) {
        let task = self.places.tasks.values().next().copied().unwrap_or(0);
        let file = self.file(Some(0));
        change(&mut self.ram, task, file);
    }

    fn place_files(&mut self) {
        let Self {
            script,
            ram,
            places,
            ..
        } = self;
        for (index, file) in script.files().iter().enumerate() {
            let place = ram.file_at(file.path.as_bytes());
            let dentry = ram.get(place, Field::FileDentry);
            let inode = ram.get(dentry, Field::DentryInode);
            places
                .inodes
                .insert(ram.get(inode, Field::InodeNumber), index);
            places.files.push(place);
            if file.deleted {
                ram.mark_deleted(dentry);
            }
        }
    }

    /// The file with this index, 0 for none.
    fn file(&self, index: Option<usize>) -> u64 {
        let file = index.and_then(|index| self.places.files.get(index));
        file.copied().unwrap_or(0)
    }

    /// Brings a task in RAM up to date.
    fn put_task(&self, id: u64) {
        let (Some(task), Some(&place)) = (self.script.tasks().get(&id), self.places.tasks.get(&id))
        else {
            return;
        };
        let mm = task.mm.and_then(|mm| self.places.mms.get(&mm));
        self.ram.set_task_ids(place, task.pid, task.tgid);
        self.ram.set_task_mm(place, mm.copied().unwrap_or(0));
        self.ram
            .set_task_flag(place, Field::TaskFlagKernelThread, task.kthread);
    }

    /// Brings the main program of an address space in RAM up to date.
    fn put_exe(&self, id: u64) {
        if let (Some(mm), Some(&place)) = (self.script.mms().get(&id), self.places.mms.get(&id)) {
            self.ram.set_exe(place, self.file(mm.exe));
        }
    }

    /// Brings the mappings of an address space in RAM up to date.
    fn put_vmas(&mut self, id: u64) {
        let (Some(mm), Some(&place)) = (self.script.mms().get(&id), self.places.mms.get(&id))
        else {
            return;
        };
        let specs = mm.vmas.iter().map(|vma| VmaSpec {
            start: vma.start,
            end: vma.end,
            page_offset: vma.pgoff,
            file: self.file(vma.file),
        });
        let specs: Vec<VmaSpec> = specs.collect();
        let made = self.ram.replace_vmas(place, &specs);
        for (place, vma) in made.into_iter().zip(&mm.vmas) {
            self.ram.set_executable(place, vma.exec);
        }
        let sequence = self.ram.get(place, Field::MmSequence);
        self.ram.set(place, Field::MmSequence, sequence + 2);
    }
}

impl Guest for RamGuest {
    fn world(&mut self) -> impl World {
        RamWorld {
            world: self.view.world(),
            script: &mut self.script,
            places: &self.places,
            contradictions: &mut self.contradictions,
            task: 0,
        }
    }

    fn check_task(&self, task: u64) -> Result<(), ScenarioError> {
        self.script.check_task(task)
    }

    fn set_mm(&mut self, task: u64, mm: Option<u64>) -> Result<(), ScenarioError> {
        self.script.set_mm(task, mm)?;
        self.put_task(task);
        Ok(())
    }

    fn set_kthread(&mut self, task: u64, kthread: bool) -> Result<(), ScenarioError> {
        self.script.set_kthread(task, kthread)?;
        self.put_task(task);
        Ok(())
    }

    fn set_ids(&mut self, task: u64, pid: u32, tgid: u32) -> Result<(), ScenarioError> {
        self.script.set_ids(task, pid, tgid)?;
        self.put_task(task);
        Ok(())
    }

    fn set_exe(&mut self, mm: u64, file: Option<usize>) -> Result<(), ScenarioError> {
        self.script.set_exe(mm, file)?;
        self.put_exe(mm);
        Ok(())
    }

    fn set_vmas(&mut self, mm: u64, vmas: Vec<Vma>) -> Result<(), ScenarioError> {
        self.script.set_vmas(mm, vmas)?;
        self.put_vmas(mm);
        Ok(())
    }

    fn mark_deleted(&mut self, file: usize) -> Result<(), ScenarioError> {
        self.script.mark_deleted(file)?;
        let dentry = self.ram.get(self.file(Some(file)), Field::FileDentry);
        self.ram.mark_deleted(dentry);
        Ok(())
    }

    fn unmap_needs_sync(&mut self, task: u64, address: u64) -> Result<bool, ScenarioError> {
        self.check_task(task)?;
        let task = self.script.tasks().get(&task);
        let mm = task.and_then(|task| self.places.mms.get(&task.mm?));
        let mapping = mm.and_then(|&mm| self.view.first_mapping_above(mm, address));
        Ok(unmap_needs_sync(mapping, address))
    }

    fn register_cookies(&mut self) {
        self.script.register_cookies();
    }

    fn forget_cookies(&mut self) {
        self.script.forget_cookies();
    }

    fn cookies(&self) -> Option<Vec<u64>> {
        self.script.cookies()
    }

    fn cookie_file(&self, cookie: u64) -> Option<CookieFile> {
        self.script.cookie_file(cookie)
    }

    fn contradictions(&self) -> &[String] {
        &self.contradictions
    }
}

/// RAM for the time of one sync.
#[derive(Debug)]
struct RamWorld<'a> {
    world: ViewWorld<'a>,
    script: &'a mut ScriptedWorld,
    places: &'a Places,
    contradictions: &'a mut Vec<String>,
    /// The scenario's id of the task that was asked for last.
    task: u64,
}

impl RamWorld<'_> {
    /// The scenario's cookie of the file that the device gave `cookie`.
    fn file_cookie(&mut self, cookie: u64) -> u64 {
        let target = self.world.cookie(cookie);
        if let Some(CookieTarget::File {
            path,
            deleted,
            inode,
            ..
        }) = &target
            && let Some(&index) = self.places.inodes.get(inode)
            && let Some(file) = self.script.files().get(index)
            && file.path.as_bytes() == path
            && file.deleted == *deleted
        {
            return self.script.cookie(index);
        }
        self.contradict(format!("a file that the scenario has not: {target:?}"));
        cookie
    }

    /// The scenario's cookie of a region without a file, 0, if it has such a region.
    fn region_cookie(&mut self, cookie: u64, address: u64) -> u64 {
        let target = self.world.cookie(cookie);
        let task = self.script.tasks().get(&self.task);
        let vmas = task.and_then(|task| Some(&self.script.mms().get(&task.mm?)?.vmas));
        if let Some(&CookieTarget::Anonymous {
            tgid, start, end, ..
        }) = target.as_ref()
            && task.is_some_and(|task| task.tgid == tgid)
            && (start..end).contains(&address)
            && vmas.is_some_and(|vmas| {
                vmas.iter()
                    .any(|vma| (vma.start, vma.end, vma.file) == (start, end, None))
            })
        {
            return 0;
        }
        self.contradict(format!("a region that the scenario has not: {target:?}"));
        cookie
    }

    fn contradict(&mut self, what: String) {
        self.contradictions.push(what);
    }
}

impl World for RamWorld<'_> {
    type Mm = usize;

    fn task(&mut self, pointer: u64) -> Option<Task<usize>> {
        self.task = pointer;
        // A pointer that is no task's leads where it leads.
        let place = self.places.tasks.get(&pointer).copied();
        self.world.task(place.unwrap_or(pointer))
    }

    fn exe_cookie(&mut self, mm: usize) -> u64 {
        match self.world.exe_cookie(mm) {
            0 => 0,
            cookie => self.file_cookie(cookie),
        }
    }

    fn lookup(&mut self, mm: usize, address: u64) -> Lookup {
        match self.world.lookup(mm, address) {
            Lookup::File { cookie, offset } => Lookup::File {
                cookie: self.file_cookie(cookie),
                offset,
            },
            Lookup::Anonymous { cookie, offset } => Lookup::Anonymous {
                cookie: self.region_cookie(cookie, address),
                offset,
            },
            Lookup::Unmapped => Lookup::Unmapped,
            // Nothing changes during a sync, and no scenario is that much work.
            ended @ (Lookup::Raced | Lookup::Throttled) => {
                self.contradict(format!("no answer for {address:#x}: {ended:?}"));
                ended
            }
        }
    }
}
