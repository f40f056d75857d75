//! Keeps several short processes alive at once and starts a new one for each that ends.
#![no_std]
#![no_main]

use guest_programs::deadline;
use guest_rt::{Failure, sys};

/// Processes alive at once: more than vCPUs, so that they also preempt each other.
const ALIVE: usize = 4;

guest_rt::main!(main);

fn main() -> Result<(), Failure> {
    let deadline = deadline()?;
    let mut children = [0_u64; ALIVE];
    let mut started = 0_usize;
    while sys::clock_ns() < deadline {
        let slot = &mut children[started % ALIVE];
        if started >= ALIVE {
            reap(*slot)?;
        }
        *slot = sys::spawn("/bin/short", "").map_err(|e| Failure::Call("spawn", e))?;
        started += 1;
    }
    for pid in children.into_iter().take(started) {
        reap(pid)?;
    }
    guest_rt::println!("storm: {started} processes");
    Ok(())
}

fn reap(pid: u64) -> Result<(), Failure> {
    match sys::wait(pid) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Failure::Other("a short process failed")),
        Err(errno) => Err(Failure::Call("wait", errno)),
    }
}
