//! A guest looked at without a device, for tests.

use std::ops::ControlFlow;
use std::sync::Arc;

use oprofile_wire::config::capability;
use oprofile_wire::layout::Descriptor;
use vm_memory::GuestMemoryMmap;

use super::layout::Layout;
use super::memory::Ram;
use super::space::Description;
use super::vma::{self, Vma};
use super::walker::Walker;
use super::{ChangeWords, Guest, GuestWorld, world};
use crate::cookies::{CookieTarget, Cookies};
use crate::fault::{FaultLog, Faults};
use crate::sync::{Lookup, Mapping, Task, World};
use crate::test_utils::{SyntheticGuest, VmaSpec};

/// Work that no look-up in a test needs.
const WORK: u32 = 100_000_000;

/// A guest whose description has been accepted, with what outlives a sync.
#[derive(Debug)]
pub struct GuestView {
    guest: Guest,
    memory: Arc<GuestMemoryMmap>,
    cookies: Cookies,
    faults: FaultLog,
}

impl GuestView {
    /// Accepts what the driver of `guest` says of it.
    #[must_use]
    pub fn new(guest: &SyntheticGuest) -> Self {
        let (hello, bytes) = (guest.hello(), guest.layout_bytes(guest.store()));
        let layout = Layout::new(&Descriptor::parse(&bytes).unwrap()).unwrap();
        let description = Description {
            root: guest.root(),
            levels: guest.levels(),
            linear_base: hello.linear_map_base.get(),
            kernel_start: hello.kernel_start.get(),
            kernel_end: hello.kernel_end.get(),
            user_end: hello.user_end.get(),
        };
        let memory = guest.memory();
        let mut accepted =
            Guest::new(&*memory, description, layout, guest.init_task(), false).unwrap();
        if hello.capabilities.get() & capability::CHANGE_WORDS != 0 {
            let words = ChangeWords::new(&*memory, hello.change_words.get()).unwrap();
            accepted.count_changes(words);
        }
        Self {
            guest: accepted,
            memory,
            cookies: Cookies::default(),
            faults: FaultLog::default(),
        }
    }

    /// Reads kernel objects, with work enough for everything.
    pub(super) fn walker(&mut self) -> Walker<'_, GuestMemoryMmap> {
        Walker {
            ram: Ram::new(&*self.memory, WORK),
            space: &mut self.guest.space,
            layout: self.guest.layout,
        }
    }

    /// The guest's world for the time of one sync.
    pub fn world(&mut self) -> ViewWorld<'_> {
        let Self {
            guest,
            memory,
            cookies,
            faults,
        } = self;
        // As if a period lay between two syncs.
        guest.tick();
        ViewWorld {
            world: GuestWorld::new(guest, &**memory, cookies, faults, 0),
            spaces: Vec::new(),
        }
    }

    /// Lets time pass: work may be done again.
    pub fn tick(&mut self) {
        self.guest.tick();
    }

    /// What a cookie stands for.
    #[must_use]
    pub fn cookie(&self, cookie: u64) -> Option<CookieTarget> {
        self.cookies.target(cookie)
    }

    /// What was wrong with the guest so far.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.snapshot()
    }

    /// The mappings of the address space at `mm`, ascending.
    pub fn mappings(&mut self, mm: u64) -> Vec<VmaSpec> {
        let mut mappings = Vec::new();
        let mut add = |found: vma::Found| {
            let Vma {
                start,
                end,
                page_offset,
                file,
                ..
            } = found.vma;
            mappings.push(VmaSpec {
                start,
                end,
                page_offset,
                file,
            });
            ControlFlow::Continue(())
        };
        let whole = vma::walk(&mut self.walker(), mm, &mut add).unwrap();
        assert!(whole.is_continue());
        mappings
    }

    /// The first mapping of the address space at `mm` that ends above `address`.
    pub fn first_mapping_above(&mut self, mm: u64, address: u64) -> Option<Mapping> {
        let executable = self.guest.layout.vma.executable;
        let found = vma::first_above(&mut self.walker(), mm, address).unwrap();
        found.map(|vma| Mapping {
            end: vma.end,
            has_file: vma.file != 0,
            executable: vma.flags & executable != 0,
        })
    }
}

/// A guest's world whose address spaces have names.
#[derive(Debug)]
pub struct ViewWorld<'a> {
    world: GuestWorld<'a, GuestMemoryMmap>,
    spaces: Vec<world::Mm>,
}

impl ViewWorld<'_> {
    /// What a cookie stands for.
    #[must_use]
    pub fn cookie(&self, cookie: u64) -> Option<CookieTarget> {
        self.world.cookie_target(cookie)
    }
}

impl World for ViewWorld<'_> {
    /// Index of the address spaces seen so far.
    type Mm = usize;

    fn task(&mut self, pointer: u64) -> Option<Task<usize>> {
        let task = self.world.task(pointer)?;
        let mm = task.mm.map(|mm| {
            let known = self.spaces.iter().position(|space| *space == mm);
            known.unwrap_or_else(|| {
                self.spaces.push(mm);
                self.spaces.len() - 1
            })
        });
        Some(Task {
            pid: task.pid,
            tgid: task.tgid,
            mm,
        })
    }

    fn exe_cookie(&mut self, mm: usize) -> u64 {
        self.world.exe_cookie(self.spaces[mm])
    }

    fn lookup(&mut self, mm: usize, address: u64) -> Lookup {
        self.world.lookup(self.spaces[mm], address)
    }
}
