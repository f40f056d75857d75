//! Round-robin over one run queue for all processors: tasks migrate by being picked up wherever there is room.
//!
//! A switch happens inside an interrupt: the state that the interrupt saved moves to the task, another task's takes its place.
//! All of it under one lock; so a task that is seen in the queue has been saved completely, and one that is dead uses its stack no more.

use alloc::boxed::Box;
use core::arch::asm;
use core::ptr;
use core::sync::atomic::Ordering;

use crate::agent;
use crate::arch::context::Context;
use crate::arch::cpu::{self, Cpu};
use crate::arch::instructions::{
    disable_interrupts, enable_interrupts, set_page_table_root, wait_for_interrupt,
};
use crate::arch::trap::{RESCHEDULE_VECTOR, YIELD_VECTOR};
use crate::arch::{apic, timer};
use crate::mm::paging;
use crate::mm::space::Mm;
use crate::sync::SpinLock;
use crate::task::Task;

/// What becomes of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs, or wants to.
    Runnable,
    /// It has asked to be left alone until it is woken, and still runs.
    Parking,
    /// It waits to be woken.
    Parked,
    /// It will not run again.
    Dead,
}

struct RunQueue {
    first: *mut Task,
    last: *mut Task,
    /// Processors that run their idle task and have not been told of work yet.
    idle: u64,
}

// SAFETY: the queue's tasks are reached under the lock only.
unsafe impl Send for RunQueue {}

static QUEUE: SpinLock<RunQueue> = SpinLock::new(RunQueue {
    first: ptr::null_mut(),
    last: ptr::null_mut(),
    idle: 0,
});

impl RunQueue {
    /// # Safety
    /// The task is valid, runnable and in no queue.
    unsafe fn push(&mut self, task: *mut Task) {
        // SAFETY: by the contract, and the lock makes the links ours.
        unsafe {
            (*task).queue_next = ptr::null_mut();
            if self.last.is_null() {
                self.first = task;
            } else {
                (*self.last).queue_next = task;
            }
        }
        self.last = task;
    }

    fn pop(&mut self) -> Option<*mut Task> {
        let task = self.first;
        if task.is_null() {
            return None;
        }
        // SAFETY: queued tasks are valid.
        self.first = unsafe { (*task).queue_next };
        if self.first.is_null() {
            self.last = ptr::null_mut();
        }
        Some(task)
    }

    /// Interrupts one idle processor, if there is one, to look at the queue.
    fn kick_idle(&mut self) {
        if self.idle != 0 {
            let index = self.idle.trailing_zeros() as usize;
            self.idle &= self.idle - 1;
            apic::interrupt(index, RESCHEDULE_VECTOR);
        }
    }
}

/// Makes a new task runnable; the scheduler owns it now.
pub fn start(task: Box<Task>) {
    let mut queue = QUEUE.lock();
    // SAFETY: new, so valid and in no queue.
    unsafe { queue.push(Box::into_raw(task)) };
    queue.kick_idle();
}

/// Wakes a task that has parked, or is about to: then parking ends at once.
pub fn wake(task: *mut Task) {
    let mut queue = QUEUE.lock();
    // SAFETY: whoever has a task to wake knows it from the task itself, which then waits, and so lives; the lock makes the
    // scheduler's fields ours.
    unsafe {
        if (*task).state == State::Parked {
            (*task).state = State::Runnable;
            queue.push(task);
            queue.kick_idle();
        } else {
            (*task).wake_pending = true;
        }
    }
}

/// Gives the processor away until somebody calls [`wake`] with this task, which may have happened already. It may also end for no
/// reason: check what was waited for.
pub fn park() {
    {
        let _queue = QUEUE.lock();
        // SAFETY: the running task is valid; the lock makes the scheduler's fields ours.
        unsafe { (*cpu::current_task()).state = State::Parking };
    }
    yield_now();
}

/// Lets other tasks run, if there are any.
pub fn yield_now() {
    // SAFETY: the handler saves and restores everything.
    unsafe { asm!("int {}", const YIELD_VECTOR, options(nostack)) };
}

/// Ends the running task, which has given up everything else already.
pub fn end_current() -> ! {
    {
        let _queue = QUEUE.lock();
        // SAFETY: as in `park`.
        unsafe { (*cpu::current_task()).state = State::Dead };
    }
    yield_now();
    unreachable!("a dead task ran")
}

/// What a processor does when there is nothing to do.
pub fn idle() -> ! {
    loop {
        disable_interrupts();
        let work = {
            let mut queue = QUEUE.lock();
            let work = !queue.first.is_null();
            if !work {
                queue.idle |= 1 << cpu::this().index;
            }
            work
        };
        if work {
            enable_interrupts();
            yield_now();
        } else {
            wait_for_interrupt();
        }
    }
}

/// Puts the next task's state in place of the interrupted one's. Interrupts are off.
pub fn schedule(context: &mut Context) {
    let cpu = cpu::this();
    let previous = cpu::current_task();
    let idle = cpu.idle.load(Ordering::Relaxed);
    let mut dead = ptr::null_mut();
    let next = {
        let mut queue = QUEUE.lock();
        queue.idle &= !(1 << cpu.index);
        // SAFETY: the running task is valid; the lock makes the scheduler's fields ours.
        let task = unsafe { &mut *previous };
        if task.state == State::Parking {
            task.state = if task.wake_pending {
                State::Runnable
            } else {
                State::Parked
            };
            task.wake_pending = false;
        }
        let runnable = task.state == State::Runnable;
        let next = match queue.pop() {
            None if runnable => previous,
            None => idle,
            Some(next) => next,
        };
        if next != previous {
            task.context.clone_from(context);
            match task.state {
                State::Runnable if previous != idle => {
                    // SAFETY: it runs, so it is in no queue.
                    unsafe { queue.push(previous) };
                }
                State::Dead => dead = previous,
                _ => {}
            }
            // SAFETY: queued tasks and the idle task are valid.
            switch(cpu, unsafe { &*previous }, unsafe { &*next });
            // SAFETY: as above; nobody else runs it.
            context.clone_from(unsafe { &(*next).context });
        }
        next
    };
    if !dead.is_null() {
        // SAFETY: it is dead, saved, and in no queue: this is the only pointer that owns it.
        agent::bury(unsafe { Box::from_raw(dead) });
    }
    if next == idle && previous != idle {
        agent::going_idle();
    }
    timer::task_chosen(next == idle);
}

/// Makes the processor's registers and notes the next task's.
fn switch(cpu: &Cpu, previous: &Task, next: &Task) {
    cpu.current
        .store(ptr::from_ref(next).cast_mut(), Ordering::Relaxed);
    cpu.kernel_stack
        .store(next.kernel_stack.top(), Ordering::Relaxed);
    load_space(cpu, previous.space(), next.space());
}

/// Loads the page tables of `next`, the kernel's own for none. The bit in `active_on` is set before and cleared behind, so that
/// whoever removes mappings does not miss this processor.
fn load_space(cpu: &Cpu, previous: Option<&Mm>, next: Option<&Mm>) {
    if previous.map(ptr::from_ref) == next.map(ptr::from_ref) {
        return;
    }
    let bit = 1 << cpu.index;
    let root = match next {
        Some(mm) => {
            mm.active_on.fetch_or(bit, Ordering::SeqCst);
            mm.table_root()
        }
        None => paging::kernel().root(),
    };
    // SAFETY: both kinds of tables map the kernel alike; the task holds its address space.
    unsafe { set_page_table_root(root) };
    if let Some(mm) = previous {
        mm.active_on.fetch_and(!bit, Ordering::SeqCst);
    }
}

/// Gives the running task another address space, or none, and hands out the old one.
pub fn change_space(new: *mut Mm) -> *mut Mm {
    let interrupts = disable_interrupts();
    let task = super::current();
    let old = task.mm.swap(new, Ordering::AcqRel);
    // SAFETY: null, or valid: the old one's count is with the caller now, the new one's with the task.
    unsafe { load_space(cpu::this(), old.as_ref(), new.as_ref()) };
    if interrupts {
        enable_interrupts();
    }
    old
}
