//! Processes: starting, threads, the end.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::Ordering;

use crate::agent;
use crate::arch::context::Context;
use crate::arch::machine;
use crate::fs::File;
use crate::mm::space::Mm;
use crate::mm::user_end;
use crate::sync::Mutex;
use crate::syscall::Errno;
use crate::task::{EXITING, Task, current, exec, scheduler, table};

/// Most files that a process has open.
const MAX_FILES: usize = 256;
/// Exit code of a process that an exception ended, as a shell reports SIGSEGV.
const KILLED: u64 = 139;

/// What the threads of a process share besides memory.
#[derive(Default)]
pub struct Process {
    files: Mutex<Vec<Arc<File>>>,
    /// What `getarg` gives.
    pub argument: Mutex<Vec<u8>>,
}

impl Process {
    /// Adds an open file and returns its descriptor, 3 or more. There is no position in a file and no closing, so a name
    /// that is open already keeps its descriptor.
    ///
    /// # Errors
    /// When too many are open.
    pub fn add_file(&self, file: Arc<File>) -> Result<u64, Errno> {
        let mut files = self.files.lock();
        let same = |open: &Arc<File>| ptr::eq(open.dentry, file.dentry);
        if let Some(index) = files.iter().position(same) {
            return Ok(index as u64 + 3);
        }
        if files.len() >= MAX_FILES {
            return Err(Errno::TOO_MANY_FILES);
        }
        files.push(file);
        Ok(files.len() as u64 + 2)
    }

    /// The file behind a descriptor.
    pub fn file(&self, descriptor: u64) -> Option<Arc<File>> {
        let index = usize::try_from(descriptor).ok()?.checked_sub(3)?;
        self.files.lock().get(index).cloned()
    }

    /// Closes every file: exec.
    pub fn close_files(&self) {
        self.files.lock().clear();
    }
}

/// Id of the running task.
pub fn current_pid() -> u32 {
    current().pid
}

/// Starts the program at `path` in a process of its own, child of process `parent`.
///
/// # Errors
/// When there is no such program, it cannot be loaded, or memory is short.
pub fn spawn(parent: u32, path: &[u8], argument: Vec<u8>) -> Result<u32, Errno> {
    let image = exec::load(path)?;
    let process = Arc::new(Process::default());
    *process.argument.lock() = argument;
    let pid = table::enter(parent);
    let context = Context::user(image.entry, image.stack_top, 0);
    let user = Some((image.mm, process));
    match Task::new(pid, pid, exec::base_name(path), user, |_| context) {
        Ok(task) => {
            scheduler::start(task);
            Ok(pid)
        }
        Err(error) => {
            table::withdraw(pid);
            Err(error)
        }
    }
}

/// Starts another thread of the running process.
///
/// # Errors
/// When memory is short, or the caller is a kernel thread.
pub fn spawn_thread(entry: u64, stack_top: u64, argument: u64) -> Result<u32, Errno> {
    // A return to user mode at an address that is not canonical would fault in the kernel.
    if entry >= user_end() || stack_top > user_end() {
        return Err(Errno::FAULT);
    }
    let task = current();
    let process = task.process.clone().ok_or(Errno::INVALID)?;
    let mm = task.mm.load(Ordering::Acquire);
    if mm.is_null() {
        return Err(Errno::INVALID);
    }
    // SAFETY: the running task holds a count, of which the new thread gets a copy.
    let mm = unsafe {
        Arc::increment_strong_count(mm);
        Arc::from_raw(mm.cast_const())
    };
    let pid = table::enter(task.tgid);
    let context = Context::user(entry, stack_top, argument);
    let name = {
        let mut name = [0; 16];
        for (chunk, word) in name.chunks_exact_mut(8).zip(&task.comm) {
            chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        name
    };
    match Task::new(pid, task.tgid, &name, Some((mm, process)), |_| context) {
        Ok(task) => {
            scheduler::start(task);
            Ok(pid)
        }
        Err(error) => {
            table::withdraw(pid);
            Err(error)
        }
    }
}

/// Replaces the running task's program. The samples of the old one are resolved first.
///
/// # Errors
/// When the new program cannot be loaded; the old one is unharmed then.
pub fn exec(path: &[u8], argument: Vec<u8>) -> Result<Context, Errno> {
    let task = current();
    let process = task.process.as_ref().ok_or(Errno::INVALID)?;
    let image = exec::load(path)?;
    if let Some(mm) = task.space() {
        agent::before_release(mm);
    }
    process.close_files();
    *process.argument.lock() = argument;
    task.set_name(exec::base_name(path));
    let context = Context::user(image.entry, image.stack_top, 0);
    drop_space(scheduler::change_space(Arc::into_raw(image.mm).cast_mut()));
    Ok(context)
}

/// Gives an address space back whose page tables this task no longer uses.
fn drop_space(mm: *mut Mm) {
    if !mm.is_null() {
        // SAFETY: the count that the task held, see `Task::mm`.
        drop(unsafe { Arc::from_raw(mm.cast_const()) });
    }
}

/// Ends the running task. Its samples are resolved while its address space is still there.
pub fn exit(code: u64) -> ! {
    let task = current();
    let pid = task.pid;
    if let Some(mm) = task.space() {
        agent::before_release(mm);
    }
    task.flags.fetch_or(EXITING, Ordering::AcqRel);
    drop_space(scheduler::change_space(ptr::null_mut()));
    // SAFETY: only the task itself uses this field while it runs, and it does not any more.
    drop(unsafe { (*ptr::from_ref(task).cast_mut()).process.take() });
    if pid == 1 {
        crate::log!("init has ended with {code}");
        agent::shut_down();
        machine::power_off(code as u32);
    }
    table::ended(pid, code);
    scheduler::end_current()
}

/// Where a task goes on after an exception that it caused in user mode.
pub extern "C" fn exit_after_fault() -> ! {
    exit(KILLED)
}
