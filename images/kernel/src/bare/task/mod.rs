//! Tasks: what is scheduled.

pub mod exec;
pub mod kthread;
pub mod process;
pub mod scheduler;
pub mod table;

use alloc::alloc::{alloc, dealloc};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::alloc::Layout;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::arch::context::Context;
use crate::mm::space::Mm;
use crate::syscall::Errno;
use crate::task::process::Process;

/// Flag of a task without user mode.
pub const KERNEL_THREAD: u32 = 1 << 6;
/// Flag of a task that is past giving its address space up.
pub const EXITING: u32 = 1 << 11;

/// Bytes of a kernel stack: call chains of system calls in an unoptimised build stay below half of it.
const KERNEL_STACK_BYTES: usize = 32 * 1024;

/// A stack for system calls and kernel threads.
pub struct KernelStack(*mut u8);

impl KernelStack {
    const LAYOUT: Layout = match Layout::from_size_align(KERNEL_STACK_BYTES, 4096) {
        Ok(layout) => layout,
        Err(_) => panic!("a stack's layout is valid"),
    };

    fn new() -> Result<Self, Errno> {
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc(Self::LAYOUT) };
        if memory.is_null() {
            return Err(Errno::NO_MEMORY);
        }
        Ok(Self(memory))
    }

    /// The address behind it.
    pub fn top(&self) -> u64 {
        self.0 as u64 + KERNEL_STACK_BYTES as u64
    }

    /// Its addresses.
    pub fn range(&self) -> core::ops::Range<u64> {
        self.0 as u64..self.top()
    }
}

impl Drop for KernelStack {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; nothing runs on the stack of a task that is dropped.
        unsafe { dealloc(self.0, Self::LAYOUT) };
    }
}

/// A thread. The host reads the numbered fields, and no others; they are not where Linux has them.
///
/// A task belongs to whoever runs or queues it; at its end the scheduler hands it to the agent, which frees it when
/// the host refers to it no more.
#[repr(C)]
pub struct Task {
    /// State while it does not run.
    pub context: Context,
    /// Scheduler's.
    pub(super) queue_next: *mut Task,
    pub(super) state: scheduler::State,
    pub(super) wake_pending: bool,
    /// Kernel stack.
    pub kernel_stack: KernelStack,
    /// [`KERNEL_THREAD`], [`EXITING`].
    pub flags: AtomicU32,
    /// Thread id.
    pub pid: u32,
    /// Name, NUL-terminated when shorter.
    pub comm: [AtomicU64; 2],
    /// Address space, null for a kernel thread and past exit; holds one strong count.
    pub mm: AtomicPtr<Mm>,
    /// Process id.
    pub tgid: u32,
    /// What the process's threads share; none for a kernel thread.
    pub process: Option<Arc<Process>>,
}

impl Task {
    /// A task that begins with `context`, on a stack of its own.
    fn new(
        pid: u32,
        tgid: u32,
        name: &[u8],
        user: Option<(Arc<Mm>, Arc<Process>)>,
        context: impl FnOnce(&KernelStack) -> Context,
    ) -> Result<Box<Self>, Errno> {
        let kernel_stack = KernelStack::new()?;
        let (mm, process) = match user {
            Some((mm, process)) => (Arc::into_raw(mm).cast_mut(), Some(process)),
            None => (ptr::null_mut(), None),
        };
        let flags = if mm.is_null() { KERNEL_THREAD } else { 0 };
        let task = Box::new(Self {
            context: context(&kernel_stack),
            queue_next: ptr::null_mut(),
            state: scheduler::State::Runnable,
            wake_pending: false,
            kernel_stack,
            flags: AtomicU32::new(flags),
            pid,
            comm: [AtomicU64::new(0), AtomicU64::new(0)],
            mm: AtomicPtr::new(mm),
            tgid,
            process,
        });
        task.set_name(name);
        Ok(task)
    }

    /// Sets the name; 16 bytes count.
    pub fn set_name(&self, name: &[u8]) {
        let mut bytes = [0; 16];
        let length = name.len().min(bytes.len());
        bytes[..length].copy_from_slice(&name[..length]);
        for (word, chunk) in self.comm.iter().zip(bytes.chunks_exact(8)) {
            let mut value = [0; 8];
            value.copy_from_slice(chunk);
            word.store(u64::from_le_bytes(value), Ordering::Relaxed);
        }
    }

    /// The address space. Only the task itself changes it, so it stays while the task, or an interrupt of it, looks at it.
    pub fn space(&self) -> Option<&Mm> {
        // SAFETY: null, or a count that this task holds.
        unsafe { self.mm.load(Ordering::Acquire).as_ref() }
    }
}

/// The running task. It lives as long as it runs, so until whoever asks is done.
pub fn current() -> &'static Task {
    // SAFETY: a processor's current task is valid, and the caller is that task, or an interrupt of it.
    unsafe { &*crate::arch::cpu::current_task() }
}

/// The task that processor `index` runs when there is nothing else. Its id is 0, as on Linux.
///
/// # Panics
/// When there is no memory for it, at boot.
pub fn new_idle(index: usize) -> *mut Task {
    let name = [b'i', b'd', b'l', b'e', b'/', b'0' + index as u8];
    let task =
        Task::new(0, 0, &name, None, |_| Context::EMPTY).expect("no memory for an idle task");
    Box::into_raw(task)
}
