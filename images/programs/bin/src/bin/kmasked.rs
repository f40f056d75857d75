//! Asks for a kernel thread with known work, some of it with interrupts off.
#![no_std]
#![no_main]

use guest_programs::deadline;
use guest_rt::{Failure, sys};

/// The kernel's thread that works in the proportions of [`guest_truth::MASKED`] until a deadline.
const KIND_MASKED: u64 = 1;

guest_rt::main!(main);

fn main() -> Result<(), Failure> {
    let deadline = deadline()?;
    let thread =
        sys::spawn_kthread(KIND_MASKED, deadline).map_err(|e| Failure::Call("spawn_kthread", e))?;
    match sys::wait(thread) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Failure::Other("the kernel thread failed")),
        Err(errno) => Err(Failure::Call("wait", errno)),
    }
}
