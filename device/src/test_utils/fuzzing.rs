//! Crate-private parts that fuzz targets drive by themselves: the walk of kernel objects, and the reader of requests.

use oprofile_wire::control::Hello;
use oprofile_wire::layout::Descriptor;
use vm_memory::GuestMemoryBackend;

use crate::control::Request;
use crate::cookies::{CookieTarget, Cookies};
use crate::fault::{FaultLog, Faults};
use crate::guest::layout::Layout;
use crate::guest::paging::Levels;
use crate::guest::space::Description;
use crate::guest::{self, Guest, GuestWorld};
use crate::sync::World;

/// Most work for one question of the pipeline; each unit is at most one read of RAM.
pub const WORK_PER_QUESTION: u64 = guest::PER_QUESTION as u64;

/// Most work for the questions of one sync, and of all between two ticks.
pub const WORK_PER_SYNC: u64 = guest::PER_TICK as u64;

/// A guest whose hello has been accepted, without a device around it.
#[derive(Debug)]
pub struct GuestWalk {
    guest: Guest,
    cookies: Cookies,
    faults: FaultLog,
}

impl GuestWalk {
    /// Accepts a hello, or not; `layout` is its descriptor.
    pub fn new<M: GuestMemoryBackend>(memory: &M, hello: &Hello, layout: &[u8]) -> Option<Self> {
        let description = Description {
            root: hello.page_table_root.get(),
            levels: Levels::from_count(hello.page_table_levels.get())?,
            linear_base: hello.linear_map_base.get(),
            kernel_start: hello.kernel_start.get(),
            kernel_end: hello.kernel_end.get(),
            user_end: hello.user_end.get(),
        };
        let layout = Layout::new(&Descriptor::parse(layout).ok()?).ok()?;
        let guest = Guest::new(memory, description, layout, hello.init_task.get(), true).ok()?;
        Some(Self {
            guest,
            cookies: Cookies::default(),
            faults: FaultLog::default(),
        })
    }

    /// The guest for the time of one sync.
    pub fn sync<'a, M: GuestMemoryBackend>(&'a mut self, memory: &'a M) -> impl World + use<'a, M> {
        self.guest.tick();
        GuestWorld::new(&mut self.guest, memory, &mut self.cookies, &self.faults, 0)
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
}

/// Reads a control request.
///
/// # Errors
/// Status and detail of the answer, when it is refused.
pub fn parse_request(bytes: &[u8]) -> Result<(), (u32, u32)> {
    match Request::parse(bytes) {
        Ok(_) => Ok(()),
        Err(refusal) => Err((refusal.status, refusal.detail)),
    }
}
