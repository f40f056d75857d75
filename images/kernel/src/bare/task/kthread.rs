//! Kernel threads.

use crate::arch::clock;
use crate::arch::context::Context;
use crate::arch::instructions::{disable_interrupts, enable_interrupts};
use crate::syscall::Errno;
use crate::task::{Task, scheduler, table};

unsafe extern "C" {
    /// In `entry.s`.
    fn kernel_thread_start();
}

/// What a kernel thread runs; it ends by returning.
type Body = extern "C" fn(u64);

guest_spin::spin_fn!(
    /// Three quarters of the known work.
    kthread_hot
);

guest_spin::spin_fn!(
    /// One quarter of the known work.
    kthread_cool
);

guest_spin::spin_fn!(
    /// 30 percent of another thread's work, with interrupts off.
    kthread_masked
);

guest_spin::spin_fn!(
    /// The rest of it, with interrupts on.
    kthread_open
);

/// Iterations of the shortest and of the longest quarter round; a round is a few hundred microseconds.
const QUARTER: (u64, u64) = (5_000, 25_000);

/// Known work until a deadline, in nanoseconds since boot. Rounds differ in length, lest they fall into step with the
/// sampling clock.
extern "C" fn work(deadline: u64) {
    let (least, most) = QUARTER;
    let mut state = deadline;
    while clock::now() < deadline {
        state = next_random(state);
        let quarter = least + (state >> 33) % (most - least);
        kthread_hot(3 * quarter);
        kthread_cool(quarter);
    }
    super::process::exit(0)
}

/// Iterations of the shortest and of the longest tenth of a round. Interrupts are off for three tenths, shorter than a sampling period:
/// a timer's interrupts come late then, and none of them twice in one.
const TENTH: (u64, u64) = (2_000, 10_000);

/// Known work until a deadline, three tenths of it with interrupts off.
extern "C" fn work_masked(deadline: u64) {
    let (least, most) = TENTH;
    let mut state = deadline;
    while clock::now() < deadline {
        state = next_random(state);
        let tenth = least + (state >> 33) % (most - least);
        disable_interrupts();
        kthread_masked(3 * tenth);
        enable_interrupts();
        kthread_open(7 * tenth);
    }
    super::process::exit(0)
}

/// Knuth's MMIX generator; its upper bits are the random ones.
const fn next_random(state: u64) -> u64 {
    state
        .wrapping_mul(0x5851_f42d_4c95_7f2d)
        .wrapping_add(0x1405_7b7e_f767_814f)
}

/// Starts a thread that runs `body`, child of process `parent`.
///
/// # Errors
/// When memory is short.
pub fn spawn(parent: u32, name: &[u8], body: Body, argument: u64) -> Result<u32, Errno> {
    let pid = table::enter(parent);
    let task = Task::new(pid, pid, name, None, |stack| Context {
        rbx: body as *const () as u64,
        rdi: argument,
        ..Context::kernel(kernel_thread_start as *const () as u64, stack.top())
    });
    match task {
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

/// Starts a thread of known work until the deadline `argument`: kind 0 with interrupts on, kind 1 with interrupts off now and then.
///
/// # Errors
/// For another kind, or when memory is short.
pub fn spawn_known(parent: u32, kind: u64, argument: u64) -> Result<u32, Errno> {
    match kind {
        0 => spawn(parent, b"kwork", work, argument),
        1 => spawn(parent, b"kmasked", work_masked, argument),
        _ => Err(Errno::INVALID),
    }
}
