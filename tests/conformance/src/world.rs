//! The guest that a scenario describes, as its words have it.

use std::collections::BTreeMap;

use oprofile_device::control_files::CookieFile;
use oprofile_device::sync::{Lookup, Mapping, Task, World, unmap_needs_sync};

use crate::ScenarioError;
use crate::guest::Guest;
use crate::model;

const PAGE_BYTES: u64 = 4096;

/// Tasks, address spaces and files of a scenario, and which files have a cookie.
#[derive(Debug)]
pub struct ScriptedWorld {
    files: Vec<model::File>,
    mms: BTreeMap<u64, model::Mm>,
    tasks: BTreeMap<u64, model::Task>,
    /// While they live: each cookie with the file that it was given for first.
    cookies: Option<BTreeMap<u64, usize>>,
}

impl ScriptedWorld {
    /// The world at the start of a scenario.
    pub fn new(
        files: Vec<model::File>,
        mms: Vec<model::Mm>,
        tasks: Vec<model::Task>,
    ) -> Result<Self, ScenarioError> {
        let mut world = Self {
            files,
            mms: BTreeMap::new(),
            tasks: BTreeMap::new(),
            cookies: None,
        };
        for mm in mms {
            world.check_files(
                mm.exe
                    .iter()
                    .chain(mm.vmas.iter().filter_map(|vma| vma.file.as_ref())),
            )?;
            world.mms.insert(mm.id, mm);
        }
        for task in tasks {
            world.check_mm(task.mm)?;
            world.tasks.insert(task.id, task);
        }
        Ok(world)
    }

    fn check_files<'a>(
        &self,
        files: impl IntoIterator<Item = &'a usize>,
    ) -> Result<(), ScenarioError> {
        match files.into_iter().find(|&&file| file >= self.files.len()) {
            Some(&file) => Err(ScenarioError::UnknownFile(file)),
            None => Ok(()),
        }
    }

    fn check_mm(&self, mm: Option<u64>) -> Result<(), ScenarioError> {
        match mm {
            Some(id) if !self.mms.contains_key(&id) => Err(ScenarioError::UnknownMm(id)),
            _ => Ok(()),
        }
    }

    /// Files, by their index.
    pub fn files(&self) -> &[model::File] {
        &self.files
    }

    /// Address spaces, by their id.
    pub const fn mms(&self) -> &BTreeMap<u64, model::Mm> {
        &self.mms
    }

    /// Tasks, by their id.
    pub const fn tasks(&self) -> &BTreeMap<u64, model::Task> {
        &self.tasks
    }

    fn task_mut(&mut self, id: u64) -> Result<&mut model::Task, ScenarioError> {
        self.tasks
            .get_mut(&id)
            .ok_or(ScenarioError::UnknownTask(id))
    }

    fn mm_mut(&mut self, id: u64) -> Result<&mut model::Mm, ScenarioError> {
        self.mms.get_mut(&id).ok_or(ScenarioError::UnknownMm(id))
    }

    /// The cookie of a file, which it has from now on while cookies live.
    pub fn cookie(&mut self, file: usize) -> u64 {
        let cookie = self.files[file].cookie;
        if let Some(cookies) = &mut self.cookies {
            cookies.entry(cookie).or_insert(file);
        }
        cookie
    }
}

impl Guest for ScriptedWorld {
    fn world(&mut self) -> impl World {
        self
    }

    fn check_task(&self, task: u64) -> Result<(), ScenarioError> {
        match self.tasks.contains_key(&task) {
            true => Ok(()),
            false => Err(ScenarioError::UnknownTask(task)),
        }
    }

    fn set_mm(&mut self, task: u64, mm: Option<u64>) -> Result<(), ScenarioError> {
        self.check_mm(mm)?;
        self.task_mut(task)?.mm = mm;
        Ok(())
    }

    fn set_kthread(&mut self, task: u64, kthread: bool) -> Result<(), ScenarioError> {
        self.task_mut(task)?.kthread = kthread;
        Ok(())
    }

    fn set_ids(&mut self, task: u64, pid: u32, tgid: u32) -> Result<(), ScenarioError> {
        let task = self.task_mut(task)?;
        (task.pid, task.tgid) = (pid, tgid);
        Ok(())
    }

    fn set_exe(&mut self, mm: u64, file: Option<usize>) -> Result<(), ScenarioError> {
        self.check_files(&file)?;
        self.mm_mut(mm)?.exe = file;
        Ok(())
    }

    fn set_vmas(&mut self, mm: u64, vmas: Vec<model::Vma>) -> Result<(), ScenarioError> {
        self.check_files(vmas.iter().filter_map(|vma| vma.file.as_ref()))?;
        self.mm_mut(mm)?.vmas = vmas;
        Ok(())
    }

    fn mark_deleted(&mut self, file: usize) -> Result<(), ScenarioError> {
        let known = self.files.get_mut(file);
        known.ok_or(ScenarioError::UnknownFile(file))?.deleted = true;
        Ok(())
    }

    fn unmap_needs_sync(&mut self, task: u64, address: u64) -> Result<bool, ScenarioError> {
        let Some(mm) = self.task_mut(task)?.mm else {
            return Ok(false);
        };
        let mappings = self.mm_mut(mm)?.vmas.iter().map(|vma| Mapping {
            end: vma.end,
            has_file: vma.file.is_some(),
            executable: vma.exec,
        });
        Ok(unmap_needs_sync(mappings, address))
    }

    fn register_cookies(&mut self) {
        self.cookies = Some(BTreeMap::new());
    }

    fn forget_cookies(&mut self) {
        self.cookies = None;
    }

    fn cookies(&self) -> Option<Vec<u64>> {
        let cookies = self.cookies.as_ref()?;
        Some(cookies.keys().copied().collect())
    }

    /// The file that `cookie` was given for first. It is unlinked when any with this cookie is: they are one directory entry.
    fn cookie_file(&self, cookie: u64) -> Option<CookieFile> {
        let &first = self.cookies.as_ref()?.get(&cookie)?;
        let path = self.files.get(first)?.path.clone().into_bytes();
        let mut same = self.files.iter().filter(|file| file.cookie == cookie);
        let deleted = same.any(|file| file.deleted);
        Some(CookieFile { path, deleted })
    }
}

impl World for ScriptedWorld {
    type Mm = u64;

    fn task(&mut self, pointer: u64) -> Option<Task<u64>> {
        self.tasks.get(&pointer).map(|task| Task {
            pid: task.pid,
            tgid: task.tgid,
            mm: task.mm.filter(|_| !task.kthread),
        })
    }

    fn exe_cookie(&mut self, mm: u64) -> u64 {
        match self.mms.get(&mm).and_then(|mm| mm.exe) {
            Some(file) => self.cookie(file),
            None => 0,
        }
    }

    fn lookup(&mut self, mm: u64, address: u64) -> Lookup {
        let vma = self.mms.get(&mm).and_then(|mm| {
            mm.vmas
                .iter()
                .find(|vma| (vma.start..vma.end).contains(&address))
        });
        match vma {
            None => Lookup::Unmapped,
            Some(model::Vma { file: None, .. }) => Lookup::Anonymous {
                cookie: 0,
                offset: address,
            },
            Some(&model::Vma {
                start,
                pgoff,
                file: Some(file),
                ..
            }) => {
                let offset = pgoff
                    .wrapping_mul(PAGE_BYTES)
                    .wrapping_add(address)
                    .wrapping_sub(start);
                Lookup::File {
                    cookie: self.cookie(file),
                    offset,
                }
            }
        }
    }
}
