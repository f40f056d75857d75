//! Which tasks exist, and how those that are gone ended.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::sync::Mutex;
use crate::syscall::Errno;
use crate::task::{Task, current, scheduler};

struct Entry {
    /// Process that may wait for it; 0: nobody.
    parent: u32,
    exit_code: Option<u64>,
    waiters: Vec<Waiter>,
}

/// A task that is parked until another one ends.
struct Waiter(*mut Task);

// SAFETY: only handed to the scheduler, whose lock protects what it points to.
unsafe impl Send for Waiter {}

static TABLE: Mutex<BTreeMap<u32, Entry>> = Mutex::new(BTreeMap::new());
static NEXT: AtomicU32 = AtomicU32::new(1);

/// Enters a new task, child of process `parent`, and returns its id. Ids are not reused.
pub fn enter(parent: u32) -> u32 {
    let pid = NEXT.fetch_add(1, Ordering::Relaxed);
    let entry = Entry {
        parent,
        exit_code: None,
        waiters: Vec::new(),
    };
    TABLE.lock().insert(pid, entry);
    pid
}

/// Takes back [`enter`] for a task that could not be started.
pub fn withdraw(pid: u32) {
    TABLE.lock().remove(&pid);
}

/// Task `pid` has ended. Entries that nobody can ask for any more go.
pub fn ended(pid: u32, exit_code: u64) {
    let mut table = TABLE.lock();
    table.retain(|_, entry| entry.parent != pid || entry.exit_code.is_none());
    for entry in table.values_mut() {
        if entry.parent == pid {
            entry.parent = 0;
        }
    }
    let Some(entry) = table.get_mut(&pid) else {
        return;
    };
    entry.exit_code = Some(exit_code);
    for waiter in entry.waiters.drain(..) {
        scheduler::wake(waiter.0);
    }
    if entry.parent == 0 {
        table.remove(&pid);
    }
}

/// Waits for task `pid`, a child of process `parent`, to end, and forgets it.
///
/// # Errors
/// When there is no such child.
pub fn wait(parent: u32, pid: u32) -> Result<u64, Errno> {
    loop {
        {
            let mut table = TABLE.lock();
            let entry = table
                .get_mut(&pid)
                .filter(|entry| entry.parent == parent)
                .ok_or(Errno::NO_CHILD)?;
            if let Some(code) = entry.exit_code {
                table.remove(&pid);
                return Ok(code);
            }
            let this = core::ptr::from_ref(current()).cast_mut();
            // A wake-up without cause leaves the task entered.
            if !entry.waiters.iter().any(|waiter| waiter.0 == this) {
                entry.waiters.push(Waiter(this));
            }
        }
        scheduler::park();
    }
}
