//! The pipeline's view of the guest: tasks, address spaces, mappings.

/// What the guest's kernel says of a task when it is asked, which is at sync time, not at sample time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task<Mm> {
    /// Thread id in the guest's initial namespace.
    pub pid: u32,
    /// Process id in the guest's initial namespace.
    pub tgid: u32,
    /// The task's own address space; `None` for a kernel thread, even one that borrowed a user mm, and past exit.
    pub mm: Option<Mm>,
}

/// Where a user address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Into a mapped file, at this offset in bytes.
    File {
        /// The file's cookie.
        cookie: u64,
        /// Offset in the file; wraps at 64 bits.
        offset: u64,
    },
    /// Into memory without a file.
    Anonymous {
        /// The region's cookie, or 0 when regions are not told apart.
        cookie: u64,
        /// What stands for the address in the event buffer.
        offset: u64,
    },
    /// Into no mapping.
    Unmapped,
    /// The guest changed its structures faster than they could be read.
    Raced,
    /// Not looked up to its end: the guest's structures cost more work than its samples may.
    Throttled,
}

/// Addresses that are looked up side by side: samples of a task come in short runs, and more would be searched for in vain.
pub const LANES: usize = 4;

/// The guest, as far as the pipeline asks.
///
/// Nothing here fails: what cannot be read is a task that does not exist, an address that is not mapped, or a race.
pub trait World {
    /// Names an address space; two tasks with equal handles share one.
    type Mm: Copy + PartialEq;

    /// The task that this pointer stands for, or `None` when there is none to read.
    fn task(&mut self, pointer: u64) -> Option<Task<Self::Mm>>;

    /// Cookie of the main program of `mm`, 0 when it has none.
    fn exe_cookie(&mut self, mm: Self::Mm) -> u64;

    /// Resolves a user address of `mm`.
    fn lookup(&mut self, mm: Self::Mm, address: u64) -> Lookup;

    /// These will be looked up next in `mm`, one after the other, most likely: what one search waits for, the others can wait for at
    /// the same time. Changes no answer.
    #[inline]
    fn look_ahead(&mut self, mm: Self::Mm, addresses: [u64; LANES]) {
        let _ = (mm, addresses);
    }
}

impl<W: World> World for &mut W {
    type Mm = W::Mm;

    fn task(&mut self, pointer: u64) -> Option<Task<Self::Mm>> {
        (**self).task(pointer)
    }

    fn exe_cookie(&mut self, mm: Self::Mm) -> u64 {
        (**self).exe_cookie(mm)
    }

    fn lookup(&mut self, mm: Self::Mm, address: u64) -> Lookup {
        (**self).lookup(mm, address)
    }

    #[inline]
    fn look_ahead(&mut self, mm: Self::Mm, addresses: [u64; LANES]) {
        (**self).look_ahead(mm, addresses);
    }
}
