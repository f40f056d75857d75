//! What each processor has of its own, found through GS.

use alloc::boxed::Box;
use core::arch::asm;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::arch::descriptors::Tables;
use crate::arch::timer::Timers;
use crate::sync::SpinLock;
use crate::task::Task;

/// Most processors that the kernel starts.
pub const MAX_CPUS: usize = 32;

/// One processor. `entry.s` knows the offsets of the first fields.
#[repr(C)]
pub struct Cpu {
    this: AtomicPtr<Cpu>,
    /// Top of the running task's kernel stack: where system calls begin.
    pub kernel_stack: AtomicU64,
    user_stack: AtomicU64,
    /// The running task.
    pub current: AtomicPtr<Task>,
    /// What runs when nothing else does.
    pub idle: AtomicPtr<Task>,
    /// Number of this processor, and its APIC id.
    pub index: usize,
    /// Deadlines of the local timer.
    pub timers: SpinLock<Timers>,
}

const _: () = assert!(offset_of!(Cpu, kernel_stack) == 8 && offset_of!(Cpu, user_stack) == 16);

static CPUS: [AtomicPtr<Cpu>; MAX_CPUS] = [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];
static ONLINE: AtomicUsize = AtomicUsize::new(0);

impl Cpu {
    /// Makes the processor numbered `index`, with `idle` as its running task.
    pub fn new(index: usize, idle: *mut Task) -> &'static Self {
        let cpu = Box::leak(Box::new(Self {
            this: AtomicPtr::new(ptr::null_mut()),
            kernel_stack: AtomicU64::new(0),
            user_stack: AtomicU64::new(0),
            current: AtomicPtr::new(idle),
            idle: AtomicPtr::new(idle),
            index,
            timers: SpinLock::new(Timers::new(index)),
        }));
        let address = &raw mut *cpu;
        cpu.this.store(address, Ordering::Relaxed);
        CPUS[index].store(address, Ordering::Release);
        cpu
    }

    /// Loads this processor's tables; from here on [`current`] works.
    ///
    /// # Safety
    /// The processor numbered like this one calls it, once, after the interrupt table was filled.
    pub unsafe fn load(&'static self) {
        let tables = Tables::new();
        // SAFETY: both live for ever; the caller is the processor meant.
        unsafe { crate::arch::descriptors::load(self, tables) };
        ONLINE.fetch_add(1, Ordering::Release);
    }
}

/// This processor. A preemptible caller may be moved off it at any time: hold interrupts off while it matters.
pub fn this() -> &'static Cpu {
    let cpu: *const Cpu;
    // SAFETY: GS points to this processor's `Cpu`, which lives for ever; its first field is its own address.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) cpu, options(nostack, readonly, preserves_flags));
        &*cpu
    }
}

/// The running task, in one instruction, so that it is right wherever the caller is moved.
pub fn current_task() -> *mut Task {
    let task: *mut Task;
    // SAFETY: reads `Cpu::current` through GS.
    unsafe {
        asm!(
            "mov {}, gs:[{offset}]",
            out(reg) task,
            offset = const offset_of!(Cpu, current),
            options(nostack, readonly, preserves_flags)
        );
    }
    task
}

/// The processor numbered `index`, when it has been made.
pub fn get(index: usize) -> Option<&'static Cpu> {
    let cpu = CPUS.get(index)?.load(Ordering::Acquire);
    // SAFETY: a pointer in the table came from `Box::leak`.
    unsafe { cpu.as_ref() }
}

/// Number of processors that run.
pub fn online() -> usize {
    ONLINE.load(Ordering::Acquire)
}
